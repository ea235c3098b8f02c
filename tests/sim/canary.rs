//! The model of upgrades that are held and judge themselves.
//!
//! | property | where |
//! | --- | --- |
//! | a hold ends by itself only after its time, when the last command has found the worker good and none runs | `hold_passed` |
//! | and then it ends at once | `check_hold_deadline` |
//! | the command runs while the upgrade is held, never twice at a time, at once and then at each pause | `may_verify`, `check_hold_deadline` |
//! | a failure on hold undoes the upgrade in the same step | `check_hold` |
//! | the new generation gets its part when the hold begins and as it is asked for | `may_weigh`, `check_hold` |
//! | that part does not outlive the upgrade, and is given back before the worker is asked to stop | `check_hold`, `is_not_weighed`, `Model::may_switch` |
//! | a worker with sockets of its own drains before it is asked to stop | `drain_undone`, `Model::drain` |

use crate::model::{Hold, Model, ModelUpgrade, Verdict, ensure};
use crate::steering::Draining;
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{Failure, Generation, Report, Request, Slot, Time, Weight, WorkerId};
use graceful_run::core::policy::Policy;
use std::time::Duration;

/// How an upgrade is held, and the part of the new connections that its first worker gets.
#[derive(Debug, Clone, Default)]
pub struct Canary {
    /// How long it is held; None: until a request.
    pub lasts: Option<Duration>,
    pub wanted: Option<Weight>,
    /// The slot of its worker, if that has sockets of its own.
    pub apart: Option<Slot>,
    pub weight: Option<Weight>,
    pub weighing: Option<Weight>,
    /// The new connections went back to the old generation.
    pub given_back: bool,
    pub held: Option<Held>,
}

#[derive(Debug, Clone)]
pub struct Held {
    since: Time,
    verify: Option<Verify>,
}

/// The user's command.
#[derive(Debug, Clone, Copy)]
struct Verify {
    due: Time,
    runs: bool,
    good: bool,
    passed: u32,
}

/// What the present step has still to say or to do.
#[derive(Debug, Default)]
pub struct InStep {
    pub weigh: Option<Weight>,
    pub weighed: Option<(Generation, Weight, bool)>,
    pub cannot_weigh: bool,
}

impl Canary {
    pub fn begin(&mut self, now: Time, policy: &Policy) {
        let verify = policy.verify.map(|_| Verify { due: now, runs: false, good: false, passed: 0 });
        self.held = Some(Held { since: now, verify });
    }

    /// The new generation is committed: its sockets are those of its slot.
    pub fn end(&mut self) -> Option<Slot> {
        (self.weight, self.weighing) = (None, None);
        self.apart.take()
    }
}

impl Model {
    fn can_hold(&self) -> bool {
        let policy = &self.policy;
        !policy.stop_first && !policy.follow && (policy.adopt.is_none() || policy.weighs)
    }

    pub fn hold_requested(&mut self, weight: Option<Weight>) {
        if !self.can_hold() {
            self.in_step.cannot_hold = true;
        } else if weight.is_some() && !self.policy.weighs {
            self.in_step.canary.cannot_weigh = true;
        } else {
            self.request_upgrade(true);
            self.pending_weight = weight;
        }
    }

    pub fn weight_requested(&mut self, weight: Weight) {
        if !self.holds() {
            self.in_step.nothing_held = Some(Request::Weigh(weight));
        } else if self.policy.weighs {
            self.in_step.canary.weigh = Some(weight);
        } else {
            self.in_step.canary.cannot_weigh = true;
        }
    }

    /// How an upgrade that begins is to be held.
    pub fn hold_of_upgrade(&mut self) -> (Hold, Canary) {
        let named = self.pending_weight.take();
        match self.policy.canary {
            _ if self.pending_hold => (Hold::Requested, Canary { wanted: named, ..Canary::default() }),
            Some(canary) => {
                let held = Canary { lasts: Some(canary.lasts), wanted: canary.weight, ..Canary::default() };
                (Hold::Requested, held)
            }
            None => (Hold::No, Canary::default()),
        }
    }

