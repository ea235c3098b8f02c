//! What the supervisor is told and what it answers, in its own words.
//!
//! No pid, descriptor, signal number, path or message text appears here: a
//! caller that knows them keeps its own tables by [`WorkerId`].

pub use super::report::{Ending, Failure, Report};
pub use super::types::{AckKind, Exit, Generation, Reading, Refusal, Request, Slot, Time, Token, WorkerId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Somebody wants something.
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
        /// Whether processes of its group, or adopted ones, are left.
        remains: bool,
    },
    /// The last process that an exited worker left behind has gone.
    Swept(WorkerId),
    /// The worker has given its listeners to a successor and leaves by itself: to
    /// the one that an upgrade waits for, or else to one that is now known by
    /// [`Action::TakeSuccessor`].
    HandedOver(WorkerId),
    /// The pre-upgrade hook of this generation has ended; `false`: it said no.
    PreUpgraded(Generation, bool),
    /// The pre-stop hook of the worker has ended, in whatever way.
    PreStopped(WorkerId),
    /// New connections go to this generation from now on; `false`: that could not be
    /// done, and all is as it was.
    Switched(Generation, bool),
    /// What [`Action::LookDrained`] asked for.
    DrainLook {
        /// Which one.
        worker: WorkerId,
        /// Whether it has nothing left to serve.
        drained: bool,
        /// When to look again, if it has.
        pause: Duration,
    },
    /// The worker says that it is alive.
    Heartbeat(WorkerId),
    /// Every exit that had happened when [`Action::LookAlive`] was asked for has
    /// been told.
    LookedAlive,
    /// The worker of this slot, which serves, was seen to wait for connections on some of its
    /// listeners: its replacement has to wait on the same.
    Waits(Slot),
    /// What [`Action::LookWaiting`] asked for has been told.
    LookedWaiting,
    /// Nothing happened, but [`deadline`](super::Supervisor::deadline) has come.
    Tick,
}

/// What the caller is to do. They are done in order; what fails at once comes
/// back as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start the command; answer `Spawned` or `SpawnFailed`.
    Spawn {
        /// Its name from now on.
        worker: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its place.
        slot: Slot,
        /// Where the program, directory and environment come from.
        reading: Reading,
    },
    /// Have the worker `of` start its own successor, and look for that with each
    /// `Probe`; answer `Spawned` once it is known, then `Ack`.
    RequestHandover {
        /// The successor's name from now on.
        worker: WorkerId,
        /// Who is to start it.
        of: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its place.
        slot: Slot,
    },
    /// The successor that `of` was said to have is this worker from now on.
    TakeSuccessor {
        /// The successor's name from now on.
        worker: WorkerId,
        /// Who started it.
        of: WorkerId,
        /// The generation that it belongs to.
        generation: Generation,
        /// Its place.
        slot: Slot,
    },
    /// Look whether the worker is ready by itself.
    Probe(WorkerId),
    /// Reap whoever has exited, tell it, then answer `LookedAlive`.
    LookAlive,
    /// Look which workers that serve wait for connections on their listeners; answer `Waits`
    /// for each, then `LookedWaiting`.
    LookWaiting,
    /// Have new connections go to this generation; answer `Switched`. What comes
    /// meanwhile goes to one or to the other.
    Switch(Generation),
    /// Look whether the worker, to which no new connection goes, still has one; answer
    /// `DrainLook`.
    LookDrained(WorkerId),
    /// Ask the user whether the upgrade to this generation may begin; answer
    /// `PreUpgraded`, in bounded time.
    PreUpgrade(Generation),
    /// Tell the user that the worker is to be asked to stop; answer `PreStopped`,
    /// in bounded time.
    PreStop(WorkerId),
    /// Send the one stop signal of its life.
    Stop(WorkerId),
    /// Kill it and its group.
    Kill(WorkerId),
    /// Ask those processes that an exited worker left behind to stop that wait for
    /// connections on a listener of ours, now and as often as they are looked at; the
    /// others finish what they have.
    DrainRemains(WorkerId),
    /// Ask all that an exited worker left behind to stop.
    StopRemains(WorkerId),
    /// Kill what an exited worker left behind.
    KillRemains(WorkerId),
    /// Pass a token on.
    Forward(WorkerId, Token),
    /// Stop the worker's processes as job control does.
    Suspend(WorkerId),
    /// Continue them.
    Resume(WorkerId),
    /// Stop ourselves until continued.
    SuspendSelf,
    /// What this generation was started from is not needed any more: no worker of it
    /// will be started again.
    Forget(Generation),
    /// Tell people.
    Report(Report),
    /// End.
    Exit(Ending),
}
