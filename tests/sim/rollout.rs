//! The model of an upgrade: what is committed, and which generation may begin.

use crate::model::{Hold, Model, SIGNAL_GRACE, SlotModel, Verdict, ensure};
use crate::steering::Switch;
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Failure, Generation, LaunchSource, Slot, Time};
use std::collections::BTreeSet;
use std::time::Duration;

impl Model {
    /// The started replacements are alive: whether they are to be committed. Otherwise the upgrade is
    /// held, or goes on with the slots that the hold has left out.
    pub fn leaves_hold(&mut self) -> Result<bool, String> {
        let compares = self.can_compare();
        let slots = self.slots.len();
        let weight = self.weight_of_hold();
        let bounded = self.policy.surge.is_some();
        let Some(upgrade) = &mut self.upgrade else { return Ok(false) };
        let whole = upgrade.started_slots.difference(&upgrade.replaced_slots).count() == slots;
        let goes_on = match std::mem::replace(&mut upgrade.hold, Hold::No) {
            Hold::Requested if upgrade.canary.lasts.is_none() || compares => {
                upgrade.hold = Hold::Held;
                upgrade.canary.begin(self.now, &self.policy);
                self.in_step.held = true;
                self.in_step.canary.weigh = weight;
                self.slots.iter_mut().for_each(|slot_model| slot_model.source = LaunchSource::AsBefore);
                false
            }
            Hold::Requested | Hold::Committed => {
                upgrade.source = LaunchSource::AsBefore;
                bounded || whole
            }
            Hold::Held => return Err("a liveness check while the upgrade is on hold".into()),
            Hold::No => true,
        };
        upgrade.liveness_requested &= goes_on;
        Ok(goes_on)
    }

    /// Commits the started replacements; each must be alive, and have been ready for the soak.
    pub fn commit(&mut self) -> Verdict {
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        let batch: BTreeSet<Slot> =
            upgrade.started_slots.difference(&upgrade.replaced_slots).copied().collect();
        let (from, to, back) = (upgrade.from, upgrade.to, upgrade.is_rollback);
        // Before a switch that was checked, and what is seen meanwhile changes nothing.
        if upgrade.switch == Switch::Not {
            self.check_soaked(&batch, to)?;
        }
        for &slot in &batch {
            self.check_replacement(slot, to)?;
        }
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        upgrade.liveness_requested = false;
        upgrade.switch = Switch::Not;
        let whole = batch.len() == self.slots.len();
        let apart = upgrade.canary.end();
        upgrade.replaced_slots.extend(&batch);
        ensure!(
            self.policy.surge.is_some() || whole || back,
            "only {batch:?} were begun when the upgrade was carried out"
        );
        self.serving = to;
        if !back {
            self.begin_probation(from, to);
        }
        for &slot in &batch {
            let mut serves =
                self.workers.values().filter(|record| record.slot == slot && record.generation == to);
            if let Some(id) = serves
                .find(|record| record.runs() && record.stage == ShownStage::Ready)
                .map(|record| record.id)
            {
                let source = if back { LaunchSource::AsBefore } else { LaunchSource::Anew };
                self.slots[slot.0 as usize] = SlotModel { source, ..SlotModel::new(to, self.now) };
                self.learn(id);
            }
        }
        self.leave_unasked(|record| record.generation != to);
        self.drain(&batch, to, apart);
        self.in_step.committed = batch;
        Ok(())
    }

    pub fn check_soaked(&self, batch: &BTreeSet<Slot>, to: Generation) -> Verdict {
        for &slot in batch {
            let record = self.check_replacement(slot, to)?;
            // A successor gets the time to end its predecessor. A worker that is ready by the
            // timer alone, after 2 s, may still be trying to bind for 2.5 s.
            let named = self.policy.readiness.kinds.contains(&AckKind::Timer);
            let least = match (record.predecessor.is_some(), record.ack == Some(AckKind::Timer) && !named) {
                (true, _) => SIGNAL_GRACE,
                (false, true) => Duration::from_millis(1500),
                (false, false) => Duration::ZERO,
            };
            let soak = match self.policy.adopt {
                Some(adopt) if record.ack == Some(AckKind::Listen) => adopt.soak,
                _ => self.policy.soak.max(least),
            };
            let soaked = record.ready.is_some_and(|ready| ready.max(record.soaks_from) + soak <= self.now)
                && self.has_lived(record, to);
            ensure!(soaked, "{:?} has not soaked", record.id);
        }
        Ok(())
    }

    /// The replacement in this slot, which must be ready, alive and not halted.
    fn check_replacement(&self, slot: Slot, to: Generation) -> Result<&WorkerRecord, String> {
        let mut new = self.workers.values().filter(|record| record.slot == slot && record.generation == to);
        let record = new.find(|record| record.runs() && record.stage == ShownStage::Ready);
        let record = record.ok_or(format!("no replacement is ready and alive in {slot:?}"))?;
        ensure!(record.halt.is_none(), "{:?} is halted", record.id);
        Ok(record)
    }

    /// When the upgrade under way gives way to the request that is kept: with --follow, three
    /// seconds after its replacement was begun, unless that is ready.
    pub fn superseded_at(&self) -> Option<Time> {
        let begun = |record: &&WorkerRecord| {
            record.stage == ShownStage::Starting && record.exited.is_none() && self.replaces(record.id)
        };
        let begun = self.workers.values().filter(begun).filter_map(WorkerRecord::counted_from).min();
        let gives_way = self.upgrade.as_ref().is_some_and(|upgrade| !upgrade.is_rollback);
        begun
            .map(|at| at + Duration::from_secs(3))
            .filter(|_| self.policy.follow && self.pending && gives_way)
    }

    /// The upgrade gives way to the request that is kept.
    pub fn supersede(&mut self) {
        if self.superseded_at().is_some_and(|at| at <= self.now)
            && let Some(upgrade) = &mut self.upgrade
        {
            upgrade.failure.get_or_insert(Failure::Superseded);
        }
    }

    /// A new generation: one for each pending request.
    pub fn new_generation(&mut self, to: Generation) -> Verdict {
        ensure!(to.0 == self.last_generation.0 + 1, "{to} follows {}", self.last_generation);
        ensure!(self.pending, "{to} starts and nobody asked for it");
        ensure!(!self.stopping, "{to} starts after the stop");
        self.last_generation = to;
        self.pending = false;
        Ok(())
    }

    /// A request before anything serves, when every slot waits for a restart: the next workers
    /// belong to a new generation.
    pub fn new_start(&mut self, to: Generation) -> Verdict {
        ensure!(!self.served && self.upgrade.is_none(), "{to} starts without an upgrade");
        self.new_generation(to)?;
        self.serving = to;
        self.probation = None;
        let now = self.now;
        self.slots.iter_mut().for_each(|slot_model| *slot_model = SlotModel::new(to, now));
        Ok(())
    }
}
