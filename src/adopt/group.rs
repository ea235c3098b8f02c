//! The SO_REUSEPORT group of one address: the listening sockets of all workers there, and the
//! workers that new connections go to.
//!
//! The kernel numbers the members, and this is the same list: a new socket is added at the end,
//! and when one leaves, the last takes its index. The sockets of the workers that serve are
//! *selected* by a program that names their indices, and draws each as often as any other. Between
//! any two system calls a new connection reaches a selected socket, or one that was selected until
//! the last call.
//!
//! A socket that leaves while a selected one is the last changes the index of that one, and
//! the program cannot change in the same moment. If two or more are selected, the last one
//! is left out of the program meanwhile. If only one is selected, the socket that should leave
//! stays as a *tombstone*, which is never selected, until another socket is the last: that is
//! after the next worker has joined. There are at most as many tombstones as the workers before
//! had sockets.
//!
//! We never shut a socket down. One is to leave when we close our copy of it, and it leaves if
//! nobody else holds it. If somebody does, it stays a member of which we have no copy: it leaves by
//! itself, as one does whose worker calls shutdown(2) on it. This is noticed before the next
//! change; the order of several such sockets is a guess. A stranger that joins the group is not
//! noticed here.

use crate::core::event::WorkerId;
use std::collections::BTreeSet;
use std::io;

/// The system calls on a member of a group.
pub trait Socket {
    /// Has new connections of its group go to the members at `indices`.
    ///
    /// # Errors
    /// As [`steering::attach`](crate::sys::steering::attach).
    fn attach(&self, indices: &[u32]) -> io::Result<()>;

    /// The same: `weight` ten-thousandths go to `chosen`, the rest to `others`.
    ///
    /// # Errors
    /// As [`steering::attach_weighed`](crate::sys::steering::attach_weighed).
    fn attach_weighed(&self, weight: u16, chosen: &[u32], others: &[u32]) -> io::Result<()>;

    /// Closes our copy of it. True if nobody else held it: it has left the group, and the last
    /// member has taken its index.
    fn close_copy(&mut self) -> bool;

    /// Whether we have a copy.
    fn has_copy(&self) -> bool {
        true
    }

    /// Whether it still listens: its worker may have called shutdown(2), or have closed it where we
    /// have no copy, and so have left the group. True where that is not known.
    fn listens(&self) -> bool {
        true
    }
}

/// A worker that gets a part of the new connections, in ten-thousandths; the others share the rest.
pub type Weighed = (WorkerId, u16);

/// What a program selects from; empty: there is no program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Selection {
    /// The indices of the worker with a weight, which is in ten-thousandths.
    chosen: Vec<u32>,
    weight: u16,
    others: Vec<u32>,
}

impl Selection {
    fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.others.is_empty()
    }

    /// Whether it had this index, which is the last one there is, and has it no more.
    fn leave_out(&mut self, last: u32) -> bool {
        let is_it = |index: &mut u32| *index == last;
        self.chosen.pop_if(is_it).is_some() || self.others.pop_if(is_it).is_some()
    }
}

#[derive(Debug)]
struct Member<S> {
    socket: S,
    inode: u64,
    /// None for a tombstone.
    worker: Option<WorkerId>,
}

/// A group. If the kernel refuses a program, this keeps the state that is wanted, no socket leaves,
/// and the next call tries again.
#[derive(Debug)]
pub struct Group<S> {
    /// In the order of their indices in the kernel.
    members: Vec<Member<S>>,
    /// The workers whose sockets are selected. One may have no socket here any more.
    serving: BTreeSet<WorkerId>,
    /// One of them may get a part of its own.
    weighed: Option<Weighed>,
    /// What the kernel's program selects from.
    attached: Selection,
}

impl<S> Default for Group<S> {
    fn default() -> Self {
        Group { members: Vec::new(), serving: BTreeSet::new(), weighed: None, attached: Selection::default() }
    }
}

impl<S: Socket> Group<S> {
    /// A socket of `worker` has just begun to listen: it is the kernel's last member. It is
    /// selected if `worker` serves. The worker of the first socket serves.
    ///
    /// # Errors
    /// The kernel's error for the program. The socket is a member all the same.
    pub fn join(&mut self, socket: S, inode: u64, worker: WorkerId) -> io::Result<()> {
        self.remove_closed();
        self.members.push(Member { socket, inode, worker: Some(worker) });
        if self.serving.is_empty() {
            self.serving.insert(worker);
        }
        self.attach_selected()
    }

    /// New connections go to the sockets of `to` from now on, in one step, and the part that
    /// `weighed` says to that one. False, and nothing changes, if none of them has a socket here.
    ///
    /// # Errors
    /// The kernel's error for the program; nothing has changed then.
    pub fn steer(&mut self, to: &BTreeSet<WorkerId>, weighed: Option<Weighed>) -> io::Result<bool> {
        self.remove_closed();
        let here: BTreeSet<WorkerId> =
            self.owned().map(|(owner, ..)| owner).filter(|id| to.contains(id)).collect();
        if here.is_empty() {
            return Ok(false);
        }
        let before =
            (std::mem::replace(&mut self.serving, here), std::mem::replace(&mut self.weighed, weighed));
        self.attach_selected().inspect_err(|_| (self.serving, self.weighed) = before)?;
        Ok(true)
    }

