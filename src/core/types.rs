//! The terms that events, actions and reports have in common.

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
