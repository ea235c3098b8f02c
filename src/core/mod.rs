//! The supervisor as a pure state machine.
//!
//! [`Supervisor::step`] is told what happened and answers what is to be done;
//! [`Supervisor::deadline`] says when it wants to be asked again if nothing
//! happens. A step is three passes: *record* the fact, *expire* deadlines that
//! have passed, *settle* what the processes now call for. Settling looks at the whole
//! state and not at the event, so a fact that is told late or twice strands
//! nothing. Only `std` is used and nothing is read or written here; what a
//! supervisor knows can be carried over to another process, for which it derives
//! serde's traits, and those do no I/O either.

mod batch;
pub mod event;
mod expire;
mod loss;
pub mod policy;
mod probation;
mod record;
mod report;
mod request;
mod rollback;
mod settle;
mod state;
mod transition;
mod types;
mod upgrade;
mod view;
mod worker;

pub use state::Supervisor;
pub use view::{Phase, Shown, ShownProbation, ShownStage, StageName};

use event::{Action, Event, Time};
use worker::Worker;

impl Supervisor {
    /// What follows from `event` at `now`, in order. `now` never goes back.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.record(now, event);
        self.expire(now);
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When to call `step` with `Tick` if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let workers = self.workers.values().filter_map(Worker::deadline);
        let fills = self.fillable().map(|slot| self.slot_state(slot).fill_at);
        let silent = self.workers.values().filter_map(|worker| worker.silent_at(&self.policy));
        workers
            .chain(silent)
            .chain(fills)
            .chain(self.soaked_at())
            .chain(self.handover_at())
            .chain(self.probation_ends_at())
            .min()
    }
}
