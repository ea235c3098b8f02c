//! Servers that connect to their own address before they bind it, to see whether it is free.
//!
//! Where nobody serves we hold the address, and the kernel answers for us: the server would end, or take
//! another port, each time that it is started. The first time that this is found, by what it has left
//! in our queue or still has open, the worker is started again, and from then on connect(2) of new
//! workers is received. A worker that does not listen there yet is refused as by a free port, and gets
//! the queue when it binds.
//!
//! At a unix socket nothing is left of such a look: a worker that ends without having bound a path at which
//! it is to listen is taken for one that has looked there (php-fpm does), once. If the next one does not
//! look, that is taken back.
//!
//! A connection that a health check has made and closed at that moment cannot be told from it: then the
//! worker is started once more, and nothing else is lost.
//!
//! Contract: connect(2) is received of no worker before that, because each such call waits for us. So a
//! server that never looks pays nothing.

use super::key::{Key, Transport, parse, parse_unix};
use super::{Adopt, drain};
use crate::core::event::{Time, WorkerId};
use crate::sys::seccomp::{self, Answer, Call};
use crate::sys::{caller_path, held, tcp_diag};
use nix::errno::Errno;
use socket2::{SockRef, Type};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

impl Adopt {
    /// Whether connect(2) of the workers that are started from now on is to be received.
    pub fn receives_connects(&self) -> bool {
        self.looks_first
    }

    /// Whether a worker that starts has a connection open to an address that we hold for it: it waits
    /// for an answer, which nobody gives, or for room in the queue. True once.
    pub fn waits_for_itself(&mut self, id: WorkerId, now: Time) -> bool {
        let held = self.held_for(id);
        let Some(worker) = self.workers.get(&id) else { return false };
        if worker.connects_received || held.is_empty() || !self.looks.may_read_all(now) {
            return false;
        }
        let before = drain::cpu_time();
        let sockets = held::tree_sockets(worker.root, &BTreeSet::new()).unwrap_or_default();
        let open = tcp_diag::connections_to(&ports(&held)).unwrap_or_default();
        let mut own = open.into_iter().filter(|(_, inode)| sockets.contains(inode));
        let found = own.find_map(|(to, _)| reached(to, &held));
        self.looks.has_read_all(drain::cpu_time().saturating_sub(before), now);
        found.is_some_and(|key| self.has_found_taken(id, key))
    }

