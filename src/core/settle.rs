//! The last pass of a step: what the books now call for, whatever the event.

use super::event::{Action, Ending, Failure, Reading, Report, Slot, Time, WorkerId};
use super::policy::{HUSH, NOTICE};
use super::upgrade::{Look, Upgrade};
use super::worker::{Stage, Worker};
use super::{Generation, Place, Supervisor};
use std::collections::BTreeSet;
use std::time::Duration;

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
                if !self.advance(now) {
                    break;
                }
            }
            self.fill(now);
        }
        if std::mem::take(&mut self.upgrade_asked) && self.pending {
            self.report(Report::UpgradeKept);
        }
        self.ask(now);
        self.bound_draining(now);
        self.end();
    }

    /// As many places as were asked for. An upgrade under way goes first: it has
    /// to know what it replaces.
    fn resize(&mut self, now: Time) {
        if self.upgrade.is_some() {
            return;
        }
        // Where the files have failed, one worker more is started as the others were.
        let failed = self.places.iter().any(|place| place.reading == Reading::AsBefore);
        let reading = if failed { Reading::AsBefore } else { Reading::Anew };
        while self.places.len() < self.target as usize {
            self.places.push(Place { reading, ..Place::new(self.serving, now) });
        }
        self.places.truncate(self.target as usize);
        for id in self.filling(|worker| worker.slot.0 >= self.target) {
            self.dismiss(id, now);
        }
    }

    /// A request to upgrade waits while the first generation is still starting:
    /// there is nothing yet that could serve meanwhile. A crash back-off does
    /// not hold it up.
    fn take_up(&mut self, now: Time) {
        let starting = self.filling(|worker| worker.ready_since().is_none());
        if !self.pending
            || self.upgrade.is_some()
            || !self.served && !starting.is_empty()
            || self.is_held_up()
        {
            return;
        }
        self.pending = false;
        self.last_generation = Generation(self.last_generation.0 + 1);
        let to = self.last_generation;
        if !self.served && self.filling(|_| true).is_empty() {
            self.serving = to;
            for place in &mut self.places {
                *place = Place::new(to, now);
            }
            return;
        }
        // Restarts of crashed workers would be a second generation that starts.
        for id in starting {
            self.dismiss(id, now);
        }
        self.report(Report::UpgradeStarted { from: self.serving, to });
        self.upgrade = Some(Upgrade::new(self.serving, to, now));
    }

    /// A worker that starts its own successor has to be ready first: a second one
    /// could not bind the same addresses. And servers refuse to restart while
    /// their predecessor lives (nginx, gunicorn, unicorn), unless that was theirs
    /// to send away.
    fn is_held_up(&self) -> bool {
        let starts = |worker: &Worker| worker.fills() && (worker.ready_since().is_none() || worker.succeeded);
        let leaves = |worker: &Worker| {
            matches!(worker.stage, Stage::Draining { .. } | Stage::Killed) && !worker.succeeded
        };
        let serves = self.workers.values().any(|worker| worker.ready_since().is_some());
        self.policy.follow && self.workers.values().any(|worker| starts(worker) || serves && leaves(worker))
    }

    /// Moves the upgrade on; true if it has ended.
    fn advance(&mut self, now: Time) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        if upgrade.failure.is_some() {
            self.end_upgrade(now);
            return true;
        }
        if upgrade.wave.is_empty() {
            let wave = self.next_wave();
            if wave.is_empty() {
                self.end_upgrade(now);
                return true;
            }
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.wave = wave.into_iter().collect();
                upgrade.begun.clear();
                upgrade.look = Look::Due;
            }
        }
        self.begin_wave(now);
        match self.soaked_at_of_wave() {
            Some((at, Look::Due)) if at <= now => {
                self.set_look(Look::Asked);
                self.actions.push(Action::LookAlive);
                false
            }
            Some((_, Look::Answered)) => {
                self.commit(now);
                self.advance(now)
            }
            _ => false,
        }
    }

    /// The slots to replace next: the empty ones first.
    fn next_wave(&self) -> Vec<Slot> {
        let Some(upgrade) = &self.upgrade else { return Vec::new() };
        let mut slots: Vec<Slot> = self.slots().filter(|slot| !upgrade.done.contains(slot)).collect();
        slots.sort_by_key(|&slot| self.in_slot(slot).any(|(_, worker)| worker.fills()));
        slots.truncate(self.policy.surge.unwrap_or(u32::MAX) as usize);
        slots
    }

    fn begin_wave(&mut self, now: Time) {
        let Some(upgrade) = &self.upgrade else { return };
        let to = upgrade.to;
        let waiting: Vec<Slot> = upgrade.wave.difference(&upgrade.begun).copied().collect();
        for slot in waiting {
            if self.policy.stop_first {
                for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                    self.dismiss(id, now);
                }
                if self.in_slot(slot).next().is_some() {
                    continue;
                }
            }
            match self.predecessor(slot) {
                Some((_, at)) if at > now => continue,
                Some((of, _)) => self.succeed(of, to, slot, now),
                None => self.spawn(to, slot, Reading::Anew, now),
            }
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.begun.insert(slot);
            }
        }
    }

    /// Who is to start its own successor in this slot, and the first moment at
    /// which a signal does not harm it.
    fn predecessor(&self, slot: Slot) -> Option<(WorkerId, Time)> {
        let mut here = self.in_slot(slot).filter(|_| self.policy.follow);
        let noticed = self.alone_since.map_or(Time::ZERO, |since| since + NOTICE);
        here.find_map(|(id, worker)| Some((id, noticed.max(worker.ready_since()? + HUSH))))
    }

    /// When a predecessor may be signalled that has not been.
    pub(super) fn succeed_at(&self) -> Option<Time> {
        let upgrade = self.upgrade.as_ref()?;
        let waiting = upgrade.wave.difference(&upgrade.begun);
        waiting.filter_map(|&slot| self.predecessor(slot)).map(|(_, at)| at).min()
    }

    /// When every replacement of the wave has been ready for the soak time and
    /// every worker that it replaces may be asked to stop, and how far the last
    /// look is. To commit sooner would be to ask later, when the replacement may
    /// have died.
    fn soaked_at_of_wave(&self) -> Option<(Time, Look)> {
        let upgrade = self.upgrade.as_ref()?;
        if upgrade.wave.is_empty() || upgrade.begun != upgrade.wave {
            return None;
        }
        let in_wave = |worker: &Worker| upgrade.wave.contains(&worker.slot);
        let mut soaking = 0;
        let mut latest = Time::ZERO;
        for worker in self.workers.values().filter(|worker| in_wave(worker)) {
            let Some(since) = worker.ready_since() else { continue };
            if worker.generation == upgrade.to {
                soaking += 1;
                latest = latest.max(since + self.policy.soak(worker.ack));
                if worker.of.is_some() {
                    // If it sends its predecessor away itself, it has by then.
                    latest = latest.max(since + HUSH);
                }
            } else {
                latest = latest.max(since + HUSH);
            }
        }
        if soaking < upgrade.wave.len() {
            return None;
        }
        Some((latest, upgrade.look))
    }

    pub(super) fn soaked_at(&self) -> Option<Time> {
        self.soaked_at_of_wave().filter(|(_, look)| *look == Look::Due).map(|(at, _)| at)
    }

    fn set_look(&mut self, look: Look) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.look = look;
        }
    }

    /// The replacements of the wave have proved themselves; those that they
    /// replace may leave.
    fn commit(&mut self, now: Time) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let to = upgrade.to;
        let wave = std::mem::take(&mut upgrade.wave);
        upgrade.done.extend(&wave);
        self.serving = to;
        for slot in wave {
            if let Some(place) = self.place_mut(slot) {
                *place = Place::new(to, now);
            }
            for id in self.filling(|worker| worker.slot == slot && worker.generation == to) {
                self.learn(id);
            }
            for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                self.dismiss(id, now);
            }
        }
    }

    /// The upgrade is over: everything is replaced, or what was begun is undone.
    pub(super) fn end_upgrade(&mut self, now: Time) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        let Some(why) = upgrade.failure else {
            self.report(Report::UpgradeDone { from, to, took });
            return;
        };
        let (replaced, of) = (upgrade.done.len() as u32, self.places.len() as u32);
        let left = upgrade.left;
        self.report(Report::UpgradeFailed { from, to, why, replaced, of, took, left });
        if self.stopping {
            return;
        }
        if left {
            self.last_loss = Some(ending(why));
            for &slot in &upgrade.wave {
                self.crashed(slot, why, Duration::ZERO, now);
                for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                    self.dismiss(id, now);
                }
            }
        }
        for &slot in &upgrade.wave {
            for id in self.filling(|worker| worker.slot == slot && worker.generation == to) {
                self.dismiss(id, now);
            }
        }
        // What lies on the disk has just failed: an old worker that has to come
        // back comes back as it was.
        let stop_first = self.policy.stop_first;
        for slot in self.slots().filter(|slot| !upgrade.done.contains(slot)) {
            if let Some(place) = self.place_mut(slot) {
                place.reading = Reading::AsBefore;
                if stop_first && upgrade.wave.contains(&slot) {
                    place.fill_at = now;
                }
            }
        }
    }

    /// Slots that are to have a worker and have none.
    pub(super) fn fillable(&self) -> impl Iterator<Item = Slot> {
        let taken = self.slots_where(|worker| worker.fills() || self.policy.stop_first);
        self.slots().filter(move |slot| {
            let ours = self.upgrade.as_ref().is_none_or(|upgrade| upgrade.done.contains(slot));
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

    fn spawn(&mut self, generation: Generation, slot: Slot, reading: Reading, now: Time) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.workers.insert(worker, Worker::new(generation, slot, reading, self.known, now));
        self.actions.push(Action::Spawn { worker, generation, slot, reading });
    }

    /// The worker `of` is to start the next one itself.
    fn succeed(&mut self, of: WorkerId, generation: Generation, slot: Slot, now: Time) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.workers.insert(worker, Worker::awaited(generation, slot, of, &self.policy, now));
        self.actions.push(Action::Succeed { worker, of, generation, slot });
    }

    /// Said before a request that was kept is taken up, or else the first
    /// generation would serve through a whole upgrade without being told of.
    fn begin_serving(&mut self) {
        if self.served || self.upgrade.is_some() {
            return;
        }
        let ready = self.slots_where(|worker| worker.ready_since().is_some());
        if !ready.is_empty() && self.slots().all(|slot| ready.contains(&slot) || self.place(slot).retired) {
            self.served = true;
            self.report(Report::Serving(self.serving));
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
                Stage::Draining { ask_at: Some(at), .. } if at <= now => {
                    let kill_at = worker.stop_timeout(&self.policy).map(|timeout| now + timeout);
                    worker.stage = Stage::Draining { ask_at: None, kill_at, since: now };
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
        let asked = |stage: &Stage| matches!(stage, Stage::Draining { ask_at: None, .. });
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
            && !self.pending;
        if !self.workers.is_empty() || !(self.stopping || deserted) {
            return;
        }
        let asked = if self.forced { Ending::Killed } else { Ending::Stopped };
        let ending = match self.stopping {
            true => self.ending.unwrap_or(asked),
            false => self.last_loss.unwrap_or(asked),
        };
        self.ended = true;
        self.actions.push(Action::Exit(ending));
    }

    fn filling(&self, which: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
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
        Failure::Stopped => Ending::Stopped,
    }
}
