//! How it is seen that an old worker has nothing left: no handshake that its listeners have begun,
//! nothing in their queues, no connection at which it or its peer has still something to say.
//!
//! A connection goes from the one to the next while we look, so that is the order in which they
//! are looked at. What goes sideways, say from a process to another through a unix socket, or past
//! a look of the kernel's at a table that changes, is caught by a second look: only two in a row
//! that find nothing count. What cannot be seen is never taken to be nothing.

use crate::core::event::Time;
use crate::sys::fd;
use crate::sys::flows::{self, Flow, Moved, Open};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A client that has not ended its handshake by then will not; until then a SYN-ACK that was lost is
/// sent again, after one second and after three.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// The pauses between looks: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(3);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Looks may take a sixtieth of a core, whatever one costs.
const SPARE: u32 = 60;
/// But not before they have cost this much together: most drains are over by then.
const FREE: Duration = Duration::from_millis(10);

/// Longer than any acknowledgement is put off (TCP_DELACK_MAX, 200 ms, and a tick).
const ACKNOWLEDGED: Duration = Duration::from_millis(250);
/// Where it cannot be told who spoke last, the silence must be this many times as long.
const DOUBT: u32 = 10;

/// An old worker that is being emptied.
#[derive(Debug)]
pub struct Drain {
    ports: BTreeSet<u16>,
    begun: Time,
    /// Those under way at the beginning, which are the old listeners'; None if unknown.
    handshakes: Option<BTreeSet<Flow>>,
    /// How many looks in a row have found nothing.
    quiet: u32,
    back_off: Duration,
    /// CPU time of all looks.
    spent: Duration,
    /// CPU time of those looks since the last pause that was as long as they called for.
    owed: Duration,
}

/// What one look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Handshakes under way.
    pub arriving: u32,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// Connections with something still to come.
    pub busy: u32,
    /// Connections that wait for a request, and do not count.
    pub idle: u32,
    /// What of all that could be seen.
    pub sight: Sight,
}

/// What could be seen of connections, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Whose they are.
    Clear,
    /// Not whose they are, for `/proc` does not show what the worker holds: all on its ports are
    /// counted, those of its successor among them.
    Ports,
    /// Nothing, for the kernel does not tell of sockets: there may be any number.
    Nothing,
}

impl Left {
    /// Whether nothing is arriving, waiting or busy.
    pub fn is_empty(&self) -> bool {
        let Left { arriving, waiting, busy, idle: _, sight } = *self;
        arriving == 0 && waiting == 0 && busy == 0 && sight != Sight::Nothing
    }
}

impl Drain {
    /// Begins, just after new connections at `ports` have been steered elsewhere: the handshakes
    /// now under way belong to the old listeners.
    pub fn begin(ports: BTreeSet<u16>, now: Time) -> Drain {
        let handshakes = flows::arriving(&ports)
            .inspect_err(|errno| log::debug!("cannot ask for handshakes under way: {errno}"))
            .ok();
        Drain {
            ports,
            begun: now,
            handshakes,
            quiet: 0,
            back_off: FIRST_PAUSE,
            spent: Duration::ZERO,
            owed: Duration::ZERO,
        }
    }

