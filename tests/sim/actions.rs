//! Checks of each action: whether the events so far call for it.

use crate::model::{Hold, Model, ModelUpgrade, SIGNAL_GRACE, SlotModel, Verdict, ensure};
use crate::steering::Switch;
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{Action, Ending, Event, Generation, LaunchSource, Request, Slot, WorkerId};
use graceful_run::core::policy::Strength;
use std::time::Duration;

impl Model {
    pub fn check(&mut self, action: Action) -> Verdict {
        let now = self.now;
        match action {
            Action::Spawn { worker, generation, slot, source } => {
                self.spawn(worker, generation, slot, source)
            }
            Action::RequestHandover { worker, predecessor, generation, slot } => {
                self.request_handover(worker, predecessor, generation, slot)
            }
            Action::TakeSuccessor { worker, predecessor, generation, slot } => {
                self.take_successor(worker, predecessor, generation, slot)
            }
            Action::KeepMaster { worker, predecessor } => self.keep_master(worker, predecessor),
            Action::Probe(id) if self.workers.get(&id).is_some_and(WorkerRecord::awaited) => Ok(()),
            Action::Probe(id) => {
                let listeners = self.policy.listeners;
                let record = self.running(id, action)?;
                let starts = record.stage == ShownStage::Starting;
                // The startup time of the program is still needed once the worker serves.
                let unknown = listeners && record.stage == ShownStage::Ready && record.startup_time.is_none();
                ensure!(starts || unknown, "{action:?} of a worker of which all is known");
                ensure!(record.halt.is_none(), "{action:?} of a worker that is halted");
                Ok(())
            }
            Action::CheckAlive => {
                let upgrade = self.upgrade.as_mut().ok_or("CheckAlive without an upgrade")?;
                let again = std::mem::replace(&mut upgrade.liveness_requested, true);
                ensure!(!again && upgrade.switch == Switch::Not, "CheckAlive twice");
                Ok(())
            }
            Action::CheckWaiting => self.may_check_waiting(),
            Action::Forget(generation) => self.may_forget(generation),
            Action::PreUpgrade(to) => {
                ensure!(self.in_step.pre_upgrade.take() == Some(to), "{action:?} out of place");
                Ok(())
            }
            Action::Switch(to) => self.may_switch(to),
            Action::CheckDrained(id) => self.may_check_drained(id),
            Action::PreStop(id) => self.pre_stop(id),
            Action::Stop(id) | Action::StopUnready(id) => {
                let was_ready = self.running(id, action)?.ready.is_some();
                ensure!(was_ready == matches!(action, Action::Stop(_)), "{action:?}, ready: {was_ready}");
                self.stop(id)
            }
            Action::Kill(id) => self.kill(id),
            Action::DrainRemains(id) => {
                let just = self.in_step.remains.take() == Some(id);
                ensure!(just, "{action:?}, of which nothing has just been left");
                ensure!(self.may_finish(id), "{action:?}, which has no requests to finish");
                Ok(())
            }
            Action::StopRemains(id) => {
                let timeout = self.policy.stop_timeout;
                let (just, finishes, stopping) = (
                    self.in_step.remains.take_if(|left| *left == id).is_some(),
                    self.may_finish(id),
                    self.stopping,
                );
                let record =
                    self.workers.get_mut(&id).ok_or(format!("{action:?}, of which nothing is left"))?;
                let exited = record.exited.ok_or(format!("{action:?}, which lives"))?;
                let had_time = timeout.is_some_and(|timeout| exited + timeout <= now);
                let due = if just { !finishes } else { had_time || stopping };
                ensure!(due, "{action:?} too soon");
                ensure!(record.remains_asked.replace(now).is_none(), "{action:?} twice");
                Ok(())
            }
            Action::KillRemains(id) => {
                let crowded = self.too_many_drain();
                let by_force = self.killing || self.in_step.hammer;
                let timeout = self.policy.stop_timeout;
                let record =
                    self.workers.get_mut(&id).ok_or(format!("{action:?}, of which nothing is left"))?;
                ensure!(record.exited.is_some(), "{action:?}, which lives");
                let asked = record.remains_asked;
                let due = asked.zip(timeout).is_some_and(|(asked, timeout)| asked + timeout <= now);
                let by_force = by_force || crowded == Some(record.generation);
                ensure!(by_force || due, "{action:?} too soon");
                ensure!(!std::mem::replace(&mut record.remains_killed, true), "{action:?} twice");
                Ok(())
            }
            Action::Forward(id, token) => {
                ensure!(
                    self.in_step.event == Some(Event::Request(Request::Forward(token))),
                    "{action:?} unasked"
                );
                let record = self.running(id, action)?;
                ensure!(record.stage == ShownStage::Ready, "{action:?} to a worker that is not ready");
                Ok(())
            }
            Action::Suspend(id) | Action::Resume(id) => {
                let known = self.workers.get(&id).is_some_and(|record| record.started.is_some());
                ensure!(known, "{action:?}, of which no process lives");
                Ok(())
            }
            Action::SuspendSelf => Ok(()),
            Action::Report(report) => self.report(report),
            Action::Exit(ending) => self.exit(ending),
        }
    }

