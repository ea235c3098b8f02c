//! Which workers new connections go to, and where a worker has to listen before it is ready.
//!
//! Contract: [`Adopt::serve`] and [`Adopt::switch`] are given all workers that are to serve. At each
//! address new connections go to the sockets of those of them that listen there; where none of them
//! does, it stays as it was. So nobody is refused while every worker is down.
//!
//! An address is wanted if a worker that serves has opened it before it was ready, and listens there
//! still. Before any has served, the worker that was the first to listen says where the others of its
//! generation have to: they are the same program.

use super::drain::{self, Drain};
use super::group::Weighed;
use super::key::Key;
use super::{Adopt, report};
use crate::core::event::{Slot, Time, WorkerId};
use crate::sys::tcp_diag;
use log::warn;
use nix::unistd::Pid;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

/// The pause between inspections of a worker that was to drain and serves again.
const SERVES_AGAIN: Duration = Duration::from_millis(250);

impl Adopt {
    /// Whether the worker listens at every address that it has to.
    pub fn listens(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            (!worker.listens.is_empty() || worker.unix_alone)
                && self.wanted_of(id).iter().all(|key| worker.listens.contains(key))
        })
    }

    /// The same, once, until it has opened another address.
    pub fn listens_now(&mut self, id: WorkerId) -> bool {
        let listens = self.listens(id) && self.waits_as_before(id);
        let Some(worker) = self.workers.get_mut(&id).filter(|_| listens) else { return false };
        !std::mem::replace(&mut worker.announced, true)
    }

    /// The addresses at which this worker has to listen.
    pub(super) fn wanted_of(&self, id: WorkerId) -> Cow<'_, BTreeSet<Key>> {
        match self.leader().filter(|&leader| leader != id) {
            Some(leader) => Cow::Owned(self.wanted_by([leader].into_iter())),
            None => Cow::Borrowed(&self.wanted),
        }
    }

    /// The worker that was the first to listen, as long as none has served.
    pub(super) fn leader(&self) -> Option<WorkerId> {
        let starts = self.workers.iter().filter(|(_, worker)| self.serving.is_empty() && !worker.gone);
        let listens = starts.filter(|(_, worker)| !worker.listens.is_empty());
        listens.min_by_key(|&(&id, worker)| (worker.first_listen, id)).map(|(&id, _)| id)
    }

    /// The addresses that are wanted if these workers serve.
    fn wanted_by(&self, serving: impl Iterator<Item = WorkerId>) -> BTreeSet<Key> {
        let workers = serving.filter_map(|id| self.workers.get(&id));
        let keys = workers.flat_map(|worker| worker.early.intersection(&worker.listens));
        keys.cloned().chain(self.shared.ours()).collect()
    }

    /// Notes that the worker listens at an address.
    pub(super) fn add_address(&mut self, id: WorkerId, key: Key) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // One that counted as a worker without sockets is a server that takes its time.
        if !worker.ready || std::mem::take(&mut worker.socketless) {
            worker.early.insert(key.clone());
        }
        if !worker.early.contains(&key) {
            worker.late.insert(key.clone(), self.now);
        } else if self.serving.contains(&id) {
            self.wanted.insert(key.clone());
        }
        worker.first_listen.get_or_insert(self.now);
        worker.last_listen = self.now;
        worker.announced &= !worker.listens.insert(key);
    }

    /// Notes that the worker no longer listens there.
    pub(super) fn remove_address(&mut self, id: WorkerId, key: &Key) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.listens.remove(key);
        worker.late.remove(key);
        let listens = |other: &WorkerId| {
            let other = self.workers.get(other);
            other.is_some_and(|other| other.early.contains(key) && other.listens.contains(key))
        };
        if self.serving.contains(&id) && !self.serving.iter().any(listens) {
            self.wanted.remove(key);
        }
    }

    /// The worker is ready.
    pub fn ready(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.ready = true;
        let root = worker.root;
        // Sockets that it has bound and closed again, as resolvers do, do not serve.
        for key in self.shared.share_new(id, root) {
            self.remove_address(id, &key);
        }
        self.update_names();
        self.arm_all();
    }

    /// The workers that serve; where none does, those that did last.
    pub fn serving(&self) -> &BTreeSet<WorkerId> {
        &self.serving
    }

    /// Whether the worker lives and was not asked to stop.
    pub(super) fn lives(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| !worker.gone && !worker.stop_sent)
    }

    /// The worker that gets a part of the new connections of its own.
    pub fn weighed(&self) -> Option<Weighed> {
        self.weighed
    }

    /// New connections go to these workers from now on. If there is none, they go where they went.
    pub fn serve(&mut self, to: &BTreeSet<WorkerId>, weighed: Option<Weighed>, now: Time) {
        if to.is_empty() || self.stopping {
            return;
        }
        let left = self.left_by(to);
        for group in self.groups.values_mut() {
            report(group.steer(to, weighed).map(drop), "steer connections to a worker");
        }
        self.weighed = weighed;
        self.set_serving(to, &left, now);
        self.remove_replaced();
    }

    /// The same, for a replacement.
    ///
    /// # Errors
    /// Why that cannot be, for people; nothing has changed then.
    pub fn switch(
        &mut self,
        to: &BTreeSet<WorkerId>,
        weighed: Option<Weighed>,
        now: Time,
    ) -> Result<(), String> {
        self.check_strangers()?;
        let listens = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| !worker.listens.is_empty());
        if !self.wanted.is_empty() && !to.difference(&self.serving).all(listens) {
            return Err("it listens nowhere, and the old one does".into());
        }
        let left = self.left_by(to);
        let before: Vec<(Key, BTreeSet<WorkerId>)> =
            self.groups.iter().map(|(key, group)| (key.clone(), group.serving().clone())).collect();
        for group in self.groups.values_mut() {
            report(group.remove_tombstones(), "close the socket of an old worker");
        }
        let failed = self.groups.iter_mut().find_map(|(key, group)| {
            group.steer(to, weighed).err().map(|error| format!("cannot steer connections of {key}: {error}"))
        });
        if let Some(why) = failed {
            for (key, serving) in before {
                if let Some(group) = self.groups.get_mut(&key) {
                    report(group.steer(&serving, self.weighed).map(drop), "steer connections back");
                }
            }
            return Err(why);
        }
        self.tell_of_blindness();
        self.weighed = weighed;
        self.set_serving(to, &left, now);
        Ok(())
    }

    /// The workers that get new connections now, and do not if these serve.
    fn left_by(&self, to: &BTreeSet<WorkerId>) -> BTreeSet<WorkerId> {
        let selected = self.groups.values().flat_map(|group| group.serving());
        self.serving.iter().chain(selected).filter(|id| !to.contains(id)).copied().collect()
    }

    /// New connections have just been steered to `to`, and go to `left` no longer.
    fn set_serving(&mut self, to: &BTreeSet<WorkerId>, left: &BTreeSet<WorkerId>, now: Time) {
        let ports: BTreeSet<u16> = self.groups.keys().map(|key| key.address.port()).collect();
        let mut handshakes = None;
        for (id, worker) in &mut self.workers {
            if to.contains(id) || worker.gone {
                (worker.drain, worker.quiet) = (None, None);
            } else if left.contains(id) && worker.drain.is_none() {
                let handshakes = handshakes.get_or_insert_with(|| drain::handshakes(&ports));
                worker.drain = Some(Drain::begin(ports.clone(), handshakes.clone(), now));
            }
        }
        self.serving.clone_from(to);
        self.wanted = self.wanted_by(to.iter().copied());
    }

    /// Whether a worker of this slot serves, which is not this one.
    pub(super) fn slot_is_served(&self, slot: Slot, besides: WorkerId) -> bool {
        let mut others = self.serving.iter().filter(|&&id| id != besides && self.lives(id));
        others.any(|id| self.workers.get(id).is_some_and(|worker| worker.slot == slot))
    }

    /// Once: why a drain may last longer than it needs to.
    fn tell_of_blindness(&mut self) {
        if self.told_of_blindness {
            return;
        }
        if let Err(errno) = tcp_diag::can_ask() {
            self.told_of_blindness = true;
            warn!(
                "cannot tell idle connections from busy ones, as sock_diag cannot be asked ({}): an old generation with idle connections drains until they are closed, or for --drain-timeout (graceful-run doctor says what it needs)",
                crate::error::reason(&errno.into())
            );
        }
    }

    /// Inspects whether the worker has connections left; `others` are the processes of the other
    /// workers. If so, returns what it has left and the pause before the next inspection.
    pub fn check_drained(
        &mut self,
        id: WorkerId,
        others: &BTreeSet<Pid>,
        now: Time,
    ) -> Option<(drain::Remaining, Duration)> {
        // Its replacement has ended, and new connections come to it again.
        let mut wanted = self.groups.iter().filter(|(key, _)| self.wanted.contains(key));
        if wanted.any(|(_, group)| group.serving().contains(&id)) {
            let left = drain::Remaining {
                arriving: 0,
                waiting: 0,
                busy: 1,
                idle: 0,
                visibility: drain::Visibility::Full,
            };
            return Some((left, SERVES_AGAIN));
        }
        let idle = self.config.idle;
        let draining = self.workers.values().filter(|worker| worker.drain.is_some()).count() as u32;
        let drain = self.workers.get_mut(&id)?.drain.as_mut()?;
        if drain.has_ports() {
            let listeners = self.groups.values().flat_map(|group| group.sockets(id));
            let listeners = listeners.filter_map(|(_, listener)| listener.copy());
            // All processes below us that belong to no other worker count: orphans of it are our
            // children.
            let left = drain.inspect(Pid::this(), others, listeners, idle, now);
            if !drain.is_drained() {
                return Some((left, drain.pause(draining)));
            }
        }
        self.check_quiet(id, others, now)
    }
}
