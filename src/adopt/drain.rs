//! Inspects what an old worker still has to serve: handshakes that its listeners have begun,
//! connections in their queues, and accepted connections on which it or its peer still has to
//! send something.
//!
//! A connection moves through these in this order, so they are inspected in this order. A
//! connection can be missed if it moves otherwise, say from one process to another through a unix
//! socket, or because the kernel's table changes while it is read. Therefore only two inspections
//! in a row that find nothing count. What cannot be seen never counts as nothing.

use crate::core::event::Time;
use crate::sys::tcp_diag::{self, Connection, Flow, TcpInfo};
use crate::sys::{fd, held};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A client that has not ended its handshake by then will not; until then a SYN-ACK that was lost is
/// sent again, after one second and after three.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// The pauses between inspections: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(3);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The pause is this many times the cost of an inspection, and of those of the other workers that drain:
/// all of them take a sixtieth of a core.
const COST_FACTOR: u32 = 60;
/// That limit applies once they have cost this much together: most drains are over by then.
const FREE_COST: Duration = Duration::from_millis(10);

/// Longer than any acknowledgement is delayed (TCP_DELACK_MAX, 200 ms, and a tick).
const ACK_DELAY: Duration = Duration::from_millis(250);
/// Where it is not known which side sent last, the connection must be idle this many times as long,
/// unless `--idle` is long already.
const UNSURE_FACTOR: u32 = 10;
/// The longest that this factor makes it.
const LONGEST_UNSURE: Duration = Duration::from_secs(10);

/// The drain of an old worker.
#[derive(Debug)]
pub struct Drain {
    ports: BTreeSet<u16>,
    begun: Time,
    /// The handshakes under way at the beginning, which are the old listeners'; None if unknown.
    handshakes: Option<BTreeSet<Flow>>,
    /// How many inspections in a row have found nothing.
    quiet: u32,
    back_off: Duration,
    /// CPU time of all inspections.
    spent: Duration,
    /// CPU time of the inspections since the last pause of full length.
    owed: Duration,
}

/// The result of one inspection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Handshakes under way.
    pub arriving: u32,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// Connections on which something is still to be sent.
    pub busy: u32,
    /// Connections that are idle between requests, and do not count.
    pub idle: u32,
    /// How much of that could be seen.
    pub visibility: Visibility,
}

/// How much could be seen of connections, from all to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visibility {
    /// Connections and their workers.
    Full,
    /// Connections, but not their workers, because `/proc` does not show the worker's descriptors:
    /// all on its ports count, even those of its replacement.
    PortsOnly,
    /// Nothing, because the kernel does not list sockets: there may be any number.
    None,
}

impl Remaining {
    /// Whether nothing is arriving, waiting or busy.
    pub fn is_empty(&self) -> bool {
        let Remaining { arriving, waiting, busy, idle: _, visibility } = *self;
        arriving == 0 && waiting == 0 && busy == 0 && visibility != Visibility::None
    }
}