    /// Whether the processes that a worker left behind may finish their requests: it stopped as
    /// it was asked to, and the next worker does not wait for them.
    pub fn may_finish(&self, id: WorkerId) -> bool {
        let Some(record) = self.workers.get(&id) else { return false };
        record.ready.is_some()
            && record.stopped.is_some()
            && !record.killed
            && !self.stopping
            && !self.policy.stop_first
    }

    pub fn running(&mut self, id: WorkerId, action: Action) -> Result<&mut WorkerRecord, String> {
        let record = self.workers.get_mut(&id).filter(|record| record.runs());
        record.ok_or(format!("{action:?}, of which no process lives"))
    }

    pub fn spawn(
        &mut self,
        id: WorkerId,
        generation: Generation,
        slot: Slot,
        source: LaunchSource,
    ) -> Verdict {
        let now = self.now;
        ensure!(!self.stopping, "a start after the stop began");
        if let Some(record) = self.workers.get_mut(&id) {
            let refused = record.refused_at.take().ok_or("the same worker is started twice")?;
            ensure!(refused + Duration::from_millis(50) <= now, "a second try without a pause");
            let same = (record.generation, record.slot, record.source) == (generation, slot, source);
            ensure!(same, "a second try of something else");
            record.in_flight = true;
            return Ok(());
        }
        let kept = source == LaunchSource::Anew || self.kept.contains(&generation);
        ensure!(kept, "{generation} is started as before, and it is not kept what that was");
        self.kept.insert(generation);
        if generation > self.last_generation {
            self.new_start(generation)?;
        }
        let slot_model =
            self.slots.get(slot.0 as usize).ok_or("a start in a slot that is not there")?.clone();
        let others: Vec<&WorkerRecord> = self.workers.values().filter(|record| record.slot == slot).collect();
        ensure!(!self.policy.stop_first || others.is_empty(), "the old worker has not left {slot:?}");
        let at_rest = self.is_upgrade_idle();
        let fills = others.iter().any(|record| record.occupied_slot() && record.generation == generation);
        ensure!(!fills, "a second worker of {generation} in {slot:?}");
        let serves = others.iter().any(|record| record.runs() && record.stage == ShownStage::Ready);
        ensure!(!self.policy.follow || !serves, "a start where a worker is to start its successor");
        let hangs = |record: &&WorkerRecord| record.runs() && record.ready.is_none();
        let hangs = self.policy.follow && others.iter().any(hangs);
        ensure!(!hangs, "a start where another may have the listeners open");
        match &mut self.upgrade {
            Some(upgrade) if upgrade.to == generation && !upgrade.replaced_slots.contains(&slot) => {
                ensure!(upgrade.failure.is_none(), "a replacement after the upgrade failed");
                ensure!(!upgrade.is_paused(), "a replacement while the upgrade is paused");
                ensure!(
                    upgrade.hold == Hold::No || upgrade.started_slots.is_empty(),
                    "a second replacement before the verdict"
                );
                ensure!(upgrade.started_slots.insert(slot), "a second replacement in {slot:?}");
                let batch = upgrade.started_slots.difference(&upgrade.replaced_slots).count();
                ensure!(
                    batch <= self.policy.surge.unwrap_or(u32::MAX) as usize,
                    "{batch} slots are replaced at once"
                );
                ensure!(source == upgrade.source, "a replacement that is started {source:?}");
                let upgrade = self.upgrade.clone().ok_or("no upgrade")?;
                self.may_begin(&upgrade)?;
            }
            upgrade => {
                let started_slots =
                    at_rest || upgrade.as_ref().is_none_or(|upgrade| upgrade.replaced_slots.contains(&slot));
                ensure!(started_slots, "a restart in {slot:?} while its replacement is awaited");
                ensure!(!at_rest || slot.0 < self.target, "{slot:?} is to be empty");
                let held = upgrade.as_ref().map(|upgrade| upgrade.to).filter(|_| at_rest);
                let filled =
                    others.iter().any(|record| record.occupied_slot() && Some(record.generation) != held);
                ensure!(!filled, "{slot:?} is filled already");
                ensure!(slot_model.due <= now, "a restart before {:?}", slot_model.due);
                ensure!(!slot_model.retired, "{slot:?} was left empty for good");
                ensure!(slot_model.generation == generation, "{slot:?} belongs to {}", slot_model.generation);
                ensure!(slot_model.source == source, "{slot:?} starts {:?}", slot_model.source);
            }
        }
        let mut record = WorkerRecord::new(id, generation, slot, source, self.known, now);
        record.is_restart = slot_model.generation == generation && slot_model.crashes > 0;
        self.set_requirements(&mut record);
        self.new_worker(record)
    }

