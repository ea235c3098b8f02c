//! One worker and the stage of its life.

use super::event::{AckKind, Generation, Reading, Refusal, Slot, Time, WorkerId};
use super::policy::{
    BUSY_WINDOW, EXHAUSTED_WINDOW, EXTEND_LIMIT, MISSING_WINDOW, OnAckTimeout, Policy, SETTLE, SIGNAL_GRACE,
    SUCCESSOR_LOOK, Strength, TAKEOVER, UNSEEN_AFTER,
};
use super::upgrade::Question;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A worker, from the decision to start it until nothing of it is left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// The generation that it belongs to.
    pub generation: Generation,
    /// Its place.
    pub slot: Slot,
    /// Where it is in its life.
    pub stage: Stage,
    /// When it was decided to start it, later when its program first ran.
    pub since: Time,
    /// What made it ready, if it has been.
    pub ack: Option<AckKind>,
    /// Whether its one stop signal, or a kill, has been sent.
    pub asked: bool,
    /// The best that its acks have proved.
    pub strength: Strength,
    /// Whether it sent TERM to its parent as an ack.
    pub told_parent: bool,
    /// What was known of the program when it was started.
    pub known: Strength,
    /// Where its program comes from.
    pub reading: Reading,
    /// The worker that started it, if that was not us.
    pub of: Option<WorkerId>,
    /// It has given its listeners to a successor and leaves by itself: a stop
    /// signal would be the second of its life.
    pub handed_over: bool,
    /// The pre-stop hook, which comes before the stop signal.
    pub pre_stop: Question,
    /// When it last said that it is alive, or became ready.
    pub heard: Time,
    /// It listens on every address that it has to, by itself.
    #[serde(default)]
    pub listens: bool,
    /// It is ready by that here.
    #[serde(default)]
    pub settled_at: Option<Time>,
    /// What makes it ready once it listens, or waits.
    #[serde(default)]
    pub said: Option<AckKind>,
    /// Those that it replaces wait on their listeners: it has to be seen doing so.
    pub must_wait: bool,
    /// How long after its start it was first seen to wait on its listeners, or said that
    /// it is ready.
    pub took: Option<Duration>,
    /// What the program took of late to get there. A replacement that does not say that
    /// it is ready lives at least as long.
    pub predecessor_took: Duration,
    /// It is told here that it has not been seen to wait.
    pub unseen_at: Option<Time>,
}

/// The stages that people are shown are `starting`, `ready`, `draining` and
/// `killed`; the finer ones here are the core's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its program does not run yet.
    Spawning {
        /// None: a start is under way. Otherwise the moment of the next try.
        retry_at: Option<Time>,
        /// False once it has been given up while a start was under way.
        wanted: bool,
    },
    /// Its predecessor was asked to start it; no process of it is known.
    Awaited {
        /// It is given up here.
        ack_by: Option<Time>,
        /// The next look for it, and the pause after that one.
        probe: (Time, Duration),
    },
    /// It runs and is not ready.
    Starting {
        /// It fails, or counts as ready, here.
        ack_by: Option<Time>,
        /// It is ready here by having stayed alive.
        ready_at: Option<Time>,
        /// The next look at it, and the pause after that one.
        probe: Option<(Time, Duration)>,
    },
    /// It is ready.
    Ready {
        /// Since when.
        since: Time,
        /// The next look whether it waits on its listeners by now; None: that is known,
        /// or of no use.
        look_at: Option<Time>,
    },
    /// It is to leave when it has served what it has: nothing new comes.
    Draining {
        /// Since nothing new comes.
        since: Time,
        /// It is asked to leave here, whatever it has; None: not before it has nothing.
        until: Option<Time>,
        /// The next look at it; None: one is being taken.
        look_at: Option<Time>,
    },
    /// It is to leave.
    Terminating {
        /// When its stop signal is due; None: it has had it.
        ask_at: Option<Time>,
        /// When it is killed; None: it has not been asked yet, or never.
        kill_at: Option<Time>,
        /// When it was asked to leave, or when it was decided to ask it.
        since: Time,
    },
    /// It was killed and not yet reaped.
    Killed,
    /// It is gone, and processes that it started live on.
    Remains {
        /// Whether all of them have been asked to stop. Those that finish requests have
        /// not.
        asked: bool,
        /// When they are asked to stop, or killed if they have been; None: never, or it
        /// has been done.
        due: Option<Time>,
        /// Whether they have been killed.
        killed: bool,
    },
}

impl Worker {
    /// A worker whose start is under way.
    pub fn new(generation: Generation, slot: Slot, reading: Reading, known: Strength, now: Time) -> Self {
        Worker {
            generation,
            slot,
            stage: Stage::Spawning { retry_at: None, wanted: true },
            since: now,
            ack: None,
            asked: false,
            strength: Strength::Nothing,
            told_parent: false,
            known,
            reading,
            of: None,
            handed_over: false,
            pre_stop: Question::Due,
            heard: now,
            listens: false,
            settled_at: None,
            said: None,
            must_wait: false,
            took: None,
            predecessor_took: Duration::ZERO,
            unseen_at: None,
        }
    }

