//! One worker and the stage of its life. The table of stages stands at the head of
//! [`core`](super).

use super::event::{AckKind, Generation, LaunchSource, Slot, Time, Token, WorkerId};
use super::policy::{
    EXTEND_LIMIT, LISTEN_GRACE, OnAckTimeout, Policy, SIGNAL_GRACE, SUCCESSOR_PROBE, Strength, TAKEOVER,
    UNREADY_STOP_TIMEOUT, UNSEEN_AFTER,
};
use super::upgrade::Query;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A worker, from the decision to start it until nothing of it is left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// The generation that it belongs to.
    pub generation: Generation,
    /// Its slot.
    pub slot: Slot,
    /// The stage of its life.
    pub stage: Stage,
    /// When it was decided to start it; once its program has run, when that began.
    pub since: Time,
    /// The ack that made it ready, if it has been ready.
    pub ack: Option<AckKind>,
    /// When it became ready, if it has.
    #[serde(default)]
    pub ready_at: Option<Time>,
    /// Whether its one stop signal, or a kill, has been sent.
    pub stop_sent: bool,
    /// The strongest thing that its acks have proved.
    pub strength: Strength,
    /// Whether it sent TERM to its parent as an ack.
    pub sent_parent_term: bool,
    /// What was known of the program when the worker was started.
    pub known_strength: Strength,
    /// Where its program comes from.
    pub source: LaunchSource,
    /// It was started in the place of one that had ended by itself.
    #[serde(default)]
    pub is_restart: bool,
    /// The worker that started it, if another worker did.
    pub predecessor: Option<WorkerId>,
    /// It has given its listeners to a successor and leaves by itself: a stop
    /// signal would be the second of its life.
    pub handed_over: bool,
    /// A successor that it had started has failed.
    #[serde(default)]
    pub successor_failed: bool,
    /// It has started no successor since: it is stopped before the next one starts.
    #[serde(default)]
    pub starts_none: bool,
    /// It is the master of its successor, and its process stays when that one serves.
    #[serde(default)]
    pub stays_master: bool,
    /// The pre-stop hook, which comes before the stop signal.
    pub pre_stop: Query,
    /// When it last sent a heartbeat, or became ready.
    pub last_heartbeat: Time,
    /// With `--adopt`: it listens on every address. Otherwise: it was seen waiting for
    /// connections on its listeners.
    pub listening: bool,
    /// With `--adopt`: when it becomes ready because it listens.
    pub listening_ready_at: Option<Time>,
    /// An ack that makes it ready as soon as `listening` is true.
    pub pending_ack: Option<AckKind>,
    /// The worker that it replaces was seen waiting for connections on its listeners:
    /// so must this one be, before it is ready.
    pub must_accept: bool,
    /// How long after its start it was first seen waiting for connections, or said that
    /// it is ready.
    pub startup_time: Option<Duration>,
    /// How long the program took last to get that far. A replacement that does not say that
    /// it is ready must live at least as long.
    pub predecessor_startup_time: Duration,
    /// When it is reported that it has not been seen waiting for connections.
    pub report_unseen_at: Option<Time>,
    /// A signal has halted it, and nobody has continued it.
    pub halt: Option<Halt>,
    /// When it was continued last.
    pub continued_at: Time,
}

/// A worker that a signal has halted: its process exists and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Since when.
    pub since: Time,
    /// By which signal; 0 where that is not known.
    pub by: Token,
    /// It has lasted for longer than the grace time, and is reported.
    pub reported: bool,
}