    /// A serving worker is asked to start its successor, the one replacement of the upgrade.
    pub fn request_handover(
        &mut self,
        id: WorkerId,
        predecessor: WorkerId,
        generation: Generation,
        slot: Slot,
    ) -> Verdict {
        let (now, timeout) = (self.now, self.policy.ack_timeout);
        ensure!(self.policy.follow && !self.stopping, "a successor out of place");
        let old =
            self.running(predecessor, Action::RequestHandover { worker: id, predecessor, generation, slot })?;
        ensure!(old.stage == ShownStage::Ready && !old.signalled(), "{predecessor:?} does not serve");
        ensure!(!old.handed_over, "{predecessor:?} leaves, and is asked for another successor");
        ensure!(!old.starts_none, "{predecessor:?} starts no successor, and is asked for one");
        ensure!(old.slot == slot && old.generation < generation, "{id:?} cannot follow {predecessor:?}");
        ensure!(
            old.ready.is_some_and(|at| at + SIGNAL_GRACE <= now),
            "{predecessor:?} is signalled too soon"
        );
        let upgrade =
            self.upgrade.as_mut().filter(|upgrade| upgrade.to == generation && upgrade.failure.is_none());
        let upgrade = upgrade.ok_or("a successor without an upgrade")?;
        ensure!(!upgrade.is_rollback, "a successor of what is to go back");
        if let Some(old) = self.workers.get_mut(&predecessor) {
            old.stays_master = false;
        }
        self.kept.insert(generation);
        ensure!(upgrade.started_slots.insert(slot), "a second replacement in {slot:?}");
        let record = WorkerRecord::new(id, generation, slot, LaunchSource::Anew, Strength::Nothing, now);
        self.new_worker(WorkerRecord {
            predecessor: Some(predecessor),
            ack_by: timeout.map(|timeout| now + timeout),
            ..record
        })
    }

    /// The process of a master stays, as that of the successor which has just been committed.
    pub fn keep_master(&mut self, id: WorkerId, predecessor: WorkerId) -> Verdict {
        let committed = self.in_step.committed.clone();
        let old = self.running(predecessor, Action::KeepMaster { worker: id, predecessor })?;
        let stays = old.stays_master && !old.handed_over && old.stage == ShownStage::Ready;
        ensure!(stays && committed.contains(&old.slot), "{predecessor:?} does not stay");
        ensure!(
            self.workers.get(&id).is_some_and(|record| record.predecessor == Some(predecessor)),
            "{id:?} is not what {predecessor:?} has started"
        );
        self.workers.remove(&predecessor);
        Ok(())
    }

