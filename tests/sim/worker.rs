//! The model of one worker, from events and actions alone.

use crate::halts::Halt;
use crate::steering::{Draining, LISTEN_GRACE};
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Generation, LaunchSource, Slot, Time, WorkerId};
use graceful_run::core::policy::{Policy, Strength};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub generation: Generation,
    pub slot: Slot,
    pub source: LaunchSource,
    /// What was known of the program when its start was decided.
    pub known: Strength,
    /// When its start was decided.
    pub decided: Time,
    /// A start is under way.
    pub in_flight: bool,
    /// A start was refused and is to be tried again.
    pub refused_at: Option<Time>,
    pub started: Option<Time>,
    pub ack_by: Option<Time>,
    pub strength: Strength,
    pub ready: Option<Time>,
    /// What made it ready.
    pub ack: Option<AckKind>,
    /// It listens, with `--adopt`, or was seen waiting.
    pub listens: bool,
    /// When it is ready because it listens, if that counts.
    pub listening_ready_at: Option<Time>,
    /// An ack that makes it ready once it listens.
    pub pending_ack: Option<AckKind>,
    /// When it last sent a heartbeat, or became ready.
    pub last_heartbeat: Time,
    /// Its pre-stop hook has been called, and whether it has ended.
    pub pre_stop: Option<bool>,
    /// It serves the connections that it has, and gets no new ones.
    pub draining: Option<Draining>,
    pub stopped: Option<Time>,
    /// It is to stop because its slot was removed, or its upgrade was undone.
    pub surplus: bool,
    pub killed: bool,
    pub exited: Option<Time>,
    /// When all processes that it left behind were asked to stop.
    pub remains_asked: Option<Time>,
    pub remains_killed: bool,
    /// The worker that it replaces was seen waiting on its listeners.
    pub must_accept: bool,
    /// How long after its start it first acked or waited for connections.
    pub startup_time: Option<Duration>,
    /// The startup time of the workers before it.
    pub predecessor_startup_time: Duration,
    /// It was reported that it has not been seen waiting.
    pub unseen: bool,
    /// It was started in the place of one that had ended by itself.
    pub is_restart: bool,
    /// The worker that started it, if another worker did.
    pub predecessor: Option<WorkerId>,
    /// It has handed over to a successor, and ends by itself.
    pub handed_over: bool,
    /// A signal has halted it.
    pub halt: Option<Halt>,
    /// The moment from which its timer counts: its start, or when it was continued.
    pub timer_from: Option<Time>,
    /// When it was continued last: its soak begins then.
    pub soaks_from: Time,
    /// A successor that it had started has failed, and it has started none since.
    pub successor_failed: bool,
    pub starts_none: bool,
    /// It is the master of its successor, and its process stays as that of the successor.
    pub stays_master: bool,
    /// The stage shown after the last step.
    pub stage: ShownStage,
}

impl WorkerRecord {
    pub fn new(
        id: WorkerId,
        generation: Generation,
        slot: Slot,
        source: LaunchSource,
        known: Strength,
        decided: Time,
    ) -> Self {
        WorkerRecord {
            id,
            generation,
            slot,
            source,
            known,
            decided,
            in_flight: true,
            refused_at: None,
            started: None,
            ack_by: None,
            strength: Strength::Nothing,
            ready: None,
            ack: None,
            listens: false,
            listening_ready_at: None,
            pending_ack: None,
            last_heartbeat: decided,
            pre_stop: None,
            draining: None,
            stopped: None,
            surplus: false,
            killed: false,
            exited: None,
            remains_asked: None,
            remains_killed: false,
            must_accept: false,
            startup_time: None,
            predecessor_startup_time: Duration::ZERO,
            unseen: false,
            is_restart: false,
            predecessor: None,
            handed_over: false,
            halt: None,
            timer_from: None,
            soaks_from: Time::ZERO,
            successor_failed: false,
            starts_none: false,
            stays_master: false,
            stage: ShownStage::Starting,
        }
    }

    /// Its predecessor was asked to start it, and no process of it is known.
    pub fn awaited(&self) -> bool {
        self.predecessor.is_some() && self.started.is_none()
    }

    /// Whether it has no process and no start under way: it can be dropped.
    pub fn has_no_process(&self) -> bool {
        self.refused_at.is_some() || self.awaited()
    }

    /// The moment from which its ack timeout counts.
    pub fn counted_from(&self) -> Option<Time> {
        self.predecessor.map(|_| self.decided).or(self.started)
    }

    /// Whether its process may be sent a signal.
    pub fn runs(&self) -> bool {
        self.started.is_some() && self.exited.is_none()
    }

    /// Whether it was starting or serving when the step began.
    pub fn occupied_slot(&self) -> bool {
        matches!(self.stage, ShownStage::Starting | ShownStage::Ready) && self.exited.is_none()
    }

    /// The ack that makes a worker ready that has to listen, now that it has sent this one.
    pub fn apply_ack(&mut self, kind: AckKind, counts: bool, now: Time) -> Option<AckKind> {
        match kind {
            AckKind::Listen => {
                self.listens = true;
                self.listening_ready_at = Some(now + LISTEN_GRACE).filter(|_| counts);
            }
            _ if counts => self.pending_ack = self.pending_ack.or(Some(kind)),
            _ => {}
        }
        self.pending_ack.filter(|_| self.listens)
    }

    /// The same for a worker that has to be seen waiting; `alone` if this kind counts all the same.
    pub fn apply_ack_until_accepting(&mut self, kind: AckKind, counts: bool, alone: bool) -> Option<AckKind> {
        if alone || !self.must_accept {
            return counts.then_some(kind);
        }
        self.listens |= kind == AckKind::Accepting;
        self.pending_ack = self.pending_ack.or(counts.then_some(kind));
        self.pending_ack.filter(|_| self.listens)
    }

    /// How long it may take to stop: five seconds at most if it was never ready.
    pub fn stop_timeout(&self, policy: &Policy) -> Option<Duration> {
        let most = Some(Duration::from_secs(5)).filter(|_| self.ready.is_none());
        policy.stop_timeout.into_iter().chain(most).min()
    }

    pub fn signalled(&self) -> bool {
        self.stopped.is_some() || self.killed
    }
}
