//! The user's hooks that run or wait, as plain data: what they are told, and what
//! goes on when they have ended. Who runs them is [`run`](crate::run).

use crate::config::hooks::Occasion;
use crate::core::event::{Generation, Reading, Slot, Time, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What goes on when the hooks of an event have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Nobody waits for them.
    Nothing,
    /// This upgrade, if all of them ended well.
    Upgrade(Generation),
    /// The start of a worker, if all of them ended well.
    Start {
        /// Which one.
        worker: WorkerId,
        /// Its generation.
        generation: Generation,
        /// Its place.
        slot: Slot,
        /// Where its program comes from.
        from: Reading,
    },
    /// The stop signal of this worker.
    Stop(WorkerId),
}

/// What hooks are told, in variables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// The event.
    pub occasion: Occasion,
    /// The generation that it is about.
    pub generation: Generation,
    /// The slot of the worker that it is about, if it is about one.
    pub slot: Option<Slot>,
    /// The worker's pid, if it has one.
    pub worker: Option<i32>,
    /// Why an upgrade failed.
    pub reason: Option<String>,
}

/// The hooks of one event that have not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Errand {
    /// What they are told.
    pub about: About,
    /// Who waits for them.
    pub then: Then,
    /// The one that runs.
    pub now: Option<Running>,
    /// Those that come after it.
    pub rest: VecDeque<String>,
}

/// A hook that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// Its process, which leads a group of its own.
    pub pid: i32,
    /// What sh was given.
    pub command: String,
    /// When it is given up.
    pub until: Time,
}

/// Every errand under way, in the order of its beginning.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Errands(pub Vec<Errand>);

impl Errands {
    /// When the first of those that run is given up.
    pub fn deadline(&self) -> Option<Time> {
        self.running().map(|running| running.until).min()
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.0.iter().filter_map(|errand| errand.now.as_ref())
    }
}
