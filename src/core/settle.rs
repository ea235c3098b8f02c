//! The last pass of a step: what the processes now call for, whatever the event.

use super::event::{Action, Ending, Exit, Failure, Reading, Report, Slot, Time, WorkerId};
use super::upgrade::{Question, Upgrade};
use super::worker::{Stage, Worker};
use super::{Generation, Place, Supervisor};
use std::collections::BTreeSet;

impl Supervisor {
    pub(super) fn settle(&mut self, now: Time) {
        if self.ended {
            self.actions.clear();
            return;
        }
        if !self.stopping {
            loop {
                self.resize(now);
                self.begin_serving();
                self.take_up(now);
                self.go_back(now);
                if !self.advance(now) {
                    break;
                }
            }
            self.serves_again(now);
            self.fill(now);
            self.forget();
        }
        if std::mem::take(&mut self.upgrade_asked) && self.pending.is_some() {
            self.report(Report::UpgradeKept);
        }
        self.ask(now);
        self.finish_scaling();
        self.bound_draining(now);
        self.end();
    }

    /// As many places as were asked for. An upgrade that moves goes first: it has
    /// to know what it replaces. One that is on hold keeps the place of its worker.
    fn resize(&mut self, now: Time) {
        if !self.is_at_rest() {
            return;
        }
        let held = self.upgrade.iter().flat_map(|upgrade| &upgrade.batch).map(|slot| slot.0 + 1).max();
        // Where the files have failed, one worker more is started as the others were.
        let failed = self.places.iter().any(|place| place.reading == Reading::AsBefore);
        let reading = if failed { Reading::AsBefore } else { Reading::Anew };
        while self.places.len() < self.target as usize {
            self.places.push(Place { reading, ..Place::new(self.serving, now) });
        }
        self.places.truncate(self.target.max(held.unwrap_or(0)) as usize);
        for id in self.filling(|worker| worker.slot.0 >= self.target && !self.replaces(worker)) {
            self.dismiss(id, now);
        }
    }

    /// A request to upgrade waits while the first generation is still starting:
    /// there is nothing yet that could serve meanwhile. A crash back-off does
    /// not hold it up.
    fn take_up(&mut self, now: Time) {
        let Some(wish) = self.pending else { return };
        let starting = || !self.filling(|worker| worker.ready_since().is_none()).is_empty();
        if self.upgrade.is_some() || !self.served && starting() || self.is_held_up() {
            return;
        }
        self.pending = None;
        self.last_generation = Generation(self.last_generation.0 + 1);
        let to = self.last_generation;
        if !self.served && self.filling(|_| true).is_empty() {
            self.serving = to;
            self.probation = None;
            for place in &mut self.places {
                *place = Place::new(to, now);
            }
            return;
        }
        self.report(Report::UpgradeStarted { from: self.serving, to });
        self.upgrade = Some(Upgrade::new(self.serving, to, wish, !self.policy.pre_upgrade, now));
        if self.policy.pre_upgrade {
            self.actions.push(Action::PreUpgrade(to));
        }
    }

    /// A worker that starts its own successor has to be ready first: a second one
    /// could not bind the same addresses. And servers refuse to restart while
    /// their predecessor lives (nginx, gunicorn, unicorn), unless that was theirs
    /// to send away.
    pub(super) fn is_held_up(&self) -> bool {
        let starts =
            |worker: &Worker| worker.fills() && (worker.ready_since().is_none() || worker.handed_over);
        let leaves = |worker: &Worker| {
            matches!(worker.stage, Stage::Terminating { .. } | Stage::Killed) && !worker.handed_over
        };
        let serves = self.workers.values().any(|worker| worker.ready_since().is_some());
        // One that listens by itself may answer before it is ready: it comes back after a crash, and is not to
        // be sent away before its successor listens.
        let returns = |worker: &Worker| worker.fills() && matches!(worker.stage, Stage::Starting { .. });
        if self.policy.adopt.is_some() && self.workers.values().any(returns) {
            return true;
        }
        self.policy.follow && self.workers.values().any(|worker| starts(worker) || serves && leaves(worker))
    }

    /// Slots that are to have a worker and have none.
    pub(super) fn fillable(&self) -> impl Iterator<Item = Slot> {
        let taken =
            self.slots_where(|worker| (worker.fills() || self.policy.stop_first) && !self.replaces(worker));
        self.slots().filter(move |slot| {
            let ours = match &self.upgrade {
                Some(upgrade) if !upgrade.rests() => upgrade.done.contains(slot),
                _ => slot.0 < self.target,
            };
            ours && !self.stopping && !taken.contains(slot) && !self.place(*slot).retired
        })
    }

    fn slots_where(&self, which: impl Fn(&Worker) -> bool) -> BTreeSet<Slot> {
        self.workers.values().filter(|worker| which(worker)).map(|worker| worker.slot).collect()
    }

    fn fill(&mut self, now: Time) {
        let due: Vec<Slot> = self.fillable().filter(|&slot| self.place(slot).fill_at <= now).collect();
        for slot in due {
            let place = self.place(slot);
            let (generation, reading) = (place.generation, place.reading);
            self.spawn(generation, slot, reading, now);
        }
    }

