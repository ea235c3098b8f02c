//! The model of workers that bind their own sockets: who listens, where new
//! connections go, and who serves what it has before it is asked to stop.
//!
//! | property | where |
//! | --- | --- |
//! | nobody is ready before it listens, but by the ack timeout | `Model::ready` |
//! | who is ready by listening has lived for LISTEN_GRACE since its last address | `may_be_ready`, `check_listening` |
//! | new connections are switched after the last look, once, before anybody is asked to leave | `may_switch`, `switched` |
//! | what fails after the switch is switched back | `may_switch`, `check_switch` |
//! | an old worker is not asked before it has drained or its time has passed | `Model::has_reason_to_go` |
//! | it is looked at again after the pause, and never twice at once | `may_look`, `check_emptying` |

use crate::model::{Model, ModelUpgrade, Verdict, ensure};
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Failure, Generation, Slot, Time, WorkerId};
use graceful_run::core::policy::Strength;
use std::collections::BTreeSet;
use std::time::Duration;

/// A program that listened may still die of what it does next.
pub const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// From the switch to the first look.
const FIRST_DRAIN_CHECK: Duration = Duration::from_millis(3);

/// Where new connections go while an upgrade is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// To the old generation.
    Not,
    /// The last look has been taken: it is to be asked for in this step.
    Due,
    /// To one or to the other.
    Asked,
    /// To the new one.
    Done,
}

/// A worker to which no new connection goes.
#[derive(Debug, Clone, Copy)]
pub struct Draining {
    since: Time,
    /// The next look at it; None: one is being taken.
    look: Option<Time>,
}

impl Model {
    /// New connections are steered to one generation.
    fn steers(&self) -> bool {
        self.policy.adopt.is_some_and(|adopt| adopt.steer)
    }

    /// The batch has soaked and lives. Where connections are steered, that comes first.
    pub fn looked_alive(&mut self) -> Verdict {
        let steers = self.steers();
        let late = self.upgrade.as_ref().is_some_and(|upgrade| {
            let batch = |record: &&WorkerRecord| {
                upgrade.started_slots.contains(&record.slot) && !upgrade.replaced_slots.contains(&record.slot)
            };
            let new = self.workers.values().filter(batch).filter(|record| record.generation == upgrade.to);
            new.filter(|record| record.ready.is_some()).any(|record| !self.has_lived(record, upgrade.to))
        });
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        if late && upgrade.switch == Switch::Not {
            // It is looked at once more when they have.
            upgrade.liveness_asked = false;
            return Ok(());
        }
        if !steers {
            return self.commit();
        }
        upgrade.switch = Switch::Due;
        let (to, batch) =
            (upgrade.to, upgrade.started_slots.difference(&upgrade.replaced_slots).copied().collect());
        self.prove(&batch, to)
    }

    /// What became of the switch.
    pub fn switched(&mut self, to: Generation, done: bool, stops: bool) -> Verdict {
        let asked = |upgrade: &&mut ModelUpgrade| upgrade.to == to && upgrade.switch == Switch::Asked;
        let Some(upgrade) = self.upgrade.as_mut().filter(asked) else { return Ok(()) };
        if !done {
            // All is as it was: there is nothing to switch back.
            upgrade.switch = Switch::Not;
            upgrade.failure.get_or_insert(Failure::NotSwitched);
            return Ok(());
        }
        upgrade.switch = Switch::Done;
        if stops { Ok(()) } else { self.commit() }
    }

    /// To the new generation after the last look, or back from one that has failed.
    pub fn may_switch(&mut self, to: Generation) -> Verdict {
        let upgrade = self.upgrade.as_mut().ok_or(format!("a switch to {to} without an upgrade"))?;
        let wanted = match (upgrade.switch, upgrade.failure) {
            (Switch::Due, None) => Some((upgrade.to, Switch::Asked)),
            (Switch::Asked | Switch::Done, Some(_)) => Some((upgrade.from, Switch::Not)),
            _ => None,
        };
        let (generation, switch) = wanted.ok_or(format!("a switch to {to} out of place: {upgrade:?}"))?;
        ensure!(generation == to, "a switch to {to}, not {generation}");
        upgrade.switch = switch;
        Ok(())
    }

