//! How an upgrade moves on: batch by batch its replacements start, soak and are
//! looked at, and only then the workers that they replace may leave.

use super::Place;
use super::Supervisor;
use super::event::{Action, Generation, Reading, Report, Slot, Time, WorkerId};
use super::policy::{REPARENT_GRACE, SIGNAL_GRACE};
use super::settle::ending;
use super::upgrade::{Hold, Question};
use super::worker::Worker;
use std::time::Duration;

impl Supervisor {
    /// Moves the upgrade on; true if it has ended, or rests from now on.
    pub(super) fn advance(&mut self, now: Time) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        if upgrade.failure.is_some() {
            self.end_upgrade(now);
            return true;
        }
        if upgrade.rests() {
            return false;
        }
        let (to, looks) = (upgrade.to, self.policy.looks() && upgrade.waiting != Question::Answered);
        // Restarts of crashed workers would be a second generation that starts.
        for id in self.filling(|worker| worker.generation != to && worker.ready_since().is_none()) {
            self.dismiss(id, now);
        }
        if looks {
            return self.look_waiting();
        }
        let Some(upgrade) = &self.upgrade else { return false };
        if upgrade.batch.is_empty() {
            let batch = self.next_batch();
            if batch.is_empty() {
                self.end_upgrade(now);
                return true;
            }
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.batch = batch.into_iter().collect();
                upgrade.begun.clear();
                upgrade.look = Question::Due;
            }
        }
        self.begin_batch(now);
        let switches = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch != Question::Due);
        match self.soaked_at_of_batch() {
            Some((at, Question::Due)) if at <= now => {
                self.set_look(Question::Asked);
                self.actions.push(Action::LookAlive);
                false
            }
            // Those that serve were seen meanwhile to take longer than was known.
            Some((at, Question::Answered)) if at > now && !switches => {
                self.set_look(Question::Due);
                false
            }
            Some((_, Question::Answered)) => self.prove(now),
            _ => false,
        }
    }

    /// What the workers that serve do is what their replacements have to do.
    fn look_waiting(&mut self) -> bool {
        if let Some(upgrade) = &mut self.upgrade
            && std::mem::replace(&mut upgrade.waiting, Question::Asked) == Question::Due
        {
            self.waits.clear();
            self.actions.push(Action::LookWaiting);
        }
        false
    }

    /// The batch has proved itself. The first one of a generation that is to be held
    /// rests; where the user does not want that any more, it goes on to the rest.
    fn prove(&mut self, now: Time) -> bool {
        let whole: Vec<Slot> = if self.policy.surge.is_none() { self.slots().collect() } else { Vec::new() };
        let steers = self.policy.steers();
        let Some(upgrade) = &mut self.upgrade else { return false };
        if steers && upgrade.switch != Question::Answered {
            if std::mem::replace(&mut upgrade.switch, Question::Asked) == Question::Due {
                self.actions.push(Action::Switch(upgrade.to));
            }
            return false;
        }
        match std::mem::replace(&mut upgrade.hold, Hold::No) {
            Hold::Wanted => {
                upgrade.hold = Hold::Held;
                upgrade.look = Question::Due;
                let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
                // What lies on the disk is not yet trusted.
                for place in &mut self.places {
                    place.reading = Reading::AsBefore;
                }
                self.report(Report::Held { from, to, took });
                return true;
            }
            Hold::Waived => {
                // What was tried is what the others are started from.
                upgrade.reading = Reading::AsBefore;
                let before = upgrade.batch.len();
                upgrade.batch.extend(whole);
                if upgrade.batch.len() > before {
                    upgrade.look = Question::Due;
                    return self.advance(now);
                }
            }
            Hold::Held | Hold::No => {}
        }
        self.commit(now);
        self.advance(now)
    }

    /// The slots to replace next: the empty ones first.
    fn next_batch(&self) -> Vec<Slot> {
        let Some(upgrade) = &self.upgrade else { return Vec::new() };
        let mut slots: Vec<Slot> = self.slots().filter(|slot| !upgrade.done.contains(slot)).collect();
        slots.sort_by_key(|&slot| self.in_slot(slot).any(|(_, worker)| worker.fills()));
        let most = if upgrade.hold == Hold::No { self.policy.surge.unwrap_or(u32::MAX) } else { 1 };
        slots.truncate(most as usize);
        slots
    }

    fn begin_batch(&mut self, now: Time) {
        let Some(upgrade) = &self.upgrade else { return };
        let (to, reading) = (upgrade.to, upgrade.reading);
        // One that keeps ending is not asked to start what was before it.
        let first = self.policy.stop_first || self.policy.follow && upgrade.back;
        let waiting: Vec<Slot> = upgrade.batch.difference(&upgrade.begun).copied().collect();
        for slot in waiting {
            if first {
                for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                    self.dismiss(id, now);
                }
                if self.in_slot(slot).next().is_some() {
                    continue;
                }
            }
            match self.predecessor(slot) {
                Some((_, at)) if at > now => continue,
                Some((of, _)) => self.request_handover(of, to, slot, now),
                None => self.spawn(to, slot, reading, now),
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
        let noticed = self.alone_since.map_or(Time::ZERO, |since| since + REPARENT_GRACE);
        here.find_map(|(id, worker)| Some((id, noticed.max(worker.ready_since()? + SIGNAL_GRACE))))
    }

    /// When a predecessor may be signalled that has not been.
    pub(super) fn handover_at(&self) -> Option<Time> {
        let upgrade = self.upgrade.as_ref()?;
        let waiting = upgrade.batch.difference(&upgrade.begun);
        waiting.filter_map(|&slot| self.predecessor(slot)).map(|(_, at)| at).min()
    }

    /// When every replacement of the batch has been ready for the soak time and
    /// every worker that it replaces may be asked to stop, and how far the last
    /// look is. To commit sooner would be to ask later, when the replacement may
    /// have died.
    fn soaked_at_of_batch(&self) -> Option<(Time, Question)> {
        let upgrade = self.upgrade.as_ref()?;
        if upgrade.batch.is_empty() || upgrade.begun != upgrade.batch || upgrade.rests() {
            return None;
        }
        let in_batch = |worker: &Worker| upgrade.batch.contains(&worker.slot);
        let (of, took) = self.took;
        let took = if of == upgrade.to { Duration::ZERO } else { took };
        let mut soaking = 0;
        let mut latest = Time::ZERO;
        for worker in self.workers.values().filter(|worker| in_batch(worker)) {
            let Some(since) = worker.ready_since() else { continue };
            if worker.generation == upgrade.to {
                soaking += 1;
                latest = latest.max(worker.soaked_at(since, took, &self.policy));
                if worker.of.is_some() {
                    // If it sends its predecessor away itself, it has by then.
                    latest = latest.max(since + SIGNAL_GRACE);
                }
            } else {
                latest = latest.max(since + SIGNAL_GRACE);
            }
        }
        if soaking < upgrade.batch.len() {
            return None;
        }
        Some((latest, upgrade.look))
    }

    pub(super) fn soaked_at(&self) -> Option<Time> {
        self.soaked_at_of_batch().filter(|(_, look)| *look == Question::Due).map(|(at, _)| at)
    }

    fn set_look(&mut self, look: Question) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.look = look;
        }
    }

    /// The replacements of the batch have proved themselves; those that they
    /// replace may leave.
    fn commit(&mut self, now: Time) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let (to, back) = (upgrade.to, upgrade.back);
        let batch = std::mem::take(&mut upgrade.batch);
        upgrade.done.extend(&batch);
        self.serving = to;
        self.go_on_probation(now);
        // What lies on the disk is the generation that kept ending.
        let reading = if back { Reading::AsBefore } else { Reading::Anew };
        for slot in batch {
            if let Some(place) = self.place_mut(slot) {
                *place = Place { reading, ..Place::new(to, now) };
            }
            for id in self.filling(|worker| worker.slot == slot && worker.generation == to) {
                self.learn(id);
            }
            for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                self.empty(id, now);
            }
        }
    }

    /// The upgrade is over: everything is replaced, or what was begun is undone.
    pub(super) fn end_upgrade(&mut self, now: Time) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        self.has_gone_live(to, now);
        let Some(why) = upgrade.failure else {
            return match upgrade.back {
                true => self.gone_back(from, to, took),
                false => self.report(Report::UpgradeDone { from, to, took }),
            };
        };
        let (replaced, of) = (upgrade.done.len() as u32, self.places.len() as u32);
        let (left, held) = (upgrade.left, upgrade.hold == Hold::Held);
        if upgrade.switch != Question::Due {
            self.actions.push(Action::Switch(from));
        }
        match upgrade.back {
            true => self.not_gone_back(from, to, why),
            false => self.report(Report::UpgradeFailed { from, to, why, replaced, of, took, left, held }),
        }
        if self.stopping {
            return;
        }
        if left {
            self.last_loss = Some(ending(why));
            for &slot in &upgrade.batch {
                self.crashed(slot, why, Duration::ZERO, now);
                for id in self.filling(|worker| worker.slot == slot && worker.generation != to) {
                    self.dismiss(id, now);
                }
            }
        }
        for &slot in &upgrade.batch {
            for id in self.filling(|worker| worker.slot == slot && worker.generation == to) {
                self.dismiss(id, now);
            }
        }
        // What lies on the disk has just failed: an old worker that has to come
        // back comes back as it was.
        // One that keeps ending has its pauses.
        let stop_first = self.policy.stop_first && !upgrade.back;
        for slot in self.slots().filter(|slot| !upgrade.done.contains(slot)) {
            if let Some(place) = self.place_mut(slot) {
                place.reading = Reading::AsBefore;
                if stop_first && upgrade.batch.contains(&slot) {
                    place.fill_at = now;
                }
            }
        }
    }

    /// The worker `of` is to start the next one itself.
    fn request_handover(&mut self, of: WorkerId, generation: Generation, slot: Slot, now: Time) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.workers.insert(worker, Worker::awaited(generation, slot, of, &self.policy, now));
        self.started.insert(generation);
        self.actions.push(Action::RequestHandover { worker, of, generation, slot });
    }
}
