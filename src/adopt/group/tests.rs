//! The group against a model of the kernel's, which records after every system call
//! which members a new connection may reach.

mod several;

use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The kernel's side, by inode.
#[derive(Default)]
struct Kernel {
    members: Vec<u64>,
    program: Vec<u32>,
    /// The members that could be reached after each call.
    seen: Vec<BTreeSet<u64>>,
    attached: u32,
    /// It has no memory for a program.
    refuses: bool,
    /// Members that somebody else holds as well.
    held: BTreeSet<u64>,
}

impl Kernel {
    fn listen(&mut self, inode: u64) {
        self.members.push(inode);
        self.record_reachable();
    }

    fn leave(&mut self, inode: u64) {
        let index = self.members.iter().position(|&member| member == inode).expect("a member");
        self.members.swap_remove(index);
        if self.members.is_empty() {
            self.program.clear();
        }
        self.record_reachable();
    }

    fn attach(&mut self, indices: &[u32]) {
        assert!(!indices.is_empty() && self.program != indices, "{indices:?} in vain");
        self.program = indices.to_vec();
        self.attached += 1;
        self.record_reachable();
    }

    fn record_reachable(&mut self) {
        self.seen.push(self.reachable());
    }

    /// The members that a new connection may reach, whatever its hash.
    fn reachable(&self) -> BTreeSet<u64> {
        let member = |&index: &u32| self.members.get(index as usize).copied();
        let hashed = self.program.is_empty() || self.program.iter().any(|index| member(index).is_none());
        match hashed {
            true => self.members.iter().copied().collect(),
            false => self.program.iter().filter_map(member).collect(),
        }
    }
}

struct Listening {
    inode: u64,
    kernel: Rc<RefCell<Kernel>>,
    has_copy: bool,
}

impl Socket for Listening {
    fn attach(&self, indices: &[u32]) -> io::Result<()> {
        let mut kernel = self.kernel.borrow_mut();
        if kernel.refuses {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        assert!(self.has_copy && kernel.members.contains(&self.inode), "through a copy of a member");
        kernel.attach(indices);
        Ok(())
    }

    fn attach_weighed(&self, weight: u16, chosen: &[u32], others: &[u32]) -> io::Result<()> {
        let drawn = match (weight, others.is_empty()) {
            (0, false) => others.to_vec(),
            (10_000, _) => chosen.to_vec(),
            _ => [chosen, others].concat(),
        };
        self.attach(&drawn)
    }

    fn close_copy(&mut self) -> bool {
        assert!(std::mem::take(&mut self.has_copy), "it is closed once");
        let leaves = !self.kernel.borrow().held.contains(&self.inode);
        if leaves {
            self.kernel.borrow_mut().leave(self.inode);
        }
        leaves
    }

    fn has_copy(&self) -> bool {
        self.has_copy
    }

    fn listens(&self) -> bool {
        self.kernel.borrow().members.contains(&self.inode)
    }
}

#[derive(Default)]
struct World {
    kernel: Rc<RefCell<Kernel>>,
    group: Group<Listening>,
    inodes: u64,
    /// The last socket of the worker that served has left, or there was no copy to attach a program
    /// through: for a moment a new connection may reach any socket.
    nobody_served: bool,
}

impl World {
    fn join(&mut self, worker: u32) -> io::Result<()> {
        let (inode, kernel) = (self.inodes, self.kernel.clone());
        self.inodes += 1;
        kernel.borrow_mut().listen(inode);
        self.group.join(Listening { inode, kernel, has_copy: true }, inode, WorkerId(worker))
    }

    fn with(workers: &[u32]) -> World {
        let mut world = World::default();
        workers.iter().for_each(|&worker| world.join(worker).expect("join"));
        world
    }

    fn own(&self, worker: u32) -> BTreeSet<u64> {
        self.group.sockets(WorkerId(worker)).map(|(inode, _)| inode).collect()
    }

    fn selected(&self) -> BTreeSet<u64> {
        self.group.serving().iter().flat_map(|worker| self.own(worker.0)).collect()
    }

    fn reachable(&self) -> BTreeSet<u64> {
        self.kernel.borrow().reachable()
    }

    fn members(&self) -> Vec<u64> {
        self.kernel.borrow().members.clone()
    }

