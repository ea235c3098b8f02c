//! The state of a listener's sockets before workers had them, and what was logged about them.
//!
//! Contract: a listener has one baseline, from the moment when its sockets are as its
//! BIND says. [`repair`](super::repair) compares with it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use log::Level;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};

use crate::core::event::Generation;

/// See above.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    /// O_NONBLOCK of each socket.
    pub(super) flags: Vec<Flag>,
    /// The last generation that each kind of damage was logged for.
    logged: BTreeMap<Damage, Option<Generation>>,
    /// The damage that cannot be repaired and has been logged.
    broken: Option<Damage>,
}

/// O_NONBLOCK of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flag {
    /// As it was before a worker had it.
    pub(super) first: bool,
    /// As it was at the last check.
    pub(super) seen: bool,
    /// The generation that has changed it since.
    pub(super) by: Option<Generation>,
}

/// What workers can do to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    Backlog,
    /// The flag may be the reason of a failure.
    Hinted,
    Nonblock,
    ShutDown,
    Path,
    Taken(&'static str),
}

impl Baseline {
    pub(super) fn new(sockets: &[OwnedFd]) -> Baseline {
        Baseline { flags: flags(sockets), ..Baseline::default() }
    }

    /// After an execve(2), with the flags that were saved before it. What was logged is not
    /// kept: it may be logged once more.
    pub(super) fn restore(sockets: &[OwnedFd], saved: Vec<Flag>) -> Baseline {
        let flags = if saved.len() == sockets.len() { saved } else { flags(sockets) };
        Baseline { flags, ..Baseline::default() }
    }

    /// The sockets were replaced by new ones.
    pub(super) fn replace_sockets(&mut self, sockets: &[OwnedFd]) {
        self.flags = flags(sockets);
    }

    /// True once for each damage that cannot be repaired.
    pub(super) fn is_news(&mut self, damage: Damage) -> bool {
        self.broken.replace(damage) != Some(damage)
    }

    /// Nothing is broken: the next damage is news.
    pub(super) fn is_whole(&mut self) {
        self.broken = None;
    }

    /// The level at which damage by `generation` is logged: a generation of 200 workers is
    /// warned of once.
    pub(super) fn level(&mut self, damage: Damage, generation: Option<Generation>) -> Level {
        match self.logged.insert(damage, generation) {
            Some(before) if before == generation => Level::Debug,
            // Many servers listen again at each start, with a backlog of their own.
            _ if damage == Damage::Backlog => Level::Info,
            _ => Level::Warn,
        }
    }

    /// The generation that left the flag other than it was, and as `nonblock` says, if it is not
    /// `generation`; and the flag. Once for each such generation.
    pub(super) fn hint(&mut self, generation: Generation, nonblock: bool) -> Option<(Generation, bool)> {
        let by = self.flags.iter().find_map(|flag| {
            flag.by.filter(|&by| by != generation && flag.seen != flag.first && flag.seen == nonblock)
        })?;
        let before = self.logged.insert(Damage::Hinted, Some(by));
        (before != Some(Some(by))).then_some((by, nonblock))
    }
}

fn flags(sockets: &[OwnedFd]) -> Vec<Flag> {
    let flag = |socket| {
        let first = is_nonblocking(socket);
        Flag { first, seen: first, by: None }
    };
    sockets.iter().map(flag).collect()
}

/// O_NONBLOCK, which fcntl(2) can always tell of an open descriptor.
pub(super) fn is_nonblocking(socket: &impl AsFd) -> bool {
    let flags = fcntl(socket, FcntlArg::F_GETFL);
    flags.is_ok_and(|flags| OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
}