impl Drain {
    /// Begins, just after new connections at `ports` have been steered elsewhere: these
    /// [`handshakes`], which were under way then, belong to the old listeners.
    pub fn begin(ports: BTreeSet<u16>, handshakes: Option<BTreeSet<Flow>>, now: Time) -> Drain {
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

    /// Whether there is a port at which connections may be left.
    pub fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Inspects once what is left. `root` is the worker's process, `others` are the workers that
    /// are not it, `listeners` are duplicates of its listening sockets. A connection on which
    /// nothing was sent for `idle` does not count unless the worker is to send next.
    pub fn inspect<'a>(
        &mut self,
        root: Pid,
        others: &BTreeSet<Pid>,
        listeners: impl Iterator<Item = BorrowedFd<'a>>,
        idle: Duration,
        now: Time,
    ) -> Remaining {
        let before = cpu_time();
        let mut left = Remaining { arriving: 0, waiting: 0, busy: 0, idle: 0, visibility: Visibility::Full };
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

    /// Whether the last two inspections have found nothing.
    pub fn is_drained(&self) -> bool {
        self.quiet >= 2
    }

    /// How long to wait before the next inspection, where so many workers drain. It grows while
    /// something is left, and with what inspections cost, so that they take a small part of a core,
    /// however many connections there are. Only the inspection that is to confirm another may come at
    /// once.
    pub fn pause(&self, draining: u32) -> Duration {
        if self.quiet == 1 {
            FIRST_PAUSE
        } else if self.spent <= FREE_COST {
            self.back_off
        } else {
            self.back_off.max(self.owed * COST_FACTOR * draining)
        }
    }

    fn count_handshakes(&mut self, left: &mut Remaining, now: Time) {
        if now.saturating_sub(self.begun) >= HANDSHAKE {
            self.handshakes = Some(BTreeSet::new());
        }
        match &mut self.handshakes {
            Some(under_way) if under_way.is_empty() => {}
            Some(under_way) => match tcp_diag::handshakes(&self.ports) {
                Ok(arriving) => {
                    // A new handshake between the same ends belongs to the new listeners.
                    under_way.retain(|flow| arriving.contains(flow));
                    left.arriving = under_way.len() as u32;
                }
                Err(errno) => left.mark_invisible(errno),
            },
            None => left.visibility = Visibility::None,
        }
    }

    fn count_connections(&self, left: &mut Remaining, root: Pid, others: &BTreeSet<Pid>, idle: Duration) {
        let held = held::tree_sockets(root, others)
            .inspect_err(|error| log::debug!("cannot see what process {root} and its children hold: {error}"))
            .ok();
        // The kernel reads its whole table for this: not for a worker that has ended.
        if held.as_ref().is_some_and(HashSet::is_empty) {
            return;
        }
        if held.is_none() {
            left.visibility = left.visibility.max(Visibility::PortsOnly);
        }
        let open = match tcp_diag::connections(&self.ports) {
            Ok(open) => open,
            Err(errno) => return left.mark_invisible(errno),
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

impl Remaining {
    fn mark_invisible(&mut self, errno: nix::Error) {
        log::debug!("cannot ask for connections: {errno}");
        self.visibility = Visibility::None;
    }
}

/// The handshakes that are under way at these ports; None if that is unknown.
pub fn handshakes(ports: &BTreeSet<u16>) -> Option<BTreeSet<Flow>> {
    tcp_diag::handshakes(ports)
        .inspect_err(|errno| log::debug!("cannot ask for handshakes under way: {errno}"))
        .ok()
}

/// The connections in the queue of a listener; after shutdown(2) it has no queue.
pub(super) fn waiting(listener: BorrowedFd<'_>) -> u32 {
    fd::tcp_queue(listener).ok().flatten().map_or(0, |queue| queue.length)
}

/// Whether the worker has nothing to send on a connection, and its peer has not sent anything for
/// `idle`.
fn is_idle(open: &Connection, idle: Duration) -> bool {
    let Some(moved) = open.tcp_info else { return false };
    let silence = moved.since_sent.min(moved.since_received);
    open.rqueue == 0
        && open.wqueue == 0
        && required_silence(&moved, idle).is_some_and(|required| silence >= required)
}

/// How long a connection must be silent to count as idle; None if the peer waits for an answer.
///
/// If an answer and the next request come within the same tick of the kernel, their order is not
/// known. But the kernel acknowledges the first data at once, in a segment without data, and later
/// data only if nothing has been sent for a while: with more than one such segment, the order is in
/// doubt. (If a server greets its peers, a first request within a tick of the greeting is taken for
/// one that has been answered.)
fn required_silence(moved: &TcpInfo, idle: Duration) -> Option<Duration> {
    let TcpInfo { since_sent, since_received, bytes_received, segments_sent, data_segments_sent } = *moved;
    let has_spoken = data_segments_sent > 0;
    if bytes_received == 0 || (has_spoken && since_sent < since_received) {
        Some(idle)
    } else if !has_spoken || since_received < since_sent {
        None
    } else if segments_sent.saturating_sub(data_segments_sent) <= 1 {
        Some(idle.max(ACK_DELAY))
    } else {
        Some(idle.max(idle.saturating_mul(UNSURE_FACTOR).min(LONGEST_UNSURE)))
    }
}

/// The CPU time of this thread, which includes the kernel's work for its answers.
pub(super) fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests;
