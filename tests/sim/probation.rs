//! The model of generations that have gone live recently, and of what is kept to start the
//! ones before them again.
//!
//! | property | where |
//! | --- | --- |
//! | within probation the generation before can be started again: what it was started from is kept | `check_kept`, `Model::spawn` |
//! | nothing is kept for longer than it may be needed | `check_kept` |
//! | three crashes that count roll back to it, at once unless another upgrade is under way | `count_crash`, `check_probation` |
//! | a generation that does not keep crashing is proven in time | `proven`, `check_probation` |
//! | replacements have to be seen waiting if the serving workers were | `may_check_waiting`, `Model::acked`, `Model::spawn` |

use crate::canary::Canary;
use crate::model::{Hold, Model, ModelUpgrade, Verdict, ensure};
use crate::steering::Switch;
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::Supervisor;
use graceful_run::core::event::{Exit, Failure, Generation, LaunchSource, Report, Slot, Time, WorkerId};
use graceful_run::core::policy::{Restart, Strength};
use std::collections::BTreeSet;
use std::time::Duration;

/// How many crashes cause a rollback.
const CRASHES: u32 = 3;

/// When it is reported that a worker has not been seen waiting.
const UNSEEN: Duration = Duration::from_secs(2);

/// A generation that has gone live recently.
#[derive(Debug, Clone)]
pub struct Probation {
    pub generation: Generation,
    pub before: Generation,
    since: Time,
    until: Time,
    crashes: u32,
    down: Option<Time>,
    due: Option<Failure>,
}

/// Whether the serving workers have been checked for whether they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Not,
    Requested,
    Known,
}

impl Model {
    pub fn must_see_accepting(&self) -> bool {
        let readiness = &self.policy.readiness;
        let word = readiness.kinds.iter().any(|kind| kind.strength() == Strength::Said);
        self.policy.listeners && (readiness.auto || word)
    }

    pub fn may_check_waiting(&mut self) -> Verdict {
        let must_see = self.must_see_accepting();
        let upgrade = self.upgrade.as_mut().ok_or("CheckWaiting without an upgrade")?;
        ensure!(
            must_see && !upgrade.is_rollback && upgrade.allowed,
            "CheckWaiting out of place: {upgrade:?}"
        );
        ensure!(
            upgrade.started_slots.is_empty() && upgrade.failure.is_none(),
            "CheckWaiting too late: {upgrade:?}"
        );
        ensure!(upgrade.waiting == Waiting::Not, "CheckWaiting twice");
        upgrade.waiting = Waiting::Requested;
        self.accepting_slots.clear();
        Ok(())
    }

