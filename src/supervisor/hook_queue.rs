//! The user's hooks that run or wait, as plain data: their context, and what follows when they
//! have ended. [`hooks`](super::hooks) runs them.

use crate::core::event::{Generation, LaunchSource, Slot, Time, WorkerId};
use crate::launch::hook::HookContext;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What follows when the hooks of an event have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Nothing waits for them.
    Nothing,
    /// This upgrade, if all of them exited with status 0.
    Upgrade(Generation),
    /// The start of a worker, if all of them exited with status 0.
    Start {
        /// Which one.
        worker: WorkerId,
        /// Its generation.
        generation: Generation,
        /// Its slot.
        slot: Slot,
        /// Where its program comes from.
        source: LaunchSource,
    },
    /// The stop signal of this worker.
    Stop(WorkerId),
    /// The judgement of this worker, which is on hold.
    Verify(WorkerId),
}

/// The hooks of one event that have not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventHooks {
    /// What their environment says about the event.
    pub context: HookContext,
    /// What waits for them.
    pub then: Then,
    /// The one that runs.
    pub running: Option<Running>,
    /// The commands that run after it.
    pub waiting: VecDeque<String>,
}

/// A hook that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Its process, which leads a group of its own.
    pub pid: i32,
    /// What sh was given.
    pub command: String,
    /// When it is killed.
    pub until: Time,
}

/// The hooks of every event that have not ended, in the order of the events.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HookQueue(pub Vec<EventHooks>);

impl HookQueue {
    /// When the first of those that run is killed.
    pub fn deadline(&self) -> Option<Time> {
        self.running().map(|running| running.until).min()
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.0.iter().filter_map(|batch| batch.running.as_ref())
    }
}