    fn step(&mut self, step: &Step) {
        let last = self.selected();
        let no_copy = self.group.members().all(|(socket, ..)| !socket.has_copy);
        self.apply(step);
        let gone = matches!(step, Step::GiveUp(_)) && self.selected().is_disjoint(&last);
        self.nobody_served = gone || no_copy;
    }

    fn apply(&mut self, step: &Step) {
        let (group, id) = (&mut self.group, |worker: &u32| WorkerId(*worker));
        match step {
            Step::Join(worker) => self.join(*worker),
            Step::Steer(workers) => {
                let to: BTreeSet<WorkerId> = workers.iter().map(id).collect();
                let here: BTreeSet<WorkerId> =
                    group.owned().map(|(owner, ..)| owner).filter(|owner| to.contains(owner)).collect();
                let done = group.steer(&to, None);
                assert!(here.is_empty() || group.serving() == &here, "those of them that are here serve");
                done.map(|done| assert_eq!(done, !here.is_empty()))
            }
            Step::Remove(worker) => group.remove(id(worker)),
            Step::GiveUp(inode) => group.give_up(inode % self.inodes.max(1)),
            Step::Hold(inode) => {
                self.kernel.borrow_mut().held.insert(inode % self.inodes.max(1));
                Ok(())
            }
            Step::RemoveTombstones => group.remove_tombstones(),
            Step::Inherit(from, to) => {
                let next = group.next_socket(id(from)).map(|(inode, _)| inode);
                next.map_or(Ok(()), |inode| group.transfer(inode, id(to)))
            }
        }
        .expect("the kernel refuses nothing");
    }