    /// Looks once at what is left. `root` is the worker's process, `others` are the workers that
    /// are not it, `listeners` are duplicates of its listening sockets. A connection on which
    /// nothing has moved for `idle` is let go if it is not the worker's turn to speak.
    pub fn look<'a>(
        &mut self,
        root: Pid,
        others: &BTreeSet<Pid>,
        listeners: impl Iterator<Item = BorrowedFd<'a>>,
        idle: Duration,
        now: Time,
    ) -> Left {
        let before = cpu_time();
        let mut left = Left { arriving: 0, waiting: 0, busy: 0, idle: 0, sight: Sight::Clear };
        self.count_handshakes(&mut left, now);
        left.waiting = listeners.map(waiting).sum();
        self.count_connections(&mut left, root, others, idle);
        let cost = cpu_time().saturating_sub(before);
        self.spent += cost;
        self.owed = if self.quiet == 1 { self.owed + cost } else { cost };
        (self.quiet, self.back_off) = match left.is_empty() {
            true => (self.quiet + 1, FIRST_PAUSE),
            false => (0, (self.back_off * 2).min(LONGEST_PAUSE)),
        };
        left
    }

    /// Whether the last two looks have found nothing.
    pub fn is_drained(&self) -> bool {
        self.quiet >= 2
    }

    /// How long to wait before the next look. It grows while something is left, and with what
    /// looks cost, so that they take a small part of a core, however many connections there
    /// are. Only the look that is to confirm another may come at once, on credit.
    pub fn pause(&self) -> Duration {
        if self.quiet == 1 {
            FIRST_PAUSE
        } else if self.spent <= FREE {
            self.back_off
        } else {
            self.back_off.max(self.owed * SPARE)
        }
    }

    fn count_handshakes(&mut self, left: &mut Left, now: Time) {
        if now.saturating_sub(self.begun) >= HANDSHAKE {
            self.handshakes = Some(BTreeSet::new());
        }
        match &mut self.handshakes {
            Some(under_way) if under_way.is_empty() => {}
            Some(under_way) => match flows::arriving(&self.ports) {
                Ok(arriving) => {
                    // One that begins anew between the same ends is somebody else's.
                    under_way.retain(|flow| arriving.contains(flow));
                    left.arriving = under_way.len() as u32;
                }
                Err(errno) => left.see_nothing(errno),
            },
            None => left.sight = Sight::Nothing,
        }
    }

    fn count_connections(&self, left: &mut Left, root: Pid, others: &BTreeSet<Pid>, idle: Duration) {
        let held = flows::held(root, others)
            .inspect_err(|error| log::debug!("cannot see what process {root} and its children hold: {error}"))
            .ok();
        // The kernel goes through the whole of its table, which is spared a worker that has gone.
        if held.as_ref().is_some_and(HashSet::is_empty) {
            return;
        }
        if held.is_none() {
            left.sight = left.sight.max(Sight::Ports);
        }
        let open = match flows::open(&self.ports) {
            Ok(open) => open,
            Err(errno) => return left.see_nothing(errno),
        };
        for open in open {
            match &held {
                Some(held) if !held.contains(&open.inode) => {}
                _ if open.inode == 0 => {}
                _ if is_idle(&open, idle) => left.idle += 1,
                _ => left.busy += 1,
            }
        }
    }
}

impl Left {
    fn see_nothing(&mut self, errno: nix::Error) {
        log::debug!("cannot ask for connections: {errno}");
        self.sight = Sight::Nothing;
    }
}

/// What waits at a listener; one that somebody has shut down has lost its queue.
fn waiting(listener: BorrowedFd<'_>) -> u32 {
    fd::tcp_queue(listener).ok().flatten().map_or(0, |queue| queue.length)
}

/// Whether the worker has nothing to say on a connection, and its peer has not said anything for
/// `idle`.
fn is_idle(open: &Open, idle: Duration) -> bool {
    let Some(moved) = open.moved else { return false };
    let silence = moved.since_sent.min(moved.since_received);
    open.rqueue == 0 && open.wqueue == 0 && patience(&moved, idle).is_some_and(|patience| silence >= patience)
}

/// How long a silence must be that means that the peer has been answered; None if it waits.
///
/// Of an answer and the next request within the same tick of the kernel the order is not known.
/// But of what comes, the first is acknowledged at once, in a segment without data, and all else
/// only if no data has gone the other way for a while: such a segment more than the first means
/// doubt. (Of a server that greets its peers, the first request is mistaken for one that has been
/// answered, if it came within a tick of the greeting.)
fn patience(moved: &Moved, idle: Duration) -> Option<Duration> {
    let Moved { since_sent, since_received, bytes_received, segments_sent, data_segments_sent } = *moved;
    let has_spoken = data_segments_sent > 0;
    if bytes_received == 0 || (has_spoken && since_sent < since_received) {
        Some(idle)
    } else if !has_spoken || since_received < since_sent {
        None
    } else if segments_sent.saturating_sub(data_segments_sent) <= 1 {
        Some(idle.max(ACKNOWLEDGED))
    } else {
        Some(idle.saturating_mul(DOUBT))
    }
}

/// What this thread has used of the processor: the kernel's answers are made in it.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests;
