//! Workers that listen on unix sockets alone, which are not adopted: the path belongs to whom binds it
//! last, and some servers remove it when they end. Such a worker serves all the same.

use super::Adopt;
use crate::core::event::{Time, WorkerId};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A worker that has opened nothing else for this long has no TCP port: a unix socket for its control
/// may be the first one of several.
const ALONE: Duration = Duration::from_secs(5);

impl Adopt {
    /// The paths, if the worker is found to listen on unix sockets alone, which counts as ready then. Where
    /// the one before did, it is known at once, and nothing is returned.
    pub fn listens_on_unix_alone(&mut self, id: WorkerId, now: Time) -> Option<String> {
        let known = &self.unix;
        let worker = self.workers.get_mut(&id)?;
        let others = [worker.listens.is_empty(), worker.others.is_empty(), worker.elsewhere.is_empty()];
        if worker.unix.is_empty() || others.contains(&false) || !self.wanted.is_empty() || worker.unix_alone {
            return None;
        }
        let is_known = !known.is_empty() && worker.unix.is_superset(known);
        if !is_known && now < worker.last_listen + ALONE {
            return None;
        }
        worker.unix_alone = true;
        self.unix.clone_from(&worker.unix);
        (!is_known).then(|| list(&self.unix))
    }

    /// The paths, if a worker other than this one serves, by unix sockets alone.
    pub fn serves_on_unix_alone(&self, id: WorkerId) -> Option<String> {
        let others = self.serving.iter().filter(|serving| **serving != id);
        let mut serving = others.filter_map(|id| self.workers.get(id));
        let alone = serving.find(|other| other.unix_alone && other.listens.is_empty() && !other.gone)?;
        Some(list(&alone.unix))
    }
}

fn list(paths: &BTreeSet<PathBuf>) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("the unix socket{} {}", if paths.len() == 1 { "" } else { "s" }, paths.join(", "))
}