    /// Checks the invariants after a step; `before`: the members that were selected before it.
    fn check(&self, before: &BTreeSet<u64>) {
        let (after, group) = (self.selected(), &self.group);
        let kernel = std::mem::take(&mut self.kernel.borrow_mut().seen);
        for seen in &kernel {
            // Where nothing serves any more, or for the first time, there is no wrong place.
            let right = seen.is_subset(before) || seen.is_subset(&after) || self.nobody_served;
            assert!(right || after.is_empty() || before.is_empty(), "{before:?} → {after:?} by {kernel:?}");
        }
        assert_eq!(group.inodes().collect::<Vec<_>>(), self.members());
        assert_eq!((group.len(), group.is_empty()), (self.members().len(), self.members().is_empty()));
        match after.is_empty() {
            // Without a copy the program stays as it is.
            false if group.members().all(|(socket, ..)| !socket.has_copy) => {}
            false => assert_eq!(self.reachable(), after, "all that is selected, and nothing else"),
            // Where nobody serves, only what somebody else holds is left.
            true => assert!(group.members().all(|(socket, ..)| !socket.has_copy)),
        }
        assert!(group.inodes().all(|inode| group.contains(inode)) && !group.contains(self.inodes));
        let nobodys = group.inodes().filter(|&inode| group.owner(inode).is_none()).count();
        assert_eq!(nobodys, group.tombstones());
    }
}

fn set(workers: &[u32]) -> BTreeSet<WorkerId> {
    workers.iter().copied().map(WorkerId).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Join(u32),
    Steer(BTreeSet<u32>),
    Remove(u32),
    /// Its worker has closed it.
    GiveUp(u64),
    /// Somebody else has got a copy.
    Hold(u64),
    RemoveTombstones,
    Inherit(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let worker = || 0..4_u32;
    prop_oneof![
        6 => worker().prop_map(Step::Join),
        3 => prop::collection::btree_set(worker(), 1..4).prop_map(Step::Steer),
        2 => worker().prop_map(Step::Remove),
        1 => any::<u64>().prop_map(Step::GiveUp),
        1 => any::<u64>().prop_map(Step::Hold),
        1 => Just(Step::RemoveTombstones),
        1 => (worker(), worker()).prop_map(|(from, to)| Step::Inherit(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_connection_reaches_a_selected_socket(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::default();
        for step in &steps {
            let (before, serving) = (world.selected(), world.group.serving().clone());
            world.step(step);
            world.check(&before);
            let tombstones = world.group.tombstones();
            match step {
                Step::Join(_) if !serving.is_empty() => prop_assert_eq!(&serving, world.group.serving()),
                Step::Hold(_) | Step::RemoveTombstones => prop_assert_eq!(&serving, world.group.serving()),
                Step::Remove(worker) => prop_assert!(world.own(*worker).is_empty()),
                _ => {}
            }
            let tombstones = tombstones - world.group.members().filter(|(socket, _, worker)| worker.is_none() && !socket.has_copy).count();
            if matches!(step, Step::Remove(_) | Step::RemoveTombstones) && tombstones > 0 {
                let last = world.members().last().copied();
                prop_assert_eq!(world.selected().into_iter().collect::<Vec<_>>(), Vec::from_iter(last));
                prop_assert!(world.group.len() > 2, "there is a reason for each that stays");
            }
        }
    }

    /// As in use: one worker follows another, with any number of sockets.
    #[test]
    fn tombstones_stay_for_one_worker_at_most(sizes in prop::collection::vec(1..9_usize, 1..12)) {
        let mut world = World::default();
        for (worker, size) in (0..).zip(sizes) {
            let (before, tombstones) = (world.selected(), world.group.tombstones());
            (0..size).for_each(|_| world.join(worker).expect("join"));
            world.group.remove_tombstones().expect("remove tombstones");
            world.check(&before);
            world.group.steer(&set(&[worker]), None).expect("steer");
            world.check(&before);
            if let Some(old) = worker.checked_sub(1) {
                world.step(&Step::Remove(old));
                world.check(&world.selected());
            }
            let left = world.group.tombstones();
            prop_assert!(left == 0 || (size == 1 && tombstones == 0 && left == before.len()), "{left}");
        }
    }
}

/// The fault that tombstones prevent: the model sees it.
#[test]
fn the_model_sees_a_socket_that_leaves_too_early() {
    let world = World::with(&[0, 0, 1]);
    world.kernel.borrow_mut().attach(&[2]);
    let selected = world.reachable();
    world.kernel.borrow_mut().leave(0);
    assert!(!world.reachable().is_subset(&selected), "the program names an index beyond the last");
}

#[test]
fn one_that_leaves_by_itself_is_noticed_before_the_next_change() {
    let mut world = World::with(&[1, 2]);
    assert!(world.group.steer(&set(&[2]), None).expect("steer"));
    world.kernel.borrow_mut().leave(0);
    world.join(3).expect("join");
    assert_eq!((world.reachable(), world.group.len()), ([1].into(), 2));
    world.group.remove(WorkerId(1)).expect("nothing is left of it");
    assert!(world.group.steer(&set(&[3]), None).expect("steer"));
    assert_eq!(world.reachable(), [2].into());
}

#[test]
fn the_first_serves_and_others_wait_until_they_are_selected() {
    let mut world = World::with(&[1, 2, 1, 2]);
    assert_eq!((world.group.serving(), world.reachable()), (&set(&[1]), [0, 2].into()));
    assert_eq!(world.kernel.borrow().attached, 2, "a socket that is not selected needs no program");
    assert!(!world.group.steer(&set(&[3]), None).expect("steer"));
    assert!(world.group.steer(&set(&[2]), None).expect("steer"));
    assert!(world.group.steer(&set(&[2]), None).expect("once more"));
    assert_eq!((world.reachable(), world.kernel.borrow().attached), ([1, 3].into(), 3));
}

#[test]
fn tombstones_leave_when_another_has_joined() {
    let mut world = World::with(&[1, 1, 1, 2]);
    world.group.steer(&set(&[2]), None).expect("steer");
    world.group.remove(WorkerId(1)).expect("remove");
    assert_eq!((world.group.tombstones(), world.members()), (3, vec![0, 1, 2, 3]));
    world.join(3).expect("join");
    world.group.remove_tombstones().expect("remove tombstones");
    assert_eq!((world.group.tombstones(), world.members()), (2, vec![4, 1, 2, 3]));
    world.group.steer(&set(&[3]), None).expect("steer");
    world.group.remove(WorkerId(2)).expect("remove");
    assert_eq!((world.group.tombstones(), world.members()), (0, vec![4]));
    world.group.remove(WorkerId(3)).expect("remove");
    assert!(world.group.is_empty() && world.group.serving().is_empty(), "there is nothing left to protect");
    world.join(4).expect("join");
    assert_eq!(world.kernel.borrow().program, [0], "the program went with the last member");
}

#[test]
fn the_one_old_socket_leaves_beside_the_one_new() {
    let mut world = World::with(&[1, 2]);
    world.group.steer(&set(&[2]), None).expect("steer");
    world.group.remove(WorkerId(1)).expect("remove");
    assert_eq!((world.members(), world.reachable()), (vec![1], [1].into()));
}

#[test]
fn a_worker_that_served_is_followed_by_the_newest() {
    let mut world = World::with(&[3, 1, 5, 2]);
    world.group.remove(WorkerId(3)).expect("remove");
    assert_eq!(world.group.serving(), &set(&[5]));
    assert_eq!(world.reachable(), world.own(5));
}

#[test]
fn what_its_worker_closed_leaves() {
    let mut world = World::with(&[1, 1, 2, 2]);
    for inode in [0, 2] {
        world.group.give_up(inode).expect("give up");
    }
    assert_eq!((world.own(1), world.own(2)), ([1].into(), [3].into()));
    world.group.give_up(1).expect("give up");
    assert_eq!((world.members(), world.reachable()), (vec![3], [3].into()));
    assert_eq!(world.group.serving(), &set(&[2]));
    world.group.give_up(3).expect("give up");
    assert!(world.group.is_empty() && world.group.serving().is_empty());
}

/// It may be on its way from one process to another: it stays where it was.
#[test]
fn what_somebody_else_holds_stays() {
    let mut world = World::with(&[1, 1, 2]);
    world.kernel.borrow_mut().held.extend([0, 1]);
    world.group.give_up(0).expect("give up");
    assert_eq!((world.members(), world.reachable()), (vec![0, 1, 2], [0, 1].into()));
    world.group.give_up(0).expect("nothing is left to give up");
    world.group.give_up(1).expect("give up");
    assert_eq!((world.reachable(), world.group.serving()), ([0, 1].into(), &set(&[1])));
    world.group.steer(&set(&[2]), None).expect("steer");
    world.group.remove(WorkerId(1)).expect("remove");
    assert_eq!((world.reachable(), world.group.tombstones()), ([2].into(), 2), "they stay, and get nothing");
    world.kernel.borrow_mut().leave(0);
    world.kernel.borrow_mut().leave(1);
    world.group.remove_closed();
    assert_eq!(world.group.tombstones(), 0);
}

#[test]
fn a_dead_worker_s_sockets_are_inherited_at_their_place() {
    let mut world = World::with(&[1, 2, 1]);
    let mut next = || {
        let (inode, _) = world.group.next_socket(WorkerId(1))?;
        world.group.transfer(inode, WorkerId(3)).expect("inherited");
        Some((
            inode,
            world.group.owner(inode),
            world.group.serving().clone(),
            world.kernel.borrow().reachable(),
        ))
    };
    let three = Some(WorkerId(3));
    assert_eq!(next(), Some((0, three, set(&[3]), [0].into())), "what nobody accepts from is passed over");
    assert_eq!(next(), Some((2, three, set(&[3]), [0, 2].into())));
    assert_eq!(next(), None);
    assert_eq!(world.members(), [0, 1, 2]);
}

#[test]
fn without_a_program_nothing_leaves_and_the_next_call_tries_again() {
    let mut world = World::with(&[1, 2, 2, 3]);
    let refuse = |world: &World, refuses| world.kernel.borrow_mut().refuses = refuses;
    refuse(&world, true);
    world.group.steer(&set(&[2]), None).expect_err("no program");
    assert_eq!((world.group.serving(), world.reachable()), (&set(&[1]), [0].into()));
    world.group.remove(WorkerId(1)).expect_err("no program");
    assert_eq!((world.members(), world.reachable()), (vec![0, 1, 2, 3], [0].into()));
    world.join(1).expect_err("no program, but the kernel has the socket");
    refuse(&world, false);
    world.group.remove_tombstones().expect("remove tombstones");
    assert_eq!((world.group.serving(), world.group.tombstones()), (&set(&[3]), 0));
    assert_eq!(world.reachable(), world.own(3));
}
