//! What must be so after every step, and when all has come to rest.

use crate::book::{Book, Hold, Open, SIGNAL_GRACE, Verdict, demand};
use crate::life::Life;
use graceful_run::core::event::{Generation, Slot, WorkerId};
use graceful_run::core::{Phase, Shown, ShownStage, Supervisor};
use std::collections::{BTreeMap, BTreeSet};

impl Book {
    pub fn judge(&mut self, supervisor: &Supervisor) -> Verdict {
        demand!(!self.this.stopping, "the stop was not reported");
        demand!(self.this.ready.is_empty(), "{:?} should be ready", self.this.ready);
        demand!(self.this.restarting.is_empty(), "{:?} was not reported", self.this.restarting);
        demand!(self.this.retired.is_empty(), "{:?} was not reported as left empty", self.this.retired);
        demand!(self.this.adopt.is_none(), "the successor of {:?} was not adopted", self.this.adopt);
        demand!(self.this.drained.is_none(), "it was not said that {:?} has drained", self.this.drained);
        demand!(self.this.refused.is_none(), "{:?} was not reported", self.this.refused);
        demand!(
            self.this.remains.is_none(),
            "{:?} left processes that nobody asked to stop",
            self.this.remains
        );
        demand!(self.this.pre_upgrade.is_none(), "{:?} was not asked about", self.this.pre_upgrade);
        let spared = |life: &&Life| {
            let killed = if life.exited.is_some() { life.remains_killed } else { life.killed };
            self.this.hammered.contains(&life.id) && !killed
        };
        let spared = self.lives.values().find(spared).map(|life| life.id);
        demand!(spared.is_none(), "{spared:?} was spared by the hammer");
        demand!(!self.this.held, "it was not said that the upgrade is on hold");
        if supervisor.generation() > self.last_generation {
            self.new_start(supervisor.generation())?;
        }
        self.judge_switch()?;
        self.compare_workers(supervisor)?;
        if !self.stopping {
            self.is_up();
        }
        self.hear_timers();
        if self.ended {
            return Ok(());
        }
        demand!(!self.this.cannot_hold, "it was not said that nothing can be held");
        demand!(self.this.nothing_held.is_none(), "{:?} was not answered", self.this.nothing_held);
        demand!(self.too_many_drain().is_none(), "{:?} should be killed", self.too_many_drain());
        self.judge_probation(supervisor)?;
        self.judge_kept()?;
        self.judge_requests(supervisor)?;
        self.judge_scaling()?;
        self.judge_promise()?;
        self.judge_slots(supervisor)?;
        self.judge_deadlines(supervisor)
    }

    /// The workers that are shown are those that live, and none goes back.
    fn compare_workers(&mut self, supervisor: &Supervisor) -> Verdict {
        let shown: BTreeMap<WorkerId, Shown> =
            supervisor.workers().map(|shown| (shown.worker, shown)).collect();
        let dropped = |life: &Life| life.refused_at.is_some() || life.awaited() && self.open.is_none();
        self.lives.retain(|id, life| shown.contains_key(id) || !dropped(life));
        demand!(
            shown.keys().eq(self.lives.keys()),
            "{:?} are shown, {:?} live",
            shown.keys(),
            self.lives.keys()
        );
        for (id, shown) in shown {
            let Some(mut life) = self.lives.remove(&id) else { continue };
            demand!((shown.generation, shown.slot) == (life.generation, life.slot), "{shown:?} is {life:?}");
            self.compare_stage(&mut life, shown.stage)?;
            self.lives.insert(id, life);
        }
        Ok(())
    }

    fn compare_stage(&self, life: &mut Life, stage: ShownStage) -> Verdict {
        let id = life.id;
        match stage {
            ShownStage::Starting => {
                demand!(life.stage == stage && !life.signalled(), "{id:?} starts once more")
            }
            ShownStage::Ready => {
                demand!(
                    life.stage == stage && life.ready.is_some() && !life.signalled(),
                    "{id:?} is not ready"
                )
            }
            ShownStage::Draining => {
                if life.stage == ShownStage::Ready && life.exited.is_none() && !self.stopping {
                    self.judge_dismissal(life)?;
                }
            }
            ShownStage::Killed => demand!(life.killed, "{id:?} was not killed"),
        }
        life.stage = stage;
        Ok(())
    }