    /// Notes that the worker has found its address taken. True unless it was refused there.
    pub(super) fn has_found_taken(&mut self, id: WorkerId, key: Key) -> bool {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.connects_received) else {
            return false;
        };
        worker.found_taken = Some(key);
        self.looks_first = true;
        true
    }

    /// Whether the worker, which has ended `age` after its start and was not ready, found an address of
    /// ours taken; which one. It is forgotten then, so that it can be started again.
    pub fn take_looker(&mut self, id: WorkerId, age: Duration) -> Option<Key> {
        self.looks_first &= !self.guess.is_taken_back();
        if !self.looks_first
            && let Some(key) = self.unbound_path(id).filter(|_| self.guess.may_be_tried())
        {
            self.has_found_taken(id, key);
        }
        if self.workers.get(&id).is_some_and(|worker| !worker.connects_received) {
            let held = self.held_for(id);
            let closed = tcp_diag::closed_in_queue(&ports(&held)).unwrap_or_default();
            let mut ours = closed.into_iter().filter(|(_, since)| *since <= age);
            if let Some(key) = ours.find_map(|(to, _)| reached(to, &held)) {
                self.has_found_taken(id, key);
            }
        }
        let worker = self.workers.get_mut(&id)?;
        let key = worker.found_taken.take()?;
        // Nothing is left of it, so that its sockets leave at once.
        worker.deserted = true;
        self.remove_sockets(id);
        self.workers.remove(&id);
        Some(key)
    }

    /// A path at which the worker is to listen, and that it has not bound.
    fn unbound_path(&self, id: WorkerId) -> Option<Key> {
        let bound = &self.workers.get(&id).filter(|worker| !worker.ready)?.bound;
        let mut paths = self.shared.unix().map(|(key, _)| key);
        paths.find(|key| self.wanted.contains(key) && !bound.contains(key)).cloned()
    }

    /// The address at which another worker serves, if this one has bound none of those at which it is
    /// to listen.
    pub fn unbound(&self, id: WorkerId) -> Option<String> {
        let worker = self.workers.get(&id)?;
        let mut serving = self.serving.iter().filter_map(|serving| self.workers.get(serving));
        serving.find(|serving| !serving.gone && serving.root != worker.root)?;
        let key = self.wanted.first().filter(|_| self.wanted.is_disjoint(&worker.bound))?;
        Some(key.to_string())
    }

    /// The addresses that we hold and nobody serves, which this worker has not asked for.
    fn held_for(&self, id: WorkerId) -> Vec<Key> {
        let Some(worker) = self.workers.get(&id) else { return Vec::new() };
        let serves = |owners: &BTreeSet<WorkerId>| owners.iter().any(|owner| self.lives(*owner));
        let steered = self.groups.iter().filter(|(_, group)| !serves(group.serving()));
        let shared = self.shared.sockets.keys().filter(|_| !serves(&self.serving));
        let keys = steered.map(|(key, _)| key).chain(shared);
        let keys = keys.filter(|key| key.transport == Transport::Stream && !worker.bound.contains(key));
        keys.cloned().collect()
    }

    /// Whether a call of connect(2) leads to an address at which the worker is to listen, and does not
    /// yet.
    pub(super) fn is_to_own_address(&self, id: WorkerId, call: &Call, at: u64, length: usize) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|worker| !worker.ready && !self.stopping) else {
            return false;
        };
        let Ok(bytes) = seccomp::read_address(call.thread, at, length) else { return false };
        if !seccomp::is_pending(worker.calls.as_fd(), call.id) {
            return false;
        }
        if let Some(name) = parse_unix(&bytes) {
            let key = self.unix_key(call, name);
            return key
                .is_some_and(|key| self.shared.sockets.contains_key(&key) && !worker.listens.contains(&key));
        }
        let Some(address) = parse(&bytes) else { return false };
        let keys = self.groups.keys().chain(self.shared.sockets.keys());
        let mut keys = keys.filter(|key| key.transport == Transport::Stream && !worker.listens.contains(key));
        keys.any(|key| leads_to(address, key))
    }

    /// The answer to such a call.
    pub(super) fn refuse_connect(&mut self, socket: &OwnedFd) -> Answer {
        let is_stream = SockRef::from(socket).r#type().is_ok_and(|kind| kind == Type::STREAM);
        match is_stream && self.is_of_our_network(socket) {
            true => {
                self.guess.is_right();
                Answer::Failed(Errno::ECONNREFUSED)
            }
            false => Answer::Continue,
        }
    }

    /// The key of the unix socket that a call of connect(2) leads to.
    fn unix_key(&self, call: &Call, name: &[u8]) -> Option<Key> {
        if name.first() == Some(&0) {
            return Some(Key::unix(name.to_vec()));
        }
        let place = caller_path::resolve(call.thread, libc::AT_FDCWD, name).ok()??;
        Some(Key::unix(place.path.as_os_str().as_bytes().to_vec()))
    }
}

fn ports(keys: &[Key]) -> BTreeSet<u16> {
    keys.iter().map(|key| key.address.port()).collect()
}

/// The first of these that a connection to `address` reaches.
fn reached(address: SocketAddr, keys: &[Key]) -> Option<Key> {
    keys.iter().find(|key| leads_to(address, key)).cloned()
}

/// Whether a connection to `address` reaches the socket that is bound to `key`.
fn leads_to(address: SocketAddr, key: &Key) -> bool {
    let Some(at) = key.address.inet() else { return false };
    let own = at.ip().to_canonical();
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let reaches = match own.is_unspecified() {
        true => (own.is_ipv4() == ip.is_ipv4() || own.is_ipv6() && !key.v6only) && is_ours(ip),
        false => own == ip,
    };
    address.port() == at.port() && reaches
}

/// Whether it is an address of this machine.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::key::Address;
    use super::*;

    #[test]
    fn a_connection_leads_to_the_address_that_it_reaches() {
        let key = |address: &str, v6only| Key {
            transport: Transport::Stream,
            address: Address::Inet(address.parse().expect("an address")),
            v6only,
            device: Vec::new(),
        };
        for (to, at, v6only, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", false, true),
            ("127.0.0.1:81", "127.0.0.1:80", false, false),
            ("127.0.0.2:80", "127.0.0.1:80", false, false),
            ("0.0.0.0:80", "127.0.0.1:80", false, true),
            ("127.0.0.1:80", "0.0.0.0:80", false, true),
            ("192.0.2.1:80", "0.0.0.0:80", false, false),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", false, true),
            ("[::1]:80", "0.0.0.0:80", false, false),
            ("127.0.0.1:80", "[::]:80", false, true),
            ("127.0.0.1:80", "[::]:80", true, false),
            ("[::1]:80", "[::]:80", true, true),
        ] {
            let address = to.parse().expect("an address");
            assert_eq!(leads_to(address, &key(at, v6only)), expected, "{to} {at}");
        }
    }
}
