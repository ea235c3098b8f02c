//! The supervisor as a pure state machine.
//!
//! [`Supervisor::step`] gets an event and returns the actions that follow from it;
//! [`Supervisor::deadline`] is when it has to be called again if nothing happens. A
//! step has three passes: *record* the fact, *expire* deadlines that have passed, *settle*
//! what the processes now call for. The last pass depends on the whole state and not on the
//! event, so that an event that is late or doubled leaves nothing waiting. Only `std` is
//! used, and nothing is read or written here. The state can be carried over to another
//! process; for that it derives serde's traits, which do no I/O either.
//!
//! The two tables below are exact: `tests/sim` compares them with what it sees in random
//! worlds. A row is what one step may do, from the state before it to the state after it.
//!
//! # Stages of a worker
//!
//! ```text
//! none -> Spawning -> Starting -> Ready -> Draining -> Terminating -> none
//!    \-> Awaited -----^    (Draining only with --adopt)    \-> Killed -> none
//! ```
//!
//! Whenever a worker exits, it goes to `none`, or to `Remains` if processes that it started
//! live on.
//!
//! | from | to | moved by |
//! | --- | --- | --- |
//! | none | Spawning | a slot is to be filled (`spawn`) |
//! | none | Awaited | its predecessor is asked to start it (`request_handover`) |
//! | none | Ready | its predecessor has started it without being asked to (`take_successor`) |
//! | Spawning | Starting | `Spawned` |
//! | Spawning | none | `SpawnFailed` and the start is not tried again, or it is not needed any more between two tries |
//! | Spawning | Cancelled | it is not needed any more while a start is under way |
//! | Spawning | Terminating | `Spawned`, and it is not needed any more in the same step |
//! | Cancelled | none | `SpawnFailed` |
//! | Cancelled | Terminating | `Spawned` |
//! | Cancelled | Killed | `Spawned`, while everything is killed |
//! | Awaited | Starting | `Spawned`: its process is known |
//! | Awaited | none | the ack timeout, its predecessor has exited without it, or it is not needed any more |
//! | Starting | Ready | an ack that counts, the timer, or the ack timeout if the user said `proceed` |
//! | Starting | Terminating | the ack timeout, or it is not needed any more |
//! | Ready | Draining | its replacement is committed, or it is surplus or undone, and connections are steered (`drain`) |
//! | Ready | none | it is the master of its replacement, which is committed: its process stays as that of the replacement (`keep_master`) |
//! | Ready | Terminating | its replacement is committed, it is surplus, silent or undone, it has handed over, or everything stops (`terminate`) |
//! | Draining | Terminating | it has drained, the drain timeout, or everything stops |
//! | Terminating | Killed | the stop timeout, `Kill`, `Hammer`, or too many generations drain (`kill`) |
//! | Draining | Killed | `Kill`, `Hammer`, or too many generations drain |
//! | Starting | Draining | it becomes ready, and is surplus, and connections are steered (`drain`) |
//! | Starting, Ready | Killed | as `Terminating`, and killed in the same step |
//! | Starting, Ready, Draining, Terminating, Killed | none | `Exited`, and nothing is left of it |
//! | Starting, Ready, Draining, Terminating, Killed | Remains | `Exited`, and processes that it started live on |
//! | Remains | none | `RemainsGone` |
//!
//! # Phases of the supervisor
//!
//! | from | to | moved by |
//! | --- | --- | --- |
//! | Starting | Running | every slot of the first generation is ready |
//! | Starting | Upgrading | the same, and a kept request to upgrade begins in the same step |
//! | Starting | Holding | the first generation is ready only in part, and an upgrade of it is held |
//! | Running | Upgrading | an upgrade begins, or a rollback of a generation on probation |
//! | Upgrading | Running | the upgrade is done, or it has failed and is undone |
//! | Upgrading | Holding | the first worker of an upgrade that is to be held has soaked |
//! | Holding | Upgrading | `Commit`, or the upgrade has failed and a kept request begins in the same step |
//! | Holding | Running | `Rollback`, or the upgrade has failed |
//! | Holding | Starting | `Commit`, `Rollback` or a failure of an upgrade that was held before a generation has served |
//! | Starting, Running, Upgrading, Holding | Stopping | a request to stop, or a loss that ends the supervisor |

mod batch;
pub mod event;
mod expire;
mod halt;
mod loss;
pub mod policy;
mod probation;
mod receivers;
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
        let halted = self.workers.values().filter_map(Worker::halt_due_at);
        workers
            .chain(silent)
            .chain(halted)
            .chain(fills)
            .chain(self.soaked_at())
            .chain(self.handover_at())
            .chain(self.probation_ends_at())
            .chain(self.superseded_at())
            .min()
    }
}
