//! From which generation on workers get a listener, or no longer get it.

use serde::{Deserialize, Serialize};

/// The first generation that gets a listener, or no longer gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirstGeneration {
    /// That of the next upgrade, whichever number it gets.
    Next,
    /// This one.
    Generation(u32),
}

impl FirstGeneration {
    pub(super) fn includes(self, generation: u32) -> bool {
        matches!(self, FirstGeneration::Generation(first) if first <= generation)
    }

    /// The next upgrade has begun.
    pub(super) fn begin(&mut self, to: u32) {
        if *self == FirstGeneration::Next {
            *self = FirstGeneration::Generation(to);
        }
    }

    /// It was undone.
    pub(super) fn undo(&mut self, to: u32) {
        if *self == FirstGeneration::Generation(to) {
            *self = FirstGeneration::Next;
        }
    }
}
