//! The listening sockets of one address, of all workers, and which worker's new
//! connections go to.
//!
//! The kernel knows its members by index, and this is the same list: a socket joins at
//! its end, and when one leaves, the last takes its place. The sockets of the worker
//! that serves are *selected*, by a program that names their indices. At every moment
//! between two system calls a new connection reaches a selected socket, or one that was
//! selected until this very call.
//!
//! A socket that leaves while a selected one is the last changes the index of that, and
//! the program cannot change in the same moment. Where two or more are selected, the last
//! is left out for that long. Where it is the only one, the socket that should leave stays
//! behind, a *tombstone*, never selected, until another is the last: that is when a worker
//! has followed the one that has this socket. There are no more of them than the worker
//! before that one had sockets.
//!
//! A worker that calls shutdown(2) on a listener of its own leaves at its own time; that is
//! seen before the next change, and of several such the order is a guess. Not seen here: a stranger
//! who joins the group.

use crate::core::event::WorkerId;
use crate::sys::{fd, steering};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What the kernel does to a member of a group.
pub trait Socket {
    /// Has new connections of its group go to the members at `indices`.
    ///
    /// # Errors
    /// As [`steering::attach`].
    fn attach(&self, indices: &[u32]) -> io::Result<()>;

    /// It leaves the group, also if it is held elsewhere, and the last takes its place.
    ///
    /// # Errors
    /// As [`steering::leave`]: it is in no group.
    fn leave(&self) -> io::Result<()>;

    /// Whether it still listens: its worker may have left the group by itself, with
    /// shutdown(2). Where that is not known, it does.
    fn listens(&self) -> bool {
        true
    }
}

impl Socket for OwnedFd {
    fn attach(&self, indices: &[u32]) -> io::Result<()> {
        Ok(steering::attach(self.as_fd(), indices)?)
    }

    fn leave(&self) -> io::Result<()> {
        Ok(steering::leave(self.as_fd())?)
    }

    fn listens(&self) -> bool {
        fd::tcp_queue(self.as_fd()).map_or(true, |queue| queue.is_some())
    }
}

#[derive(Debug)]
struct Member<S> {
    socket: S,
    inode: u64,
    /// None for a tombstone.
    worker: Option<WorkerId>,
}

/// See the head of the file. Where the kernel refuses a program, the processes hold what
/// is wanted, no socket leaves, and the next call tries again.
#[derive(Debug)]
pub struct Group<S = OwnedFd> {
    /// As the kernel has them.
    members: Vec<Member<S>>,
    serving: Option<WorkerId>,
    /// The indices in the kernel's program; none as long as there is no program.
    attached: Vec<u32>,
}

impl<S> Default for Group<S> {
    fn default() -> Self {
        Group { members: Vec::new(), serving: None, attached: Vec::new() }
    }
}

impl<S: Socket> Group<S> {
    /// A socket of `worker` has just been told to listen, and so is the kernel's last
    /// member. It is selected if `worker` serves, and the first of all serves.
    ///
    /// # Errors
    /// Whatever the kernel says of its program. The socket is a member all the same.
    pub fn join(&mut self, socket: S, inode: u64, worker: WorkerId) -> io::Result<()> {
        self.notice();
        self.members.push(Member { socket, inode, worker: Some(worker) });
        self.serving.get_or_insert(worker);
        self.pin()
    }

    /// New connections go to the sockets of `to` from now on, in one step. False if it
    /// has none here: then all stays as it is.
    ///
    /// # Errors
    /// Whatever the kernel says of its program; all stays as it is.
    pub fn steer(&mut self, to: WorkerId) -> io::Result<bool> {
        self.notice();
        if self.sockets(to).next().is_none() {
            return Ok(false);
        }
        let before = self.serving.replace(to);
        self.pin().inspect_err(|_| self.serving = before)?;
        Ok(true)
    }

    /// The sockets of `worker`, which is gone, leave, or become tombstones. If it served,
    /// the newest of the others serves; without others no tombstone stays either.
    ///
    /// # Errors
    /// Whatever the kernel says of its program. What has not left is a tombstone.
    pub fn remove(&mut self, worker: WorkerId) -> io::Result<()> {
        self.notice();
        for member in self.members.iter_mut().filter(|member| member.worker == Some(worker)) {
            member.worker = None;
        }
        if self.serving == Some(worker) {
            self.serving = self.members.iter().filter_map(|member| member.worker).max();
        }
        self.bury()
    }

    /// The sockets of `worker`, which is gone, become tombstones for now: somebody else has a socket
    /// in the group, which would take the place of one that leaves.
    pub fn entomb(&mut self, worker: WorkerId) {
        for member in self.members.iter_mut().filter(|member| member.worker == Some(worker)) {
            member.worker = None;
        }
    }

