//! The invariants after every step, and those of a world in which nothing is left to do.

use crate::model::{Hold, Model, ModelUpgrade, SIGNAL_GRACE, Verdict, ensure};
use crate::worker::WorkerRecord;
use graceful_run::core::event::{Generation, Slot, WorkerId};
use graceful_run::core::{Phase, Shown, ShownStage, Supervisor};
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    pub fn check_invariants(&mut self, supervisor: &Supervisor) -> Verdict {
        ensure!(!self.in_step.stopping, "the stop was not reported");
        ensure!(self.in_step.ready.is_empty(), "{:?} should be ready", self.in_step.ready);
        ensure!(self.in_step.restarting.is_empty(), "{:?} was not reported", self.in_step.restarting);
        ensure!(self.in_step.retired.is_empty(), "{:?} was not reported as left empty", self.in_step.retired);
        ensure!(
            self.in_step.handed_over.is_none(),
            "the successor of {:?} was not taken over",
            self.in_step.handed_over
        );
        ensure!(
            self.in_step.drained.is_none(),
            "it was not said that {:?} has drained",
            self.in_step.drained
        );
        ensure!(self.in_step.continued.is_none(), "{:?} was not reported", self.in_step.continued);
        ensure!(self.in_step.refused.is_none(), "{:?} was not reported", self.in_step.refused);
        ensure!(
            self.in_step.remains.is_none(),
            "{:?} left processes that nobody asked to stop",
            self.in_step.remains
        );
        ensure!(self.in_step.pre_upgrade.is_none(), "{:?} was not asked about", self.in_step.pre_upgrade);
        let survivor = |record: &&WorkerRecord| {
            let killed = if record.exited.is_some() { record.remains_killed } else { record.killed };
            self.in_step.hammered.contains(&record.id) && !killed
        };
        let survivor = self.workers.values().find(survivor).map(|record| record.id);
        ensure!(survivor.is_none(), "{survivor:?} was not killed by the hammer");
        ensure!(!self.in_step.held, "it was not said that the upgrade is on hold");
        if supervisor.generation() > self.last_generation {
            self.new_start(supervisor.generation())?;
        }
        self.check_switch()?;
        self.check_hold()?;
        ensure!(self.in_step.not_started_by.is_none(), "{:?} was not told of", self.in_step.not_started_by);
        self.compare_workers(supervisor)?;
        self.check_receivers(supervisor)?;
        if !self.stopping {
            self.resume_probation();
        }
        self.apply_timers();
        if self.ended {
            return Ok(());
        }
        ensure!(!self.in_step.cannot_hold, "it was not said that nothing can be held");
        ensure!(self.in_step.nothing_held.is_none(), "{:?} was not answered", self.in_step.nothing_held);
        ensure!(self.too_many_drain().is_none(), "{:?} should be killed", self.too_many_drain());
        self.check_probation(supervisor)?;
        self.check_kept()?;
        self.check_requests(supervisor)?;
        self.check_scaling()?;
        self.check_promise()?;
        self.check_slots(supervisor)?;
        self.check_deadlines(supervisor)
    }

    /// Checks that the shown workers are those that live, and that no stage goes back.
    fn compare_workers(&mut self, supervisor: &Supervisor) -> Verdict {
        let shown: BTreeMap<WorkerId, Shown> =
            supervisor.workers().map(|shown| (shown.worker, shown)).collect();
        let dropped =
            |record: &WorkerRecord| record.refused_at.is_some() || record.awaited() && self.upgrade.is_none();
        self.workers.retain(|id, record| shown.contains_key(id) || !dropped(record));
        ensure!(
            shown.keys().eq(self.workers.keys()),
            "{:?} are shown, {:?} live",
            shown.keys(),
            self.workers.keys()
        );
        for (id, shown) in shown {
            let Some(mut record) = self.workers.remove(&id) else { continue };
            ensure!(
                (shown.generation, shown.slot) == (record.generation, record.slot),
                "{shown:?} is {record:?}"
            );
            self.compare_stage(&mut record, shown.stage)?;
            self.workers.insert(id, record);
        }
        Ok(())
    }

    fn compare_stage(&self, record: &mut WorkerRecord, stage: ShownStage) -> Verdict {
        let id = record.id;
        match stage {
            ShownStage::Starting => {
                ensure!(record.stage == stage && !record.signalled(), "{id:?} starts once more")
            }
            ShownStage::Ready => {
                ensure!(
                    record.stage == stage && record.ready.is_some() && !record.signalled(),
                    "{id:?} is not ready"
                )
            }
            ShownStage::Draining => {
                if record.stage == ShownStage::Ready && record.exited.is_none() && !self.stopping {
                    self.check_stop_reason(record)?;
                }
            }
            ShownStage::Killed => ensure!(record.killed, "{id:?} was not killed"),
        }
        record.stage = stage;
        Ok(())
    }

    /// Checks that a request to scale is reported as done once the wanted workers are ready,
    /// and every other one has been asked to stop.
    fn check_scaling(&mut self) -> Verdict {
        let held = |record: &WorkerRecord| self.replaces(record.id);
        let slots = (0..self.target as usize).map(|slot| {
            let ready =
                |record: &WorkerRecord| record.slot.0 as usize == slot && record.stage == ShownStage::Ready;
            let slot_model = self.slots.get(slot);
            let retired = slot_model.is_some_and(|slot_model| slot_model.retired);
            (self.workers.values().any(|record| ready(record) && !held(record)), retired)
        });
        let slots: Vec<(bool, bool)> = slots.collect();
        let stays = |record: &WorkerRecord| {
            record.slot.0 >= self.target && record.exited.is_none() && !record.signalled() && !held(record)
        };
        let upgrade = self.stopping || !self.is_upgrade_idle() || self.workers.values().any(stays);
        let all = slots.iter().all(|(ready, retired)| *ready || *retired);
        let count = slots.iter().filter(|(ready, _)| *ready).count() as u32;
        let expected = (self.scaling && all && !upgrade).then_some(count);
        ensure!(
            self.in_step.scale_done == expected,
            "{:?} was said, not {expected:?}",
            self.in_step.scale_done
        );
        self.scaling &= expected.is_none();
        Ok(())
    }

    /// Checks that a worker that served is asked to stop for a reason.
    fn check_stop_reason(&self, record: &mut WorkerRecord) -> Verdict {
        let replaced = self.in_step.committed.contains(&record.slot) && record.generation != self.serving;
        let alone = |upgrade: &&ModelUpgrade| {
            self.policy.stop_first || record.starts_none || self.policy.follow && upgrade.is_rollback
        };
        let makes_room =
            self.upgrade.as_ref().filter(alone).is_some_and(|upgrade| record.generation != upgrade.to);
        let keeps = record.stays_master
            && !record.handed_over
            && self.successor(record.id).is_some_and(WorkerRecord::runs);
        ensure!(!replaced || !keeps, "{:?} is the master of its successor, and is to leave", record.id);
        let undone = self.in_step.undone == Some(record.generation);
        let held = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.to == record.generation);
        let shrinks = self.is_upgrade_idle() && !held && record.slot.0 >= self.target;
        record.surplus = record.slot.0 >= self.slots.len() as u32 || shrinks || undone;
        ensure!(
            replaced || makes_room || record.surplus || record.handed_over,
            "{:?} served and is to leave for no reason",
            record.id
        );
        Ok(())
    }

    fn check_requests(&self, supervisor: &Supervisor) -> Verdict {
        ensure!(
            supervisor.generation() == self.serving,
            "{} is shown, {} serves",
            supervisor.generation(),
            self.serving
        );
        ensure!(supervisor.has_pending_upgrade() == self.pending, "a request is kept: {}", !self.pending);
        let held = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.hold == Hold::Held);
        let phase = match (self.stopping, self.served, &self.upgrade) {
            (true, ..) => Phase::Stopping,
            _ if held => Phase::Holding,
            (_, false, _) => Phase::Starting,
            (.., Some(_)) => Phase::Upgrading,
            (.., None) => Phase::Running,
        };
        ensure!(supervisor.phase() == phase, "it is {:?}, not {phase:?}", supervisor.phase());
        let first = !self.served && self.workers.values().any(|record| record.stage == ShownStage::Starting);
        let held_up = self.upgrade_must_wait();
        ensure!(!self.pending || self.upgrade.is_some() || first || held_up, "a request waits for nothing");
        Ok(())
    }

    fn check_promise(&self) -> Verdict {
        let starting = |record: &&WorkerRecord| record.stage == ShownStage::Starting;
        let generations: BTreeSet<Generation> =
            self.workers.values().filter(starting).map(|record| record.generation).collect();
        ensure!(self.mixed || generations.len() <= 1, "{generations:?} start at once");
        Ok(())
    }

    fn check_slots(&self, supervisor: &Supervisor) -> Verdict {
        for (slot, slot_model) in self.slots.iter().enumerate() {
            let slot = Slot(slot as u32);
            let here: Vec<&WorkerRecord> =
                self.workers.values().filter(|record| record.slot == slot).collect();
            let held =
                here.iter().filter(|record| self.is_upgrade_idle() && self.replaces(record.id)).count();
            let filled = here.iter().filter(|record| record.occupied_slot()).count() - held;
            let active = self.upgrade.as_ref().filter(|upgrade| !upgrade.is_paused());
            let replaced = active.is_some_and(|upgrade| !upgrade.replaced_slots.contains(&slot));
            ensure!(filled <= if replaced { 2 } else { 1 }, "{filled} workers fill {slot:?}");
            ensure!(!self.policy.stop_first || here.len() <= 1, "{slot:?} has two workers");
            // A successor that was never ready may have the listeners open.
            let hung = |record: &&&WorkerRecord| {
                self.policy.follow && record.runs() && record.ready.is_none() && !record.occupied_slot()
            };
            let hangs = here.iter().any(|record| hung(&record));
            let free = if self.policy.stop_first { here.is_empty() } else { filled == 0 && !hangs };
            let wanted = active.is_some() || slot.0 < self.target;
            if free && wanted && !replaced && !slot_model.retired && !self.stopping {
                ensure!(slot_model.latest > self.now, "{slot:?} stays empty");
                let woken = supervisor.deadline().is_some_and(|at| at <= slot_model.latest);
                ensure!(woken, "nothing wakes it to fill {slot:?}");
            }
        }
        let starting = self.workers.values().any(|record| record.stage == ShownStage::Starting);
        let serves = |slot: usize| {
            self.slots[slot].retired
                || self.workers.values().any(|record| {
                    record.slot.0 as usize == slot
                        && record.stage == ShownStage::Ready
                        && !self.replaces(record.id)
                })
        };
        let ready = self
            .workers
            .values()
            .any(|record| record.stage == ShownStage::Ready && record.generation == self.serving);
        let all = ready && !starting && self.is_upgrade_idle() && (0..self.slots.len()).all(serves);
        ensure!(self.served || self.stopping || !all, "everything is ready and it was not said");
        Ok(())
    }

    fn check_deadlines(&self, supervisor: &Supervisor) -> Verdict {
        let now = self.now;
        let deadline = supervisor.deadline();
        ensure!(deadline.is_none_or(|at| at > now), "it wants to be woken at {deadline:?}, which has passed");
        let superseded = self.superseded_at();
        let comes = superseded.is_none_or(|at| at > now && deadline.is_some_and(|deadline| deadline <= at));
        ensure!(comes, "a request waits behind a successor that hangs");
        self.check_hold_deadline(deadline)?;
        for record in self.workers.values() {
            let id = record.id;
            let waits = |at: std::time::Duration| at > now && deadline.is_some_and(|deadline| deadline <= at);
            if record.stage == ShownStage::Starting && record.counted_from().is_some() {
                ensure!(record.ack_by.is_none_or(waits), "{id:?} is waited for too long");
                ensure!(self.timer_at(record).is_none_or(waits), "{id:?} has lived for long enough");
                self.check_listening(record, waits)?;
                self.check_unseen(record, waits)?;
            }
            if let Some(limit) = self.policy.worker_watchdog
                && record.stage == ShownStage::Ready
                && !record.handed_over
            {
                ensure!(waits(record.last_heartbeat + limit), "{id:?} is silent");
            }
            if let Some(draining) = record.draining.filter(|_| record.runs()) {
                self.check_draining(id, draining, waits)?;
            } else if record.stage == ShownStage::Draining && record.runs() {
                match (record.stopped, record.ready) {
                    (Some(at), _) => {
                        let kill_at = record.stop_timeout(&self.policy).map(|timeout| at + timeout);
                        ensure!(kill_at.is_none_or(waits), "{id:?} has had its time");
                    }
                    (None, _) if record.pre_stop == Some(false) => {}
                    (None, Some(at)) => {
                        ensure!(waits(at + SIGNAL_GRACE) && !self.stopping, "{id:?} was not asked to stop")
                    }
                    (None, None) => return Err(format!("{id:?} was not asked to stop")),
                }
            }
            let waits_on = self.stopping && record.exited.is_some() && record.remains_asked.is_none();
            ensure!(!waits_on || record.remains_killed, "what {id:?} left was not asked to stop");
            if let (Some(at), Some(timeout), false) =
                (record.remains_asked.or(record.exited), self.policy.stop_timeout, record.remains_killed)
            {
                ensure!(waits(at + timeout), "what {id:?} left has had its time");
            }
            self.check_halt(record, waits)?;
            ensure!(!self.killing || record.killed || !record.runs(), "{id:?} was not killed");
        }
        Ok(())
    }

    /// Whether a worker is draining or stopping.
    pub fn drains(&self, supervisor: &Supervisor) -> bool {
        supervisor.workers().any(|shown| shown.stage == ShownStage::Draining)
    }

    /// Whether an upgrade is on hold.
    pub fn holds(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.hold == Hold::Held)
    }

    /// Checks that nothing is left to do: every request has its verdict, and the right workers
    /// run.
    pub fn check_quiescent(&self, supervisor: &Supervisor) -> Verdict {
        if self.ended {
            return Ok(());
        }
        ensure!(!self.stopping, "a stop that does not end");
        ensure!(!self.scaling, "a request to scale without an answer");
        ensure!(self.upgrade.is_none() && !self.pending, "an upgrade without a verdict: {:?}", self.upgrade);
        ensure!(self.slots.len() as u32 == self.target, "{} slots, not {}", self.slots.len(), self.target);
        let filled: Vec<Slot> = supervisor.workers().map(|shown| shown.slot).collect();
        let wanted = (0..self.target).filter(|&slot| !self.slots[slot as usize].retired).map(Slot);
        let wanted: BTreeSet<Slot> = wanted.collect();
        let filled_set: BTreeSet<Slot> = filled.iter().copied().collect();
        ensure!(
            filled.len() == filled_set.len() && filled_set == wanted,
            "{filled:?} are filled, not {wanted:?}"
        );
        let ready = supervisor.workers().all(|shown| shown.stage == ShownStage::Ready);
        ensure!(ready, "not every worker is ready");
        let old = supervisor.workers().find(|shown| shown.generation != self.serving);
        ensure!(self.mixed || old.is_none(), "{old:?} is of an old generation");
        ensure!(self.served || self.target == 0, "nothing serves");
        Ok(())
    }
}