    /// A worker that `of` has been asked to start.
    pub fn awaited(generation: Generation, slot: Slot, of: WorkerId, policy: &Policy, now: Time) -> Self {
        let (first, _) = SUCCESSOR_LOOK;
        let ack_by = policy.ack_timeout.map(|timeout| now + timeout);
        Worker {
            stage: Stage::Awaited { ack_by, probe: (now + first, first) },
            of: Some(of),
            ..Worker::new(generation, slot, Reading::Anew, Strength::Nothing, now)
        }
    }

    /// A worker that `of` has started unasked, and that serves.
    pub fn successor(generation: Generation, slot: Slot, of: WorkerId, now: Time) -> Self {
        Worker {
            stage: Stage::Ready { since: now, look_at: None },
            ack: Some(AckKind::Takeover),
            of: Some(of),
            ..Worker::new(generation, slot, Reading::Anew, Strength::Nothing, now)
        }
    }

    /// Whether it fills its slot: it serves, or is on the way to.
    pub fn fills(&self) -> bool {
        matches!(
            self.stage,
            Stage::Spawning { wanted: true, .. }
                | Stage::Awaited { .. }
                | Stage::Starting { .. }
                | Stage::Ready { .. }
        )
    }

    /// Whether a process of ours stands behind it.
    pub fn runs(&self) -> bool {
        self.has_started() && !matches!(self.stage, Stage::Remains { .. })
    }

    /// Whether a process of ours has ever stood behind it.
    pub fn has_started(&self) -> bool {
        !matches!(self.stage, Stage::Spawning { .. } | Stage::Awaited { .. })
    }

    /// Whether `kind` makes it ready. What its predecessor was handed says nothing
    /// of a successor, which must be seen.
    pub fn counts(&self, kind: AckKind, policy: &Policy) -> bool {
        match self.of {
            Some(_) => matches!(kind, AckKind::Accepting | AckKind::Takeover),
            None => policy.readiness.counts(kind, self.known),
        }
    }

    /// What makes it ready now that it gives this ack. Where it has to listen by itself, or to
    /// be seen waiting on its listeners, nothing else counts before it does.
    pub fn hear(&mut self, kind: AckKind, policy: &Policy, now: Time) -> Option<AckKind> {
        let counts = self.counts(kind, policy);
        if policy.adopt.is_none() {
            let named = policy.readiness.kinds.contains(&kind);
            if !self.must_wait || named {
                return counts.then_some(kind);
            }
            self.listens |= kind == AckKind::Accepting;
            if counts {
                self.said.get_or_insert(kind);
            }
            return self.said.filter(|_| self.listens);
        }
        if kind == AckKind::Listen {
            self.listens = true;
            if counts {
                // From the last address on: what it opens together belongs together.
                self.settled_at = Some(now + SETTLE);
            }
        } else if counts {
            self.said.get_or_insert(kind);
        }
        self.said.filter(|_| self.listens)
    }

    /// What the passing of its ack timeout means.
    pub fn after_ack_timeout(&self, policy: &Policy) -> OnAckTimeout {
        match self.of {
            Some(_) => policy.on_ack_timeout.unwrap_or(OnAckTimeout::Abort),
            None => policy.after_ack_timeout(self.known),
        }
    }

    /// The longest pause between two looks at it.
    pub fn longest_pause(&self, policy: &Policy) -> Duration {
        match (self.of, policy.readiness.probe) {
            (None, Some((_, longest))) => longest,
            _ => SUCCESSOR_LOOK.1,
        }
    }