    /// A request to scale has come true as soon as the workers that are wanted are
    /// ready, and every other one has been asked to leave.
    fn judge_scaling(&mut self) -> Verdict {
        let held = |life: &Life| self.replaces(life.id);
        let slots = (0..self.target as usize).map(|slot| {
            let ready = |life: &Life| life.slot.0 as usize == slot && life.stage == ShownStage::Ready;
            let place = self.places.get(slot);
            let retired = place.is_some_and(|place| place.retired);
            (self.lives.values().any(|life| ready(life) && !held(life)), retired)
        });
        let slots: Vec<(bool, bool)> = slots.collect();
        let stays = |life: &Life| {
            life.slot.0 >= self.target && life.exited.is_none() && !life.signalled() && !held(life)
        };
        let open = self.stopping || !self.is_at_rest() || self.lives.values().any(stays);
        let all = slots.iter().all(|(ready, retired)| *ready || *retired);
        let count = slots.iter().filter(|(ready, _)| *ready).count() as u32;
        let expected = (self.scaling && all && !open).then_some(count);
        demand!(self.this.scale_done == expected, "{:?} was said, not {expected:?}", self.this.scale_done);
        self.scaling &= expected.is_none();
        Ok(())
    }

    /// Why a worker that was ready is to leave although nothing stops.
    fn judge_dismissal(&self, life: &mut Life) -> Verdict {
        let replaced = self.this.committed.contains(&life.slot) && life.generation != self.serving;
        let alone = |open: &&Open| self.policy.stop_first || self.policy.follow && open.back;
        let makes_room = self.open.as_ref().filter(alone).is_some_and(|open| life.generation != open.to);
        let undone = self.this.undone == Some(life.generation);
        let held = self.open.as_ref().is_some_and(|open| open.to == life.generation);
        let shrinks = self.is_at_rest() && !held && life.slot.0 >= self.target;
        life.surplus = life.slot.0 >= self.places.len() as u32 || shrinks || undone;
        demand!(
            replaced || makes_room || life.surplus || life.succeeded,
            "{:?} served and is to leave for no reason",
            life.id
        );
        Ok(())
    }

    fn judge_requests(&self, supervisor: &Supervisor) -> Verdict {
        demand!(
            supervisor.generation() == self.serving,
            "{} is shown, {} serves",
            supervisor.generation(),
            self.serving
        );
        demand!(supervisor.upgrade_pending() == self.pending, "a request is kept: {}", !self.pending);
        let held = self.open.as_ref().is_some_and(|open| open.hold == Hold::Held);
        let phase = match (self.stopping, self.served, &self.open) {
            (true, ..) => Phase::Stopping,
            _ if held => Phase::Holding,
            (_, false, _) => Phase::Starting,
            (.., Some(_)) => Phase::Upgrading,
            (.., None) => Phase::Running,
        };
        demand!(supervisor.phase() == phase, "it is {:?}, not {phase:?}", supervisor.phase());
        let first = !self.served && self.lives.values().any(|life| life.stage == ShownStage::Starting);
        let held_up = self.is_held_up();
        demand!(!self.pending || self.open.is_some() || first || held_up, "a request waits for nothing");
        Ok(())
    }

    fn judge_promise(&self) -> Verdict {
        let starting = |life: &&Life| life.stage == ShownStage::Starting;
        let generations: BTreeSet<Generation> =
            self.lives.values().filter(starting).map(|life| life.generation).collect();
        demand!(self.mixed || generations.len() <= 1, "{generations:?} start at once");
        Ok(())
    }

    fn judge_slots(&self, supervisor: &Supervisor) -> Verdict {
        for (slot, place) in self.places.iter().enumerate() {
            let slot = Slot(slot as u32);
            let here: Vec<&Life> = self.lives.values().filter(|life| life.slot == slot).collect();
            let held = here.iter().filter(|life| self.is_at_rest() && self.replaces(life.id)).count();
            let filled = here.iter().filter(|life| life.filled()).count() - held;
            let moves = self.open.as_ref().filter(|open| !open.rests());
            let replaced = moves.is_some_and(|open| !open.done.contains(&slot));
            demand!(filled <= if replaced { 2 } else { 1 }, "{filled} workers fill {slot:?}");
            demand!(!self.policy.stop_first || here.len() <= 1, "{slot:?} has two workers");
            let free = if self.policy.stop_first { here.is_empty() } else { filled == 0 };
            let wanted = moves.is_some() || slot.0 < self.target;
            if free && wanted && !replaced && !place.retired && !self.stopping {
                demand!(place.latest > self.now, "{slot:?} stays empty");
                let woken = supervisor.deadline().is_some_and(|at| at <= place.latest);
                demand!(woken, "nothing wakes it to fill {slot:?}");
            }
        }
        let starting = self.lives.values().any(|life| life.stage == ShownStage::Starting);
        let serves = |slot: usize| {
            self.places[slot].retired
                || self.lives.values().any(|life| {
                    life.slot.0 as usize == slot && life.stage == ShownStage::Ready && !self.replaces(life.id)
                })
        };
        let ready = self
            .lives
            .values()
            .any(|life| life.stage == ShownStage::Ready && life.generation == self.serving);
        let all = ready && !starting && self.is_at_rest() && (0..self.places.len()).all(serves);
        demand!(self.served || self.stopping || !all, "everything is ready and it was not said");
        Ok(())
    }

