//! What the supervisor reports, and why an upgrade or the supervisor ended.

use super::types::{AckKind, Exit, Generation, Refusal, Request, Slot, Token, Weight, WorkerId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Facts for users, the pid file and the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A worker runs.
    Started(WorkerId),
    /// A worker became ready this long after its start.
    Ready(WorkerId, AckKind, Duration),
    /// Every worker of the first generation is ready.
    Serving(Generation),
    /// A generation is being started to replace another.
    UpgradeStarted {
        /// The one that serves.
        from: Generation,
        /// The one that starts.
        to: Generation,
    },
    /// A request came that cannot be carried out yet; it is kept, once.
    UpgradeKept(Behind),
    /// The first worker of the new generation has soaked; both generations serve
    /// until `Commit` or `Rollback`.
    Held {
        /// The one that served alone.
        from: Generation,
        /// The one of which one worker serves as well.
        to: Generation,
        /// Since the upgrade began.
        took: Duration,
        /// After this time it is committed, if nothing happens; None: by a request only.
        lasts: Option<Duration>,
    },
    /// The worker on hold has served for as long as it had to, and the upgrade goes on.
    HoldPassed {
        /// The generation that was on hold.
        to: Generation,
        /// For how long.
        after: Duration,
        /// How often the user's command has found it good.
        verified: u32,
    },
    /// The generation on hold gets this part of the new connections from now on.
    Weighed(Generation, Weight),
    /// That could not be done; the parts stay as they were.
    NotWeighed(Generation, Weight),
    /// A weight was asked for, and both generations share their sockets.
    CannotWeigh,
    /// An upgrade cannot be held, since two generations cannot run at the same time
    /// (`--stop-first`, `--follow`, `--adopt`).
    CannotHold,
    /// No upgrade is on hold that this request could be about.
    NothingHeld(Request),
    /// The new generation serves.
    UpgradeDone {
        /// The one that served.
        from: Generation,
        /// The one that serves.
        to: Generation,
        /// Since the upgrade began.
        took: Duration,
    },
    /// The upgrade was undone.
    UpgradeFailed {
        /// The one that still serves.
        from: Generation,
        /// The one that was undone.
        to: Generation,
        /// The first thing that went wrong.
        why: Failure,
        /// Slots that had been replaced before, with a bounded surge.
        replaced: u32,
        /// Slots in all.
        slots: u32,
        /// The old worker had handed over to the new one, and is started again.
        predecessor_left: bool,
        /// Old workers had been stopped first, and are started again.
        stopped_first: bool,
        /// It was on hold.
        held: bool,
        /// Since the upgrade began.
        took: Duration,
    },
    /// The workers of a generation on probation keep ending: the generation before it is
    /// started again.
    RollbackStarted {
        /// The one whose workers keep ending.
        from: Generation,
        /// The one that is started again.
        to: Generation,
        /// How often a worker of it has ended since it went live.
        crashes: u32,
        /// How the last one ended.
        why: Failure,
        /// Since it went live.
        after: Duration,
    },
    /// The generation before serves again.
    RolledBack {
        /// The one whose workers kept ending.
        from: Generation,
        /// The one that serves again.
        to: Generation,
        /// Since it was decided to start it.
        took: Duration,
    },
    /// The generation before cannot be started either.
    RollbackFailed {
        /// The one whose workers keep ending; it is started again.
        from: Generation,
        /// The one that was to serve again.
        to: Generation,
        /// The first thing that went wrong.
        why: Failure,
    },
    /// The probation of a generation has ended, and it goes on serving.
    Proven(Generation),
    /// A worker has started its own successor, which serves.
    HandedOver {
        /// The successor.
        worker: WorkerId,
        /// The one that leaves.
        predecessor: WorkerId,
    },
    /// A worker has no connections left, this long after the switch.
    Drained(WorkerId, Duration),
    /// A worker still has connections, this long after the switch, and is asked to stop all
    /// the same.
    NotDrained(WorkerId, Duration),
    /// A worker is asked to stop.
    StopSent(WorkerId),
    /// A worker has not been seen waiting for connections on its listeners yet.
    Unseen {
        /// Which one.
        worker: WorkerId,
        /// Since its start.
        after: Duration,
        /// How long after its start the timer makes it ready; None: there is no timer.
        timer: Option<Duration>,
    },
    /// A worker did not become ready in time.
    NoAck(WorkerId, Duration),
    /// A worker has started no successor since one has failed: the next upgrade stops it first.
    StartsNone(WorkerId),
    /// A worker that serves has not sent a heartbeat for this long.
    Silent(WorkerId, Duration),
    /// A signal has halted a worker, which has not been continued since then.
    Halted(WorkerId, Token),
    /// A worker that was reported as halted has been continued, after this long.
    Continued(WorkerId, Duration),
    /// A worker that this signal has halted is continued by us, since it has to leave.
    Resumed(WorkerId, Token),
    /// A worker is killed, this long after it was asked to stop.
    Killed(WorkerId, Duration),
    /// A worker ended.
    Gone {
        /// Which one.
        worker: WorkerId,
        /// How.
        exit: Exit,
        /// How long it lived.
        age: Duration,
        /// Whether it had been asked to.
        stop_sent: bool,
        /// Whether it had become ready.
        ready: bool,
        /// Whether it left processes behind.
        remains: bool,
    },
    /// A worker could not be started; it is tried again if `again`.
    NotStarted {
        /// Which one.
        worker: WorkerId,
        /// Why.
        refusal: Refusal,
        /// Whether the same start is tried again.
        again: bool,
    },
    /// A slot is filled again after a pause.
    Restarting(Slot, Duration),
    /// A worker ended and the restart policy leaves its slot empty.
    Retired(Slot),
    /// A request to run this many workers was accepted.
    Scaled(u32),
    /// A request to scale is fulfilled: this many workers are ready, and the
    /// surplus was asked to leave. Fewer than were wanted are ready only where the
    /// restart policy leaves slots empty.
    ScaleDone(u32),
    /// A request to scale was refused; this many workers stay.
    CannotScale(u32),
    /// A stop has begun.
    Stopping,
    /// A request changes nothing because a stop has begun.
    Ignored(Request),
}

