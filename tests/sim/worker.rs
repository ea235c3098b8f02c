//! The model of one worker, from events and actions alone.

use crate::steering::{Draining, LISTEN_GRACE};
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Generation, LaunchSource, Slot, Time, WorkerId};
use graceful_run::core::policy::Strength;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub generation: Generation,
    pub slot: Slot,
    pub reading: LaunchSource,
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
    /// It listens, where it has to do that by itself.
    pub listens: bool,
    /// It is ready by that here, if that counts.
    pub settles: Option<Time>,
    /// What makes it ready once it listens.
    pub said: Option<AckKind>,
    /// When it last said that it is alive, or became ready.
    pub last_heartbeat: Time,
    /// Its pre-stop hook has been called, and whether it has ended.
    pub pre_stop: Option<bool>,
    /// It serves what it has, and nothing new.
    pub draining: Option<Draining>,
    pub stopped: Option<Time>,
    /// It is to leave because its slot went, or its upgrade was undone.
    pub surplus: bool,
    pub killed: bool,
    pub exited: Option<Time>,
    /// All of what it left behind has been asked to stop.
    pub remains_asked: Option<Time>,
    pub remains_killed: bool,
    /// Those that it replaces were seen to wait on their listeners.
    pub must_accept: bool,
    /// How long after its start it first gave a sign of its own.
    pub took: Option<Duration>,
    /// The same of the workers before it.
    pub before_took: Duration,
    /// It was told that it has not been seen to wait.
    pub unseen: bool,
    /// Who started it, if another worker did.
    pub of: Option<WorkerId>,
    /// It leaves to a successor, by itself.
    pub handed_over: bool,
    /// The stage shown after the last step.
    pub stage: ShownStage,
}

impl WorkerRecord {
    pub fn new(
        id: WorkerId,
        generation: Generation,
        slot: Slot,
        reading: LaunchSource,
        known: Strength,
        decided: Time,
    ) -> Self {
        WorkerRecord {
            id,
            generation,
            slot,
            reading,
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
            settles: None,
            said: None,
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
            took: None,
            before_took: Duration::ZERO,
            unseen: false,
            of: None,
            handed_over: false,
            stage: ShownStage::Starting,
        }
    }

    /// Its predecessor was asked to start it, and no process of it is known.
    pub fn awaited(&self) -> bool {
        self.of.is_some() && self.started.is_none()
    }

    /// No process stands behind it, and none is about to: it can be dropped.
    pub fn has_no_process(&self) -> bool {
        self.refused_at.is_some() || self.awaited()
    }

    /// What the time that it takes to become ready is counted from.
    pub fn counted_from(&self) -> Option<Time> {
        self.of.map(|_| self.decided).or(self.started)
    }

    /// A process of it may be sent a signal.
    pub fn runs(&self) -> bool {
        self.started.is_some() && self.exited.is_none()
    }

    /// It was on the way to serve, or served, when the step began.
    pub fn occupied_slot(&self) -> bool {
        matches!(self.stage, ShownStage::Starting | ShownStage::Ready) && self.exited.is_none()
    }

    /// What makes one ready that has to listen by itself, now that it gives this ack.
    pub fn apply_ack(&mut self, kind: AckKind, counts: bool, now: Time) -> Option<AckKind> {
        match kind {
            AckKind::Listen => {
                self.listens = true;
                self.settles = Some(now + LISTEN_GRACE).filter(|_| counts);
            }
            _ if counts => self.said = self.said.or(Some(kind)),
            _ => {}
        }
        self.said.filter(|_| self.listens)
    }

    /// What makes one ready that has to be seen waiting; `named` if the user named this ack.
    pub fn apply_ack_until_accepting(&mut self, kind: AckKind, counts: bool, named: bool) -> Option<AckKind> {
        if named || !self.must_accept {
            return counts.then_some(kind);
        }
        self.listens |= kind == AckKind::Accepting;
        self.said = self.said.or(counts.then_some(kind));
        self.said.filter(|_| self.listens)
    }

    pub fn signalled(&self) -> bool {
        self.stopped.is_some() || self.killed
    }
}
