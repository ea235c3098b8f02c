//! What the environment of a hook says about the event for which it runs.

use crate::config::hooks::Occasion;
use crate::core::event::{Generation, Slot};
use serde::{Deserialize, Serialize};

/// The event, as the variables of a hook describe it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HookContext {
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
