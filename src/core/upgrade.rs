//! An upgrade under way: the slots of its present batch and how far it got. Data only.

use super::canary::Canary;
use super::event::{Failure, Generation, LaunchSource, Slot, Time, Weight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// The replacement of one generation by another, batch by batch. Without a bound
/// on the surge there is one batch, and the upgrade is all or nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgrade {
    /// The generation that served when the upgrade began.
    pub from: Generation,
    /// The generation that is started.
    pub to: Generation,
    /// When the upgrade began.
    pub since: Time,
    /// Slots whose replacements are starting or soaking.
    pub batch: BTreeSet<Slot>,
    /// Slots of the batch whose replacement has been started.
    pub started: BTreeSet<Slot>,
    /// Slots that have been replaced.
    pub replaced: BTreeSet<Slot>,
    /// The old worker has handed over to its successor and cannot be kept.
    pub predecessor_left: bool,
    /// The first failure.
    pub failure: Option<Failure>,
    /// The check that the replacements are alive, before the old workers are asked to
    /// leave: an ack may come from a worker that has died since.
    pub liveness: Query,
    /// The switch of new connections to the replacements of the present batch, where they are steered.
    pub switch: Query,
    /// The check which of the serving workers wait for connections on their listeners,
    /// before the first replacement starts.
    pub accepting: Query,
    /// The upgrade starts the previous generation again, as it was started before.
    pub is_rollback: bool,
    /// Whether the upgrade is held once the first slot has a replacement.
    pub hold: Hold,
    /// How long a hold lasts until the upgrade goes on; None: until a request.
    #[serde(default)]
    pub hold_lasts: Option<Duration>,
    /// The slot of its first worker, if that has sockets of its own: the upgrade is to be held.
    #[serde(default)]
    pub apart: Option<Slot>,
    /// The part of the new connections that it is to get while it is held, if one was named.
    #[serde(default)]
    pub wanted_weight: Option<Weight>,
    /// The part that it gets, and the one that was asked for and is not answered yet.
    #[serde(default)]
    pub weight: Option<Weight>,
    /// See `weight`.
    #[serde(default)]
    pub weighing: Option<Weight>,
    /// Its first worker, while the upgrade is held.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// The pre-upgrade hook has allowed it to begin, or there is none.
    pub allowed: bool,
    /// Where its workers take the program from.
    pub source: LaunchSource,
}

/// A query that is sent to the caller once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Not sent yet.
    Due,
    /// Sent, and not answered yet.
    Sent,
    /// Answered.
    Answered,
}

/// What a requested upgrade is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeKind {
    /// Replace every worker.
    Replace,
    /// Start one worker, and hold.
    Hold,
}

/// Whether an upgrade is held at its first worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// No hold was requested, or it is over.
    No,
    /// The upgrade will be held once its first worker has soaked.
    Requested,
    /// The user has committed: the upgrade goes on once its first worker has soaked and
    /// is known to be alive, even if it was held before.
    Committed,
    /// The upgrade is held.
    Held,
}

impl Upgrade {
    /// An upgrade that has started no worker yet.
    pub fn new(from: Generation, to: Generation, kind: UpgradeKind, allowed: bool, now: Time) -> Self {
        Upgrade {
            from,
            to,
            since: now,
            batch: BTreeSet::new(),
            started: BTreeSet::new(),
            replaced: BTreeSet::new(),
            predecessor_left: false,
            failure: None,
            liveness: Query::Due,
            switch: Query::Due,
            accepting: Query::Due,
            is_rollback: false,
            hold: if kind == UpgradeKind::Hold { Hold::Requested } else { Hold::No },
            hold_lasts: None,
            apart: None,
            wanted_weight: None,
            weight: None,
            weighing: None,
            canary: None,
            allowed,
            source: LaunchSource::Anew,
        }
    }

    /// Whether the upgrade waits for the hook or for the user. Meanwhile workers are
    /// restarted and scaled as if there were no upgrade.
    pub fn is_paused(&self) -> bool {
        !self.allowed || self.hold == Hold::Held
    }

    /// The upgrade goes on, also if it has not come to its hold yet.
    pub fn end_hold(&mut self) {
        self.hold = Hold::Committed;
        self.canary = None;
    }

    /// Makes the upgrade fail. The first failure is the reason; later ones follow from it.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}
