//! The model of workers that bind their own sockets: which worker listens, where new
//! connections go, and which worker drains before it is asked to stop.
//!
//! | property | where |
//! | --- | --- |
//! | no worker is ready before it listens, except by the ack timeout | `Model::ready` |
//! | a worker that is ready by listening has lived for LISTEN_GRACE since its last address | `may_be_ready`, `check_listening` |
//! | new connections are switched once, after the liveness check, before an old worker is asked to stop | `may_switch`, `switched` |
//! | with a bounded surge each batch is switched to by itself | `Model::commit` |
//! | a failure after the switch is switched back | `may_switch`, `check_switch` |
//! | new connections go to every worker that is ready: not to a replacement before its switch, nor to those that it replaces after it, unless it is held | `check_receivers` |
//! | a worker that is no longer wanted drains as well, and one that got connections and is undone | `drain_surplus`, `Model::undo` |
//! | an old worker is not asked to stop before it has drained or the drain timeout has passed | `Model::has_reason_to_go` |
//! | it is checked again after the pause, and never twice at once | `may_check_drained`, `check_draining` |

use crate::model::{Hold, Model, ModelUpgrade, Verdict, ensure};
use crate::worker::WorkerRecord;
use graceful_run::core::event::{AckKind, Failure, Generation, LaunchSource, Slot, Time, WorkerId};
use graceful_run::core::policy::Strength;
use graceful_run::core::{ShownStage, Supervisor};
use std::collections::BTreeSet;
use std::time::Duration;

/// A program that listens may still fail in its next step.
pub const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// From the switch to the first drain check.
const FIRST_DRAIN_CHECK: Duration = Duration::from_millis(3);

/// Where new connections go while an upgrade is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// To the old generation.
    Not,
    /// The liveness check has succeeded: the switch is to be requested in this step.
    Due,
    /// To either.
    Requested,
    /// To the new one.
    Done,
}

/// A worker that gets no new connections.
#[derive(Debug, Clone, Copy)]
pub struct Draining {
    since: Time,
    /// The next drain check; None: one is under way.
    check_at: Option<Time>,
}

impl Draining {
    /// Its pre-stop hook has ended.
    pub fn begin_checks(&mut self, now: Time) {
        self.check_at = Some(now + FIRST_DRAIN_CHECK);
    }
}

impl Model {
    /// Whether new connections are steered to workers.
    pub fn steers(&self) -> bool {
        self.policy.adopt.is_some_and(|adopt| adopt.steer)
    }

