//! A generation that keeps crashing after it went live: the generation before it is
//! started again.
//!
//! Contract: from the moment that the first slot of a new generation serves, until its
//! probation has ended, the program, directory and environment of the generation before
//! are kept, and that generation can always be started again. The time in which a worker
//! that ended has not been replaced does not count: a server that takes a minute to start
//! has the same probation as one that takes a second. Requests of the user come first, and
//! a rollback that failed is tried again with the next crash.

use super::event::{Action, Exit, Failure, Generation, LaunchSource, Report, Slot, Time};
use super::policy::PROBATION_CRASHES;
use super::probation::Probation;
use super::state::Supervisor;
use super::upgrade::{Query, Upgrade, UpgradeKind};
use std::collections::BTreeSet;
use std::time::Duration;

impl Supervisor {
    /// When the probation ends, if nothing happens; None while the upgrade goes on.
    pub(super) fn probation_ends_at(&self) -> Option<Time> {
        let probation = self.probation.as_ref().filter(|probation| probation.down_since.is_none())?;
        (!self.is_upgrading_to(probation.generation)).then_some(probation.until)
    }

    fn is_upgrading_to(&self, to: Generation) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.to == to)
    }

    /// The upgrade to this generation is over, in all slots or half-way: its probation begins
    /// now.
    pub(super) fn restart_probation(&mut self, generation: Generation, now: Time) {
        let probation = self.probation.as_mut().filter(|probation| probation.generation == generation);
        if let (Some(probation), Some(length)) = (probation, self.policy.probation) {
            probation.until = now.saturating_add(length);
        }
    }

    /// A batch of an upgrade has been committed. If the generation before had crashed in its
    /// own probation, a rollback goes to the one before that.
    pub(super) fn begin_probation(&mut self, now: Time) {
        let Some(length) = self.policy.probation else { return };
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| !upgrade.is_rollback) else { return };
        let (generation, from) = (upgrade.to, upgrade.from);
        let before = match &self.probation {
            Some(probation) if probation.generation == generation => return,
            Some(probation) if probation.crashes > 0 => probation.before,
            _ => from,
        };
        self.probation = Some(Probation::new(generation, before, now, now.saturating_add(length)));
    }

    /// A worker of this generation, which served, ended by itself.
    pub(super) fn count_crash(&mut self, generation: Generation, failure: Failure, now: Time) {
        let clean = matches!(failure, Failure::Exited { exit: Exit::Code(0), ready: true, .. });
        if !self.policy.brings_back(failure) || clean && self.exits_cleanly {
            return;
        }
        let upgrading = self.is_upgrading_to(generation);
        let Some(probation) = self.probation.as_mut().filter(|probation| probation.generation == generation)
        else {
            return;
        };
        if probation.down_since.is_none() && probation.until <= now && !upgrading {
            return;
        }
        probation.crashes += 1;
        probation.down_since.get_or_insert(now);
        if probation.crashes < PROBATION_CRASHES {
            return;
        }
        probation.rollback_due = Some(failure);
        let crashes = probation.crashes;
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.to == generation)
            && let Some(worker) = failure.worker()
        {
            upgrade.fail(Failure::Crashes(worker, crashes));
        }
    }

    /// Resumes the probation once every worker that ended is replaced, or will not be.
    pub(super) fn resume_probation(&mut self, now: Time) {
        let Some(probation) = &self.probation else { return };
        let (generation, Some(since)) = (probation.generation, probation.down_since) else { return };
        let ready = |slot: Slot| self.in_slot(slot).any(|(_, worker)| worker.ready_since().is_some());
        let is_down = |slot: &Slot| {
            let state = self.slot_state(*slot);
            state.generation == generation && !state.retired && !ready(*slot)
        };
        let rolls_back = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_rollback);
        if rolls_back || self.slots().any(|slot| is_down(&slot)) {
            return;
        }
        if let Some(probation) = &mut self.probation {
            probation.down_since = None;
            probation.until = probation.until.max(since).saturating_add(now - since);
        }
    }

    pub(super) fn end_probation(&mut self, now: Time) {
        if self.probation_ends_at().is_some_and(|at| at <= now)
            && let Some(probation) = self.probation.take()
        {
            self.report(Report::Proven(probation.generation));
        }
    }

    /// Whether the generation before is to be started again, and nothing else is under way.
    pub(super) fn is_rollback_due(&self) -> bool {
        let due = self.probation.as_ref().is_some_and(|probation| probation.rollback_due.is_some());
        due && self.upgrade.is_none() && self.pending.is_none()
    }

    /// Starts the rollback that is due. It is an upgrade to the generation before.
    pub(super) fn start_rollback(&mut self, now: Time) {
        if !self.is_rollback_due() || self.upgrade_must_wait() {
            return;
        }
        let Some(probation) = &mut self.probation else { return };
        let Some(why) = probation.rollback_due.take() else { return };
        probation.down_since.get_or_insert(now);
        let (from, to, crashes) = (probation.generation, probation.before, probation.crashes);
        let after = now - probation.since;
        self.report(Report::RollbackStarted { from, to, crashes, why, after });
        let replaced = self.slots().filter(|&slot| self.slot_state(slot).generation == to).collect();
        self.upgrade = Some(Upgrade {
            is_rollback: true,
            replaced,
            accepting: Query::Answered,
            source: LaunchSource::Exactly,
            ..Upgrade::new(from, to, UpgradeKind::Replace, true, now)
        });
    }

    /// The generation before serves again, in every slot.
    pub(super) fn rollback_done(&mut self, from: Generation, to: Generation, took: Duration) {
        self.probation = None;
        self.serving = to;
        self.report(Report::RolledBack { from, to, took });
    }

    /// The caller may drop what generations were started from of which no worker will be
    /// started again.
    pub(super) fn forget_unneeded(&mut self) {
        let mut needed = BTreeSet::from([self.serving]);
        needed.extend(self.slot_states.iter().map(|state| state.generation));
        needed.extend(self.upgrade.iter().flat_map(|upgrade| [upgrade.from, upgrade.to]));
        needed.extend(self.probation.iter().flat_map(|probation| [probation.generation, probation.before]));
        needed.extend(self.workers.values().map(|worker| worker.generation));
        let unneeded: Vec<Generation> = self.kept_generations.difference(&needed).copied().collect();
        self.kept_generations.retain(|generation| needed.contains(generation));
        self.actions.extend(unneeded.into_iter().map(Action::Forget));
    }
}
