//! The events that the supervisor gets and the actions that it returns.
//!
//! No pid, descriptor, signal number, path or message text appears here: a
//! caller that knows them keeps its own tables by [`WorkerId`].

pub use super::report::{Behind, Ending, Failure, Report};
pub use super::types::{
    AckKind, Exit, Generation, LaunchSource, Refusal, Request, Slot, Time, Token, Weight, WorkerId,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A fact, from the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A request of the user.
    Request(Request),
    /// The worker's program runs.
    Spawned(WorkerId),
    /// The worker's program could not be started.
    SpawnFailed(WorkerId, Refusal),
    /// The worker said, or was seen, to be ready.
    Ack(WorkerId, AckKind),
    /// The worker asks for that much time, from now, to become ready.
    Extend(WorkerId, Duration),
    /// The worker was reaped; `remains` if processes that it started live on.
    Exited {
        /// Which one.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
        /// Whether processes of its group, or ones that were reparented to us, are left.
        remains: bool,
    },
    /// The last process that an exited worker left behind has gone.
    RemainsGone(WorkerId),
    /// The worker has given its listeners to a successor and leaves by itself: to
    /// the one that an upgrade waits for, or else to one that is now known by
    /// [`Action::TakeSuccessor`].
    HandedOver(WorkerId),
    /// The worker is the master of the successor that an upgrade waits for: it restarts its own
    /// server, and stays.
    StaysMaster(WorkerId),
    /// The pre-upgrade hook of this generation has ended; `false`: it refused.
    PreUpgraded(Generation, bool),
    /// The pre-stop hook of the worker has ended, in whatever way.
    PreStopped(WorkerId),
    /// New connections go to the replacements of this generation from now on; `false`: that could
    /// not be done, and they go where they went before.
    Switched(Generation, bool),
    /// The generation that is on hold gets this part of the new connections from now on; `false`:
    /// that could not be done, and they go where they went before.
    Weighed(Generation, Weight, bool),
    /// The answer to [`Action::Verify`]: whether the command of the user finds the worker good.
    Verified(WorkerId, bool),
    /// The answer to [`Action::CheckDrained`].
    DrainChecked {
        /// Which one.
        worker: WorkerId,
        /// Whether it has nothing left to serve.
        drained: bool,
        /// The pause before the next check, if it has.
        pause: Duration,
    },
    /// The worker has sent a heartbeat.
    Heartbeat(WorkerId),
    /// This signal has halted the worker: it does nothing until it is continued. The signal is 0
    /// where it is not known.
    Halted(WorkerId, Token),
    /// The worker has been continued.
    Continued(WorkerId),
    /// The answer to [`Action::CheckAlive`]: every exit that had happened by then has been
    /// passed as an event.
    CheckedAlive,
    /// The worker of this slot, which serves, was seen waiting for connections on some of its
    /// listeners: so must its replacement be.
    Waits(Slot),
    /// The answer to [`Action::CheckWaiting`] is complete.
    CheckedWaiting,
    /// The worker listens with a socket of its own on an address of ours, and does not wait on
    /// ours: connections that come to ours are never accepted.
    OwnSocket(WorkerId),
    /// The worker listens by itself at an address that is none of ours: its word alone is not
    /// enough any more.
    ListensElsewhere(WorkerId),
    /// With `--adopt`: the worker has bound nothing for so long that it counts as one without sockets.
    HasNoSockets(WorkerId),
    /// Nothing happened, but [`deadline`](super::Supervisor::deadline) has come.
    Tick,
}

/// What the caller is to do, in order. A failure comes back as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start the command; answer `Spawned` or `SpawnFailed`.
    Spawn {
        /// The number of the new worker.
        worker: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its slot.
        slot: Slot,
        /// Where the program, directory and environment come from.
        source: LaunchSource,
    },
    /// Have the worker `predecessor` start its own successor, and search for the successor's process
    /// with each `Probe`; answer `Spawned` once it is known, then `Ack`.
    RequestHandover {
        /// The number of the successor.
        worker: WorkerId,
        /// The worker that is to start it.
        predecessor: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its slot.
        slot: Slot,
    },
    /// The successor that `predecessor` has started is this worker from now on.
    TakeSuccessor {
        /// The number of the successor.
        worker: WorkerId,
        /// The worker that started it.
        predecessor: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its slot.
        slot: Slot,
    },
    /// The process of `predecessor` stays as the master of `worker`, and is the process of that worker
    /// from now on.
    KeepMaster {
        /// The successor.
        worker: WorkerId,
        /// The worker that started it, which is forgotten.
        predecessor: WorkerId,
    },
    /// Check whether the worker can be seen to be ready; answer `Ack` if it can.
    Probe(WorkerId),
    /// Reap every worker that has exited, pass each exit as an event, and `OwnSocket` for each
    /// replacement of which that is true; then answer `CheckedAlive`.
    CheckAlive,
    /// Check which serving workers wait for connections on their listeners; answer `Waits`
    /// for each, then `CheckedWaiting`.
    CheckWaiting,
    /// Switch new connections to the [`receivers`](super::Supervisor::receivers), among which are
    /// replacements of this generation or, if an earlier switch is undone, none; answer `Switched`.
    /// Meanwhile they may go to either.
    Switch(Generation),
    /// Give the generation that is on hold this part of the new connections; answer `Weighed`.
    Weigh(Generation, Weight),
    /// Run the user's command that says whether this worker, which is on hold, is good; answer
    /// `Verified`, in bounded time. It is of no use any more once the hold is over.
    Verify(WorkerId),
    /// Check whether the worker, which gets no new connections, still has some; answer
    /// `DrainChecked`.
    CheckDrained(WorkerId),
    /// Run the pre-upgrade hook: it says whether the upgrade to this generation may begin; answer
    /// `PreUpgraded`, in bounded time.
    PreUpgrade(Generation),
    /// Run the pre-stop hook of the worker, which is to drain or to stop; answer `PreStopped`,
    /// in bounded time.
    PreStop(WorkerId),
    /// Send the one stop signal of its life.
    Stop(WorkerId),
    /// The same for a worker that was never ready: send TERM, for it may not handle its own stop
    /// signal yet.
    StopUnready(WorkerId),
    /// Kill it and its group.
    Kill(WorkerId),
    /// Of the processes that an exited worker left behind, ask those to stop that wait for
    /// connections on a listener of ours, now and at each later check. The others finish
    /// their requests.
    DrainRemains(WorkerId),
    /// Ask all processes that an exited worker left behind to stop.
    StopRemains(WorkerId),
    /// Kill the processes that an exited worker left behind.
    KillRemains(WorkerId),
    /// Pass a token on.
    Forward(WorkerId, Token),
    /// Stop the worker's processes as job control does.
    Suspend(WorkerId),
    /// Continue them.
    Resume(WorkerId),
    /// Stop ourselves until continued.
    SuspendSelf,
    /// Drop the program, directory and environment of this generation: no worker of it
    /// will be started again.
    Forget(Generation),
    /// Report this to users.
    Report(Report),
    /// End.
    Exit(Ending),
}
