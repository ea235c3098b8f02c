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

/// The number of a worker among those that serve at the same time, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

/// A request of a signal or of a control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Replace the serving generation.
    Upgrade,
    /// The same; an upgrade that is under way, or on hold, is undone first.
    UpgradeNow,
    /// Start one worker of a new generation beside the serving one, and keep both
    /// until `Commit` or `Rollback`. The new one gets this part of the new connections; None: as
    /// much as any other worker.
    Hold(Option<Weight>),
    /// Give the generation that is on hold this part of the new connections.
    Weigh(Weight),
    /// Go on with the upgrade that is on hold, or will be.
    Commit,
    /// Undo the upgrade that is on hold, or will be.
    Rollback,
    /// Stop every worker, then end.
    Stop,
    /// The same, where whoever requests it has signalled the workers as well.
    StopSignalled,
    /// Stop; the second such request kills. With `workers_signalled` the workers have
    /// had the signal already.
    Interrupt {
        /// They share the terminal's foreground group with us, or whoever sent it signals them too.
        workers_signalled: bool,
    },
    /// Kill every worker, then end.
    Kill,
    /// Kill every worker that is to stop, and what exited workers left behind.
    Hammer,
    /// Pass this signal on to ready workers.
    Forward(Token),
    /// Run one worker more.
    More,
    /// Run one worker fewer.
    Fewer,
    /// Run this many workers.
    Scale(u32),
    /// Stop the workers and ourselves as a terminal's job control does.
    Suspend,
    /// Continue the workers.
    Resume,
}

/// A part of the new connections, in ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight(u16);

impl Weight {
    /// All of them.
    pub const WHOLE: u16 = 10_000;

    /// So many ten-thousandths; None if that is more than the whole.
    pub fn new(parts: u16) -> Option<Weight> {
        (parts <= Weight::WHOLE).then_some(Weight(parts))
    }

    /// The part of one worker among so many.
    pub fn of_one(workers: u32) -> Weight {
        Weight((u32::from(Weight::WHOLE) / workers.max(1)) as u16)
    }

    /// How many ten-thousandths.
    pub fn parts(self) -> u16 {
        self.0
    }
}

/// A signal number that the core passes on without interpreting it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub i32);

/// Why a program could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such program, or its interpreter is missing.
    NotFound,
    /// It is there but cannot be executed.
    NotExecutable,
    /// A process still writes to it.
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
    /// It was no child of ours, and its status is known only to its parent.
    Unseen,
}

/// The kinds of ack: what makes a worker ready.
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
    /// With `--adopt`: it listens on every address.
    Listen,
    /// Its predecessor has ended, and it has the listeners open.
    Takeover,
    /// The ack timeout passed, and `--on-ack-timeout proceed` lets it count as ready.
    Timeout,
}

/// Where a start takes its program, directory and environment from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchSource {
    /// From the files as they are now.
    Anew,
    /// As for the first worker of this generation. They are kept until
    /// [`Action::Forget`](super::event::Action::Forget); a part that cannot be had again is
    /// read from the files as they are now.
    AsBefore,
    /// The same; the start fails if a part cannot be had again.
    Exactly,
}