    /// Sockets that their worker has closed, `gone` by their inode, leave or become
    /// tombstones; but the last one of the worker that serves stays, selected.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn abandon(&mut self, gone: impl Fn(u64) -> bool) -> io::Result<()> {
        let serving = self.serving;
        let mut left =
            self.members.iter().filter(|member| serving.is_some() && member.worker == serving).count();
        for member in self.members.iter_mut().filter(|member| member.worker.is_some() && gone(member.inode)) {
            if member.worker == serving {
                left -= 1;
                if left == 0 {
                    continue;
                }
            }
            member.worker = None;
        }
        self.bury()
    }

    /// Tombstones leave where that is safe now. To be called after the sockets of a new
    /// worker have joined and before they are selected: these come to stand before those
    /// that leave later, so that [`remove`](Self::remove) is held up by none of them.
    ///
    /// # Errors
    /// Whatever the kernel says of its program.
    pub fn bury(&mut self) -> io::Result<()> {
        self.pin()?;
        while let Some(index) = self.tombstone() {
            if !self.expel(index)? {
                break;
            }
        }
        Ok(())
    }

    /// The one to leave next: the last member if it is one, or else the one with the lowest
    /// index, so that those who stay come to stand before all others, where they are in
    /// nobody's way.
    fn tombstone(&self) -> Option<usize> {
        let is_one = |member: &Member<S>| member.worker.is_none();
        match self.members.last().is_some_and(is_one) {
            true => Some(self.members.len() - 1),
            false => self.members.iter().position(is_one),
        }
    }

    /// The next socket of `from`, a worker that died, with its inode: to be put in place
    /// of one that a worker started instead has just bound.
    pub fn inherit(&self, from: WorkerId) -> Option<(u64, &S)> {
        self.sockets(from).next()
    }

    /// It was: the socket is one of `to`, at its place, with all that waits in it. If it
    /// was selected, `to` serves, so that no new connection goes to what is not inherited yet.
    ///
    /// # Errors
    /// Whatever the kernel says of its program. The socket is one of `to` all the same.
    pub fn inherited(&mut self, inode: u64, to: WorkerId) -> io::Result<()> {
        let owned = |member: &&mut Member<S>| member.inode == inode && member.worker.is_some();
        let Some(member) = self.members.iter_mut().find(owned) else { return Ok(()) };
        if member.worker.replace(to) == self.serving {
            self.serving = Some(to);
        }
        self.pin()
    }

    /// What has left by itself is no member any more: the last has taken its place. The program
    /// is not what it was then. To be called before such a socket is told to listen again.
    pub fn notice(&mut self) {
        while let Some(index) = self.members.iter().position(|member| !member.socket.listens()) {
            self.members.swap_remove(index);
            self.attached.clear();
        }
    }

    /// The kernel's program names those that are selected. Nothing is asked of it where
    /// it does already, or where nothing is.
    fn pin(&mut self) -> io::Result<()> {
        self.attach(self.selected())
    }

    fn attach(&mut self, indices: Vec<u32>) -> io::Result<()> {
        let Some(&first) = indices.first().filter(|_| indices != self.attached) else { return Ok(()) };
        self.members[first as usize].socket.attach(&indices)?;
        self.attached = indices;
        Ok(())
    }

    fn selected(&self) -> Vec<u32> {
        let selected = |member: &Member<S>| self.serving.is_some() && member.worker == self.serving;
        (0..).zip(&self.members).filter(|(_, member)| selected(member)).map(|(index, _)| index).collect()
    }

    /// The member at `index`, a tombstone, leaves, unless a new connection would be led
    /// astray by that: then it says false. The program names those that are selected,
    /// before and after.
    fn expel(&mut self, index: usize) -> io::Result<bool> {
        let last = self.members.len() - 1;
        let mut selected = self.selected();
        if selected.pop_if(|selected| *selected as usize == last).is_some() {
            match selected.is_empty() {
                false => self.attach(selected)?,
                // Of two, the one that stays is what an index beyond it means.
                true if last == 1 => {}
                true => return Ok(false),
            }
        }
        // What is in no group any more need not leave it.
        let _ = self.members.swap_remove(index).socket.leave();
        if self.members.is_empty() {
            // The kernel forgets the program with the last member.
            self.attached.clear();
        }
        self.pin()?;
        Ok(true)
    }
}

impl<S> Group<S> {
    /// One that was carried over: its members in the order of their indices, with inode and worker,
    /// and the indices in the kernel's program.
    pub fn restore(
        members: Vec<(S, u64, Option<WorkerId>)>,
        serving: Option<WorkerId>,
        attached: Vec<u32>,
    ) -> Group<S> {
        let member = |(socket, inode, worker)| Member { socket, inode, worker };
        Group { members: members.into_iter().map(member).collect(), serving, attached }
    }

    /// What [`restore`](Self::restore) wants to know of the members.
    pub fn members(&self) -> impl Iterator<Item = (&S, u64, Option<WorkerId>)> {
        self.members.iter().map(|member| (&member.socket, member.inode, member.worker))
    }

    /// The indices in the kernel's program.
    pub fn attached(&self) -> &[u32] {
        &self.attached
    }

    /// The worker that new connections go to.
    pub fn serving(&self) -> Option<WorkerId> {
        self.serving
    }

    /// Whether the socket is a member, be it a tombstone.
    pub fn knows(&self, inode: u64) -> bool {
        self.inodes().any(|known| known == inode)
    }

    /// The member of this inode.
    pub fn socket(&self, inode: u64) -> Option<&S> {
        self.members.iter().find(|member| member.inode == inode).map(|member| &member.socket)
    }

    /// Whose the socket is; nobody's if it is a tombstone.
    pub fn owner(&self, inode: u64) -> Option<WorkerId> {
        self.members.iter().find(|member| member.inode == inode)?.worker
    }

    /// The sockets of `worker`, by inode, in the order of their indices.
    pub fn sockets(&self, worker: WorkerId) -> impl Iterator<Item = (u64, &S)> {
        let own = self.members.iter().filter(move |member| member.worker == Some(worker));
        own.map(|member| (member.inode, &member.socket))
    }

    /// Every socket that is somebody's, with its worker.
    pub fn owned(&self) -> impl Iterator<Item = (WorkerId, u64)> {
        self.members.iter().filter_map(|member| Some((member.worker?, member.inode)))
    }

    /// All members in the order of their indices, tombstones too: what the kernel has, if
    /// there is no stranger.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.members.iter().map(|member| member.inode)
    }

    /// How many members there are, tombstones too.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member, so that nothing listens at the address.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many members wait to leave.
    pub fn tombstones(&self) -> usize {
        self.members.iter().filter(|member| member.worker.is_none()).count()
    }
}
#[cfg(test)]
mod tests;