    /// The part that the worker gets when the hold begins.
    pub fn weight_of_hold(&self) -> Option<Weight> {
        let equal = 10_000 / (self.slots.len() as u16 + 1);
        let wanted = self.upgrade.as_ref().and_then(|upgrade| upgrade.canary.wanted);
        self.policy.weighs.then(|| wanted.or(Weight::new(equal))).flatten()
    }

    /// Whether a worker of the old generation serves.
    pub fn can_compare(&self) -> bool {
        let to = self.upgrade.as_ref().map(|upgrade| upgrade.to);
        let serves = |record: &WorkerRecord| {
            record.runs() && record.stage == ShownStage::Ready && Some(record.generation) != to
        };
        self.workers.values().any(|record| serves(record) && !self.in_step.silent.contains(&record.id))
    }

    pub fn may_weigh(&mut self, to: Generation, weight: Weight) -> Verdict {
        let asked = self.in_step.canary.weigh.take();
        ensure!(asked == Some(weight), "{to} is given {weight:?}, not {asked:?}");
        let held = |upgrade: &&mut ModelUpgrade| upgrade.to == to && upgrade.hold == Hold::Held;
        let upgrade = self.upgrade.as_mut().filter(held).ok_or(format!("{to} is weighed and not held"))?;
        ensure!(upgrade.canary.apart.is_some(), "{to} is weighed and shares its sockets");
        upgrade.canary.weighing = Some(weight);
        self.weighed = Some((to, weight));
        Ok(())
    }

    pub fn weight_answered(&mut self, to: Generation, weight: Weight, done: bool) {
        let asked = |upgrade: &&mut ModelUpgrade| upgrade.to == to && upgrade.canary.weighing == Some(weight);
        let Some(upgrade) = self.upgrade.as_mut().filter(asked) else { return };
        upgrade.canary.weighing = None;
        if !done && upgrade.canary.weight.is_none() {
            upgrade.failure.get_or_insert(Failure::NotWeighed);
            return;
        }
        if done {
            upgrade.canary.weight = Some(weight);
        }
        self.in_step.canary.weighed = Some((to, weight, done));
    }

    pub fn weight_reported(&mut self, to: Generation, weight: Weight, done: bool) -> Verdict {
        let expected = self.in_step.canary.weighed.take();
        ensure!(expected == Some((to, weight, done)), "{to}, {weight:?}, {done} is said, not {expected:?}");
        Ok(())
    }

    pub fn may_verify(&mut self, id: WorkerId) -> Verdict {
        let (now, replaces) = (self.now, self.replaces(id));
        let upgrade = self.upgrade.as_mut().filter(|upgrade| upgrade.hold == Hold::Held);
        let upgrade = upgrade.ok_or(format!("{id:?} is verified and not held"))?;
        ensure!(replaces && upgrade.failure.is_none(), "{id:?} is verified");
        let lasts = upgrade.canary.lasts;
        let held = upgrade.canary.held.as_mut().ok_or("a verification before the hold")?;
        let over = lasts.is_some_and(|lasts| held.since + lasts <= now);
        let verify = held.verify.as_mut().ok_or("a verification that nobody asked for")?;
        ensure!(!verify.runs && verify.due <= now, "a verification out of place: {verify:?}");
        ensure!(!(over && verify.good), "a verification after the hold has passed");
        (verify.runs, verify.good, verify.due) = (true, false, now);
        Ok(())
    }

    pub fn verified(&mut self, id: WorkerId, good: bool) {
        let now = self.now;
        let on_hold = self.replaces(id) && self.workers.get(&id).is_some_and(WorkerRecord::occupied_slot);
        let pause = self.policy.verify.unwrap_or_default();
        let Some(upgrade) = self.upgrade.as_mut().filter(|_| on_hold) else { return };
        let verify = upgrade.canary.held.as_mut().and_then(|held| held.verify.as_mut());
        let Some(verify) = verify.filter(|verify| verify.runs) else { return };
        (verify.runs, verify.good) = (false, good);
        if good {
            verify.passed += 1;
            verify.due = now.max(verify.due + pause);
        } else {
            upgrade.failure.get_or_insert(Failure::NotVerified(id));
        }
    }

