//! A listening socket of a worker, and our copy of it if we have one.
//!
//! As long as we have a copy, the socket listens even if its worker has closed it, and the kernel
//! reports no close. So a copy is kept only where it is needed: of an address that the next worker
//! is to have, whose queue must not be lost if the worker crashes.

use super::group::Socket;
use crate::sys::{fd, pidfd, proc_fd, steering, tcp_diag, tree};
use nix::unistd::Pid;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A process, and the number of a descriptor that it has.
pub type Holder = (Pid, RawFd);

/// The socket.
#[derive(Debug)]
pub struct Listener {
    copy: Option<OwnedFd>,
    inode: u64,
    address: Option<SocketAddr>,
    /// By whom it was last seen to be held: it costs little to look there again.
    holder: Option<Holder>,
}

impl Listener {
    /// A socket of this inode that listens at `address`.
    pub fn new(
        copy: Option<OwnedFd>,
        inode: u64,
        address: Option<SocketAddr>,
        holder: Option<Holder>,
    ) -> Listener {
        Listener { copy, inode, address, holder }
    }

    /// Its inode.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Our copy.
    pub fn copy(&self) -> Option<BorrowedFd<'_>> {
        self.copy.as_ref().map(AsFd::as_fd)
    }

    /// The same, with its owner.
    pub fn owned_copy(&self) -> Option<&OwnedFd> {
        self.copy.as_ref()
    }

    /// By whom it was last seen to be held.
    pub fn holder(&self) -> Option<Holder> {
        self.holder
    }

    /// Whether that process holds it still.
    pub fn is_held_as_before(&self) -> bool {
        self.holder.is_some_and(|(process, number)| proc_fd::is_socket(process, number, self.inode))
    }

    /// Whether that process lives. One that ends closes everything, and its worker may be about to end
    /// as well.
    pub fn holder_lives(&self) -> bool {
        let stat = self.holder.and_then(|(process, _)| tree::stat(process));
        stat.is_some_and(|stat| stat.is_live() && !stat.exiting)
    }

    /// None where the kernel does not say.
    fn is_seen_listening(&self) -> Option<bool> {
        tcp_diag::is_listening(self.address?, self.inode).ok()
    }

    /// A process was seen to hold it.
    pub fn set_holder(&mut self, holder: Holder) {
        self.holder = Some(holder);
    }

    /// Takes a copy of it from its holder, if we have none. False if that cannot be.
    pub fn take_copy(&mut self) -> bool {
        if self.copy.is_none()
            && let Some((process, number)) = self.holder
            && let Ok(copy) = pidfd::duplicate(process, number)
            && fd::device_and_inode(copy.as_raw_fd()).is_ok_and(|(_, inode)| inode == self.inode)
        {
            self.copy = Some(copy);
        }
        self.copy.is_some()
    }
}

impl Socket for Listener {
    fn attach(&self, indices: &[u32]) -> io::Result<()> {
        let copy = self.copy.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(steering::attach(copy.as_fd(), indices)?)
    }

    fn attach_weighed(&self, weight: u16, chosen: &[u32], others: &[u32]) -> io::Result<()> {
        let copy = self.copy.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(steering::attach_weighed(copy.as_fd(), weight, chosen, others)?)
    }

    fn close_copy(&mut self) -> bool {
        self.copy = None;
        // Where that cannot be seen, nobody else is assumed to hold it.
        !self.is_seen_listening().unwrap_or(false)
    }

    fn has_copy(&self) -> bool {
        self.copy.is_some()
    }

    fn listens(&self) -> bool {
        match &self.copy {
            Some(copy) => fd::tcp_queue(copy.as_fd()).map_or(true, |queue| queue.is_some()),
            None => self.is_seen_listening().unwrap_or(true),
        }
    }
}
