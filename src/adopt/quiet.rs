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

use super::Adopt;
use super::drain::{self, Remaining, Visibility};
use super::status::unix_name;
use crate::core::event::{Time, WorkerId};
use crate::sys::connections::{self, UnixConnection};
use crate::sys::halted::Halted;
use crate::sys::{held, proc_fd, tree};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
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
/// The pause between looks at a worker whose successor has ended: it serves again.
const SERVES_AGAIN: Duration = Duration::from_millis(250);
/// How long it stays halted with its stop signal: longer than such intervals. It has no connection
/// that could wait for it.
const INTERVAL: Duration = Duration::from_millis(600);
/// An idle worker uses less than this part of a processor.
const IDLE_PART: u32 = 100;

/// The looks at one old worker.
#[derive(Debug)]
pub(super) struct Quiet {
    begun: Time,
    back_off: Duration,
    /// What the last look has cost.
    cost: Duration,
    /// Its connections, and since when nothing was seen to wait on each.
    silent: BTreeMap<u64, Time>,
    /// Since when its processes have used next to no processor time, and how much they had used then.
    still: Option<(Time, Duration)>,
    /// Its processes, while they are halted.
    halted: Option<Halted>,
    /// When they are continued, once the stop signal was sent.
    until: Option<Time>,
}

/// The result of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    busy: u32,
    idle: u32,
}

impl Quiet {
    fn new(now: Time) -> Quiet {
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
    fn pause(&mut self, now: Time) -> Duration {
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

impl Adopt {
    /// Whether the worker, which drains, has connections of shared unix sockets left. If so, returns what
    /// it has and the pause before the next look. If not, its processes are halted until
    /// [`release`](Adopt::release).
    pub(super) fn check_quiet(
        &mut self,
        id: WorkerId,
        others: &BTreeSet<Pid>,
        now: Time,
    ) -> Option<(Remaining, Duration)> {
        let names: BTreeSet<Vec<u8>> =
            self.shared.unix().filter_map(|(_, socket)| unix_name(socket.fd.as_fd())).collect();
        if names.is_empty() {
            return None;
        }
        // Its replacement has ended, and nobody else accepts.
        let successor = self.serving.filter(|serving| *serving != id).and_then(|it| self.workers.get(&it));
        if successor.is_none_or(|worker| worker.gone) {
            return Some((remaining(Found { busy: 1, idle: 0 }, Visibility::Full), SERVES_AGAIN));
        }
        let idle = self.config.idle;
        let listeners: BTreeSet<u64> = self.shared.unix().map(|(_, socket)| socket.inode).collect();
        let quiet = self.workers.get_mut(&id)?.quiet.get_or_insert_with(|| Quiet::new(now));
        let before = drain::cpu_time();
        let result = look(quiet, &names, &listeners, others, idle, now);
        quiet.cost = drain::cpu_time().saturating_sub(before);
        match result {
            Ok(halted) => {
                quiet.halted = halted;
                None
            }
            Err((found, visibility)) => Some((remaining(found, visibility), quiet.pause(now))),
        }
    }

    /// Whether the worker is halted by us, and is continued later.
    pub fn is_halted(&self, id: WorkerId) -> bool {
        self.workers
            .get(&id)
            .is_some_and(|worker| worker.quiet.as_ref().is_some_and(|it| it.halted.is_some()))
    }

    /// Continues the workers whose time has come, and those that got no stop signal in the end.
    pub fn release(&mut self, now: Time) {
        for quiet in self.workers.values_mut().filter_map(|worker| worker.quiet.as_mut()) {
            quiet.halted.take_if(|_| quiet.until.is_none_or(|until| until <= now));
        }
    }

    /// When the next one is continued.
    pub fn release_due(&self) -> Option<Time> {
        let halted = self.workers.values().filter_map(|worker| worker.quiet.as_ref());
        halted.filter(|quiet| quiet.halted.is_some()).map(|quiet| quiet.until.unwrap_or_default()).min()
    }

    /// The worker has got its stop signal.
    pub(super) fn halt_for_signal(&mut self, id: WorkerId, now: Time) {
        if let Some(quiet) = self.workers.get_mut(&id).and_then(|worker| worker.quiet.as_mut()) {
            quiet.until = Some(now + INTERVAL);
        }
    }
}

fn remaining(found: Found, visibility: Visibility) -> Remaining {
    Remaining { arriving: 0, waiting: 0, busy: found.busy, idle: found.idle, visibility }
}

/// Looks once at every process below us that belongs to no other worker. If there is nothing busy, halts
/// those that could accept, and looks again. None where they cannot be halted: then nothing is left to do.
fn look(
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
