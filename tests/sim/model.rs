//! A model of the core, from the events and actions of one world alone: the oracle that
//! each action is checked against.
//!
//! The properties of the core, by their numbers in the list of properties:
//!
//! | property | where |
//! | --- | --- |
//! | the promise; S1, S2 | `invariants`: shown generations that start; `commit`, `stop`: every signal to a worker that served has its reason |
//! | S3 | `stop`, `kill`: one of each in a life, a kill only after the stop timeout or by force (that CONT follows TERM is the caller's) |
//! | S4, L7 | every action names a worker of which a process is known to live, and one that is to leave is asked at once or after the grace time |
//! | S5 | stale events are compared with a tick by `world`; an ack that counts makes the worker ready that it names (`acked`) |
//! | S6 | `new_generation` |
//! | S7, L4 | no spawn while stopping; `world` checks that the end comes |
//! | S10 | `exit`: no worker left, and the ending that the model expects |
//! | S11 | each upgrade, held or not, ends with one verdict; the first generation is reported once, when it is ready; one `Stopping` (the messages to the service manager are the caller's) |
//! | S12 | one flag, compared with `has_pending_upgrade` after each step |
//! | S13 | ticks that are lost or late; a tick right after a step changes nothing; no deadline in the past |
//! | S15 | `crash`, `invariants`: pauses, and no pause before an upgrade |
//! | workers that bind their own sockets | `steering` |
//! | workers that a signal has halted | `halts` |
//! | releases that fail after they went live; what replacements have to be seen doing | `probation` |
//! | S16 | `world`: now and then the supervisor is serialized and restored |
//! | L1, L2, L3, L5 | `check_quiescent`, and one generation for each kept request |
//!
//! Not here, because the core does not do these: S8 and S14 (listeners, descriptors),
//! S9 (control requests), L6 (logs and clients that block).

use crate::probation::{Probation, Waiting};
use crate::steering::Switch;
use crate::worker::WorkerRecord;
use graceful_run::core::Supervisor;
use graceful_run::core::event::{
    AckKind, Action, Ending, Event, Exit, Failure, Generation, LaunchSource, Refusal, Report, Request, Slot,
    Time, WorkerId,
};
use graceful_run::core::policy::{OnAckTimeout, Policy, Restart, Strength};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Fails the world unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($wrong:tt)+) => {
        if !$holds {
            return Err(format!($($wrong)+));
        }
    };
}
pub(crate) use ensure;

pub type Verdict = Result<(), String>;

/// Signals sooner than this after an ack end servers that are not yet ready for
/// them.
pub const SIGNAL_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct SlotModel {
    pub generation: Generation,
    pub crashes: u32,
    /// When it may be filled again.
    pub due: Time,
    /// When it must be filled; later than `due` where the model does not know exactly.
    pub latest: Time,
    pub source: LaunchSource,
    pub retired: bool,
}

