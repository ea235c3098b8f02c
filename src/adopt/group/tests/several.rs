//! Several workers serve an address together.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// As in use: a generation of several workers follows another, slot by slot or at once, and a worker
    /// that crashes gets nothing while the others live.
    #[test]
    fn several_workers_serve(
        sizes in prop::collection::vec(2..5_usize, 1..6),
        surge in 1..5_usize,
        crashes in any::<usize>(),
    ) {
        let mut world = World::default();
        let mut serving: Vec<u32> = Vec::new();
        let mut last = 0;
        for (round, size) in sizes.into_iter().enumerate() {
            let mut old = std::mem::take(&mut serving);
            while serving.len() < size {
                let count = surge.min(size - serving.len()) as u32;
                let batch: Vec<u32> = (last + 1..=last + count).collect();
                last += count;
                let before = world.selected();
                batch.iter().for_each(|&new| world.join(new).expect("join"));
                let first = world.own(batch[0]);
                prop_assert_eq!(world.selected(), if before.is_empty() { first } else { before });
                world.group.remove_tombstones().expect("remove tombstones");
                world.kernel.borrow_mut().seen.clear();
                let replaced: Vec<u32> = old.drain(..batch.len().min(old.len())).collect();
                serving.extend(batch);
                world.serve(&[&serving[..], &old].concat());
                replaced.into_iter().for_each(|old| world.end(old));
            }
            // There are fewer than before.
            world.serve(&serving);
            old.into_iter().for_each(|old| world.end(old));
            prop_assert_eq!(world.group.tombstones(), 0, "of several that serve none keeps a socket");
            // One crashes: its queue is for the next one in its place.
            let dead = serving.remove((crashes >> round) % serving.len());
            world.serve(&serving);
            prop_assert!(world.selected().is_disjoint(&world.own(dead)));
            last += 1;
            world.step(&Step::Inherit(dead, last));
            prop_assert_eq!(world.group.serving(), &set(&serving), "it is not ready");
            prop_assert_eq!(world.own(last).len(), 1);
            serving.push(last);
            world.serve(&serving);
            prop_assert_eq!(world.selected().len(), serving.len());
        }
    }
}

impl World {
    fn serve(&mut self, workers: &[u32]) {
        let before = self.selected();
        self.step(&Step::Steer(workers.iter().copied().collect()));
        self.check(&before);
    }

    fn end(&mut self, worker: u32) {
        self.step(&Step::Remove(worker));
        self.check(&self.selected());
    }
}

#[test]
fn several_serve_and_one_that_dies_is_left_out_in_one_step() {
    let mut world = World::with(&[1, 2, 3]);
    assert!(world.group.steer(&set(&[1, 2, 3, 7]), None).expect("steer"));
    assert_eq!((world.group.serving(), world.reachable()), (&set(&[1, 2, 3]), [0, 1, 2].into()));
    world.join(4).expect("join");
    assert_eq!((world.reachable(), world.kernel.borrow().attached), ([0, 1, 2].into(), 2));
    assert!(world.group.steer(&set(&[1, 3]), None).expect("steer"));
    assert_eq!((world.reachable(), world.own(2)), ([0, 2].into(), [1].into()), "its queue stays");
    world.group.transfer(1, WorkerId(5)).expect("inherited");
    assert_eq!((world.group.serving(), world.reachable()), (&set(&[1, 3]), [0, 2].into()), "not ready yet");
    world.group.remove(WorkerId(1)).expect("remove");
    assert_eq!((world.group.serving(), world.group.tombstones()), (&set(&[3]), 0));
    world.group.remove(WorkerId(3)).expect("remove");
    assert_eq!(world.group.serving(), &set(&[5]), "the newest, where nobody else serves");
}