/// The stage of a worker. Observers see the coarser [`ShownStage`](super::ShownStage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its program does not run yet.
    Spawning {
        /// The moment of the next try; None: a start is under way.
        retry_at: Option<Time>,
    },
    /// It is not needed any more, and a start of it is under way.
    Cancelled,
    /// Its predecessor was asked to start it, and no process of it is known.
    Awaited {
        /// When the upgrade stops waiting for it.
        ack_by: Option<Time>,
        /// The next probe for its process, and the pause after that one.
        probe: (Time, Duration),
    },
    /// It runs and is not ready.
    Starting {
        /// When it fails, or counts as ready.
        ack_by: Option<Time>,
        /// When it is ready by having stayed alive.
        ready_at: Option<Time>,
        /// The next probe, and the pause after that one.
        probe: Option<(Time, Duration)>,
    },
    /// It is ready.
    Ready {
        /// Since when.
        since: Time,
        /// The next probe whether it waits for connections on its listeners; None: that is
        /// known, or not needed.
        probe_at: Option<Time>,
    },
    /// It gets no new connections, and is asked to stop once it has served those that it
    /// has.
    Draining {
        /// Since when it gets no new connections.
        since: Time,
        /// When it is asked to stop even if it has connections left; None: never.
        until: Option<Time>,
        /// The next check of its connections; None: one is under way, or the pre-stop hook is.
        check_at: Option<Time>,
    },
    /// It is to stop.
    Terminating {
        /// When its stop signal is due; None: the signal has been sent.
        signal_at: Option<Time>,
        /// When it is killed; None: the signal has not been sent, or it is never killed.
        kill_at: Option<Time>,
        /// When it was asked to stop; before that, when this was decided.
        since: Time,
    },
    /// It was killed and is not yet reaped.
    Killed,
    /// It has exited, and processes that it started live on.
    Remains {
        /// Whether all of them have been asked to stop. Those that finish requests have
        /// not.
        stop_sent: bool,
        /// When they are asked to stop, or killed if they have been asked; None: never, or
        /// it has been done.
        due: Option<Time>,
        /// Whether they have been killed.
        killed: bool,
    },
}

impl Worker {
    /// A worker whose start is under way.
    pub fn new(
        generation: Generation,
        slot: Slot,
        source: LaunchSource,
        known_strength: Strength,
        now: Time,
    ) -> Self {
        Worker {
            generation,
            slot,
            stage: Stage::Spawning { retry_at: None },
            since: now,
            ack: None,
            ready_at: None,
            stop_sent: false,
            strength: Strength::Nothing,
            sent_parent_term: false,
            known_strength,
            source,
            is_restart: false,
            predecessor: None,
            handed_over: false,
            successor_failed: false,
            starts_none: false,
            stays_master: false,
            pre_stop: Query::Due,
            last_heartbeat: now,
            listening: false,
            listening_ready_at: None,
            pending_ack: None,
            must_accept: false,
            startup_time: None,
            predecessor_startup_time: Duration::ZERO,
            report_unseen_at: None,
            halt: None,
            continued_at: Time::ZERO,
        }
    }

    /// A worker that `predecessor` has been asked to start.
    pub fn awaited(
        generation: Generation,
        slot: Slot,
        predecessor: WorkerId,
        policy: &Policy,
        now: Time,
    ) -> Self {
        let (first, _) = SUCCESSOR_PROBE;
        let ack_by = policy.ack_timeout.map(|timeout| now + timeout);
        Worker {
            stage: Stage::Awaited { ack_by, probe: (now + first, first) },
            predecessor: Some(predecessor),
            ..Worker::new(generation, slot, LaunchSource::Anew, Strength::Nothing, now)
        }
    }

    /// A worker that serves, and that `predecessor` has started without being asked to.
    pub fn successor(generation: Generation, slot: Slot, predecessor: WorkerId, now: Time) -> Self {
        Worker {
            stage: Stage::Ready { since: now, probe_at: None },
            ack: Some(AckKind::Takeover),
            predecessor: Some(predecessor),
            ..Worker::new(generation, slot, LaunchSource::Anew, Strength::Nothing, now)
        }
    }

    /// Whether it occupies its slot: it serves, or is on the way to.
    pub fn occupies_slot(&self) -> bool {
        matches!(
            self.stage,
            Stage::Spawning { .. } | Stage::Awaited { .. } | Stage::Starting { .. } | Stage::Ready { .. }
        )
    }

    /// Whether its main process is alive, as far as is known.
    pub fn is_running(&self) -> bool {
        self.has_started() && !matches!(self.stage, Stage::Remains { .. })
    }

    /// Whether it was never ready and is to stop. It may still have listeners open; it is gone after
    /// five seconds at most.
    pub fn leaves_unready(&self) -> bool {
        self.ack.is_none() && matches!(self.stage, Stage::Terminating { .. } | Stage::Killed)
    }

    /// Whether its program has ever run.
    pub fn has_started(&self) -> bool {
        !matches!(self.stage, Stage::Spawning { .. } | Stage::Cancelled | Stage::Awaited { .. })
    }