    /// The sockets of `worker`, which has ended, leave or become tombstones. If nobody else serves,
    /// the newest of the others does; without others no tombstone stays either.
    ///
    /// # Errors
    /// The kernel's error for the program. A socket that has not left is a tombstone.
    pub fn remove(&mut self, worker: WorkerId) -> io::Result<()> {
        self.retire(worker)?;
        self.remove_tombstones()
    }

    /// The sockets of `worker`, which has ended, become tombstones. If nobody else serves, the newest
    /// of the others does.
    ///
    /// # Errors
    /// The kernel's error for the program.
    pub fn retire(&mut self, worker: WorkerId) -> io::Result<()> {
        self.remove_closed();
        self.make_tombstones(worker);
        if self.serving.remove(&worker) && self.selected().is_empty() {
            self.serving = self.newest();
        }
        self.attach_selected()
    }

    /// Makes tombstones of the sockets of `worker`, which has ended: a stranger has a socket in the
    /// group, which would take the index of one that leaves.
    pub fn make_tombstones(&mut self, worker: WorkerId) {
        for member in self.members.iter_mut().filter(|member| member.worker == Some(worker)) {
            member.worker = None;
        }
    }

    /// The worker of this socket has closed it: our copy is closed too. The socket leaves or becomes
    /// a tombstone; but if somebody else holds it, it stays as it is. If it was the last one that was
    /// selected, the newest of the other workers serves.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn give_up(&mut self, inode: u64) -> io::Result<()> {
        self.remove_closed();
        let open = |member: &Member<S>| member.inode == inode && member.socket.has_copy();
        let Some(index) = self.members.iter().position(open) else { return Ok(()) };
        if self.selected() == [index as u32] {
            // It must not be left out of the program before it is known that it leaves.
            if self.members[index].socket.close_copy() {
                self.members.swap_remove(index);
                self.serving = self.newest();
                if self.members.is_empty() {
                    self.attached = Selection::default();
                }
                return self.remove_tombstones();
            }
            return Ok(());
        }
        let worker = self.members[index].worker.take();
        let removed = self.remove_tombstones();
        let held = |member: &&mut Member<S>| member.inode == inode && !member.socket.has_copy();
        if let Some(member) = self.members.iter_mut().find(held) {
            member.worker = worker;
            return removed.and_then(|()| self.attach_selected());
        }
        removed
    }

    fn newest(&self) -> BTreeSet<WorkerId> {
        self.members.iter().filter_map(|member| member.worker).max().into_iter().collect()
    }

    /// Removes tombstones where that is safe now. This must be called after the sockets of a new
    /// worker have joined and before they are selected: they get lower indices than those that
    /// leave later, so that none of them delays [`remove`](Self::remove).
    ///
    /// # Errors
    /// The kernel's error for the program.
    pub fn remove_tombstones(&mut self) -> io::Result<()> {
        self.attach_selected()?;
        while let Some(index) = self.next_tombstone() {
            if !self.remove_tombstone(index)? {
                break;
            }
        }
        Ok(())
    }

    /// The tombstone that leaves next: the last member if it is one, else the one with the lowest
    /// index, so that the members that stay get the lowest indices.
    fn next_tombstone(&self) -> Option<usize> {
        let is_one = |member: &Member<S>| member.worker.is_none() && member.socket.has_copy();
        match self.members.last().is_some_and(is_one) {
            true => Some(self.members.len() - 1),
            false => self.members.iter().position(is_one),
        }
    }

    /// The next socket of `from`, a worker that died, with its inode. It replaces the socket that
    /// the worker after it has just bound.
    pub fn next_socket(&self, from: WorkerId) -> Option<(u64, &S)> {
        self.sockets(from).next()
    }

    /// The socket belongs to `to` now; its index and its queue stay. If it was selected, `to` serves
    /// in the place of the worker that had it, so that no new connection goes to sockets that are not
    /// inherited yet.
    ///
    /// # Errors
    /// The kernel's error for the program. The socket belongs to `to` all the same.
    pub fn transfer(&mut self, inode: u64, to: WorkerId) -> io::Result<()> {
        let owned = |member: &&mut Member<S>| member.inode == inode && member.worker.is_some();
        let Some(member) = self.members.iter_mut().find(owned) else { return Ok(()) };
        if member.worker.replace(to).is_some_and(|from| self.serving.remove(&from)) {
            self.serving.insert(to);
        }
        self.attach_selected()
    }

    /// Drops members that have left by themselves: the last member has taken the index of each, and
    /// the program must be attached again. This must be called before such a socket listens again.
    pub fn remove_closed(&mut self) {
        while let Some(index) = self.members.iter().position(|member| !member.socket.listens()) {
            self.members.swap_remove(index);
            self.attached = Selection::default();
        }
    }

    /// Attaches the program that names the selected members, unless it is attached already or none
    /// is selected.
    fn attach_selected(&mut self) -> io::Result<()> {
        self.attach(self.selection())
    }

    /// Through any member: without a copy of one there is none to steer away from either.
    fn attach(&mut self, selection: Selection) -> io::Result<()> {
        if selection.is_empty() || selection == self.attached {
            return Ok(());
        }
        let mut copies = self.members.iter().filter(|member| member.socket.has_copy());
        let Some(member) = copies.next() else { return Ok(()) };
        match selection.chosen.is_empty() {
            true => member.socket.attach(&selection.others)?,
            false => member.socket.attach_weighed(selection.weight, &selection.chosen, &selection.others)?,
        }
        self.attached = selection;
        Ok(())
    }

    fn selected(&self) -> Vec<u32> {
        let selected =
            |member: &Member<S>| member.worker.is_some_and(|worker| self.serving.contains(&worker));
        (0..).zip(&self.members).filter(|(_, member)| selected(member)).map(|(index, _)| index).collect()
    }

    fn selection(&self) -> Selection {
        let is_weighed = |index: &u32| {
            let worker = self.members[*index as usize].worker;
            self.weighed.is_some_and(|(weighed, _)| worker == Some(weighed))
        };
        let (chosen, others) = self.selected().into_iter().partition(is_weighed);
        Selection { chosen, weight: self.weighed.map_or(0, |(_, weight)| weight), others }
    }

    /// Removes the tombstone at `index`. False if it cannot, because a new connection could reach a
    /// socket that is not selected. The program names the selected members before and after.
    fn remove_tombstone(&mut self, index: usize) -> io::Result<bool> {
        let last = self.members.len() - 1;
        let mut selected = self.selection();
        if selected.leave_out(last as u32) {
            match selected.is_empty() {
                false => self.attach(selected)?,
                // Of two members one stays, and an index beyond it leads to that one.
                true if last == 1 => {}
                true => return Ok(false),
            }
        }
        if self.members[index].socket.close_copy() {
            self.members.swap_remove(index);
        }
        if self.members.is_empty() {
            // The kernel forgets the program with the last member.
            self.attached = Selection::default();
        }
        self.attach_selected()?;
        Ok(true)
    }
}

