//! Workers that bind nothing, where nobody has said that they would: it may be that they have no sockets.

use super::Adopt;
use crate::core::event::WorkerId;
use std::time::Duration;

/// Programs load for seconds before they bind.
const UNKNOWN: Duration = Duration::from_secs(10);
/// The same, where the one that serves has none either.
const KNOWN: Duration = Duration::from_secs(2);
/// The same, once the worker has sent an ack: servers bind before they do.
const ACKED: Duration = Duration::from_millis(500);

impl Adopt {
    /// Whether the worker, of this age, counts as one without sockets from now on. `acked`: it has sent
    /// an ack. True once.
    pub fn is_socketless(&mut self, id: WorkerId, age: Duration, acked: bool) -> bool {
        let serving = self.serving.filter(|serving| *serving != id).and_then(|id| self.workers.get(&id));
        let known = serving.is_some_and(|serving| serving.socketless && serving.listens.is_empty());
        let nothing_wanted = self.wanted.is_empty();
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        let opened = [worker.listens.is_empty(), worker.others.is_empty(), worker.elsewhere.is_empty()];
        let nothing = worker.unix.is_empty() && !opened.contains(&false) && worker.bound.is_empty();
        let least = match (acked, known) {
            (true, _) => ACKED,
            (false, true) => KNOWN,
            (false, false) => UNKNOWN,
        };
        let counts = self.config.may_bind_nothing && nothing && nothing_wanted && age >= least;
        counts && !std::mem::replace(&mut worker.socketless, counts)
    }
}
