//! An upgrade under way: the slots of its present batch and how far it got.

use super::event::{Failure, Generation, Reading, Slot, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The replacement of one generation by another, batch by batch. Without a bound
/// on the surge there is one batch, and the upgrade is all or nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgrade {
    /// The generation that served when it began.
    pub from: Generation,
    /// The generation that starts.
    pub to: Generation,
    /// When it was taken up.
    pub since: Time,
    /// Slots whose replacements are starting or soaking.
    pub batch: BTreeSet<Slot>,
    /// Slots of the batch whose replacement has been asked for.
    pub begun: BTreeSet<Slot>,
    /// Slots that have been replaced.
    pub done: BTreeSet<Slot>,
    /// The old worker has left to its successor: there is no way back.
    pub left: bool,
    /// What went wrong first.
    pub failure: Option<Failure>,
    /// The last look before the old workers are asked to leave: an ack may come
    /// from a worker that has died since.
    pub look: Question,
    /// New connections go to it, where they are steered.
    #[serde(default = "Question::due")]
    pub switch: Question,
    /// The look at the workers that serve, before the first replacement starts.
    pub waiting: Question,
    /// It brings the generation before back, of which what it was started from is kept.
    pub back: bool,
    /// Whether the user is to have a word once the first slot has a replacement.
    pub hold: Hold,
    /// Whether the user has allowed it to begin.
    pub allowed: bool,
    /// Where its workers take the program from.
    pub reading: Reading,
}

/// Something that the caller is asked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Not yet asked for.
    Due,
    /// Asked for.
    Asked,
    /// Answered.
    Answered,
}

impl Question {
    /// What it was before there was such a question.
    fn due() -> Self {
        Question::Due
    }
}

/// What an upgrade was asked for as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// To replace everything.
    Replace,
    /// To be held at its first worker.
    Hold,
}

/// Whether an upgrade stops at its first worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// It does not, or has been told to go on.
    No,
    /// It will, once that worker has proved itself.
    Wanted,
    /// It is to go on once that worker has proved itself (once more, if it was held).
    Waived,
    /// It does.
    Held,
}

impl Upgrade {
    /// An upgrade of which nothing has happened.
    pub fn new(from: Generation, to: Generation, wish: Wish, allowed: bool, now: Time) -> Self {
        Upgrade {
            from,
            to,
            since: now,
            batch: BTreeSet::new(),
            begun: BTreeSet::new(),
            done: BTreeSet::new(),
            left: false,
            failure: None,
            look: Question::Due,
            switch: Question::Due,
            waiting: Question::Due,
            back: false,
            hold: if wish == Wish::Hold { Hold::Wanted } else { Hold::No },
            allowed,
            reading: Reading::Anew,
        }
    }

    /// Nothing of it moves until the user has said something: all else goes on as if
    /// there were no upgrade.
    pub fn rests(&self) -> bool {
        !self.allowed || self.hold == Hold::Held
    }

    /// The first failure is the reason; what follows from it is not.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}
