//! Sockets of its own for the first worker of an upgrade that is held, where a listener has
//! `reuseport`: it can be given any part of the new connections.
//!
//! Contract: the sockets of the slots and these are the members of one group. Such a socket begins
//! to listen after the group has a program that does not select it. It gets connections when it is
//! given a weight, and gets none any more once its worker has to leave. When the new generation
//! serves, it becomes the socket of its slot, and the one that the slot had before serves until its
//! worker has gone. Nothing of a queue is lost: a socket is closed only when no worker has it.
//! While no such socket is there the group has no program, and the kernel selects by hash.

use super::{Kind, Listener, Listeners, inet};
use crate::error::reason;
use crate::sys::tcp_diag::{self, Flow};
use crate::sys::{fd, steering};
use nix::errno::Errno;
use nix::sys::stat::fstat;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A socket that is not, or no longer, that of its slot.
#[derive(Debug)]
pub(super) struct Apart {
    pub(super) fd: OwnedFd,
    /// The generation whose worker has it.
    pub(super) generation: u32,
    /// The index among the sockets of the slots.
    pub(super) slot: u32,
    /// Its part of the new connections, in ten-thousandths; None: none, or no more.
    pub(super) weight: Option<u16>,
    /// The handshakes that were under way when it got no more: those of this address.
    pub(super) handshakes: BTreeSet<Flow>,
}

impl Listener {
    /// Whether a generation can have sockets of its own there.
    fn can_be_apart(&self) -> bool {
        self.kind == Kind::Tcp && self.reuseport && self.inet_options.is_some()
    }

    /// The socket of the workers of this slot in this generation, if it is not that of the slot.
    pub(super) fn apart(&self, generation: u32, slot: u32) -> Option<&Apart> {
        let slot = self.index(slot);
        self.apart.iter().find(|apart| apart.generation == generation && apart.slot == slot)
    }

    /// The index of the socket of a slot.
    pub(super) fn index(&self, slot: u32) -> u32 {
        slot % self.sockets.len() as u32
    }

