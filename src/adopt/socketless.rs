//! Workers that bind nothing, where nobody has said that they would: it may be that they have no sockets.

use super::{Adopt, Adopted};
use crate::core::event::WorkerId;
use std::time::Duration;

/// Programs load for seconds before they bind.
const UNKNOWN: Duration = Duration::from_secs(10);
/// At most this part of `--ack-timeout`, which would end it.
const PART: u32 = 2;
/// The same, where the one that serves has none either.
const KNOWN: Duration = Duration::from_secs(2);
/// The same, once the worker has sent an ack: servers bind before they do.
const ACKED: Duration = Duration::from_millis(500);

impl Adopt {
    /// Whether the worker, of this age, counts as one without sockets from now on. `acked`: it has sent
    /// an ack; `limit`: how long it may take to become ready. True once.
    pub fn is_socketless(
        &mut self,
        id: WorkerId,
        age: Duration,
        acked: bool,
        limit: Option<Duration>,
    ) -> bool {
        let others = self.serving.iter().filter(|serving| **serving != id);
        let serving: Vec<&Adopted> = others.filter_map(|id| self.workers.get(id)).collect();
        let known = serving.iter().any(|serving| serving.socketless && serving.listens.is_empty());
        // Also what it has opened so late that it is not asked of the next one.
        let listens = self.leader().is_some() || serving.iter().any(|serving| !serving.listens.is_empty());
        let nothing_wanted = self.wanted.is_empty() && !listens;
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        // A port that the kernel has chosen is for a debugger or the like: nobody could know it.
        let opened = [worker.listens.is_empty(), worker.others.is_empty(), worker.unix.is_empty()];
        let nothing = !opened.contains(&false) && worker.bound.is_empty();
        let unknown = limit.map_or(UNKNOWN, |limit| UNKNOWN.min(limit / PART));
        let least = match (acked, known) {
            (true, _) => ACKED,
            (false, true) => KNOWN.min(unknown),
            (false, false) => unknown,
        };
        let counts = self.config.may_bind_nothing && nothing && nothing_wanted && age >= least;
        counts && !std::mem::replace(&mut worker.socketless, counts)
    }
}
