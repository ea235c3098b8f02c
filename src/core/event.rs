//! What the supervisor is told and what it answers, in its own words.
//!
//! No pid, descriptor, signal number, path or message text appears here: a
//! caller that knows them keeps its own tables by [`WorkerId`].

pub use super::report::{Ending, Failure, Report};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Time since the supervisor began, by a clock that only its caller reads.
pub type Time = Duration;

/// One start of the command; never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

/// The workers started for one request, counted from 1; a number that failed is
/// not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

/// The place of a worker among its siblings, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

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

/// What a signal, or later a control connection, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Replace the serving generation.
    Upgrade,
    /// The same; one that is under way, or on hold, is undone for it.
    UpgradeNow,
    /// Start one worker of a new generation beside the serving one, and keep both
    /// until `Commit` or `Rollback`.
    Hold,
    /// Replace the rest of the generation that a new one is held beside.
    Commit,
    /// Undo the upgrade that is on hold.
    Rollback,
    /// Stop every worker, then end.
    Stop,
    /// Stop; asked a second time, kill. `told` if the terminal has already
    /// delivered it to the workers themselves.
    Interrupt {
        /// The workers share the terminal's foreground group with us.
        told: bool,
    },
    /// Kill every worker, then end.
    Kill,
    /// Kill whatever is draining.
    Hammer,
    /// Pass this on to ready workers.
    Forward(Token),
    /// One worker more.
    More,
    /// One worker fewer.
    Fewer,
    /// So many workers.
    Scale(u32),
    /// Stop the workers and ourselves as a terminal's job control does.
    Suspend,
    /// Continue the workers.
    Resume,
}

/// Something that is passed through the core unread (a signal number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub i32);

/// Why a program could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such program, or its interpreter is missing.
    NotFound,
    /// It is there but cannot be executed.
    NotExecutable,
    /// Somebody still writes to it.
    Busy,
    /// The system is short of processes or memory for now.
    Exhausted,
    /// Anything else: the directory, an environment file, the user.
    Other,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was no child of ours: only its parent could know.
    Unseen,
}

/// The ways to become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AckKind {
    /// `READY=1` on the notify socket.
    Notify,
    /// A newline on the readiness descriptor.
    Fd,
    /// `worker:ack` on einhorn's control socket.
    Einhorn,
    /// It sent TERM to its parent, which is us.
    ParentTerm,
    /// goagain's own signal.
    Goagain,
    /// `READY=1` on crank's descriptor.
    Crank,
    /// tableflip's byte.
    Tableflip,
    /// ecdysis' word.
    Ecdysis,
    /// shellflip's byte.
    Shellflip,
    /// Seen waiting for connections on every listener.
    Accepting,
    /// The user's own check succeeded.
    Exec,
    /// It has stayed alive for long enough.
    Timer,
    /// It listens on every address that it has to, by itself.
    Listen,
    /// Its predecessor has left, and it holds the listeners.
    Takeover,
    /// The ack timeout passed, and the user said to go on all the same.
    Timeout,
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

/// Where a start takes its program, directory and environment from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// Looked up and read anew.
    Anew,
    /// As the first worker of this generation had them. They are kept until
    /// [`Action::Forget`]; what cannot be had again is taken as it is now.
    AsBefore,
    /// The same, or not at all.
    Exactly,
}