/// Why an upgrade was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// A replacement ended; `ready` if it had acked before.
    Exited {
        /// Which one.
        worker: WorkerId,
        /// How.
        exit: Exit,
        /// Whether it had acked.
        ready: bool,
    },
    /// A replacement did not ack in time.
    NoAck(WorkerId, Duration),
    /// A replacement could not be started.
    NotStarted(WorkerId, Refusal),
    /// The worker that was to start its own successor ended without one.
    NoSuccessor {
        /// Which one.
        worker: WorkerId,
        /// How.
        exit: Exit,
    },
    /// A replacement, or any worker that serves, did not say for this long that it
    /// is alive.
    Silent(WorkerId, Duration),
    /// This signal has halted a replacement, and nobody has continued it.
    Halted(WorkerId, Token),
    /// A stop came in between.
    Stopped,
    /// Another upgrade was asked for in its stead.
    Superseded,
    /// It was on hold, and the user decided against it.
    RolledBack,
    /// The pre-upgrade hook refused it.
    Refused,
    /// New connections could not be switched to it.
    NotSwitched,
    /// It was on hold, and could not be given its part of the new connections.
    NotWeighed,
    /// It was on hold, and the user's command did not find this worker good.
    NotVerified(WorkerId),
    /// A replacement listens with a socket of its own on an address of ours.
    OwnSocket(WorkerId),
    /// Workers of slots that it had replaced ended this often; this one was the last.
    Crashes(WorkerId, u32),
}

impl Failure {
    /// The worker that failed, if one did.
    pub fn worker(self) -> Option<WorkerId> {
        match self {
            Failure::Exited { worker, .. } | Failure::NoSuccessor { worker, .. } => Some(worker),
            Failure::NoAck(worker, _) | Failure::NotStarted(worker, _) | Failure::Silent(worker, _) => {
                Some(worker)
            }
            Failure::Crashes(worker, _) | Failure::Halted(worker, _) | Failure::OwnSocket(worker) => {
                Some(worker)
            }
            Failure::NotVerified(worker) => Some(worker),
            Failure::Stopped | Failure::Superseded | Failure::RolledBack => None,
            Failure::Refused | Failure::NotSwitched | Failure::NotWeighed => None,
        }
    }
}

/// How the supervisor ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Asked to stop; every worker left in time.
    Stopped,
    /// Asked to stop; a worker had to be killed.
    Killed,
    /// Like this worker.
    Worker(WorkerId, Exit),
    /// The first worker did not ack in time.
    NoAck(WorkerId, Duration),
    /// The first worker could not be started.
    NotStarted(WorkerId, Refusal),
    /// The last worker did not say for this long that it is alive.
    Silent(WorkerId, Duration),
    /// This signal has halted the last worker.
    Halted(WorkerId, Token),
}

/// What a request for an upgrade that is kept waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behind {
    /// The first generation is not ready.
    FirstStart,
    /// Another upgrade is under way.
    Upgrade,
    /// A worker starts, or leaves.
    Worker,
}

impl Failure {
    /// How the supervisor ends if this failure ends it.
    pub(super) fn ending(self) -> Ending {
        match self {
            Failure::Exited { worker, exit, .. } | Failure::NoSuccessor { worker, exit } => {
                Ending::Worker(worker, exit)
            }
            Failure::NoAck(worker, after) => Ending::NoAck(worker, after),
            Failure::NotStarted(worker, refusal) => Ending::NotStarted(worker, refusal),
            Failure::Silent(worker, after) => Ending::Silent(worker, after),
            Failure::Halted(worker, by) => Ending::Halted(worker, by),
            // Each of the crashes has been counted as a loss of its own.
            Failure::Crashes(worker, _) => Ending::Worker(worker, Exit::Unseen),
            Failure::Stopped | Failure::Superseded | Failure::RolledBack => Ending::Stopped,
            Failure::Refused | Failure::NotSwitched | Failure::OwnSocket(_) => Ending::Stopped,
            Failure::NotWeighed | Failure::NotVerified(_) => Ending::Stopped,
        }
    }
}
