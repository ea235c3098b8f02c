//! What becomes of a generation that keeps ending after it went live: the one before it
//! is started again.
//!
//! Contract: from the moment that the first slot of a new generation serves, until it has
//! lived through its probation, it is kept what the generation before was started from, and
//! what that was can always be started again. The time in which a worker that ended has not
//! been replaced does not count: a server that takes a minute to boot has the same
//! probation as one that takes a second. What the user asks for comes first, and a
//! generation that cannot be brought back is tried again with the next crash.

use super::Supervisor;
use super::event::{Action, Exit, Failure, Generation, Reading, Report, Slot, Time};
use super::policy::PROBATION_CRASHES;
use super::upgrade::{Question, Upgrade, Wish};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// A generation that has gone live of late.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probation {
    /// Which one.
    of: Generation,
    /// The one that is started again.
    before: Generation,
    /// When it went live.
    since: Time,
    /// When it has proved itself.
    until: Time,
    /// How often a worker of it has ended by itself.
    crashes: u32,
    /// Since when one that has ended was not replaced, or the generation before is being
    /// started again.
    down_since: Option<Time>,
    /// How the last one ended, once the generation before is to be started again.
    due: Option<Failure>,
}

/// A probation, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownProbation {
    /// The generation that has to prove itself.
    pub of: Generation,
    /// The one that is started again if it does not.
    pub before: Generation,
    /// How often a worker of it has ended by itself.
    pub crashes: u32,
    /// When it ends, if nothing more happens.
    pub until: Time,
}

impl Supervisor {
    /// The generation that has gone live of late and has not proved itself.
    pub fn probation(&self) -> Option<ShownProbation> {
        let probation = self.probation.as_ref()?;
        let &Probation { of, before, crashes, until, .. } = probation;
        Some(ShownProbation { of, before, crashes, until })
    }

    /// When the probation ends, if nothing happens. It does not while the upgrade goes on.
    pub(super) fn proven_at(&self) -> Option<Time> {
        let probation = self.probation.as_ref().filter(|probation| probation.down_since.is_none())?;
        (!self.goes_live(probation.of)).then_some(probation.until)
    }

    /// Some slots of this generation serve, and others are still to.
    fn goes_live(&self, of: Generation) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.to == of)
    }

    /// An upgrade to this generation is over, in all slots or half-way.
    pub(super) fn has_gone_live(&mut self, of: Generation, now: Time) {
        let probation = self.probation.as_mut().filter(|probation| probation.of == of);
        if let (Some(probation), Some(length)) = (probation, self.policy.probation) {
            probation.until = now.saturating_add(length);
        }
    }

    /// A batch of an upgrade has been committed. One that had ended in its own probation is
    /// nothing to go back to: the one before it still is.
    pub(super) fn go_on_probation(&mut self, now: Time) {
        let Some(length) = self.policy.probation else { return };
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| !upgrade.back) else { return };
        let (of, from) = (upgrade.to, upgrade.from);
        let before = match &self.probation {
            Some(probation) if probation.of == of => return,
            Some(probation) if probation.crashes > 0 => probation.before,
            _ => from,
        };
        let until = now.saturating_add(length);
        self.probation =
            Some(Probation { of, before, since: now, until, crashes: 0, down_since: None, due: None });
    }

    /// A worker of this generation, which served, ended by itself and comes back.
    pub(super) fn count_crash(&mut self, of: Generation, failure: Failure, now: Time) {
        let well = matches!(failure, Failure::Exited { exit: Exit::Code(0), ready: true, .. });
        if !self.policy.brings_back(failure) || well && self.ends_well {
            return;
        }
        let goes_live = self.goes_live(of);
        let Some(probation) = self.probation.as_mut().filter(|probation| probation.of == of) else { return };
        if probation.down_since.is_none() && probation.until <= now && !goes_live {
            return;
        }
        probation.crashes += 1;
        probation.down_since.get_or_insert(now);
        if probation.crashes < PROBATION_CRASHES {
            return;
        }
        probation.due = Some(failure);
        let crashes = probation.crashes;
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.to == of)
            && let Some(worker) = failure.worker()
        {
            upgrade.fail(Failure::Crashes(worker, crashes));
        }
    }

    /// Whoever of it has ended is replaced, or is not to be any more: its time goes on.
    pub(super) fn serves_again(&mut self, now: Time) {
        let Some((of, since)) = self.probation.as_ref().and_then(|it| Some((it.of, it.down_since?))) else {
            return;
        };
        let ready = |slot: Slot| self.in_slot(slot).any(|(_, worker)| worker.ready_since().is_some());
        let is_down = |slot: &Slot| {
            let place = self.place(*slot);
            place.generation == of && !place.retired && !ready(*slot)
        };
        let goes_back = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.back);
        if goes_back || self.slots().any(|slot| is_down(&slot)) {
            return;
        }
        if let Some(probation) = &mut self.probation {
            probation.down_since = None;
            probation.until = probation.until.max(since).saturating_add(now - since);
        }
    }

    pub(super) fn end_probation(&mut self, now: Time) {
        if self.proven_at().is_some_and(|at| at <= now)
            && let Some(probation) = self.probation.take()
        {
            self.report(Report::Proven(probation.of));
        }
    }

    /// The generation before is to be started again, and nothing else is under way.
    pub(super) fn goes_back(&self) -> bool {
        let due = self.probation.as_ref().is_some_and(|probation| probation.due.is_some());
        due && self.upgrade.is_none() && self.pending.is_none()
    }

    /// Begins to bring the generation before back, once nothing else is under way.
    pub(super) fn go_back(&mut self, now: Time) {
        if !self.goes_back() || self.is_held_up() {
            return;
        }
        let Some(probation) = &mut self.probation else { return };
        let Some(why) = probation.due.take() else { return };
        probation.down_since.get_or_insert(now);
        let (from, to, crashes) = (probation.of, probation.before, probation.crashes);
        let after = now - probation.since;
        self.report(Report::RollbackStarted { from, to, crashes, why, after });
        let done = self.slots().filter(|&slot| self.place(slot).generation == to).collect();
        self.upgrade = Some(Upgrade {
            back: true,
            done,
            waiting: Question::Answered,
            reading: Reading::Exactly,
            ..Upgrade::new(from, to, Wish::Replace, true, now)
        });
    }

    /// The generation before serves again, in every slot.
    pub(super) fn gone_back(&mut self, from: Generation, to: Generation, took: Duration) {
        self.probation = None;
        self.serving = to;
        self.report(Report::RolledBack { from, to, took });
    }

    /// It cannot be started either: whichever starts first is what serves.
    pub(super) fn not_gone_back(&mut self, from: Generation, to: Generation, why: Failure) {
        self.report(Report::RollbackFailed { from, to, why });
    }

    /// What generations were started from of which no worker will be started again.
    pub(super) fn forget(&mut self) {
        let mut needed = BTreeSet::from([self.serving]);
        needed.extend(self.places.iter().map(|place| place.generation));
        needed.extend(self.upgrade.iter().flat_map(|upgrade| [upgrade.from, upgrade.to]));
        needed.extend(self.probation.iter().flat_map(|probation| [probation.of, probation.before]));
        needed.extend(self.workers.values().map(|worker| worker.generation));
        let (kept, over) = self.started.iter().partition(|generation| needed.contains(generation));
        self.started = kept;
        let over: BTreeSet<Generation> = over;
        self.actions.extend(over.into_iter().map(Action::Forget));
    }
}
