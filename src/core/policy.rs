//! The user's decisions: readiness, upgrade, stop and restart.

use super::event::{AckKind, Exit, Failure, Refusal};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// No signal is sent to a worker sooner than this after its ack: it would end servers that
/// have not yet installed their handlers (seen with grace and endless).
pub const SIGNAL_GRACE: Duration = Duration::from_millis(500);

/// A server that refuses to restart while its predecessor lives may need this long to
/// notice that the predecessor has exited (gunicorn checks once a second).
pub const REPARENT_GRACE: Duration = Duration::from_millis(1500);

/// A worker that is ready by the timer of `auto` alone must live this much longer before
/// it replaces one that serves: a server that cannot bind its address may try again for
/// 2.5 s before it gives up (nginx and unicorn, five times half a second), and the timer
/// has only waited for 2 s.
pub const TIMER_SOAK: Duration = Duration::from_millis(1500);

/// When this many workers of a generation on probation have ended by themselves, the
/// generation before is started again.
pub const PROBATION_CRASHES: u32 = 3;

/// A worker that has to be seen waiting on its listeners, or will be ready by the timer of
/// `auto`, is reported when it has not been seen waiting for this long.
pub const UNSEEN_AFTER: Duration = Duration::from_secs(2);

/// A worker that is ready and has not been seen waiting on its listeners is probed until
/// this age, at pauses of an eighth of its age: the first time that it waits shows how long
/// its program takes to start.
pub const LAST_WAIT_PROBE: Duration = Duration::from_secs(600);

/// A start whose program is being written to is tried again for this long.
const BUSY_WINDOW: Duration = Duration::from_secs(2);
/// In an upgrade, a start whose program is missing is tried again for this long, since
/// deploys move files.
const MISSING_WINDOW: Duration = Duration::from_millis(500);
/// The first start is tried again for this long while the system is short of processes
/// or memory.
const EXHAUSTED_WINDOW: Duration = Duration::from_secs(5);
/// The pause between such attempts.
pub const SPAWN_PAUSE: Duration = Duration::from_millis(50);

/// The pause before the first search for a successor's process, and the longest between
/// two. They are short, since reading /proc is cheap.
pub const SUCCESSOR_PROBE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// When its predecessor has exited, a successor that is not ready has this long left: no
/// process accepts meanwhile, and the one that holds the listeners may be a helper that
/// never will.
pub const TAKEOVER: Duration = Duration::from_secs(1);

/// With `--follow`, a request to upgrade ends an upgrade of which the successor has not become ready
/// for this long: it may hang, and the request may be what repairs it.
pub const HUNG: Duration = Duration::from_secs(3);

/// A worker can put its ack deadline off to at most this many ack timeouts.
pub const EXTEND_LIMIT: u32 = 10;

/// With `--adopt`, a program that listens must live this much longer to be ready: its next
/// step may fail (seen: one that listened and died 1 ms later).
pub const LISTEN_GRACE: Duration = Duration::from_millis(250);

/// A worker that a signal has halted for this long counts as halted. Some tools halt a process for
/// a moment and continue it (cpulimit, snapshots).
pub const HALT_GRACE: Duration = Duration::from_secs(1);

/// How long a worker that was never ready may take to stop, if `--stop-timeout` is not shorter.
pub const UNREADY_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever signals us and every worker may signal a worker this long before us. When the worker ends
/// by then, the one that is started in its place has not had the signal.
pub const SIGNALLED_BEFORE: Duration = Duration::from_secs(5);

