//! When an old worker that accepts from a shared unix socket is stopped: in a moment in which it is
//! [quiet](super::quiet). It is halted then until it has got its stop signal.

use super::Adopt;
use super::drain::{self, Remaining, Visibility};
use super::quiet::{Found, Quiet, look};
use super::status::unix_name;
use crate::core::event::{Time, WorkerId};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

/// The pause between looks at a worker whose successor has ended: it serves again.
const SERVES_AGAIN: Duration = Duration::from_millis(250);
/// How long it stays halted with its stop signal: longer than the intervals at which servers look for
/// that. It has no connection that could wait for it.
const INTERVAL: Duration = Duration::from_millis(600);

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
        let lives = |other: &WorkerId| self.workers.get(other).is_some_and(|worker| !worker.gone);
        if !self.serving.iter().any(|other| *other != id && lives(other)) {
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