    pub fn waits(&mut self, slot: Slot) {
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.waiting == Waiting::Requested) {
            self.accepting_slots.insert(slot);
            self.known = self.known.max(Strength::Seen);
        }
    }

    pub fn waiting_checked(&mut self) {
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.waiting == Waiting::Requested) {
            upgrade.waiting = Waiting::Known;
        }
    }

    /// Checks, when a replacement is started, that it is known whether the serving workers wait.
    pub fn may_begin(&self, upgrade: &ModelUpgrade) -> Verdict {
        let known = upgrade.is_rollback || !self.must_see_accepting() || upgrade.waiting == Waiting::Known;
        ensure!(known, "a replacement before it is known whether those that serve wait");
        Ok(())
    }

    /// Sets what a new worker has to fulfil to be ready.
    pub fn set_requirements(&self, record: &mut WorkerRecord) {
        record.predecessor_startup_time = self.startup_time.1;
        let sees = self.policy.readiness.auto && self.must_see_accepting();
        record.must_accept = sees && self.accepting_slots.contains(&record.slot);
    }

    /// From now on the word of this worker is not enough, if those that serve were seen waiting.
    pub fn listens_elsewhere(&mut self, id: WorkerId) {
        let sees = self.must_see_accepting();
        let starts = |record: &&mut WorkerRecord| {
            sees && record.runs() && record.stage == ShownStage::Starting && record.ready.is_none()
        };
        if let Some(record) = self.workers.get_mut(&id).filter(starts) {
            record.must_accept |= self.accepting_slots.contains(&record.slot);
        }
    }

    /// Whether a replacement that does not say that it is ready has lived for as long as those
    /// that it replaces took, as far as that is known by now.
    pub fn has_lived(&self, record: &WorkerRecord, to: Generation) -> bool {
        let since = if self.startup_time.0 == to { Duration::ZERO } else { self.startup_time.1 };
        let least = record.predecessor_startup_time.max(since);
        let lived = record.started.is_some_and(|started| started + least <= self.now);
        lived || record.strength == Strength::Said || record.predecessor.is_some()
    }

    /// When the ack timeout of a worker passes.
    pub fn ack_by(&self, record: &WorkerRecord) -> Option<Time> {
        let least =
            if self.policy.ack_timeout_grows { record.predecessor_startup_time * 2 } else { Duration::ZERO };
        self.policy.ack_timeout.map(|timeout| self.now + timeout.max(least))
    }

    pub fn unseen(&mut self, id: WorkerId, after: Duration, timer: Option<Duration>) -> Verdict {
        let must_see = self.policy.readiness.auto && self.must_see_accepting();
        let now = self.now;
        let known_timer = self.workers.get(&id).and_then(|record| self.timer_length(record));
        let record = self.workers.get_mut(&id).filter(|record| record.stage == ShownStage::Starting);
        let record = record.ok_or(format!("{id:?} is reported and does not start"))?;
        let started = record.started.ok_or("it does not run")?;
        ensure!(started + after == now && after >= UNSEEN, "{id:?} is reported after {after:?}");
        let has_to = record.must_accept || record.known < Strength::Said;
        ensure!(must_see && has_to && !record.listens, "{id:?} is reported, and need not wait");
        ensure!(timer == known_timer, "{id:?} is said to be ready after {timer:?}, not {known_timer:?}");
        ensure!(!std::mem::replace(&mut record.unseen, true), "{id:?} is reported twice");
        Ok(())
    }

    fn timer_length(&self, record: &WorkerRecord) -> Option<Duration> {
        let readiness = &self.policy.readiness;
        let named = readiness.kinds.contains(&graceful_run::core::event::AckKind::Timer);
        let timer = readiness.timer.filter(|_| named || record.known == Strength::Nothing);
        // It begins anew when the worker is continued.
        let later =
            record.timer_from.zip(record.started).map_or(Duration::ZERO, |(from, started)| from - started);
        timer.map(|timer| timer + later)
    }

    /// Checks that a worker that has to be seen waiting and was not is reported in time.
    pub fn check_unseen(&self, record: &WorkerRecord, waits: impl Fn(Time) -> bool) -> Verdict {
        let has_to = record.must_accept || record.known < Strength::Said;
        let must_see = self.policy.readiness.auto && self.must_see_accepting();
        if let Some(started) = record.started.filter(|_| must_see && has_to && record.predecessor.is_none()) {
            let halted = record.halt.is_some();
            let reported = record.unseen || record.listens || halted || waits(started + UNSEEN);
            ensure!(reported, "{:?} was not reported as unseen", record.id);
        }
        Ok(())
    }

    /// A batch has been committed.
    pub fn begin_probation(&mut self, from: Generation, to: Generation) {
        let Some(length) = self.policy.probation else { return };
        // The old one may end in this very step.
        let lasts = |old: &Probation| old.down.is_some() || self.now < old.until;
        let before = match &self.probation {
            Some(probation) if probation.generation == to => return,
            Some(probation) if probation.crashes > 0 && lasts(probation) => probation.before,
            _ => from,
        };
        let (since, until) = (self.now, self.now + length);
        let new = Probation { generation: to, before, since, until, crashes: 0, down: None, due: None };
        // The old probation may have ended in this step, which is reported first.
        self.in_step.past = self.probation.replace(new);
    }

    fn is_upgrading_to(&self, generation: Generation) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.to == generation)
    }

    /// An upgrade is over: the probation of its generation begins now.
    pub fn restart_probation(&mut self, generation: Generation) {
        let now = self.now;
        let probation = self.probation.as_mut().filter(|probation| probation.generation == generation);
        if let (Some(probation), Some(length)) = (probation, self.policy.probation) {
            probation.until = now + length;
        }
    }

    /// A worker that served ended by itself.
    pub fn count_crash(&mut self, id: WorkerId, generation: Generation, failure: Failure) {
        let clean = matches!(failure, Failure::Exited { exit: Exit::Code(0), .. });
        let stays_away = match self.policy.restart {
            Restart::Always => false,
            Restart::OnFailure => clean,
            Restart::Never => true,
        };
        let now = self.now;
        let ready = self.workers.get(&id).is_some_and(|record| record.ready.is_some());
        let stays_away = stays_away || clean && ready && self.exits_cleanly;
        let is_upgrading_to = self.is_upgrading_to(generation);
        let counts = |it: &&mut Probation| {
            it.generation == generation
                && (it.down.is_some() || now < it.until || is_upgrading_to)
                && !stays_away
        };
        let Some(probation) = self.probation.as_mut().filter(counts) else { return };
        probation.crashes += 1;
        probation.down = probation.down.or(Some(now));
        if probation.crashes >= CRASHES {
            probation.due = Some(failure);
            let crashes = probation.crashes;
            if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.to == generation) {
                upgrade.failure.get_or_insert(Failure::Crashes(id, crashes));
            }
        }
    }

    /// The generation before is to be started in this step.
    pub fn is_rollback_due(&self) -> bool {
        let due = self.probation.as_ref().is_some_and(|probation| probation.due.is_some());
        due && self.upgrade.is_none() && !self.pending
    }

    /// Resumes the probation once every slot is filled again: the time until then does not count.
    pub fn resume_probation(&mut self) {
        let back = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_rollback);
        let Some(probation) = &self.probation else { return };
        let generation = probation.generation;
        let ready = |slot: usize| {
            let here =
                |record: &WorkerRecord| record.slot.0 as usize == slot && record.stage == ShownStage::Ready;
            self.workers.values().any(|record| here(record) && record.exited.is_none())
        };
        let down = |(slot, slot_model): (usize, &crate::model::SlotModel)| {
            slot_model.generation == generation && !slot_model.retired && !ready(slot)
        };
        if back || self.slots.iter().enumerate().any(down) {
            return;
        }
        let now = self.now;
        if let Some(probation) = &mut self.probation
            && let Some(down) = probation.down.take()
        {
            probation.until = probation.until.max(down) + (now - down);
        }
    }

    pub fn proven(&mut self, generation: Generation) -> Verdict {
        let past = self.in_step.past.take_if(|past| past.generation == generation);
        let probation = past.or_else(|| self.probation.take()).ok_or("nothing was on probation")?;
        ensure!(
            probation.generation == generation && probation.until <= self.now,
            "{generation} is proven: {probation:?}"
        );
        ensure!(probation.down.is_none(), "{generation} is proven: {probation:?}");
        Ok(())
    }

    pub fn rollback_started(&mut self, report: Report) -> Verdict {
        let Report::RollbackStarted { from, to, crashes, why, after } = report else { return Ok(()) };
        ensure!(
            self.upgrade.is_none() && !self.pending && !self.stopping,
            "{report:?} out of place: {:?} {} {}",
            self.upgrade,
            self.pending,
            self.stopping
        );
        ensure!(!self.upgrade_must_wait(), "{report:?} too soon");
        let probation = self.probation.as_mut().ok_or(format!("{report:?}, and nothing is on probation"))?;
        let due = probation.due.take();
        probation.down = probation.down.or(Some(self.now));
        ensure!(due == Some(why), "{report:?} of {probation:?}");
        let is = (probation.generation, probation.before, probation.crashes, self.now - probation.since);
        ensure!(is == (from, to, crashes, after), "{report:?} of {probation:?}");
        let slots = self.slots.iter().enumerate().filter(|(_, slot_model)| slot_model.generation == to);
        let done: BTreeSet<_> = slots.map(|(slot, _)| Slot(slot as u32)).collect();
        self.workers.retain(|_, record| record.refused_at.is_none() || record.generation == to);
        self.upgrade = Some(ModelUpgrade {
            from,
            to,
            since: self.now,
            started_slots: BTreeSet::new(),
            replaced_slots: done,
            failure: None,
            liveness_requested: false,
            switch: Switch::Not,
            predecessor_left: false,
            allowed: true,
            hold: Hold::No,
            source: LaunchSource::Exactly,
            waiting: Waiting::Known,
            is_rollback: true,
            canary: Canary::default(),
        });
        Ok(())
    }

    pub fn rolled_back(&mut self, report: Report) -> Verdict {
        let Report::RolledBack { from, to, took } = report else { return Ok(()) };
        let upgrade = self.upgrade.take().ok_or(format!("{report:?}, and nothing was to be"))?;
        ensure!(upgrade.is_rollback && upgrade.failure.is_none(), "{report:?} of {upgrade:?}");
        ensure!(
            (upgrade.from, upgrade.to, upgrade.since + took) == (from, to, self.now),
            "{report:?} of {upgrade:?}"
        );
        ensure!(
            upgrade.replaced_slots.len() == self.slots.len(),
            "{report:?}, but only {:?}",
            upgrade.replaced_slots
        );
        self.probation = None;
        self.serving = to;
        self.mixed = false;
        self.resize();
        Ok(())
    }

    pub fn rollback_failed(&mut self, report: Report) -> Verdict {
        let Report::RollbackFailed { from, to, why } = report else { return Ok(()) };
        let upgrade = self.upgrade.take().ok_or(format!("{report:?}, and nothing was to be"))?;
        ensure!(upgrade.is_rollback && upgrade.failure == Some(why), "{report:?} of {upgrade:?}");
        ensure!(
            (upgrade.from, upgrade.to) == (from, to) && upgrade.switch == Switch::Not,
            "{report:?} of {upgrade:?}"
        );
        self.mixed |= !upgrade.replaced_slots.is_empty();
        self.undo(&upgrade);
        Ok(())
    }

    /// Checks that a rollback is not put off, and that a probation ends.
    pub fn check_probation(&self, supervisor: &Supervisor) -> Verdict {
        let Some(probation) = self.probation.as_ref().filter(|_| !self.stopping) else { return Ok(()) };
        let busy = self.upgrade.is_some() || self.pending || self.upgrade_must_wait();
        ensure!(probation.due.is_none() || busy, "the generation before is not started: {probation:?}");
        if probation.down.is_none() && !self.is_upgrading_to(probation.generation) {
            let (until, deadline) = (probation.until, supervisor.deadline());
            let woken = until > self.now && deadline.is_some_and(|at| at <= until);
            ensure!(woken, "nothing ends {probation:?}");
        }
        Ok(())
    }

    /// Generations of which a worker may be started again.
    fn needed(&self) -> BTreeSet<Generation> {
        let mut needed = BTreeSet::from([self.serving]);
        needed.extend(self.slots.iter().map(|slot_model| slot_model.generation));
        needed.extend(self.upgrade.iter().flat_map(|upgrade| [upgrade.from, upgrade.to]));
        needed.extend(self.probation.iter().flat_map(|probation| [probation.generation, probation.before]));
        needed.extend(self.workers.values().map(|record| record.generation));
        needed
    }

    pub fn may_forget(&mut self, generation: Generation) -> Verdict {
        ensure!(self.kept.remove(&generation), "{generation} is forgotten, and was not kept");
        self.in_step.forgotten.insert(generation);
        Ok(())
    }

    pub fn check_kept(&self) -> Verdict {
        let needed = self.needed();
        let missed = self.in_step.forgotten.iter().find(|generation| needed.contains(generation));
        ensure!(missed.is_none(), "{missed:?} is forgotten, and may be started again");
        let idle = self.kept.iter().find(|generation| !needed.contains(generation));
        ensure!(idle.is_none() || self.stopping, "it is kept what {idle:?} was started from, for nothing");
        Ok(())
    }
}