    /// Another image goes on: what runs is run again.
    pub fn carried_over(&mut self) {
        let held = self.upgrade.as_mut().and_then(|upgrade| upgrade.canary.held.as_mut());
        if let Some(verify) = held.and_then(|held| held.verify.as_mut()).filter(|verify| verify.runs) {
            verify.runs = false;
        }
    }

    pub fn hold_passed(&mut self, report: Report) -> Verdict {
        let now = self.now;
        let Report::HoldPassed { to, after, verified } = report else { return Ok(()) };
        let held = |upgrade: &&mut ModelUpgrade| upgrade.to == to && upgrade.hold == Hold::Held;
        let upgrade = self.upgrade.as_mut().filter(held).ok_or(format!("{report:?} out of place"))?;
        ensure!(upgrade.failure.is_none(), "{report:?} of {upgrade:?}");
        let lasts = upgrade.canary.lasts.ok_or(format!("{report:?}, and it is held until a request"))?;
        let held = upgrade.canary.held.take().ok_or(format!("{report:?} before the hold"))?;
        ensure!(held.since + after == now && lasts <= after, "{report:?} of {held:?}");
        let good = held.verify.is_none_or(|verify| verify.good && !verify.runs);
        let passed = held.verify.map_or(0, |verify| verify.passed);
        ensure!(good && verified == passed, "{report:?} of {held:?}");
        upgrade.hold = Hold::Committed;
        self.workers.retain(|_, record| record.refused_at.is_none());
        Ok(())
    }

    pub fn check_hold(&self) -> Verdict {
        let in_step = &self.in_step.canary;
        ensure!(in_step.weigh.is_none(), "{:?} is not given", in_step.weigh);
        ensure!(in_step.weighed.is_none(), "{:?} is not said", in_step.weighed);
        ensure!(!in_step.cannot_weigh, "it was not said that nothing can be weighed");
        let apart = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.canary.apart.is_some());
        ensure!(self.weighed.is_none() || apart, "{:?} outlives the upgrade", self.weighed);
        let failed = self.upgrade.as_ref().and_then(|upgrade| upgrade.failure);
        ensure!(failed.is_none() || !self.holds(), "{failed:?}, and it is held still");
        Ok(())
    }

    /// Checks that the step has begun what was due, and that the next one comes in time.
    pub fn check_hold_deadline(&self, deadline: Option<Time>) -> Verdict {
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| upgrade.hold == Hold::Held) else {
            return Ok(());
        };
        let Some(held) = &upgrade.canary.held else { return Err("a hold that nobody has begun".into()) };
        let waits = |at: Time| at > self.now && deadline.is_some_and(|deadline| deadline <= at);
        let good = held.verify.is_none_or(|verify| verify.good);
        let until = upgrade.canary.lasts.map(|lasts| held.since + lasts).filter(|_| good);
        ensure!(until.is_none_or(waits), "the hold has lasted for long enough");
        let due = held.verify.filter(|verify| !verify.runs).map(|verify| verify.due);
        ensure!(due.is_none_or(waits) || until.is_some_and(waits), "the command is not run");
        Ok(())
    }

    /// The worker has to leave: it gets no part of the new connections any more.
    pub fn is_not_weighed(&self, id: WorkerId) -> Verdict {
        let generation = self.workers.get(&id).map(|record| record.generation);
        let weighed = self.weighed.map(|(of, _)| of);
        ensure!(weighed.is_none() || weighed != generation, "{id:?} is asked to stop, and gets connections");
        Ok(())
    }

    /// The worker of an upgrade that is undone has to accept what waits at its own sockets.
    pub fn drain_undone(&mut self, upgrade: &ModelUpgrade) {
        let (now, hook) = (self.now, self.policy.pre_stop);
        let apart = upgrade.canary.apart.filter(|_| !self.stopping);
        let serves = |record: &&mut WorkerRecord| {
            record.runs() && record.stage == ShownStage::Ready && record.generation == upgrade.to
        };
        let undone = self.workers.values_mut().filter(serves);
        for record in undone.filter(|record| apart == Some(record.slot)) {
            record.draining = Some(Draining::begin(now, hook));
        }
    }
}