    /// Since when it is ready.
    pub fn ready_since(&self) -> Option<Time> {
        match self.stage {
            Stage::Ready { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Until when it has to live before the workers that it replaces are asked to leave.
    /// `took` is what those that it replaces were seen to take since it was started.
    pub fn soaked_at(&self, since: Time, took: Duration, policy: &Policy) -> Time {
        let soaked = since + policy.soak(self.ack);
        match self.strength {
            Strength::Said => soaked,
            // It is seen to accept before it counts.
            _ if self.of.is_some() => soaked,
            _ => soaked.max(self.since + self.predecessor_took.max(took)),
        }
    }

    /// When it has to be looked at next.
    pub fn deadline(&self) -> Option<Time> {
        match self.stage {
            Stage::Spawning { retry_at, .. } => retry_at,
            Stage::Awaited { ack_by, probe: (look_at, _) } => Some(ack_by.unwrap_or(look_at).min(look_at)),
            Stage::Starting { ack_by, ready_at, probe } => {
                let looks = probe.map(|(at, _)| at);
                // A timer that has been heard waits for the listeners.
                let ready_at = ready_at.filter(|_| self.said.is_none() || self.must_wait);
                [ack_by, ready_at, looks, self.settled_at, self.unseen_at].into_iter().flatten().min()
            }
            Stage::Draining { until, look_at, .. } => [until, look_at].into_iter().flatten().min(),
            // The hook ends, or is ended, in its own time.
            Stage::Terminating { ask_at: Some(_), .. } if self.pre_stop == Question::Asked => None,
            Stage::Terminating { ask_at, kill_at, .. } => ask_at.or(kill_at),
            Stage::Remains { due, .. } => due,
            Stage::Ready { look_at, .. } => look_at,
            Stage::Killed => None,
        }
    }

    /// When it has been silent for too long, if it is to say that it is alive.
    pub fn silent_at(&self, policy: &Policy) -> Option<Time> {
        self.ready_since().filter(|_| !self.handed_over)?;
        Some(self.heard + policy.worker_watchdog?)
    }

    /// Its program runs: what it is waited for begins now.
    pub fn start(&mut self, policy: &Policy, now: Time) {
        self.since = now;
        let least = if policy.ack_timeout_grows { self.predecessor_took * 2 } else { Duration::ZERO };
        let seen = policy.looks() && (self.must_wait || self.known < Strength::Said);
        self.unseen_at = seen.then_some(now + UNSEEN_AFTER);
        self.stage = Stage::Starting {
            ack_by: policy.ack_timeout.map(|timeout| now + timeout.max(least)),
            ready_at: policy.readiness.timer(self.known).map(|timer| now + timer),
            probe: policy.readiness.probe().map(|(first, _)| (now + first, first)),
        };
    }

    /// Its predecessor has gone: it is looked at once more, and then for a moment.
    pub fn hurry(&mut self, now: Time) {
        if let Stage::Starting { ack_by, probe, .. } = &mut self.stage {
            let until = now + TAKEOVER;
            *ack_by = Some(ack_by.map_or(until, |at| at.min(until)));
            *probe = probe.map(|_| (now, SUCCESSOR_LOOK.0));
        }
    }

    /// It becomes ready.
    pub fn get_ready(&mut self, kind: AckKind, policy: &Policy, now: Time) {
        self.ack = Some(kind);
        self.settled_at = None;
        self.unseen_at = None;
        self.heard = now;
        let unknown = self.took.is_none() && self.of.is_none();
        let look_at = policy.wait_look(now - self.since).filter(|_| unknown).map(|pause| now + pause);
        self.stage = Stage::Ready { since: now, look_at };
    }

    /// How long it may take to stop.
    pub fn stop_timeout(&self, policy: &Policy) -> Option<Duration> {
        match self.told_parent {
            true => policy.parent_term_stop_timeout,
            false => policy.stop_timeout,
        }
    }

    /// It puts its ack deadline off, within the limit.
    pub fn extend(&mut self, by: Duration, policy: &Policy, now: Time) {
        let (Stage::Starting { ack_by: Some(ack_by), .. }, Some(timeout)) =
            (&mut self.stage, policy.ack_timeout)
        else {
            return;
        };
        let limit = self.since + timeout.saturating_mul(EXTEND_LIMIT);
        *ack_by = now.saturating_add(by).min(limit).max(*ack_by);
    }

    /// It is to leave, with its stop signal now or, soon after its ack and
    /// unless everything stops, when that signal no longer harms it.
    pub fn drain(&mut self, now: Time, stopping: bool) {
        let ask_at = match self.stage {
            Stage::Ready { since, .. } if !stopping => now.max(since + SIGNAL_GRACE),
            Stage::Terminating { ask_at: Some(at), .. } if !stopping => at,
            Stage::Terminating { ask_at: Some(_), .. } | Stage::Ready { .. } => now,
            Stage::Draining { .. } | Stage::Starting { .. } => now,
            _ => return,
        };
        // Its time to leave begins when it is asked to, which a late tick puts off.
        self.stage = Stage::Terminating { ask_at: Some(ask_at), kill_at: None, since: now };
    }

    /// How long a start that was refused for this reason is tried again.
    pub fn patience(&self, refusal: Refusal, upgrading: bool, first: bool) -> Duration {
        match refusal {
            Refusal::Busy => BUSY_WINDOW,
            Refusal::NotFound if upgrading => MISSING_WINDOW,
            Refusal::Exhausted if first => EXHAUSTED_WINDOW,
            _ => Duration::ZERO,
        }
    }
}

/// An ack that a worker is given by the clock.
pub fn by_timer(worker: &Worker, now: Time) -> Option<AckKind> {
    let Stage::Starting { ready_at, .. } = worker.stage else { return None };
    let passed = |at: Option<Time>| at.is_some_and(|at| at <= now);
    let timer = passed(ready_at) && (worker.said.is_none() || worker.must_wait);
    match passed(worker.settled_at) {
        true => Some(AckKind::Listen),
        false => timer.then_some(AckKind::Timer),
    }
}