    /// A successor that was not requested serves from now on.
    pub fn take_successor(
        &mut self,
        id: WorkerId,
        predecessor: WorkerId,
        generation: Generation,
        slot: Slot,
    ) -> Verdict {
        let now = self.now;
        ensure!(
            self.in_step.handed_over.take() == Some(predecessor),
            "{predecessor:?} has not left to a successor"
        );
        let old =
            self.running(predecessor, Action::TakeSuccessor { worker: id, predecessor, generation, slot })?;
        ensure!(old.slot == slot, "{id:?} cannot follow {predecessor:?}");
        let same = old.generation;
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.liveness_requested = false;
            ensure!(generation == same, "{generation} comes between");
        } else {
            ensure!(
                generation.0 == self.last_generation.0 + 1,
                "{generation} follows {}",
                self.last_generation
            );
            self.last_generation = generation;
            self.serving = generation;
            self.slots[slot.0 as usize] = SlotModel::new(generation, now);
        }
        self.leave_unasked(|record| record.id == predecessor);
        self.kept.insert(generation);
        let record = WorkerRecord::new(id, generation, slot, LaunchSource::Anew, Strength::Nothing, now);
        let (predecessor, started, ready) = (Some(predecessor), Some(now), Some(now));
        self.new_worker(WorkerRecord {
            predecessor,
            started,
            ready,
            in_flight: false,
            stage: ShownStage::Ready,
            ..record
        })
    }

    /// The one stop signal of a worker's life. Unless everything stops, a worker that was
    /// ready gets it because its replacement has just been found alive, or because it is no
    /// longer needed.
    pub fn stop(&mut self, id: WorkerId) -> Verdict {
        let (now, hooked) = (self.now, self.policy.pre_stop);
        let record = self.running(id, Action::Stop(id))?;
        let hooked = hooked && record.ready.is_some();
        if !hooked {
            self.has_reason_to_go(id)?;
        } else {
            ensure!(record.pre_stop == Some(true), "{id:?} is asked to stop before its hook has ended");
        }
        let record = self.running(id, Action::Stop(id))?;
        ensure!(record.stopped.is_none() && !record.killed, "a second signal to {id:?}");
        ensure!(!record.handed_over, "{id:?} leaves by itself, and is asked to");
        record.stopped = Some(now);
        Ok(())
    }

    /// The hook is called once, before the drain and the stop signal, for a worker that was ready.
    pub fn pre_stop(&mut self, id: WorkerId) -> Verdict {
        // One that drains is not asked to stop yet.
        if self.workers.get(&id).is_none_or(|record| record.draining.is_none()) {
            self.has_reason_to_go(id)?;
        }
        let wanted = self.policy.pre_stop;
        let by_others = self.in_step.signalled.contains(&id);
        let record = self.running(id, Action::PreStop(id))?;
        let before = by_others || !record.signalled();
        ensure!(wanted && record.ready.is_some() && before, "a pre-stop hook for {id:?}");
        ensure!(record.pre_stop.replace(false).is_none(), "a second pre-stop hook for {id:?}");
        Ok(())
    }

    pub fn has_reason_to_go(&mut self, id: WorkerId) -> Verdict {
        let (now, stopping, stop_first) = (self.now, self.stopping, self.policy.stop_first);
        let (slots, undone) = (self.slots.len() as u32, self.in_step.undone);
        let shrinks = self.is_upgrade_idle() && !self.replaces(id);
        let slots = if shrinks { self.target } else { slots };
        let committed = self.in_step.committed.clone();
        let stopped_for_rollback =
            self.policy.follow && self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_rollback);
        let to = self.serving;
        let record = self.running(id, Action::Stop(id))?;
        let Some(ready) = record.ready.filter(|_| !stopping) else { return Ok(()) };
        ensure!(ready + SIGNAL_GRACE <= now, "{id:?} is asked to stop {:?} after its ack", now - ready);
        ensure!(record.draining.is_none(), "{id:?} is asked to stop before it has drained");
        let surplus = record.surplus || record.slot.0 >= slots || undone == Some(record.generation);
        let replaced = committed.contains(&record.slot) && record.generation != to;
        // With --follow a rollback stops the worker that keeps crashing first.
        ensure!(
            surplus || replaced || stop_first || stopped_for_rollback || record.starts_none,
            "{id:?} serves, and nothing serves in its place"
        );
        Ok(())
    }

    pub fn kill(&mut self, id: WorkerId) -> Verdict {
        let (now, by_force) = (self.now, self.killing || self.in_step.hammer);
        // What is no longer wanted may be what drains too much.
        if !by_force && self.too_many_drain().is_none() {
            self.resize();
        }
        let crowded = self.too_many_drain();
        let timeout = self.workers.get(&id).and_then(|record| record.stop_timeout(&self.policy));
        let record = self.running(id, Action::Kill(id))?;
        let by_force = by_force || crowded == Some(record.generation);
        let due = matches!((record.stopped, timeout), (Some(at), Some(timeout)) if at + timeout <= now);
        ensure!(by_force || due, "{id:?} is killed before its time");
        ensure!(!std::mem::replace(&mut record.killed, true), "{id:?} is killed twice");
        self.kill_needed |= self.stopping;
        Ok(())
    }

    pub fn exit(&mut self, ending: Ending) -> Verdict {
        // Between two attempts of a start there is no process to wait for.
        self.workers.retain(|_, record| !record.has_no_process());
        ensure!(self.workers.is_empty(), "the end, and there still are {:?}", self.workers.keys());
        ensure!(self.upgrade.is_none(), "the end, and no verdict on the upgrade");
        let expected = match (self.stopping, self.kill_needed) {
            (true, true) => self.ending.unwrap_or(Ending::Killed),
            (true, false) => self.ending.unwrap_or(Ending::Stopped),
            (false, _) => self.last_loss.ok_or("an end that nobody asked for")?,
        };
        let all_retired = !self.slots.is_empty() && self.slots.iter().all(|slot_model| slot_model.retired);
        ensure!(self.stopping || all_retired, "an end while there are slots to fill");
        ensure!(ending == expected, "it ends with {ending:?}, not {expected:?}");
        self.ended = true;
        Ok(())
    }

    /// The upgrade has failed: the old generation stays, and the new workers are to stop.
    pub fn undo(&mut self, upgrade: &ModelUpgrade) {
        self.in_step.undone = Some(upgrade.to);
        let (now, stop_first) = (self.now, self.policy.stop_first);
        // Between two attempts of a start there is no process that has to stop. In a slot that was
        // replaced already the attempts go on.
        self.workers.retain(|_, record| {
            let replaces = record.generation == upgrade.to && !upgrade.replaced_slots.contains(&record.slot);
            !record.has_no_process() || !replaces
        });
        let undone = |record: &&mut WorkerRecord| {
            record.generation == upgrade.to
                && !upgrade.replaced_slots.contains(&record.slot)
                && record.occupied_slot()
        };
        let failed = self.workers.values_mut().filter(undone).map(|record| record.id);
        for id in failed.collect::<Vec<_>>() {
            self.note_failed_successor(id);
        }
        let draining = Some(self.draining()).filter(|_| self.in_step.switched_back && !self.stopping);
        for record in self.workers.values_mut().filter(undone) {
            record.draining = draining.filter(|_| record.ready.is_some() && record.runs());
            record.surplus = true;
            record.stage = ShownStage::Draining;
        }
        for (slot, slot_model) in self.slots.iter_mut().enumerate() {
            if !upgrade.replaced_slots.contains(&Slot(slot as u32)) && !self.stopping {
                slot_model.source = LaunchSource::AsBefore;
                // The model does not know which of them had already been asked to stop.
                if stop_first && upgrade.allowed && !upgrade.is_rollback {
                    slot_model.due = slot_model.due.min(now);
                    slot_model.latest =
                        if self.policy.surge.is_some() { slot_model.latest } else { slot_model.due };
                }
            }
        }
        self.resize();
    }
}