    /// All its sockets.
    pub(super) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.iter().chain(self.apart.iter().map(|apart| &apart.fd))
    }

    fn open_apart(&mut self, generation: u32, slot: u32) -> io::Result<()> {
        if self.apart(generation, slot).is_some() {
            return Ok(());
        }
        let (Some(address), Some(options)) = (self.inet, &self.inet_options) else { return Ok(()) };
        let fd = OwnedFd::from(inet::bind_beside(address, options)?);
        // It may be the first: then there is no program yet.
        self.steer(true)?;
        if let Err(errno) = steering::listen(fd.as_fd(), i32::try_from(self.backlog).unwrap_or(i32::MAX)) {
            let _ = self.steer(false);
            return Err(errno.into());
        }
        self.order.push(inode(fd.as_fd()));
        let slot = self.index(slot);
        self.apart.push(Apart { fd, generation, slot, weight: None, handshakes: BTreeSet::new() });
        Ok(())
    }

    /// Gives the group the program for its present members, or none if there is nothing to choose.
    /// `always` is for a socket that is about to join.
    fn steer(&self, always: bool) -> nix::Result<()> {
        let Some(first) = self.sockets.first().map(AsFd::as_fd) else { return Ok(()) };
        if self.apart.is_empty() && !always {
            match steering::detach(first) {
                // Before Linux 5.3 a program cannot be removed: it selects any, as the kernel does.
                Err(Errno::ENOPROTOOPT) => {}
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        let others: Vec<u32> = self.sockets.iter().filter_map(|fd| self.position(fd.as_fd())).collect();
        match self.apart.iter().find_map(|apart| Some((apart, apart.weight?))) {
            Some((apart, weight)) => {
                let chosen: Vec<u32> = self.position(apart.fd.as_fd()).into_iter().collect();
                steering::attach_weighed(first, weight, &chosen, &others)
            }
            None => steering::attach(first, &others),
        }
    }

    /// The index of a socket in the group, which is the order of listen(2).
    fn position(&self, fd: BorrowedFd<'_>) -> Option<u32> {
        let inode = inode(fd);
        self.order.iter().position(|&member| member == inode).map(|at| at as u32)
    }

    /// The socket was shut down by a worker, and listens again: it has left its group and is the last
    /// member now.
    pub(super) fn has_joined_again(&mut self, inode: u64) {
        if let Some(at) = self.order.iter().position(|&member| member == inode) {
            self.order.swap_remove(at);
            self.order.push(inode);
            if !self.apart.is_empty()
                && let Err(errno) = self.steer(true)
            {
                log::warn!("cannot steer the connections of {self}: {}", reason(&errno.into()));
            }
        }
    }

    /// Gives the worker of `generation` with a socket of its own this part.
    fn weigh(&mut self, generation: u32, weight: u16) -> nix::Result<()> {
        let before: Vec<Option<u16>> = self.apart.iter().map(|apart| apart.weight).collect();
        for apart in self.apart.iter_mut().filter(|apart| apart.generation == generation) {
            apart.weight = Some(weight);
        }
        let steered = self.steer(false);
        if steered.is_err() {
            // The kernel has kept the program that it had.
            self.apart.iter_mut().zip(before).for_each(|(apart, weight)| apart.weight = weight);
        }
        steered
    }

    /// No socket beside those of the slots gets a new connection from now on.
    fn end_weights(&mut self, serving: u32) -> nix::Result<()> {
        self.apart.iter_mut().for_each(|apart| apart.weight = None);
        let steered = self.steer(false);
        let left: BTreeSet<u32> = self.apart.iter().map(|apart| apart.generation).collect();
        left.into_iter().filter(|&generation| generation > serving).for_each(|it| self.note_handshakes(it));
        steered
    }

    /// The sockets of the worker on hold become those of its slot, and get their part as the others.
    fn switch(&mut self, to: u32, from: &impl Fn(u32) -> u32) -> nix::Result<()> {
        let swap = |listener: &mut Listener, at: usize| {
            let apart = &mut listener.apart[at];
            std::mem::swap(&mut listener.sockets[apart.slot as usize], &mut apart.fd);
        };
        let new = (0..self.apart.len()).filter(|&at| self.apart[at].generation == to);
        let mut swapped = Vec::new();
        for at in new.collect::<Vec<_>>() {
            swapped.push((at, self.apart[at].weight.take()));
            swap(self, at);
            self.apart[at].generation = from(self.apart[at].slot);
        }
        let steered = self.steer(false);
        for (at, weight) in swapped {
            if steered.is_ok() {
                self.note_handshakes(self.apart[at].generation);
            } else {
                // The kernel has kept the program that it had.
                swap(self, at);
                (self.apart[at].generation, self.apart[at].weight) = (to, weight);
            }
        }
        steered
    }

    /// The handshakes that are under way may be those of the sockets that get no more connections.
    fn note_handshakes(&mut self, generation: u32) {
        let ports: BTreeSet<u16> = self.inet.iter().map(|address| address.port()).collect();
        let handshakes = tcp_diag::handshakes(&ports).unwrap_or_default();
        for apart in self.apart.iter_mut().filter(|apart| apart.generation == generation) {
            apart.handshakes.clone_from(&handshakes);
        }
    }

    /// How many connections wait at the sockets of this worker that get no more, or are on the way to
    /// them.
    fn waiting_apart(&mut self, generation: u32, slot: u32) -> u32 {
        let index = self.index(slot);
        let ports: BTreeSet<u16> = self.inet.iter().map(|address| address.port()).collect();
        let mut waiting = 0;
        let own = |apart: &&mut Apart| apart.generation == generation && apart.slot == index;
        for apart in self.apart.iter_mut().filter(own) {
            // First the handshakes: what has left them is in the queue by then.
            if !apart.handshakes.is_empty() {
                let now = tcp_diag::handshakes(&ports).unwrap_or_default();
                apart.handshakes.retain(|flow| now.contains(flow));
            }
            let queue = fd::tcp_queue(apart.fd.as_fd()).ok().flatten().map_or(0, |queue| queue.length);
            waiting += apart.handshakes.len() as u32 + queue;
        }
        waiting
    }

    /// Closes the sockets of workers that have gone.
    fn close_apart(&mut self, lives: &impl Fn(u32, u32) -> bool) {
        let count = self.sockets.len() as u32;
        let slots = |index: u32| (index..).step_by(count as usize);
        let gone = |apart: &mut Apart| {
            !slots(apart.slot).take(MOST_SHARED).any(|slot| lives(apart.generation, slot))
        };
        let gone: Vec<Apart> = self.apart.extract_if(.., gone).collect();
        if gone.is_empty() {
            return;
        }
        for apart in gone {
            // Another process may still have it open: it leaves the group all the same.
            let _ = steering::leave_group(apart.fd.as_fd());
            let inode = inode(apart.fd.as_fd());
            if let Some(at) = self.order.iter().position(|&member| member == inode) {
                // The kernel gives its index to the last member.
                self.order.swap_remove(at);
            }
        }
        if let Err(errno) = self.steer(false) {
            log::warn!("cannot steer the connections of {self}: {}", reason(&errno.into()));
        }
    }

    /// A socket that is none of ours in the group.
    fn stranger(&self) -> Option<u64> {
        let address = self.inet?;
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let found = tcp_diag::listen_sockets(family, address.port()).ok()?;
        let same = |found: &&tcp_diag::ListenSocket| {
            found.address.ip() == address.ip() && found.device == 0 && !self.order.contains(&found.inode)
        };
        found.iter().find(same).map(|found| found.inode)
    }
}

/// More slots than this never share a socket.
const MOST_SHARED: usize = 1000;

impl Listeners {
    /// Whether a generation can have sockets of its own: at each listener.
    pub fn can_be_apart(&self) -> bool {
        !self.list.is_empty() && self.list.iter().all(Listener::can_be_apart)
    }

    /// Why no weight can be set, naming the listener.
    pub fn unweighable(&self) -> Option<String> {
        if self.list.is_empty() {
            return Some("we hold no listener (write -b ADDRESS,reuseport)".into());
        }
        let shared = self.list.iter().find(|listener| !listener.can_be_apart())?;
        Some(format!(
            "both generations share the socket of {shared} (its -b has to be a TCP address with ,reuseport)"
        ))
    }

    /// Whether a worker has sockets of its own.
    pub fn has_apart(&self) -> bool {
        self.list.iter().any(|listener| !listener.apart.is_empty())
    }

    /// Opens sockets of its own for the worker of this slot in this generation. They get no
    /// connections yet.
    ///
    /// # Errors
    /// Why not, naming the listener.
    pub fn open_apart(&mut self, generation: u32, slot: u32) -> Result<(), String> {
        for listener in self.list.iter_mut().filter(|listener| listener.can_be_apart()) {
            if let Some(inode) = listener.stranger() {
                return Err(format!(
                    "somebody else listens on {} too (socket {inode}; ss -ltnpe says who): connections cannot be steered beside it",
                    listener.address
                ));
            }
            listener.open_apart(generation, slot).map_err(|error| {
                format!("cannot open one more socket on {}: {}", listener.address, reason(&error))
            })?;
        }
        Ok(())
    }

    /// Gives `generation` this part of the new connections, in ten-thousandths.
    ///
    /// # Errors
    /// Why not, naming the listener. Those before it have the new weight already.
    pub fn weigh(&mut self, generation: u32, weight: u16) -> Result<(), String> {
        self.each(|listener| listener.weigh(generation, weight))
    }

    /// `to` has served beside the workers before, and serves alone now; `from` tells the generation
    /// that has served in a slot.
    ///
    /// # Errors
    /// Why not, naming the listener.
    pub fn switch(&mut self, to: u32, from: impl Fn(u32) -> u32) -> Result<(), String> {
        self.each(|listener| listener.switch(to, &from))
    }

    /// What was to follow `serving` has to leave, and gets no new connections any more.
    ///
    /// # Errors
    /// Why not, naming the listener.
    pub fn switch_back(&mut self, serving: u32) -> Result<(), String> {
        self.each(|listener| listener.end_weights(serving))
    }

    fn each(&mut self, mut steer: impl FnMut(&mut Listener) -> nix::Result<()>) -> Result<(), String> {
        for listener in self.list.iter_mut().filter(|listener| !listener.apart.is_empty()) {
            steer(listener).map_err(|errno| {
                format!("cannot steer the connections of {listener}: {}", reason(&errno.into()))
            })?;
        }
        Ok(())
    }

    /// How many connections wait at the sockets that only this worker has, and that get no more.
    pub fn waiting_apart(&mut self, generation: u32, slot: u32) -> u32 {
        self.list.iter_mut().map(|listener| listener.waiting_apart(generation, slot)).sum()
    }

    /// Closes the sockets of the workers that have gone: `lives` tells of a generation and a slot.
    pub fn close_apart(&mut self, lives: impl Fn(u32, u32) -> bool) {
        self.list.iter_mut().for_each(|listener| listener.close_apart(&lives));
    }
}

/// The inode of a socket. 0 if fstat(2) fails, which does not happen for an open socket.
pub(super) fn inode(fd: BorrowedFd<'_>) -> u64 {
    fstat(fd).map_or(0, |file| file.st_ino)
}