    pub fn check_switch(&self) -> Verdict {
        let due = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch == Switch::Due);
        ensure!(!due, "new connections are not switched to the new generation");
        Ok(())
    }

    /// The old workers of these slots are to serve what they have, and leave.
    pub fn drain(&mut self, batch: &BTreeSet<Slot>, to: Generation) {
        let (now, steers) = (self.now, self.steers());
        let serves = |record: &&mut WorkerRecord| {
            record.runs() && record.stage == ShownStage::Ready && batch.contains(&record.slot)
        };
        let replaced = self.workers.values_mut().filter(serves).filter(|record| record.generation != to);
        for record in replaced.filter(|_| steers) {
            record.draining = Some(Draining { since: now, look: Some(now + FIRST_DRAIN_CHECK) });
        }
    }

    pub fn may_look(&mut self, id: WorkerId) -> Verdict {
        let now = self.now;
        let record = self.workers.get_mut(&id).filter(|record| record.runs() && !record.signalled());
        let draining = record.and_then(|record| record.draining.as_mut());
        let draining = draining.ok_or(format!("a look whether {id:?} has drained"))?;
        let at = draining.look.take().ok_or(format!("a second look at {id:?} while one is taken"))?;
        ensure!(at <= now, "a look at {id:?} before {at:?}");
        Ok(())
    }

    /// What a look has found.
    pub fn drain_look(&mut self, id: WorkerId, drained: bool, pause: Duration) {
        let now = self.now;
        let record = self.workers.get_mut(&id).filter(|record| record.runs());
        let draining = record.and_then(|record| record.draining.as_mut());
        if let Some(draining) = draining.filter(|draining| draining.look.is_none()) {
            draining.look = Some(now + pause);
            self.in_step.drained = Some(id).filter(|_| drained);
        }
    }

    /// It may be asked to stop from now on, after so long.
    pub fn drain_ended(&mut self, id: WorkerId, after: Duration, drained: bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        let record = self.workers.get_mut(&id).filter(|record| record.runs() && !record.signalled());
        let record = record.ok_or(format!("{id:?} has drained, or not, and does not run"))?;
        let draining = record.draining.take().ok_or(format!("{id:?} was not to be draining"))?;
        ensure!(draining.since + after == self.now, "{id:?} is draining since {:?}", draining.since);
        match drained {
            true => ensure!(self.in_step.drained.take() == Some(id), "nobody has seen that {id:?} drained"),
            false => ensure!(timeout.is_some_and(|timeout| timeout <= after), "{id:?} has time to drain"),
        }
        record.surplus = true;
        Ok(())
    }

    /// Killed, it is draining no longer; since when it was, if it was.
    pub fn stop_draining(&mut self, id: WorkerId) -> Option<Time> {
        self.workers.get_mut(&id)?.draining.take().map(|draining| draining.since)
    }

    /// One that has to listen is ready by what it said, or by having listened for a while.
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
            let settled = record.settles.is_some_and(|at| at <= now);
            ensure!(settled, "{id:?} is ready because it listens, and settles at {:?}", record.settles);
            self.in_step.ready.push((id, kind));
        } else if kind == AckKind::Timer {
            self.in_step.ready.retain(|&ready| ready != (id, kind));
        }
        Ok(())
    }

    /// When having lived for so long makes it ready, or is its word if it has to listen.
    pub fn timer_at(&self, record: &WorkerRecord) -> Option<Time> {
        let readiness = &self.policy.readiness;
        let counts = readiness.kinds.contains(&AckKind::Timer) || record.known == Strength::Nothing;
        let timer = readiness.timer.filter(|_| counts && record.of.is_none());
        let unsaid = record.said.is_none() || record.must_accept;
        timer.zip(record.started.filter(|_| unsaid)).map(|(timer, started)| started + timer)
    }

    /// A timer that has passed has spoken for who does not listen yet.
    pub fn apply_timers(&mut self) {
        let starts = |record: &&WorkerRecord| record.stage == ShownStage::Starting && record.exited.is_none();
        let passed = |record: &&WorkerRecord| self.timer_at(record).is_some_and(|at| at <= self.now);
        let adopts = self.policy.adopt.is_some();
        let last_heartbeat =
            self.workers.values().filter(|record| adopts && starts(record) && passed(record));
        for id in last_heartbeat.map(|record| record.id).collect::<Vec<_>>() {
            self.workers.entry(id).and_modify(|record| record.said = Some(AckKind::Timer));
        }
    }

    /// Of one that starts: nothing that it has done makes it ready yet.
    pub fn check_listening(&self, record: &WorkerRecord, waits: impl Fn(Time) -> bool) -> Verdict {
        let id = record.id;
        ensure!(record.settles.is_none_or(&waits), "{id:?} has listened for long enough");
        ensure!(!record.listens || record.said.is_none(), "{id:?} listens and has said {:?}", record.said);
        Ok(())
    }

    /// Of one that is being draining: it will be looked at, and asked in time.
    pub fn check_emptying(&self, id: WorkerId, draining: Draining, waits: impl Fn(Time) -> bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        ensure!(!self.stopping, "{id:?} was not asked to stop");
        ensure!(timeout.is_none_or(|timeout| waits(draining.since + timeout)), "{id:?} is draining for ever");
        ensure!(draining.look.is_none_or(&waits), "nobody looks whether {id:?} has drained");
        Ok(())
    }
}
