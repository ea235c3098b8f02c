//! An upgrade under way: the slots of its present wave and how far it got.

use super::event::{Failure, Generation, Slot, Time};
use std::collections::BTreeSet;

/// The replacement of one generation by another, wave by wave. Without a bound
/// on the surge there is one wave, and the upgrade is all or nothing.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The generation that served when it began.
    pub from: Generation,
    /// The generation that starts.
    pub to: Generation,
    /// When it was taken up.
    pub since: Time,
    /// Slots whose replacements are starting or soaking.
    pub wave: BTreeSet<Slot>,
    /// Slots of the wave whose replacement has been asked for.
    pub begun: BTreeSet<Slot>,
    /// Slots that have been replaced.
    pub done: BTreeSet<Slot>,
    /// The old worker has left to its successor: there is no way back.
    pub left: bool,
    /// What went wrong first.
    pub failure: Option<Failure>,
    /// Whether `LookAlive` has been asked for, and whether it was answered.
    pub look: Look,
}

/// The last look before the old workers are asked to leave: an ack may come
/// from a worker that has died since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Not yet asked for.
    Due,
    /// Asked for.
    Asked,
    /// Answered.
    Answered,
}

impl Upgrade {
    /// An upgrade of which nothing has happened.
    pub fn new(from: Generation, to: Generation, now: Time) -> Self {
        Upgrade {
            from,
            to,
            since: now,
            wave: BTreeSet::new(),
            begun: BTreeSet::new(),
            done: BTreeSet::new(),
            left: false,
            failure: None,
            look: Look::Due,
        }
    }

    /// The first failure is the reason; what follows from it is not.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}
