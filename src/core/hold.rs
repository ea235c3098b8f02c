//! An upgrade that is held at its first worker: until the user decides, or for a time after
//! which it goes on by itself.
//!
//! Contract: while an upgrade is held, both generations serve. It fails with the step that says
//! that its worker has ended, is silent or is not found good by the user's command. It goes on by
//! itself only when its time is over, the last command has found it good, and none runs. Where the
//! generations have sockets of their own the new one gets a part of the new connections from the
//! hold on; that part is given back before its worker is asked to stop.

use super::canary::{Canary, Verify};
use super::event::{Action, Failure, Generation, LaunchSource, Report, Request, Time, Weight, WorkerId};
use super::state::Supervisor;
use super::upgrade::{Hold, Query, Upgrade, UpgradeKind};
use super::view::{ShownCanary, ShownVerify};

impl Supervisor {
    /// The upgrade, with the hold that the request or the policy calls for.
    pub(super) fn with_hold(&mut self, mut upgrade: Upgrade, kind: UpgradeKind) -> Upgrade {
        let named = self.pending_weight.take();
        match (kind, self.policy.canary) {
            (UpgradeKind::Hold, _) => upgrade.wanted_weight = named,
            (UpgradeKind::Replace, Some(canary)) => {
                upgrade.hold = Hold::Requested;
                upgrade.hold_lasts = Some(canary.lasts);
                upgrade.wanted_weight = canary.weight;
            }
            (UpgradeKind::Replace, None) => {}
        }
        upgrade
    }

    /// Whether a worker of the generation before serves, with which the new one can be compared.
    pub(super) fn can_compare(&self) -> bool {
        let Some(upgrade) = &self.upgrade else { return false };
        self.workers.values().any(|worker| worker.generation != upgrade.to && worker.ready_since().is_some())
    }

    /// Holds the upgrade: both generations serve until the user has decided, or it has passed.
    pub(super) fn hold_upgrade(&mut self, now: Time) {
        let weighs = self.policy.weighs;
        // Each worker that serves then has the same part.
        let equal = Weight::of_one(self.slot_states.len() as u32 + 1);
        let verify =
            self.policy.verify.map(|_| Verify { due: now, runs: false, good: false, passed: 0, last: None });
        let Some(upgrade) = &mut self.upgrade else { return };
        upgrade.hold = Hold::Held;
        upgrade.liveness = Query::Due;
        let lasts = upgrade.hold_lasts;
        let until = lasts.map(|lasts| now.saturating_add(lasts));
        upgrade.canary = Some(Canary { since: now, until, verify });
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        let weight = upgrade.wanted_weight.unwrap_or(equal);
        // The files on the disk are those of the new generation, which is not trusted yet.
        for state in &mut self.slot_states {
            state.source = LaunchSource::AsBefore;
        }
        self.report(Report::Held { from, to, took, lasts });
        if weighs {
            self.weigh(weight);
        }
    }

    /// Whether the upgrade under way is held, and its worker gets a part of the new connections.
    pub(super) fn request_weight(&mut self, weight: Weight) {
        let held = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.hold == Hold::Held);
        match held {
            false => self.report(Report::NothingHeld(Request::Weigh(weight))),
            true if !self.policy.weighs => self.report(Report::CannotWeigh),
            true => self.weigh(weight),
        }
    }

    fn weigh(&mut self, weight: Weight) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.weighing = Some(weight);
            self.actions.push(Action::Weigh(upgrade.to, weight));
        }
    }

    /// The answer to [`Action::Weigh`]. One that could not be done at the begin of the hold fails the
    /// upgrade; a later one changes nothing.
    pub(super) fn weighed(&mut self, to: Generation, weight: Weight, done: bool) {
        let asked = |upgrade: &&mut Upgrade| upgrade.to == to && upgrade.weighing == Some(weight);
        let Some(upgrade) = self.upgrade.as_mut().filter(asked) else { return };
        upgrade.weighing = None;
        if done {
            upgrade.weight = Some(weight);
        } else if upgrade.weight.is_none() {
            return upgrade.fail(Failure::NotWeighed);
        }
        self.report(match done {
            true => Report::Weighed(to, weight),
            false => Report::NotWeighed(to, weight),
        });
    }

    /// The answer to [`Action::Verify`].
    pub(super) fn verified(&mut self, id: WorkerId, good: bool, now: Time) {
        let Some(pause) = self.policy.verify.filter(|_| self.canary_worker() == Some(id)) else { return };
        let Some(upgrade) = self.upgrade.as_mut() else { return };
        let verify = upgrade.canary.as_mut().and_then(|canary| canary.verify.as_mut());
        let Some(verify) = verify.filter(|verify| verify.runs) else { return };
        verify.runs = false;
        if !good {
            return upgrade.fail(Failure::NotVerified(id));
        }
        verify.good = true;
        verify.passed = verify.passed.saturating_add(1);
        verify.last = Some(now);
        // A command that takes longer than the pause is started again at once.
        verify.due = (verify.due + pause).max(now);
    }

    /// Starts the command that is due, or ends the hold; true if the upgrade goes on.
    pub(super) fn advance_canary(&mut self, now: Time) -> bool {
        let worker = self.canary_worker();
        let Some(upgrade) = &mut self.upgrade else { return false };
        let Some(canary) = &mut upgrade.canary else { return false };
        if canary.has_passed(now) {
            let (to, after) = (upgrade.to, now - canary.since);
            let verified = canary.verify.map_or(0, |verify| verify.passed);
            upgrade.end_hold();
            self.report(Report::HoldPassed { to, after, verified });
            return true;
        }
        if let (Some(verify), Some(worker)) = (&mut canary.verify, worker)
            && !verify.runs
            && verify.due <= now
        {
            (verify.runs, verify.good, verify.due) = (true, false, now);
            self.actions.push(Action::Verify(worker));
        }
        false
    }

    /// When the held upgrade has something due.
    pub(super) fn canary_due_at(&self) -> Option<Time> {
        self.upgrade.as_ref()?.canary.as_ref()?.due_at()
    }

    /// The worker at which the upgrade is held.
    fn canary_worker(&self) -> Option<WorkerId> {
        let held =
            self.workers.iter().find(|(_, worker)| self.is_replacement(worker) && worker.occupies_slot());
        held.map(|(&id, _)| id)
    }

    /// The first worker of an upgrade that is held.
    pub fn canary(&self) -> Option<ShownCanary> {
        let upgrade = self.upgrade.as_ref()?;
        let canary = upgrade.canary.as_ref()?;
        Some(ShownCanary {
            worker: self.canary_worker(),
            generation: upgrade.to,
            until: canary.until,
            weight: upgrade.weight,
            verify: canary.verify.map(|verify| ShownVerify {
                runs: verify.runs,
                passed: verify.passed,
                last: verify.last,
            }),
        })
    }

    /// Whether this worker, which is about to start, is to have sockets of its own: the upgrade will
    /// be held at it.
    pub fn is_apart(&self, id: WorkerId) -> bool {
        let (Some(upgrade), Some(worker)) = (&self.upgrade, self.workers.get(&id)) else { return false };
        upgrade.apart == Some(worker.slot) && worker.generation == upgrade.to
    }
}