    /// The batch has soaked and is alive. Where connections are steered, they are switched first.
    pub fn alive_checked(&mut self) -> Verdict {
        let steers = self.steers();
        // The answer to a check that another one has followed.
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch != Switch::Not) {
            return Ok(());
        }
        let late = self.upgrade.as_ref().is_some_and(|upgrade| {
            let batch = |record: &&WorkerRecord| {
                upgrade.started_slots.contains(&record.slot) && !upgrade.replaced_slots.contains(&record.slot)
            };
            let new = self.workers.values().filter(batch).filter(|record| record.generation == upgrade.to);
            new.filter(|record| record.ready.is_some()).any(|record| !self.has_lived(record, upgrade.to))
        });
        let is_halted = self.is_batch_halted();
        let (slots, surge) = (self.slots.len(), self.policy.surge);
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        if (late || is_halted) && upgrade.switch == Switch::Not {
            // There is another check once they have lived long enough.
            upgrade.liveness_requested = false;
            return Ok(());
        }
        if !steers {
            return self.commit();
        }
        let (to, batch): (_, BTreeSet<Slot>) =
            (upgrade.to, upgrade.started_slots.difference(&upgrade.replaced_slots).copied().collect());
        upgrade.switch = Switch::Due;
        if upgrade.hold == Hold::Committed {
            (upgrade.hold, upgrade.source) = (Hold::No, LaunchSource::AsBefore);
            if surge.is_none() && batch.len() < slots {
                // The others are started first.
                upgrade.switch = Switch::Not;
                upgrade.liveness_requested = false;
            }
        }
        self.check_soaked(&batch, to)
    }

    /// New connections go to the replacements. If the user has committed a hold meanwhile, the first of
    /// them stays, and the others follow by a switch of their own.
    pub fn switch_done(&mut self) -> Verdict {
        let (slots, surge) = (self.slots.len(), self.policy.surge);
        let Some(upgrade) = self.upgrade.as_ref().filter(|upgrade| upgrade.hold == Hold::Committed) else {
            return self.commit();
        };
        let batch: BTreeSet<Slot> =
            upgrade.started_slots.difference(&upgrade.replaced_slots).copied().collect();
        let canary = self.replacement_in(&batch);
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        (upgrade.hold, upgrade.source, upgrade.canary) = (Hold::No, LaunchSource::AsBefore, canary);
        let goes_on = surge.is_none() && batch.len() < slots;
        upgrade.switch = if goes_on { Switch::Not } else { Switch::Due };
        upgrade.liveness_requested = !goes_on;
        Ok(())
    }

    /// What it serves when it leaves now has still to be served.
    pub fn draining(&self) -> Draining {
        let check_at = Some(self.now + FIRST_DRAIN_CHECK).filter(|_| !self.policy.pre_stop);
        Draining { since: self.now, check_at }
    }

    /// Workers that are no longer wanted get no new connections, and serve those that they have.
    pub fn drain_surplus(&mut self) {
        let target = self.target;
        let surplus = |record: &&WorkerRecord| {
            let serves = record.runs() && record.ready.is_some() && !record.signalled();
            serves && record.occupied_slot() && record.draining.is_none() && record.slot.0 >= target
        };
        let ids: Vec<WorkerId> = self.workers.values().filter(surplus).map(|record| record.id).collect();
        let (drains, draining) = (self.steers() && !self.stopping, self.draining());
        for id in ids {
            if drains
                && !self.replaces(id)
                && let Some(record) = self.workers.get_mut(&id)
            {
                record.draining = Some(draining);
            }
        }
    }

    /// Checks to which workers new connections go after this step.
    pub fn check_receivers(&self, supervisor: &Supervisor) -> Verdict {
        let ready = self.workers.values().filter(|record| record.runs() && record.stage == ShownStage::Ready);
        let receives = |record: &&WorkerRecord| {
            let Some(upgrade) = &self.upgrade else { return true };
            let in_batch = upgrade.started_slots.contains(&record.slot)
                && !upgrade.replaced_slots.contains(&record.slot);
            let switched = matches!(upgrade.switch, Switch::Requested | Switch::Done);
            let held = matches!(upgrade.hold, Hold::Requested | Hold::Held);
            match (in_batch, record.generation == upgrade.to) {
                (false, _) => true,
                (true, true) => switched || upgrade.canary == Some(record.id),
                (true, false) => !switched || held,
            }
        };
        let expected: Vec<WorkerId> = ready.filter(receives).map(|record| record.id).collect();
        let found: Vec<WorkerId> = supervisor.receivers().collect();
        ensure!(found == expected, "new connections go to {found:?}, not {expected:?}");
        let asked = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch == Switch::Requested);
        ensure!(supervisor.is_switching() == asked, "it is not known whether a switch is under way");
        Ok(())
    }

    /// The result of the switch.
    pub fn switched(&mut self, to: Generation, done: bool, stops: bool) -> Verdict {
        let asked = |upgrade: &&mut ModelUpgrade| upgrade.to == to && upgrade.switch == Switch::Requested;
        let Some(upgrade) = self.upgrade.as_mut().filter(asked) else { return Ok(()) };
        if !done {
            // Nothing has changed: there is nothing to switch back.
            upgrade.switch = Switch::Not;
            upgrade.failure.get_or_insert(Failure::NotSwitched);
            return Ok(());
        }
        upgrade.switch = Switch::Done;
        if stops || self.is_batch_halted() { Ok(()) } else { self.switch_done() }
    }

    /// Whether an answer is awaited for a switch to this generation.
    pub fn is_switching_to(&self, to: Generation) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.to == to && upgrade.switch == Switch::Requested)
    }

    /// To the new generation after the liveness check, or back from one that has failed.
    pub fn may_switch(&mut self, to: Generation) -> Verdict {
        let upgrade = self.upgrade.as_mut().ok_or(format!("a switch to {to} without an upgrade"))?;
        let wanted = match (upgrade.switch, upgrade.failure) {
            (Switch::Due, None) => Some((upgrade.to, Switch::Requested)),
            (Switch::Requested | Switch::Done, Some(_)) => Some((upgrade.from, Switch::Not)),
            (Switch::Not, Some(_)) if upgrade.canary.take().is_some() => Some((upgrade.from, Switch::Not)),
            _ => None,
        };
        let (generation, switch) = wanted.ok_or(format!("a switch to {to} out of place: {upgrade:?}"))?;
        ensure!(generation == to, "a switch to {to}, not {generation}");
        upgrade.switch = switch;
        if generation == upgrade.from {
            upgrade.canary = None;
            self.in_step.switched_back = true;
        }
        Ok(())
    }

    pub fn check_switch(&self) -> Verdict {
        let due = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch == Switch::Due);
        ensure!(!due, "new connections are not switched to the new generation");
        Ok(())
    }

    /// The old workers of these slots drain.
    pub fn drain(&mut self, batch: &BTreeSet<Slot>, to: Generation) {
        let (steers, draining) = (self.steers(), self.draining());
        let serves = |record: &&mut WorkerRecord| {
            record.runs() && record.stage == ShownStage::Ready && batch.contains(&record.slot)
        };
        let replaced = self.workers.values_mut().filter(serves).filter(|record| record.generation != to);
        for record in replaced.filter(|_| steers) {
            record.draining = Some(draining);
        }
    }

    pub fn may_check_drained(&mut self, id: WorkerId) -> Verdict {
        let now = self.now;
        let record = self.workers.get_mut(&id).filter(|record| record.runs() && !record.signalled());
        let draining = record.and_then(|record| record.draining.as_mut());
        let draining = draining.ok_or(format!("a drain check of {id:?}, which does not drain"))?;
        let at = draining
            .check_at
            .take()
            .ok_or(format!("a second drain check of {id:?} while one is under way"))?;
        ensure!(at <= now, "a drain check of {id:?} before {at:?}");
        Ok(())
    }

    /// The result of a drain check.
    pub fn drain_checked(&mut self, id: WorkerId, drained: bool, pause: Duration) {
        let now = self.now;
        let record = self.workers.get_mut(&id).filter(|record| record.runs());
        let draining = record.and_then(|record| record.draining.as_mut());
        if let Some(draining) = draining.filter(|draining| draining.check_at.is_none()) {
            draining.check_at = Some(now + pause);
            self.in_step.drained = Some(id).filter(|_| drained);
        }
    }

    /// The drain of a worker has ended, `after` so long: it may be asked to stop from now on.
    pub fn drain_ended(&mut self, id: WorkerId, after: Duration, drained: bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        let record = self.workers.get_mut(&id).filter(|record| record.runs() && !record.signalled());
        let record = record.ok_or(format!("{id:?} has drained, or not, and does not run"))?;
        let draining = record.draining.take().ok_or(format!("{id:?} was not to be draining"))?;
        ensure!(draining.since + after == self.now, "{id:?} is draining since {:?}", draining.since);
        match drained {
            true => {
                ensure!(self.in_step.drained.take() == Some(id), "no check has found that {id:?} drained")
            }
            false => ensure!(timeout.is_some_and(|timeout| timeout <= after), "{id:?} has time to drain"),
        }
        record.surplus = true;
        Ok(())
    }

    /// The worker is killed, and no longer drains; returns since when it drained.
    pub fn stop_draining(&mut self, id: WorkerId) -> Option<Time> {
        self.workers.get_mut(&id)?.draining.take().map(|draining| draining.since)
    }

    /// A worker that has to listen is ready by its ack, or by having listened for a while.
    pub fn may_be_ready(&mut self, id: WorkerId, kind: AckKind) -> Verdict {
        let now = self.now;
        let Some(record) = self.workers.get_mut(&id).filter(|_| self.policy.adopt.is_some()) else {
            return Ok(());
        };
        ensure!(
            record.listens || kind == AckKind::Timeout,
            "{id:?} is ready by {kind:?} and does not listen"
        );
        if kind == AckKind::Listen {
            let settled = record.listening_ready_at.is_some_and(|at| at <= now) && record.halt.is_none();
            ensure!(
                settled,
                "{id:?} is ready because it listens, and has to wait until {:?}",
                record.listening_ready_at
            );
            self.in_step.ready.push((id, kind));
        } else if kind == AckKind::Timer {
            self.in_step.ready.retain(|&ready| ready != (id, kind));
        }
        Ok(())
    }

    /// When the timer makes it ready or, if it has to listen, counts as its ack.
    pub fn timer_at(&self, record: &WorkerRecord) -> Option<Time> {
        let readiness = &self.policy.readiness;
        let counts = readiness.kinds.contains(&AckKind::Timer) || record.known == Strength::Nothing;
        let timer = readiness.timer.filter(|_| counts && record.predecessor.is_none());
        let no_ack = record.pending_ack.is_none() || record.must_accept;
        let runs = no_ack && record.halt.is_none();
        timer.zip(record.timer_from.filter(|_| runs)).map(|(timer, from)| from + timer)
    }

    /// A timer that has passed counts as the ack of a worker that does not listen yet.
    pub fn apply_timers(&mut self) {
        let starts = |record: &&WorkerRecord| record.stage == ShownStage::Starting && record.exited.is_none();
        let passed = |record: &&WorkerRecord| self.timer_at(record).is_some_and(|at| at <= self.now);
        let adopts = self.policy.adopt.is_some();
        let last_heartbeat =
            self.workers.values().filter(|record| adopts && starts(record) && passed(record));
        for id in last_heartbeat.map(|record| record.id).collect::<Vec<_>>() {
            self.workers.entry(id).and_modify(|record| record.pending_ack = Some(AckKind::Timer));
        }
    }

    /// It need not listen; where nobody says that it is ready, it is so now.
    pub fn has_no_sockets(&mut self, id: WorkerId) {
        let starts = |record: &&mut WorkerRecord| {
            let starts = record.runs() && record.stage == ShownStage::Starting;
            starts && record.halt.is_none() && !record.listens
        };
        let (adopts, auto) = (self.policy.adopt.is_some(), self.policy.readiness.auto);
        let Some(record) = self.workers.get_mut(&id).filter(starts).filter(|_| adopts) else { return };
        record.listens = true;
        let aged = auto && record.known < Strength::Said;
        let ready = record.pending_ack.or(aged.then_some(AckKind::Timer));
        self.in_step.ready.extend(ready.map(|kind| (id, kind)));
    }

    /// Checks that nothing that a starting worker has done makes it ready yet.
    pub fn check_listening(&self, record: &WorkerRecord, waits: impl Fn(Time) -> bool) -> Verdict {
        let id = record.id;
        let halted = record.halt.is_some();
        ensure!(
            halted || record.listening_ready_at.is_none_or(&waits),
            "{id:?} has listened for long enough"
        );
        ensure!(
            !record.listens || record.pending_ack.is_none(),
            "{id:?} listens and has acked {:?}",
            record.pending_ack
        );
        Ok(())
    }

    /// Checks that a draining worker will be checked, and asked to stop in time.
    pub fn check_draining(&self, id: WorkerId, draining: Draining, waits: impl Fn(Time) -> bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        ensure!(!self.stopping, "{id:?} was not asked to stop");
        let told = self.workers.get(&id).is_some_and(|record| record.pre_stop.is_some());
        ensure!(told || !self.policy.pre_stop, "{id:?} drains before its pre-stop hook");
        ensure!(timeout.is_none_or(|timeout| waits(draining.since + timeout)), "{id:?} is draining for ever");
        ensure!(draining.check_at.is_none_or(&waits), "no drain check of {id:?} is due");
        Ok(())
    }
}