/// The pause before the first check whether an old worker has drained.
pub const FIRST_DRAIN_CHECK: Duration = Duration::from_millis(3);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The decisions of the user. The default is not a valid policy: it has no workers.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Workers at the beginning, at least 1.
    pub workers: u32,
    /// Fewer than this cannot be asked for.
    pub least_workers: u32,
    /// What makes a worker ready.
    pub readiness: Readiness,
    /// None: wait for ever.
    pub ack_timeout: Option<Duration>,
    /// Whether a replacement may take longer than that if its predecessor did.
    pub ack_timeout_grows: bool,
    /// None: abort where an ack is expected, else proceed.
    pub on_ack_timeout: Option<OnAckTimeout>,
    /// How long a new generation must live after its ack before it counts; see
    /// [`Policy::soak`].
    pub soak: Duration,
    /// Slots replaced at a time; None: all.
    pub surge: Option<u32>,
    /// The old worker leaves before the new one starts.
    pub stop_first: bool,
    /// The old worker starts the new one itself; there is one slot.
    pub follow: bool,
    /// From the stop signal to the kill; None: never.
    pub stop_timeout: Option<Duration>,
    /// The same for a worker that sent TERM to its parent as its ack: servers
    /// that do are known to take their time.
    pub parent_term_stop_timeout: Option<Duration>,
    /// Generations that may drain at a time, at least 1; beyond that the oldest is
    /// killed.
    pub max_draining: u32,
    /// Whether a worker that ends by itself comes back.
    pub restart: Restart,
    /// A worker that lived this long has not crashed in a row.
    pub stable: Duration,
    /// Whether a first generation that fails is tried again.
    pub retry_start: bool,
    /// Whether the very first worker is started once more if it exits before it is ready: it is started
    /// with fewer arguments then.
    pub second_start: bool,
    /// With `--adopt`, where the program binds its own sockets: what is to be done then.
    pub adopt: Option<Adopt>,
    /// Whether there is a pre-upgrade hook, which may refuse an upgrade.
    pub pre_upgrade: bool,
    /// Whether there is a pre-stop hook, before a worker that was ready is asked to stop.
    pub pre_stop: bool,
    /// How long a worker that serves may be silent; None: for ever.
    pub worker_watchdog: Option<Duration>,
    /// How long a new generation is on probation once it serves; None: it is not.
    pub probation: Option<Duration>,
    /// Workers get listeners from us, and it can be seen whether they wait on them.
    pub listeners: bool,
}

/// For a program that binds its own sockets, generation by generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopt {
    /// New connections are steered to one generation, and the old one serves what it
    /// has before it is asked to stop. Otherwise both share every socket.
    pub steer: bool,
    /// How long a replacement that is ready because it listens must live beyond
    /// [`LISTEN_GRACE`] before it counts.
    pub soak: Duration,
    /// From the switch to the stop signal of an old worker that still has connections;
    /// None: no limit.
    pub drain_timeout: Option<Duration>,
}

/// More workers than this cannot be asked for.
pub const MOST_WORKERS: u32 = 1000;

/// What happens when the ack timeout passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAckTimeout {
    /// The worker failed.
    Abort,
    /// The worker counts as ready.
    Proceed,
}

/// Which exits are followed by a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Every one.
    #[default]
    Always,
    /// All but status 0.
    OnFailure,
    /// None.
    Never,
}

/// What makes a worker ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// The strongest ack that the program is known to give makes it ready.
    pub auto: bool,
    /// The kinds that the user named; empty with `auto` alone.
    pub kinds: Vec<AckKind>,
    /// Alive for this long is ready; with `auto` only while nothing better is
    /// known.
    pub timer: Option<Duration>,
    /// The pause before the first probe and the longest between two; None: there
    /// is nothing to probe.
    pub probe: Option<(Duration, Duration)>,
}

/// How much an ack proves about the program, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Strength {
    /// Only that it is alive.
    Nothing,
    /// It was seen waiting for connections.
    Seen,
    /// It said so itself.
    Said,
}

impl AckKind {
    /// What this ack proves about the program.
    pub fn strength(self) -> Strength {
        match self {
            AckKind::Notify
            | AckKind::Fd
            | AckKind::Einhorn
            | AckKind::ParentTerm
            | AckKind::Goagain
            | AckKind::Crank
            | AckKind::Tableflip
            | AckKind::Ecdysis
            | AckKind::Shellflip => Strength::Said,
            AckKind::Accepting | AckKind::Listen => Strength::Seen,
            AckKind::Exec | AckKind::Timer | AckKind::Takeover | AckKind::Timeout => Strength::Nothing,
        }
    }
}

impl Readiness {
    /// Whether this ack makes a worker ready, if its program is known to do `known`.
    pub fn counts(&self, kind: AckKind, known: Strength) -> bool {
        self.kinds.contains(&kind)
            || self.auto
                && match kind.strength() {
                    Strength::Said => true,
                    Strength::Seen => known < Strength::Said,
                    Strength::Nothing => false,
                }
    }