    fn judge_deadlines(&self, supervisor: &Supervisor) -> Verdict {
        let now = self.now;
        let deadline = supervisor.deadline();
        demand!(deadline.is_none_or(|at| at > now), "it wants to be woken at {deadline:?}, which has passed");
        for life in self.lives.values() {
            let id = life.id;
            let waits = |at: std::time::Duration| at > now && deadline.is_some_and(|deadline| deadline <= at);
            if life.stage == ShownStage::Starting && life.counted_from().is_some() {
                demand!(life.ack_by.is_none_or(waits), "{id:?} is waited for too long");
                demand!(self.timer_at(life).is_none_or(waits), "{id:?} has lived for long enough");
                self.judge_listening(life, waits)?;
                self.judge_unseen(life, waits)?;
            }
            if let Some(limit) = self.policy.worker_watchdog
                && life.stage == ShownStage::Ready
                && !life.succeeded
            {
                demand!(waits(life.heard + limit), "{id:?} is silent");
            }
            if let Some(emptying) = life.emptying.filter(|_| life.runs()) {
                self.judge_emptying(id, emptying, waits)?;
            } else if life.stage == ShownStage::Draining && life.runs() {
                match (life.stopped, life.ready) {
                    (Some(at), _) => {
                        let kill_at = self.policy.stop_timeout.map(|timeout| at + timeout);
                        demand!(kill_at.is_none_or(waits), "{id:?} has had its time");
                    }
                    (None, _) if life.pre_stop == Some(false) => {}
                    (None, Some(at)) => {
                        demand!(waits(at + SIGNAL_GRACE) && !self.stopping, "{id:?} was not asked to stop")
                    }
                    (None, None) => return Err(format!("{id:?} was not asked to stop")),
                }
            }
            let waits_on = self.stopping && life.exited.is_some() && life.remains_asked.is_none();
            demand!(!waits_on || life.remains_killed, "what {id:?} left was not asked to stop");
            if let (Some(at), Some(timeout), false) =
                (life.remains_asked.or(life.exited), self.policy.stop_timeout, life.remains_killed)
            {
                demand!(waits(at + timeout), "what {id:?} left has had its time");
            }
            demand!(!self.killing || life.killed || !life.runs(), "{id:?} was not killed");
        }
        Ok(())
    }

    /// Something is on its way out.
    pub fn drains(&self, supervisor: &Supervisor) -> bool {
        supervisor.workers().any(|shown| shown.stage == ShownStage::Draining)
    }

    /// An upgrade rests until somebody decides on it.
    pub fn holds(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.hold == Hold::Held)
    }

    /// Nothing is left to do: everything that was asked for has its verdict, and
    /// there are the workers that there should be.
    pub fn settled(&self, supervisor: &Supervisor) -> Verdict {
        if self.ended {
            return Ok(());
        }
        demand!(!self.stopping, "a stop that does not end");
        demand!(!self.scaling, "a request to scale without an answer");
        demand!(self.open.is_none() && !self.pending, "an upgrade without a verdict: {:?}", self.open);
        demand!(self.places.len() as u32 == self.target, "{} slots, not {}", self.places.len(), self.target);
        let filled: Vec<Slot> = supervisor.workers().map(|shown| shown.slot).collect();
        let wanted = (0..self.target).filter(|&slot| !self.places[slot as usize].retired).map(Slot);
        let wanted: BTreeSet<Slot> = wanted.collect();
        let filled_set: BTreeSet<Slot> = filled.iter().copied().collect();
        demand!(
            filled.len() == filled_set.len() && filled_set == wanted,
            "{filled:?} are filled, not {wanted:?}"
        );
        let ready = supervisor.workers().all(|shown| shown.stage == ShownStage::Ready);
        demand!(ready, "not every worker is ready");
        let old = supervisor.workers().find(|shown| shown.generation != self.serving);
        demand!(self.mixed || old.is_none(), "{old:?} is of an old generation");
        demand!(self.served || self.target == 0, "nothing serves");
        Ok(())
    }
}
