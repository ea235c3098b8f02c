//! Finds a moment in which an old worker has no connection that it has accepted from a shared unix
//! socket: then it gets its stop signal.
//!
//! The old worker and the new one accept from the same socket, and no new connection can be kept from
//! either. What the old one has accepted it may throw away when it is stopped. So it is looked at again and
//! again; when it has nothing, its processes are halted for about a millisecond and looked at once more. If
//! it still has nothing, it gets its signal before it is continued, and acts on that before it accepts
//! anything else. It is continued a moment later: some servers only note the signal, and look for that at
//! intervals (redis, python's socketserver). Their interval is over then.
//!
//! The kernel tells less of a unix connection than of one of TCP: only what waits to be read on either side.
//! One counts as idle if nothing did at any look for `--idle`, while the worker used next to no
//! processor time.

use super::drain::Visibility;
use crate::core::event::Time;
use crate::sys::connections::{self, UnixConnection};
use crate::sys::halted::Halted;
use crate::sys::{held, proc_fd, tree};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pauses between looks grow from the first to the longest by a half. Many are short: such a moment
/// is rare where a worker has several connections.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// After this time there are few looks.
const EAGER: Duration = Duration::from_secs(5);
const LATE_PAUSE: Duration = Duration::from_millis(250);
/// A pause is at least this many times what the last look took.
const COST_FACTOR: u32 = 10;
/// An idle worker uses less than this part of a processor.
const IDLE_PART: u32 = 100;

/// The looks at one old worker.
#[derive(Debug)]
pub(super) struct Quiet {
    begun: Time,
    back_off: Duration,
    /// What the last look has cost.
    pub(super) cost: Duration,
    /// Its connections, and since when nothing was seen to wait on each.
    silent: BTreeMap<u64, Time>,
    /// Since when its processes have used next to no processor time, and how much they had used then.
    still: Option<(Time, Duration)>,
    /// Its processes, while they are halted.
    pub(super) halted: Option<Halted>,
    /// When they are continued, once the stop signal was sent.
    pub(super) until: Option<Time>,
}

/// The result of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) busy: u32,
    pub(super) idle: u32,
}

impl Quiet {
    pub(super) fn new(now: Time) -> Quiet {
        Quiet {
            begun: now,
            back_off: FIRST_PAUSE,
            cost: Duration::ZERO,
            silent: BTreeMap::new(),
            still: None,
            halted: None,
            until: None,
        }
    }

    /// The pause before the next look.
    pub(super) fn pause(&mut self, now: Time) -> Duration {
        let longest = if now.saturating_sub(self.begun) < EAGER { LONGEST_PAUSE } else { LATE_PAUSE };
        let pause = self.back_off.max(self.cost * COST_FACTOR);
        self.back_off = (self.back_off * 3 / 2).min(longest);
        pause
    }

    /// What of `open` is among the sockets `own` of the worker.
    fn count(
        &mut self,
        open: &[UnixConnection],
        own: &dyn Fn(u64) -> bool,
        idle: Duration,
        now: Time,
    ) -> Found {
        let own: Vec<&UnixConnection> = open.iter().filter(|it| own(it.inode)).collect();
        self.silent.retain(|inode, _| own.iter().any(|it| it.inode == *inode));
        let still = self.still.is_some_and(|(since, _)| now >= since + idle);
        let mut found = Found::default();
        for it in own {
            let since = self.silent.entry(it.inode).or_insert(now);
            if it.queued {
                *since = now;
            }
            match still && !it.queued && now >= *since + idle {
                true => found.idle += 1,
                false => found.busy += 1,
            }
        }
        found
    }

    /// Notes what its processes have used of the processors.
    fn note_use(&mut self, used: Duration, now: Time) {
        match self.still {
            Some((since, before))
                if (used.saturating_sub(before)) * IDLE_PART <= now.saturating_sub(since) => {}
            _ => self.still = Some((now, used)),
        }
    }
}

/// Looks once at every process below us that belongs to no other worker. If there is nothing busy, halts
/// those that could accept, and looks again. None where they cannot be halted: then nothing is left to do.
pub(super) fn look(
    quiet: &mut Quiet,
    names: &BTreeSet<Vec<u8>>,
    listeners: &BTreeSet<u64>,
    others: &BTreeSet<Pid>,
    idle: Duration,
    now: Time,
) -> Result<Option<Halted>, (Found, Visibility)> {
    quiet.note_use(tree::cpu_time(Pid::this(), others), now);
    let mut once = || -> Result<(), (Found, Visibility)> {
        let open = connections::unix_accepted(names).map_err(|errno| {
            log::debug!("cannot ask for unix connections: {errno}");
            (Found::default(), Visibility::None)
        })?;
        let held = held::tree_sockets(Pid::this(), others);
        let (found, visibility) = match &held {
            Ok(held) => (quiet.count(&open, &|inode| held.contains(&inode), idle, now), Visibility::Full),
            Err(_) => (quiet.count(&open, &|inode| inode != 0, idle, now), Visibility::PortsOnly),
        };
        if found.busy == 0 { Ok(()) } else { Err((found, visibility)) }
    };
    once()?;
    let accept = tree::walk(Pid::this(), others).skip(1);
    let accept: Vec<Pid> =
        accept.filter(|&pid| !proc_fd::socket_inodes(pid).is_disjoint(listeners)).collect();
    match Halted::new(&accept) {
        Ok(halted) => once().map(|()| Some(halted)),
        Err(Errno::EPERM) => Ok(None),
        Err(errno) => {
            log::debug!("cannot halt an old worker for a moment: {errno}");
            Err((Found::default(), Visibility::Full))
        }
    }
}