impl SlotModel {
    pub fn new(generation: Generation, now: Time) -> Self {
        SlotModel {
            generation,
            crashes: 0,
            due: now,
            latest: now,
            source: LaunchSource::Anew,
            retired: false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ModelUpgrade {
    pub from: Generation,
    pub to: Generation,
    pub since: Time,
    pub started_slots: BTreeSet<Slot>,
    pub replaced_slots: BTreeSet<Slot>,
    pub failure: Option<Failure>,
    pub liveness_requested: bool,
    pub switch: Switch,
    /// The worker that gets new connections beside those that it is to replace.
    pub canary: Option<WorkerId>,
    /// The old worker has handed over to its successor.
    pub predecessor_left: bool,
    /// The pre-upgrade hook has allowed it, or there is none.
    pub allowed: bool,
    pub hold: Hold,
    pub source: LaunchSource,
    /// Whether the serving workers were checked for whether they wait.
    pub waiting: Waiting,
    /// It is a rollback to the generation before.
    pub is_rollback: bool,
}

/// Whether an upgrade stops at its first worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    No,
    Requested,
    /// A hold was requested, and the user has committed.
    Committed,
    Held,
}

impl ModelUpgrade {
    /// Everything but the upgrade goes on.
    pub fn is_paused(&self) -> bool {
        !self.allowed || self.hold == Hold::Held
    }
}

/// What the present step has shown so far.
#[derive(Default)]
pub struct InStep {
    pub event: Option<Event>,
    pub hammer: bool,
    /// Workers that were stopping at the hammer request.
    pub hammered: BTreeSet<WorkerId>,
    pub committed: BTreeSet<Slot>,
    pub undone: Option<Generation>,
    pub exited: Option<WorkerId>,
    pub remains: Option<WorkerId>,
    pub refused: Option<(WorkerId, Refusal)>,
    pub ready: Vec<(WorkerId, AckKind)>,
    pub restarting: Vec<(Slot, Duration)>,
    pub retired: Vec<Slot>,
    pub stopping: bool,
    /// Handed over to a successor that was not requested.
    pub handed_over: Option<WorkerId>,
    /// An upgrade that has begun, and whose pre-upgrade hook has to be called.
    pub pre_upgrade: Option<Generation>,
    pub held: bool,
    pub cannot_hold: bool,
    pub nothing_held: Option<Request>,
    pub scale_done: Option<u32>,
    /// Workers that had their stop signal from somebody else.
    pub signalled: BTreeSet<WorkerId>,
    /// The worker that has not started a successor in time, where that is to be said.
    pub not_started_by: Option<WorkerId>,
    /// The worker that was found drained.
    pub drained: Option<WorkerId>,
    /// New connections no longer go to the replacements.
    pub switched_back: bool,
    /// A probation that was replaced by another.
    pub past: Option<Probation>,
    /// The worker that was reported as halted and has been continued, and since when.
    pub continued: Option<(WorkerId, Duration)>,
    /// Generations that cannot be started again as they were.
    pub forgotten: BTreeSet<Generation>,
}

pub struct Model {
    pub policy: Policy,
    pub now: Time,
    pub workers: BTreeMap<WorkerId, WorkerRecord>,
    last_worker: u32,
    pub last_generation: Generation,
    pub serving: Generation,
    pub served: bool,
    pub stopping: bool,
    pub interrupted: bool,
    pub killing: bool,
    pub kill_needed: bool,
    pub pending: bool,
    /// The pending upgrade is to be held.
    pub pending_hold: bool,
    pub scaling: bool,
    pub known: Strength,
    /// How long the program took last to ack or to wait for connections, and in which generation.
    pub startup_time: (Generation, Duration),
    pub probation: Option<Probation>,
    /// Slots whose worker was seen waiting.
    pub accepting_slots: BTreeSet<Slot>,
    /// A worker of a proven generation has exited with status 0 by itself.
    pub exits_cleanly: bool,
    /// Generations whose launch source is kept.
    pub kept: BTreeSet<Generation>,
    pub slots: Vec<SlotModel>,
    pub target: u32,
    pub upgrade: Option<ModelUpgrade>,
    /// An upgrade with a bounded surge failed half-way: two generations serve.
    pub mixed: bool,
    pub ending: Option<Ending>,
    pub last_loss: Option<Ending>,
    pub ended: bool,
    pub in_step: InStep,
}

impl Model {
    pub fn new(policy: Policy) -> Self {
        let target = policy.workers;
        Model {
            policy,
            now: Time::ZERO,
            workers: BTreeMap::new(),
            last_worker: 0,
            last_generation: Generation(1),
            serving: Generation(1),
            served: false,
            stopping: false,
            interrupted: false,
            killing: false,
            kill_needed: false,
            pending: false,
            pending_hold: false,
            scaling: false,
            known: Strength::Nothing,
            startup_time: (Generation(1), Duration::ZERO),
            probation: None,
            accepting_slots: BTreeSet::new(),
            exits_cleanly: false,
            kept: BTreeSet::new(),
            slots: vec![SlotModel::new(Generation(1), Time::ZERO); target as usize],
            target,
            upgrade: None,
            mixed: false,
            ending: None,
            last_loss: None,
            ended: false,
            in_step: InStep::default(),
        }
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn step(&mut self, now: Time, event: Event, actions: &[Action], supervisor: &Supervisor) -> Verdict {
        self.now = now;
        self.in_step = InStep { event: Some(event), ..InStep::default() };
        let stops = actions.iter().any(|action| match action {
            Action::Report(Report::Stopping) => true,
            Action::Report(Report::Silent(id, _)) => self.replaces(*id),
            _ => false,
        });
        self.apply_event(event, stops)?;
        for &action in actions {
            ensure!(!self.ended, "{action:?} after the end");
            // Actions for the event and for expired deadlines come first, with the number
            // of slots from before.
            let comes_first = match action {
                Action::Report(report) => {
                    !matches!(report, Report::UpgradeStarted { .. } | Report::RollbackStarted { .. })
                }
                Action::Kill(_) | Action::KillRemains(_) | Action::Probe(_) => true,
                _ => false,
            };
            if !comes_first {
                self.resize();
            }
            self.check(action)?;
        }
        self.resize();
        self.check_invariants(supervisor)
    }

    /// The oldest draining generation, if more of them drain than is allowed.
    pub fn too_many_drain(&self) -> Option<Generation> {
        let leaves = |record: &WorkerRecord| record.stopped.is_some() || record.draining.is_some();
        let left = |record: &WorkerRecord| record.exited.is_some() && !record.remains_killed;
        let drains =
            |record: &&WorkerRecord| record.runs() && leaves(record) && !record.killed || left(record);
        let generations: BTreeSet<Generation> =
            self.workers.values().filter(drains).map(|record| record.generation).collect();
        let crowded = !self.stopping && generations.len() > self.policy.max_draining as usize;
        generations.first().copied().filter(|_| crowded)
    }

    /// Learns what a serving worker has proved about its program.
    pub fn learn(&mut self, id: WorkerId) {
        if !self.replaces(id)
            && let Some(record) = self.workers.get(&id)
        {
            self.known = self.known.max(record.strength);
            if let Some(took) = record.startup_time.filter(|_| record.generation == self.serving) {
                let before = if self.startup_time.0 == record.generation {
                    self.startup_time.1
                } else {
                    Duration::ZERO
                };
                self.startup_time = (record.generation, took.max(before));
            }
        }
    }

    /// Whether the present upgrade waits for this worker.
    pub fn replaces(&self, id: WorkerId) -> bool {
        match (&self.upgrade, self.workers.get(&id)) {
            (Some(upgrade), Some(record)) => {
                record.generation == upgrade.to && !upgrade.replaced_slots.contains(&record.slot)
            }
            _ => false,
        }
    }

    /// A worker that occupied its slot is lost.
    pub fn lost(&mut self, id: WorkerId, failure: Failure) {
        let Some(record) = self.workers.get(&id) else { return };
        let (slot, ready, generation) = (record.slot, record.ready.is_some(), record.generation);
        let age = self.now - record.started.unwrap_or(record.decided);
        if self.stopping {
            return;
        }
        if self.replaces(id) {
            self.note_failed_successor(id);
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.failure.get_or_insert(failure);
            }
            return;
        }
        let ending = ending(failure);
        let exited = matches!(failure, Failure::Exited { exit: Exit::Code(1..126 | 128..), .. });
        let first = self.slots.get(slot.0 as usize).is_some_and(|slot| slot.crashes == 0);
        let again = self.policy.retry_start || self.policy.second_start && exited && first;
        if !self.served && !ready && !again {
            return self.begin_stop(Some(ending));
        }
        self.last_loss = Some(ending);
        self.count_crash(id, generation, failure);
        self.crash(slot, failure, age);
    }

    /// A successor that has run fails: what started it may start no other.
    pub fn note_failed_successor(&mut self, id: WorkerId) {
        let record = self.workers.get(&id).filter(|record| record.started.is_some());
        let predecessor = record.and_then(|record| record.predecessor);
        if let Some(predecessor) = predecessor.and_then(|id| self.workers.get_mut(&id)) {
            predecessor.successor_failed = true;
        }
    }

    pub fn crash(&mut self, slot: Slot, failure: Failure, age: Duration) {
        let clean = matches!(failure, Failure::Exited { exit: Exit::Code(0), .. });
        let (restart, stable, upgrading) = (self.policy.restart, self.policy.stable, !self.is_upgrade_idle());
        let is_rollback_due = self.is_rollback_due();
        let Some(slot_model) = self.slots.get_mut(slot.0 as usize) else { return };
        if restart == Restart::Never || restart == Restart::OnFailure && clean {
            slot_model.retired = true;
            self.in_step.retired.push(slot);
            return;
        }
        if age >= stable {
            slot_model.crashes = 0;
        }
        // 0.1 s, doubled for each crash before this one, and never over 30 s.
        let pause = (0..slot_model.crashes).fold(100, |pause, _| (pause * 2).min(30_000));
        let pause = Duration::from_millis(pause);
        slot_model.crashes += 1;
        slot_model.due = self.now + pause;
        slot_model.latest = slot_model.due;
        // A restart in a slot that the same step removes is not announced.
        if !upgrading && slot.0 < self.target && !is_rollback_due {
            self.in_step.restarting.push((slot, pause));
        }
    }

    /// Whether nothing is being replaced at this moment.
    pub fn is_upgrade_idle(&self) -> bool {
        self.upgrade.as_ref().is_none_or(ModelUpgrade::is_paused)
    }

    /// The number of slots follows the requested number, unless an upgrade is active. The slot
    /// of a worker that is on hold stays.
    pub fn resize(&mut self) {
        if self.is_upgrade_idle() {
            let held =
                self.upgrade.iter().flat_map(|upgrade| &upgrade.started_slots).map(|slot| slot.0 + 1).max();
            let mut new = SlotModel::new(self.serving, self.now);
            if self.slots.iter().any(|slot_model| slot_model.source == LaunchSource::AsBefore) {
                new.source = LaunchSource::AsBefore;
            }
            self.slots.resize(self.target.max(held.unwrap_or(0)) as usize, new);
            self.drain_surplus();
        }
    }

    pub fn new_worker(&mut self, record: WorkerRecord) -> Verdict {
        ensure!(record.id.0 == self.last_worker + 1, "{:?} follows {}", record.id, self.last_worker);
        self.last_worker = record.id.0;
        self.workers.insert(record.id, record);
        Ok(())
    }

    pub fn after_ack_timeout(&self, known: Strength) -> OnAckTimeout {
        match self.policy.on_ack_timeout {
            Some(wanted) => wanted,
            None if self.policy.readiness.kinds.is_empty() && known == Strength::Nothing => {
                OnAckTimeout::Proceed
            }
            None => OnAckTimeout::Abort,
        }
    }
}

/// The ending of the supervisor, if this failure ends it.
pub fn ending(failure: Failure) -> Ending {
    match failure {
        Failure::Exited { worker, exit, .. } | Failure::NoSuccessor { worker, exit } => {
            Ending::Worker(worker, exit)
        }
        Failure::NoAck(worker, after) => Ending::NoAck(worker, after),
        Failure::NotStarted(worker, refusal) => Ending::NotStarted(worker, refusal),
        Failure::Silent(worker, after) => Ending::Silent(worker, after),
        Failure::Halted(worker, by) => Ending::Halted(worker, by),
        Failure::Crashes(worker, _) => Ending::Worker(worker, Exit::Unseen),
        Failure::Stopped | Failure::Superseded | Failure::RolledBack => Ending::Stopped,
        Failure::Refused | Failure::NotSwitched | Failure::OwnSocket(_) => Ending::Stopped,
    }
}