    /// Whether `kind` makes it ready. A successor must be seen accepting: the channels of its
    /// predecessor prove nothing about it.
    fn ack_counts(&self, kind: AckKind, policy: &Policy) -> bool {
        match self.predecessor {
            Some(_) => matches!(kind, AckKind::Accepting | AckKind::Takeover),
            None => policy.readiness.counts(kind, self.known_strength),
        }
    }

    /// Takes note of this ack, and returns the ack that makes the worker ready now, if any.
    /// A worker that must listen by itself, or must be seen waiting on its listeners, is not
    /// ready before it does.
    pub fn apply_ack(&mut self, kind: AckKind, policy: &Policy, now: Time) -> Option<AckKind> {
        let counts = self.ack_counts(kind, policy);
        if policy.adopt.is_none() {
            if !self.must_accept || policy.readiness.counts_alone(kind) {
                return counts.then_some(kind);
            }
            self.listening |= kind == AckKind::Accepting;
            if counts {
                self.pending_ack.get_or_insert(kind);
            }
            return self.pending_ack.filter(|_| self.listening);
        }
        if kind == AckKind::Listen {
            self.listening = true;
            if counts {
                // Each further address begins the wait anew.
                self.listening_ready_at = Some(now + LISTEN_GRACE);
            }
        } else if counts {
            self.pending_ack.get_or_insert(kind);
        }
        self.pending_ack.filter(|_| self.listening)
    }

    /// What happens when its ack timeout passes.
    pub fn after_ack_timeout(&self, policy: &Policy) -> OnAckTimeout {
        match self.predecessor {
            _ if self.halt.is_some() => OnAckTimeout::Abort,
            Some(_) => policy.on_ack_timeout.unwrap_or(OnAckTimeout::Abort),
            None => policy.after_ack_timeout(self.known_strength),
        }
    }

    /// The longest pause between two probes of it.
    pub fn longest_probe_pause(&self, policy: &Policy) -> Duration {
        match (self.predecessor, policy.readiness.probe) {
            (None, Some((_, longest))) => longest,
            _ => SUCCESSOR_PROBE.1,
        }
    }

    /// Since when it has been ready, if it is.
    pub fn ready_since(&self) -> Option<Time> {
        match self.stage {
            Stage::Ready { since, .. } => Some(since),
            _ => None,
        }
    }

    /// When it has soaked: it must live until then before the workers that it replaces are
    /// asked to stop. `serving_took` is the startup time of the serving generation, as far
    /// as it is known by now.
    pub fn soaked_at(&self, since: Time, serving_took: Duration, policy: &Policy) -> Time {
        let soaked = since.max(self.continued_at) + policy.soak(self.ack);
        match self.strength {
            Strength::Said => soaked,
            // A successor is ready only when it is seen to serve.
            _ if self.predecessor.is_some() => soaked,
            _ => soaked.max(self.since + self.predecessor_startup_time.max(serving_took)),
        }
    }