impl<S> Group<S> {
    /// A group as it was before an execve(2): its members in the order of their indices, with inode
    /// and worker, and the indices in the kernel's program, if they are known.
    pub fn restore(
        members: Vec<(S, u64, Option<WorkerId>)>,
        serving: BTreeSet<WorkerId>,
        weighed: Option<Weighed>,
        attached: Vec<u32>,
    ) -> Group<S> {
        let member = |(socket, inode, worker)| Member { socket, inode, worker };
        let attached = Selection { others: attached, ..Selection::default() };
        Group { members: members.into_iter().map(member).collect(), serving, weighed, attached }
    }

    /// The members, as [`restore`](Self::restore) takes them.
    pub fn members(&self) -> impl Iterator<Item = (&S, u64, Option<WorkerId>)> {
        self.members.iter().map(|member| (&member.socket, member.inode, member.worker))
    }

    /// The indices in the kernel's program. None where a worker has a part of its own: the program is
    /// attached again then.
    pub fn attached(&self) -> &[u32] {
        if self.attached.chosen.is_empty() { &self.attached.others } else { &[] }
    }

    /// The worker that gets a part of its own.
    pub fn weighed(&self) -> Option<Weighed> {
        self.weighed
    }

    /// The workers that new connections go to.
    pub fn serving(&self) -> &BTreeSet<WorkerId> {
        &self.serving
    }

    /// Whether the socket is a member, as a tombstone too.
    pub fn contains(&self, inode: u64) -> bool {
        self.inodes().any(|known| known == inode)
    }

    /// The member of this inode.
    pub fn socket(&self, inode: u64) -> Option<&S> {
        self.members.iter().find(|member| member.inode == inode).map(|member| &member.socket)
    }

    /// Every socket, to be changed, with its worker.
    pub fn sockets_mut(&mut self) -> impl Iterator<Item = (Option<WorkerId>, &mut S)> {
        self.members.iter_mut().map(|member| (member.worker, &mut member.socket))
    }

    /// The worker of a socket; None for a tombstone.
    pub fn owner(&self, inode: u64) -> Option<WorkerId> {
        self.members.iter().find(|member| member.inode == inode)?.worker
    }

    /// The sockets of `worker`, by inode, in the order of their indices.
    pub fn sockets(&self, worker: WorkerId) -> impl Iterator<Item = (u64, &S)> {
        let own = self.members.iter().filter(move |member| member.worker == Some(worker));
        own.map(|member| (member.inode, &member.socket))
    }

    /// Every socket that is no tombstone, with its worker and its inode.
    pub fn owned(&self) -> impl Iterator<Item = (WorkerId, u64, &S)> {
        self.members.iter().filter_map(|member| Some((member.worker?, member.inode, &member.socket)))
    }

    /// All members in the order of their indices, tombstones too. The kernel has the same, unless
    /// there is a stranger.
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