    /// Whether a worker can make itself ready by its own word.
    pub fn believes_workers(&self) -> bool {
        self.auto || self.kinds.iter().any(|kind| kind.strength() == Strength::Said)
    }

    /// Whether this ack makes a worker ready that is not seen waiting, though the worker that it
    /// replaces was: the user has named a check of his own, or a time.
    pub fn counts_alone(&self, kind: AckKind) -> bool {
        self.kinds.contains(&kind) && kind.strength() != Strength::Said
    }

    /// How long a worker of such a program must live to be ready by that alone.
    pub fn timer(&self, known: Strength) -> Option<Duration> {
        match self.kinds.contains(&AckKind::Timer) || known == Strength::Nothing {
            true => self.timer,
            false => None,
        }
    }

    /// The pauses between probes. Where acks are signals a probe is needed too: two pending
    /// signals can be delivered as one.
    pub fn probe(&self) -> Option<(Duration, Duration)> {
        let useful = self.kinds.contains(&AckKind::Exec)
            || self.kinds.contains(&AckKind::Accepting)
            || self.kinds.contains(&AckKind::Timer)
            || self.kinds.contains(&AckKind::ParentTerm)
            || self.kinds.contains(&AckKind::Listen)
            || self.believes_workers();
        self.probe.filter(|_| useful)
    }
}

/// For how long a start that failed for this reason is tried again: in an upgrade, or the first one.
pub fn retry_window(refusal: Refusal, upgrading: bool, first: bool) -> Duration {
    match refusal {
        Refusal::Busy => BUSY_WINDOW,
        Refusal::NotFound if upgrading => MISSING_WINDOW,
        Refusal::Exhausted if first => EXHAUSTED_WINDOW,
        _ => Duration::ZERO,
    }
}

impl Policy {
    /// What happens when the ack timeout passes, for a program that is known to do `known`.
    pub fn after_ack_timeout(&self, known: Strength) -> OnAckTimeout {
        let expected = !self.readiness.kinds.is_empty() || known > Strength::Nothing;
        self.on_ack_timeout.unwrap_or(match expected {
            true => OnAckTimeout::Abort,
            false => OnAckTimeout::Proceed,
        })
    }

    /// Whether it matters that a worker is seen waiting for connections if the worker that it
    /// replaces was. With `auto` its word alone is never enough; where the user names the ack, it is
    /// not if the worker listens elsewhere.
    pub fn must_see_accepting(&self) -> bool {
        self.listeners && self.readiness.believes_workers()
    }

    /// The pause before the next probe of a ready worker of this age that was not yet seen
    /// waiting for connections; None: it is not probed.
    pub fn wait_probe_pause(&self, age: Duration) -> Option<Duration> {
        let pause = (age / 8).max(FIRST_PAUSE);
        (self.listeners && self.readiness.probe().is_some() && age < LAST_WAIT_PROBE).then_some(pause)
    }

    /// Whether new connections are steered to one generation.
    pub fn steers(&self) -> bool {
        self.adopt.is_some_and(|adopt| adopt.steer)
    }

    /// How long a replacement that this ack made ready must live before it counts.
    pub fn soak(&self, ack: Option<AckKind>) -> Duration {
        // A user who names the timer has chosen it, and how long it is.
        let timer_of_auto = ack == Some(AckKind::Timer) && !self.readiness.kinds.contains(&AckKind::Timer);
        match (ack, self.adopt) {
            (Some(AckKind::Listen), Some(adopt)) => adopt.soak,
            _ if timer_of_auto => self.soak.max(TIMER_SOAK),
            _ => self.soak,
        }
    }

    /// Whether a worker that is lost in this way comes back.
    pub fn brings_back(&self, failure: Failure) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => !matches!(failure, Failure::Exited { exit: Exit::Code(0), .. }),
            Restart::Never => false,
        }
    }

    /// The pause before the restart that follows `crashes` others in a row.
    pub fn pause(&self, crashes: u32) -> Duration {
        FIRST_PAUSE.saturating_mul(1u32 << crashes.min(16)).min(LONGEST_PAUSE)
    }
}
