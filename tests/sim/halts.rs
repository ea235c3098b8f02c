//! The model of workers that a signal has halted.
//!
//! | property | where |
//! | --- | --- |
//! | no worker is asked to stop for a replacement that is halted, or that was continued and has not soaked since | `Model::is_batch_halted`, `check_soaked` |
//! | a halted worker is not ready by having lived, is not probed, and has failed at its ack timeout | `timer_at`, `Model::check`, `Model::no_ack` |
//! | one that stays halted is reported once; a replacement has failed then | `halt_reported`, `check_halt` |
//! | one that has to leave is continued | `Model::stop`, `resumed` |

use crate::model::{Model, Verdict, ensure};
use crate::steering::{LISTEN_GRACE, Switch};
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{Failure, Time, Token, WorkerId};
use std::time::Duration;

/// So long a worker may be halted before that is reported.
const GRACE: Duration = Duration::from_secs(1);

/// A worker that is halted.
#[derive(Debug, Clone, Copy)]
pub struct Halt {
    since: Time,
    by: Token,
    reported: bool,
}

impl Model {
    pub fn halted(&mut self, id: WorkerId, by: Token) {
        let now = self.now;
        if let Some(record) = self.workers.get_mut(&id).filter(|record| record.runs() && !record.killed) {
            record.halt = record.halt.or(Some(Halt { since: now, by, reported: false }));
        }
    }

    pub fn continued(&mut self, id: WorkerId) -> Verdict {
        let now = self.now;
        let awaited = self.replaces(id) && self.workers.get(&id).is_some_and(WorkerRecord::occupied_slot);
        let steered = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.switch != Switch::Not);
        let Some(record) = self.workers.get_mut(&id) else { return Ok(()) };
        let Some(halt) = record.halt.take() else { return Ok(()) };
        record.timer_from = record.timer_from.map(|_| now);
        record.listening_ready_at = record.listening_ready_at.map(|_| now + LISTEN_GRACE);
        record.soaks_from = if steered { record.soaks_from } else { now };
        if halt.reported && record.occupied_slot() {
            self.in_step.continued = Some((id, now - halt.since));
        }
        let done = match &mut self.upgrade {
            Some(upgrade) if awaited && !steered => {
                upgrade.liveness_requested = false;
                false
            }
            Some(upgrade) => upgrade.switch == Switch::Done && upgrade.failure.is_none(),
            None => false,
        };
        // New connections go to it already.
        if awaited && done && !self.is_batch_halted() { self.commit() } else { Ok(()) }
    }

    /// Everything is halted together with us, and continued with us.
    pub fn forget_halts(&mut self) -> Verdict {
        for id in self.workers.keys().copied().collect::<Vec<_>>() {
            if let Some(halt) = self.workers.get_mut(&id).and_then(|record| record.halt.as_mut()) {
                halt.reported = false;
                self.continued(id)?;
            }
        }
        Ok(())
    }

    /// Whether a replacement that the upgrade waits for is halted.
    pub fn is_batch_halted(&self) -> bool {
        let halted = |record: &&WorkerRecord| record.halt.is_some() && record.occupied_slot();
        self.workers.values().filter(halted).any(|record| self.replaces(record.id))
    }

    pub fn halt_reported(&mut self, id: WorkerId, by: Token) -> Verdict {
        let now = self.now;
        let awaited = self.replaces(id);
        let record = self.workers.get_mut(&id).ok_or(format!("{id:?} is halted, and is not there"))?;
        let waited = record.occupied_slot() && awaited;
        let halt = record.halt.as_mut().ok_or(format!("{id:?} is said to be halted"))?;
        ensure!(halt.by == by && halt.since + GRACE <= now, "{id:?} is said to be halted: {halt:?}");
        ensure!(!std::mem::replace(&mut halt.reported, true), "{id:?} is said to be halted twice");
        if waited {
            self.lost(id, Failure::Halted(id, by));
        }
        Ok(())
    }

    pub fn resumed(&self, id: WorkerId, by: Token) -> Verdict {
        let halt = self.workers.get(&id).and_then(|record| record.halt);
        ensure!(halt.is_some_and(|halt| halt.by == by), "{id:?} is continued, and is not halted");
        Ok(())
    }

    /// Checks that a worker that stays halted will be reported.
    pub fn check_halt(&self, record: &WorkerRecord, waits: impl Fn(Time) -> bool) -> Verdict {
        let Some(halt) = record.halt.filter(|halt| !halt.reported) else { return Ok(()) };
        let runs = record.runs() && record.stage != ShownStage::Killed;
        ensure!(!runs || waits(halt.since + GRACE), "{:?} is halted, and nobody says so", record.id);
        Ok(())
    }
}
