//! Sockets of somebody else at our addresses: with SO_REUSEPORT the kernel lets in whoever
//! is of the same user.

use super::key::{Key, Transport};
use super::{Adopt, Group, report};
use crate::core::event::WorkerId;
use crate::sys::flows;
use log::warn;
use std::collections::BTreeSet;

impl Adopt {
    /// Somebody else's socket in one of our groups would get a share of the connections,
    /// and its index would be one of ours to us.
    pub(super) fn check_strangers(&self) -> Result<(), String> {
        match self.groups.keys().find_map(|key| Some((key, self.stranger(key)?))) {
            Some((key, inode)) => Err(format!(
                "somebody else listens on {key} too (socket {inode}; ss -ltnpe says who): connections cannot be steered beside it"
            )),
            None => Ok(()),
        }
    }

    /// A socket at the address that is none of ours.
    pub(super) fn stranger(&self, key: &Key) -> Option<u64> {
        if key.transport == Transport::Datagram {
            return None;
        }
        let family = if key.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let listening = flows::listening(family, key.address.port()).ok()?;
        let ours: BTreeSet<u64> = self.groups.values().flat_map(Group::inodes).collect();
        let same = |found: &flows::Listening| {
            found.address.ip() == key.address.ip()
                && (found.device == 0) == key.device.is_empty()
                && found.v6only.is_none_or(|v6only| v6only == key.v6only)
        };
        let stranger = |found: &&flows::Listening| same(found) && !ours.contains(&found.inode);
        listening.iter().find(stranger).map(|found| found.inode)
    }

    /// Its sockets at this address leave. Beside a stranger's they stay, unused: that one would come
    /// to stand where the program finds one of ours.
    pub(super) fn take_out(&mut self, key: &Key, id: WorkerId) {
        let has = self.groups.get(key).is_some_and(|group| group.sockets(id).next().is_some());
        if !has {
            return;
        }
        let stranger = self.stranger(key);
        let Some(group) = self.groups.get_mut(key) else { return };
        match stranger {
            Some(inode) if group.serving() != Some(id) => {
                warn!(
                    "somebody else listens on {key} too (socket {inode}; ss -ltnpe says who): no upgrade is possible while it does"
                );
                group.entomb(id);
            }
            _ => report(group.remove(id), "close the socket of an old worker"),
        }
    }
}