    pub(super) fn spawn(&mut self, generation: Generation, slot: Slot, reading: Reading, now: Time) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        let mut new = Worker::new(generation, slot, reading, self.known, now);
        new.predecessor_took = self.took.1;
        new.must_wait = self.policy.looks() && self.waits.contains(&slot);
        self.workers.insert(worker, new);
        self.started.insert(generation);
        self.actions.push(Action::Spawn { worker, generation, slot, reading });
    }

    /// Said before a request that was kept is taken up, or else the first
    /// generation would serve through a whole upgrade without being told of.
    fn begin_serving(&mut self) {
        if self.served || !self.is_at_rest() {
            return;
        }
        let ready = self.slots_where(|worker| worker.ready_since().is_some() && !self.replaces(worker));
        if !ready.is_empty() && self.slots().all(|slot| ready.contains(&slot) || self.place(slot).retired) {
            self.served = true;
            self.report(Report::Serving(self.serving));
        }
    }

    /// What a request to scale asked for has come true.
    fn finish_scaling(&mut self) {
        if !self.scaling || !self.is_at_rest() {
            return;
        }
        let serves = |worker: &Worker| worker.ready_since().is_some() && worker.slot.0 < self.target;
        let ready = self.slots_where(|worker| serves(worker) && !self.replaces(worker));
        let stays = |worker: &Worker| !worker.asked && !matches!(worker.stage, Stage::Remains { .. });
        let surplus = self
            .slots_where(|worker| worker.slot.0 >= self.target && stays(worker) && !self.replaces(worker));
        let mut wanted = self.slots().filter(|slot| slot.0 < self.target && !self.place(*slot).retired);
        if surplus.is_empty() && wanted.all(|slot| ready.contains(&slot)) {
            self.scaling = false;
            self.report(Report::ScaleDone(ready.len() as u32));
        }
    }

    /// Second tries, stop signals and kills that are due.
    fn ask(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            if self.killing {
                self.kill(id, now);
            }
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            match worker.stage {
                Stage::Spawning { retry_at: Some(at), wanted } if at <= now => {
                    worker.stage = Stage::Spawning { retry_at: None, wanted };
                    let (generation, slot, reading) = (worker.generation, worker.slot, worker.reading);
                    self.actions.push(Action::Spawn { worker: id, generation, slot, reading });
                }
                Stage::Terminating { ask_at: Some(at), .. } if at <= now => {
                    if self.policy.pre_stop && worker.ack.is_some() && worker.pre_stop != Question::Answered {
                        if std::mem::replace(&mut worker.pre_stop, Question::Asked) == Question::Due {
                            self.actions.push(Action::PreStop(id));
                        }
                        continue;
                    }
                    let kill_at = worker.stop_timeout(&self.policy).map(|timeout| now + timeout);
                    worker.stage = Stage::Terminating { ask_at: None, kill_at, since: now };
                    worker.asked = true;
                    self.actions.push(Action::Stop(id));
                    self.report(Report::Asked(id));
                }
                _ => {}
            }
        }
    }

    /// Long requests must not pile up generations without end.
    fn bound_draining(&mut self, now: Time) {
        let asked =
            |stage: &Stage| matches!(stage, Stage::Terminating { ask_at: None, .. } | Stage::Draining { .. });
        while !self.stopping {
            let draining = self.workers.values().filter(|worker| asked(&worker.stage));
            let generations: BTreeSet<Generation> = draining.map(|worker| worker.generation).collect();
            let Some(&oldest) = generations.first() else { return };
            if generations.len() <= self.policy.max_draining as usize {
                return;
            }
            for id in self.ids(asked) {
                if self.workers.get(&id).is_some_and(|worker| worker.generation == oldest) {
                    self.kill(id, now);
                }
            }
        }
    }

    fn end(&mut self) {
        let deserted = !self.places.is_empty()
            && self.places.iter().all(|place| place.retired)
            && self.upgrade.is_none()
            && self.pending.is_none();
        if !self.workers.is_empty() || !(self.stopping || deserted) {
            return;
        }
        let asked = if self.forced { Ending::Killed } else { Ending::Stopped };
        let ending = match self.stopping {
            true => self.ending.unwrap_or(asked),
            false => self.last_loss.unwrap_or(asked),
        };
        self.ended = true;
        self.probation = None;
        self.actions.push(Action::Exit(ending));
    }

    pub(super) fn filling(&self, which: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.fills() && which(worker)).map(|(&id, _)| id).collect()
    }
}

/// A failure that ends everything ends it like this.
pub(super) fn ending(failure: Failure) -> Ending {
    match failure {
        Failure::Exited { worker, exit, .. } | Failure::NoSuccessor { worker, exit } => {
            Ending::Worker(worker, exit)
        }
        Failure::NoAck(worker, after) => Ending::NoAck(worker, after),
        Failure::NotStarted(worker, refusal) => Ending::NotStarted(worker, refusal),
        Failure::Silent(worker, after) => Ending::Silent(worker, after),
        // The last of them has been counted by itself.
        Failure::Crashes(worker, _) => Ending::Worker(worker, Exit::Unseen),
        Failure::Stopped | Failure::Superseded | Failure::RolledBack => Ending::Stopped,
        Failure::Refused | Failure::NotSwitched => Ending::Stopped,
    }
}