    /// When its stage has something due.
    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            // What it would do, or is looked at for, waits until it is continued.
            Stage::Starting { ack_by, .. } if self.halt.is_some() => ack_by,
            Stage::Ready { .. } if self.halt.is_some() => None,
            Stage::Spawning { retry_at } => retry_at,
            Stage::Awaited { ack_by, probe: (probe_at, _) } => Some(ack_by.unwrap_or(probe_at).min(probe_at)),
            Stage::Starting { ack_by, ready_at, probe } => {
                let probe_at = probe.map(|(at, _)| at);
                // A timer that has passed has left a pending ack, and waits for the listeners.
                let ready_at = ready_at.filter(|_| self.pending_ack.is_none() || self.must_accept);
                let times = [ack_by, ready_at, probe_at, self.listening_ready_at, self.report_unseen_at];
                times.into_iter().flatten().min()
            }
            Stage::Draining { until, check_at, .. } => [until, check_at].into_iter().flatten().min(),
            // The caller bounds the time of the pre-stop hook.
            Stage::Terminating { signal_at: Some(_), .. } if self.pre_stop == Query::Sent => None,
            Stage::Terminating { signal_at, kill_at, .. } => signal_at.or(kill_at),
            Stage::Remains { due, .. } => due,
            Stage::Ready { probe_at, .. } => probe_at,
            Stage::Cancelled | Stage::Killed => None,
        }
    }

    /// When it has been silent for too long, where workers must send heartbeats.
    pub fn silent_at(&self, policy: &Policy) -> Option<Time> {
        self.ready_since().filter(|_| !self.handed_over)?;
        Some(self.last_heartbeat + policy.worker_watchdog?)
    }

    /// Its program runs: the times that it has to become ready begin now.
    pub fn start(&mut self, policy: &Policy, now: Time) {
        self.since = now;
        let least = if policy.ack_timeout_grows { self.predecessor_startup_time * 2 } else { Duration::ZERO };
        let sees = policy.readiness.auto && policy.must_see_accepting();
        let seen = sees && (self.must_accept || self.known_strength < Strength::Said);
        self.report_unseen_at = seen.then_some(now + UNSEEN_AFTER);
        self.stage = Stage::Starting {
            ack_by: policy.ack_timeout.map(|timeout| now + timeout.max(least)),
            ready_at: policy.readiness.timer(self.known_strength).map(|timer| now + timer),
            probe: policy.readiness.probe().map(|(first, _)| (now + first, first)),
        };
    }

    /// Its predecessor has exited: it is probed at once, and has little time left.
    pub fn limit_takeover(&mut self, now: Time) {
        if let Stage::Starting { ack_by, probe, .. } = &mut self.stage {
            let until = now + TAKEOVER;
            *ack_by = Some(ack_by.map_or(until, |at| at.min(until)));
            *probe = probe.map(|_| (now, SUCCESSOR_PROBE.0));
        }
    }

    /// It becomes ready.
    pub fn become_ready(&mut self, kind: AckKind, policy: &Policy, now: Time) {
        self.ack = Some(kind);
        self.ready_at = Some(now);
        self.listening_ready_at = None;
        self.report_unseen_at = None;
        self.last_heartbeat = now;
        let unknown = self.startup_time.is_none() && self.predecessor.is_none();
        let probe_at = policy.wait_probe_pause(now - self.since).filter(|_| unknown).map(|pause| now + pause);
        self.stage = Stage::Ready { since: now, probe_at };
    }

    /// How long it may take to stop. A worker that was never ready has no request to finish.
    pub fn stop_timeout(&self, policy: &Policy) -> Option<Duration> {
        let timeout = match self.sent_parent_term {
            true => policy.parent_term_stop_timeout,
            false => policy.stop_timeout,
        };
        match self.ack {
            Some(_) => timeout,
            None => Some(timeout.map_or(UNREADY_STOP_TIMEOUT, |timeout| timeout.min(UNREADY_STOP_TIMEOUT))),
        }
    }

    /// It asks for more time to become ready, which it gets within the limit.
    pub fn extend(&mut self, by: Duration, policy: &Policy, now: Time) {
        let (Stage::Starting { ack_by: Some(ack_by), .. }, Some(timeout)) =
            (&mut self.stage, policy.ack_timeout)
        else {
            return;
        };
        let limit = self.since + timeout.saturating_mul(EXTEND_LIMIT);
        *ack_by = now.saturating_add(by).min(limit).max(*ack_by);
    }

    /// It is to stop. Its stop signal is due now or, unless everything stops, when
    /// [`SIGNAL_GRACE`] has passed since its ack.
    pub fn terminate(&mut self, now: Time, stopping: bool) {
        let signal_at = match self.stage {
            Stage::Ready { since, .. } if !stopping => now.max(since + SIGNAL_GRACE),
            Stage::Draining { .. } if !stopping => {
                self.ready_at.map_or(now, |ready| (ready + SIGNAL_GRACE).max(now))
            }
            Stage::Terminating { signal_at: Some(at), .. } if !stopping => at,
            Stage::Terminating { signal_at: Some(_), .. } | Stage::Ready { .. } => now,
            Stage::Draining { .. } | Stage::Starting { .. } => now,
            _ => return,
        };
        // The stop timeout begins with the signal, which a late tick puts off.
        self.stage = Stage::Terminating { signal_at: Some(signal_at), kill_at: None, since: now };
    }

    /// The ack of a timer that has passed, if any.
    pub fn ack_by_timer(&self, now: Time) -> Option<AckKind> {
        let Stage::Starting { ready_at, .. } = self.stage else { return None };
        if self.halt.is_some() {
            return None;
        }
        let passed = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let timer = passed(ready_at) && (self.pending_ack.is_none() || self.must_accept);
        match passed(self.listening_ready_at) {
            true => Some(AckKind::Listen),
            false => timer.then_some(AckKind::Timer),
        }
    }
}
