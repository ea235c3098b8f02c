//! Several workers that start beside each other, and bind an address that they are to share: the socket
//! of the first becomes the shared one when another binds the same address, before either is ready.
//! Without that the kernel would refuse all but the first.

use super::Adopt;
use super::key::Key;
use super::shared::New;
use crate::core::event::WorkerId;
use crate::sys::pidfd;
use nix::unistd::Pid;
use socket2::SockRef;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

/// A call that we have let through may not have been executed yet. So often it is looked again.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_micros(100);

impl Adopt {
    /// Shares what another worker that starts has bound to this address.
    pub(super) fn share_of_sibling(&mut self, id: WorkerId, key: &Key) {
        if self.shared.sockets.contains_key(key) {
            return;
        }
        let starts = |other: WorkerId| {
            other != id && self.lives(other) && self.workers.get(&other).is_some_and(|worker| !worker.ready)
        };
        let of_others = |new: &&New| new.key == *key && starts(new.worker);
        let Some(sibling) = self.shared.new.iter().find(of_others).map(|new| new.worker) else { return };
        let sockets: Vec<New> =
            self.shared.new.extract_if(.., |new| new.worker == sibling && new.key == *key).collect();
        for new in sockets {
            match bound(&new) {
                Some(socket) => self.shared.add(key.clone(), socket, false),
                None => self.shared.new.push(new),
            }
        }
    }
}

/// The socket, once it is bound. One that is connected is no server's.
fn bound(new: &New) -> Option<OwnedFd> {
    (0..TRIES).find_map(|before| {
        if before > 0 {
            thread::sleep(PAUSE);
        }
        let socket = pidfd::duplicate_by_inode(Pid::from_raw(new.process), new.inode)?;
        let serves = Key::of_bound(socket.as_fd()).as_ref() == Some(&new.key);
        (serves && SockRef::from(&socket).peer_addr().is_err()).then_some(socket)
    })
}
