//! Strangers: sockets of other programs at our addresses. With SO_REUSEPORT the kernel lets any
//! program of the same user bind them.

use super::key::{Key, Transport};
use super::{Adopt, Group, report};
use crate::core::event::WorkerId;
use crate::sys::tcp_diag;
use log::warn;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

impl Adopt {
    /// Fails if a stranger is in one of our groups: it would get a share of the connections, and the
    /// indices of the members would be wrong.
    pub(super) fn check_strangers(&self) -> Result<(), String> {
        match self.groups.keys().find_map(|key| Some((key, self.stranger(key)?))) {
            Some((key, inode)) => Err(format!(
                "somebody else listens on {key} too (socket {inode}; ss -ltnpe says who): connections cannot be steered beside it"
            )),
            None => Ok(()),
        }
    }

    /// The inode of a stranger at this address.
    pub(super) fn stranger(&self, key: &Key) -> Option<u64> {
        if key.transport == Transport::Datagram {
            return None;
        }
        let address = key.address.inet()?;
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let listening = tcp_diag::listen_sockets(family, address.port()).ok()?;
        let ours: BTreeSet<u64> = self.groups.values().flat_map(Group::inodes).collect();
        let same = |found: &tcp_diag::ListenSocket| {
            found.address.ip() == address.ip()
                && (found.device == 0) == key.device.is_empty()
                && found.v6only.is_none_or(|v6only| v6only == key.v6only)
        };
        let stranger = |found: &&tcp_diag::ListenSocket| same(found) && !ours.contains(&found.inode);
        listening.iter().find(stranger).map(|found| found.inode)
    }

    /// A socket that is none of ours and listens at this address, or at one that overlaps with it:
    /// without SO_REUSEPORT the kernel would refuse to listen beside it.
    pub(super) fn occupant(&self, key: &Key) -> Option<u64> {
        let families = [libc::AF_INET, libc::AF_INET6];
        let address = key.address.inet()?;
        let port = address.port();
        let listening = families
            .into_iter()
            .flat_map(|family| tcp_diag::listen_sockets(family, port).unwrap_or_default());
        let groups = self.groups.values().flat_map(Group::inodes);
        let ours: BTreeSet<u64> = groups.chain(self.shared.all().map(|(_, inode)| inode)).collect();
        let mut others = listening.filter(|found| !ours.contains(&found.inode));
        others
            .find(|found| {
                let v6only = found.v6only.unwrap_or(false);
                overlap((address.ip(), key.v6only), (found.address.ip(), v6only))
                    && (found.device == 0) == key.device.is_empty()
            })
            .map(|found| found.inode)
    }

    /// Removes the sockets of a worker from the group of this address. If a stranger is in the group,
    /// they stay as tombstones: the stranger would get the index of one of ours.
    pub(super) fn remove_from(&mut self, key: &Key, id: WorkerId) {
        let has = self.groups.get(key).is_some_and(|group| group.sockets(id).next().is_some());
        if !has {
            return;
        }
        let stranger = self.stranger(key);
        let no_process_left = self.workers.get(&id).is_none_or(|worker| worker.deserted);
        let Some(group) = self.groups.get_mut(key) else { return };
        match stranger {
            Some(inode) if !group.serving().contains(&id) => {
                warn!(
                    "somebody else listens on {key} too (socket {inode}; ss -ltnpe says who): no upgrade is possible while it does"
                );
                group.make_tombstones(id);
            }
            // Its other processes may have copies, as children that finish what they have: the socket
            // stays until none is left.
            _ if !no_process_left => report(group.retire(id), "steer connections to a worker"),
            _ => report(group.remove(id), "close the socket of an old worker"),
        }
    }
}

/// Whether one connection could belong to either of two addresses of one port; each with its
/// IPV6_V6ONLY.
fn overlap((one, one_v6only): (IpAddr, bool), (other, other_v6only): (IpAddr, bool)) -> bool {
    let both = |any: IpAddr, v6only: bool| any == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !v6only;
    let (one, other) = (one.to_canonical(), other.to_canonical());
    if one.is_ipv4() == other.is_ipv4() {
        one == other || one.is_unspecified() || other.is_unspecified()
    } else {
        both(one, one_v6only) || both(other, other_v6only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_as_the_kernel_has_it() {
        let at = |text: &str, v6only| (text.parse::<IpAddr>().expect("an address"), v6only);
        let overlaps = [
            (at("127.0.0.1", false), at("127.0.0.1", false), true),
            (at("127.0.0.1", false), at("127.0.0.2", false), false),
            (at("127.0.0.1", false), at("0.0.0.0", false), true),
            (at("127.0.0.1", false), at("::", false), true),
            (at("127.0.0.1", false), at("::", true), false),
            (at("127.0.0.1", false), at("::1", false), false),
            (at("127.0.0.1", false), at("::ffff:127.0.0.1", false), true),
            (at("0.0.0.0", false), at("::1", false), false),
            (at("0.0.0.0", false), at("::", false), true),
            (at("::1", false), at("::", true), true),
        ];
        for (one, other, expected) in overlaps {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one:?} {other:?}");
        }
    }
}
