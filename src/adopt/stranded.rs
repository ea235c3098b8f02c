//! A worker that is started again after its predecessor has ended, and listens elsewhere.
//!
//! Connections wait at the old addresses meanwhile. A server that connects to an address to see
//! whether it is free finds them taken, and looks for another port: so would the one after it. So does
//! one of several workers that are started beside each other. Each is started again once, and refused
//! there ([`probing`](super::probing)). If that does not help, what waits is given up.

use super::key::Key;
use super::{Adopt, Adopted};
use crate::core::event::{Time, WorkerId};
use log::info;
use std::collections::BTreeSet;
use std::time::Duration;

/// A server opens its next address sooner than this after the one before.
const NEXT_ADDRESS: Duration = Duration::from_secs(2);

impl Adopt {
    /// If the worker does not listen where its predecessor did, which has ended, and will not: gives up
    /// what waits there. True if the worker is to be ended, because it may have found its address taken
    /// by that: the next one finds it free. So may one beside which others serve, if they have no port
    /// that the kernel has chosen, or are of the same generation and so have no address of their own.
    /// Without `now` its time is over.
    pub fn give_up_stranded(&mut self, id: WorkerId, now: Option<Time>) -> bool {
        if now.is_some_and(|now| self.config.share && self.is_beside_ours(id, now)) {
            return true;
        }
        let Some(worker) = self.workers.get(&id) else { return false };
        let wanted = self.wanted_of(id);
        let none_left = wanted.is_disjoint(&worker.listens);
        let beside = self.serving.iter().copied().chain(self.leader()).filter(|&beside| beside != id);
        let beside: Vec<WorkerId> = beside.collect();
        let serving = beside.iter().filter_map(|id| self.workers.get(id)).filter(|worker| !worker.gone);
        let serving: Vec<&Adopted> = serving.collect();
        let is_odd = match worker.elsewhere.is_empty() {
            true => none_left && serving.iter().any(|other| other.generation == worker.generation),
            false => serving.iter().all(|other| other.elsewhere.is_empty()),
        };
        let serves = !serving.is_empty();
        if beside.is_empty() || serves && (worker.connects_received || !is_odd) {
            return false;
        }
        let listens_somewhere = !worker.listens.is_empty() || !worker.elsewhere.is_empty();
        let missing: BTreeSet<Key> = wanted.difference(&worker.listens).cloned().collect();
        let goes_on = now.is_some_and(|now| now < worker.last_listen + NEXT_ADDRESS);
        if worker.ready || missing.is_empty() || !listens_somewhere || goes_on {
            return false;
        }
        let held = missing.iter().find(|key| self.groups.contains_key(key));
        if let Some(key) = held.filter(|_| none_left && now.is_some())
            && self.has_found_taken(id, key.clone())
        {
            return true;
        }
        if serves {
            return false;
        }
        let held = held.is_some();
        for key in &missing {
            if self.groups.contains_key(key) {
                info!(
                    "{key} is given up: the worker that was started again does not listen there, and nobody else is to"
                );
            }
            beside.iter().for_each(|&before| self.remove_from(key, before));
        }
        self.drop_empty_groups();
        if none_left && held {
            return true;
        }
        self.wanted.retain(|key| !missing.contains(key));
        false
    }

    /// With *share* we hold the address from the start with `-b`, and later in any case. True if the worker
    /// is the first one that was not seen to bind it, and has a port that the kernel has chosen.
    fn is_beside_ours(&mut self, id: WorkerId, now: Time) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let is_odd = !worker.elsewhere.is_empty() && self.wanted.is_disjoint(&worker.listens);
        let ours = self.wanted.iter().find(|key| self.shared.sockets.contains_key(key));
        match ours.cloned().filter(|_| is_odd && !worker.ready && now >= worker.last_listen + NEXT_ADDRESS) {
            Some(key) => self.has_found_taken(id, key),
            None => false,
        }
    }
}
