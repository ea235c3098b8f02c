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
            Action::Spawn { worker, generation, slot, reading } => {
                self.spawn(worker, generation, slot, reading)
            }
            Action::RequestHandover { worker, of, generation, slot } => {
                self.request_handover(worker, of, generation, slot)
            }
            Action::TakeSuccessor { worker, of, generation, slot } => {
                self.take_successor(worker, of, generation, slot)
            }
            Action::Probe(id) if self.workers.get(&id).is_some_and(WorkerRecord::awaited) => Ok(()),
            Action::Probe(id) => {
                let listeners = self.policy.listeners;
                let record = self.running(id, action)?;
                let starts = record.stage == ShownStage::Starting;
                // How long the program takes to wait is of use once it serves as well.
                let unknown = listeners && record.stage == ShownStage::Ready && record.took.is_none();
                ensure!(starts || unknown, "{action:?} of a worker of which all is known");
                Ok(())
            }
            Action::CheckAlive => {
                let upgrade = self.upgrade.as_mut().ok_or("CheckAlive without an upgrade")?;
                let again = std::mem::replace(&mut upgrade.liveness_asked, true);
                ensure!(!again && upgrade.switch == Switch::Not, "CheckAlive twice");
                Ok(())
            }
            Action::CheckWaiting => self.may_look_waiting(),
            Action::Forget(generation) => self.may_forget(generation),
            Action::PreUpgrade(to) => {
                ensure!(self.in_step.pre_upgrade.take() == Some(to), "{action:?} out of place");
                Ok(())
            }
            Action::Switch(to) => self.may_switch(to),
            Action::CheckDrained(id) => self.may_look(id),
            Action::PreStop(id) => self.pre_stop(id),
            Action::Stop(id) => self.stop(id),
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
                let by_force = self.killing || self.in_step.hammer;
                let timeout = self.policy.stop_timeout;
                let record =
                    self.workers.get_mut(&id).ok_or(format!("{action:?}, of which nothing is left"))?;
                ensure!(record.exited.is_some(), "{action:?}, which lives");
                let asked = record.remains_asked;
                let due = asked.zip(timeout).is_some_and(|(asked, timeout)| asked + timeout <= now);
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

    /// Those that a worker left behind which stopped as it was asked to may finish what
    /// they have, unless the next one waits for them to be gone.
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
        reading: LaunchSource,
    ) -> Verdict {
        let now = self.now;
        ensure!(!self.stopping, "a start after the stop began");
        if let Some(record) = self.workers.get_mut(&id) {
            let refused = record.refused_at.take().ok_or("the same worker is started twice")?;
            ensure!(refused + Duration::from_millis(50) <= now, "a second try without a pause");
            let same = (record.generation, record.slot, record.reading) == (generation, slot, reading);
            ensure!(same, "a second try of something else");
            record.in_flight = true;
            return Ok(());
        }
        let kept = reading == LaunchSource::Anew || self.kept.contains(&generation);
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
        match &mut self.upgrade {
            Some(upgrade) if upgrade.to == generation && !upgrade.replaced_slots.contains(&slot) => {
                ensure!(upgrade.failure.is_none(), "a replacement after the upgrade failed");
                ensure!(!upgrade.is_paused(), "a replacement while the upgrade rests");
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
                ensure!(reading == upgrade.reading, "a replacement that is started {reading:?}");
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
                ensure!(slot_model.reading == reading, "{slot:?} starts {:?}", slot_model.reading);
            }
        }
        let mut record = WorkerRecord::new(id, generation, slot, reading, self.known, now);
        self.measure(&mut record);
        self.new_worker(record)
    }

    /// A worker that serves is asked to start its successor, as the one replacement
    /// of its upgrade.
    pub fn request_handover(
        &mut self,
        id: WorkerId,
        of: WorkerId,
        generation: Generation,
        slot: Slot,
    ) -> Verdict {
        let (now, timeout) = (self.now, self.policy.ack_timeout);
        ensure!(self.policy.follow && !self.stopping, "a successor out of place");
        let old = self.running(of, Action::RequestHandover { worker: id, of, generation, slot })?;
        ensure!(old.stage == ShownStage::Ready && !old.signalled(), "{of:?} does not serve");
        ensure!(!old.handed_over, "{of:?} leaves, and is asked for another successor");
        ensure!(old.slot == slot && old.generation < generation, "{id:?} cannot follow {of:?}");
        ensure!(old.ready.is_some_and(|at| at + SIGNAL_GRACE <= now), "{of:?} is signalled too soon");
        let upgrade =
            self.upgrade.as_mut().filter(|upgrade| upgrade.to == generation && upgrade.failure.is_none());
        let upgrade = upgrade.ok_or("a successor without an upgrade")?;
        ensure!(!upgrade.is_rollback, "a successor of what is to go back");
        self.kept.insert(generation);
        ensure!(upgrade.started_slots.insert(slot), "a second replacement in {slot:?}");
        let record = WorkerRecord::new(id, generation, slot, LaunchSource::Anew, Strength::Nothing, now);
        self.new_worker(WorkerRecord { of: Some(of), ack_by: timeout.map(|timeout| now + timeout), ..record })
    }

    /// A successor that nobody has asked for serves from now on.
    pub fn take_successor(
        &mut self,
        id: WorkerId,
        of: WorkerId,
        generation: Generation,
        slot: Slot,
    ) -> Verdict {
        let now = self.now;
        ensure!(self.in_step.handed_over.take() == Some(of), "{of:?} has not left to a successor");
        let old = self.running(of, Action::TakeSuccessor { worker: id, of, generation, slot })?;
        ensure!(old.slot == slot, "{id:?} cannot follow {of:?}");
        let same = old.generation;
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.liveness_asked = false;
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
        self.leave_unasked(|record| record.id == of);
        self.kept.insert(generation);
        let record = WorkerRecord::new(id, generation, slot, LaunchSource::Anew, Strength::Nothing, now);
        let (of, started, ready) = (Some(of), Some(now), Some(now));
        self.new_worker(WorkerRecord {
            of,
            started,
            ready,
            in_flight: false,
            stage: ShownStage::Ready,
            ..record
        })
    }

    /// The one stop signal of a worker's life. Unless everything stops, a worker that was
    /// ready gets it because its replacement has just been found alive, or because
    /// nobody needs it any more.
    pub fn stop(&mut self, id: WorkerId) -> Verdict {
        let (now, told) = (self.now, self.policy.pre_stop);
        let record = self.running(id, Action::Stop(id))?;
        let told = told && record.ready.is_some();
        if !told {
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

    /// The hook is called once, before the signal, of a worker that was ready.
    pub fn pre_stop(&mut self, id: WorkerId) -> Verdict {
        self.has_reason_to_go(id)?;
        let wanted = self.policy.pre_stop;
        let record = self.running(id, Action::PreStop(id))?;
        ensure!(wanted && record.ready.is_some() && !record.signalled(), "a pre-stop hook for {id:?}");
        ensure!(record.pre_stop.replace(false).is_none(), "a second pre-stop hook for {id:?}");
        Ok(())
    }

    pub fn has_reason_to_go(&mut self, id: WorkerId) -> Verdict {
        let (now, stopping, stop_first) = (self.now, self.stopping, self.policy.stop_first);
        let (slots, undone) = (self.slots.len() as u32, self.in_step.undone);
        let shrinks = self.is_upgrade_idle() && !self.replaces(id);
        let slots = if shrinks { self.target } else { slots };
        let committed = self.in_step.committed.clone();
        let makes_way =
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
            surplus || replaced || stop_first || makes_way,
            "{id:?} serves, and nothing serves in its place"
        );
        Ok(())
    }

    pub fn kill(&mut self, id: WorkerId) -> Verdict {
        let (now, by_force) = (self.now, self.killing || self.in_step.hammer);
        let timeout = self.policy.stop_timeout;
        let crowded = self.too_many_drain();
        let record = self.running(id, Action::Kill(id))?;
        let by_force = by_force || crowded == Some(record.generation);
        let due = matches!((record.stopped, timeout), (Some(at), Some(timeout)) if at + timeout <= now);
        ensure!(by_force || due, "{id:?} is killed before its time");
        ensure!(!std::mem::replace(&mut record.killed, true), "{id:?} is killed twice");
        self.forced |= self.stopping;
        Ok(())
    }

    pub fn exit(&mut self, ending: Ending) -> Verdict {
        // Between two tries of a start there is no process to wait for.
        self.workers.retain(|_, record| !record.has_no_process());
        ensure!(self.workers.is_empty(), "the end, and there still are {:?}", self.workers.keys());
        ensure!(self.upgrade.is_none(), "the end, and no verdict on the upgrade");
        let expected = match (self.stopping, self.forced) {
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
        // Between two tries of a start there is no process that has to leave.
        self.workers.retain(|_, record| !record.has_no_process() || record.generation != upgrade.to);
        let undone = |record: &&mut WorkerRecord| {
            record.generation == upgrade.to
                && !upgrade.replaced_slots.contains(&record.slot)
                && record.occupied_slot()
        };
        for record in self.workers.values_mut().filter(undone) {
            record.surplus = true;
            record.stage = ShownStage::Draining;
        }
        for (slot, slot_model) in self.slots.iter_mut().enumerate() {
            if !upgrade.replaced_slots.contains(&Slot(slot as u32)) && !self.stopping {
                slot_model.reading = LaunchSource::AsBefore;
                // Which of them had already been asked to leave is not told.
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
