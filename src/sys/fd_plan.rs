//! Which descriptor goes to which number in a worker, planned before the fork.
//!
//! After [`Plan::apply`] each target is a duplicate of its source and stays open at exec.
//! Everything else from 3 up is close-on-exec, also the error pipe, whose number is never a target.

use std::os::fd::RawFd;

/// A table of descriptors: the kernel's in a child, a simulated one in the tests.
pub trait FdTable {
    /// Why an operation failed.
    type Error;
    /// Duplicates `fd`, close-on-exec, to the lowest free number not below `least`.
    fn duplicate_above(&mut self, fd: RawFd, least: RawFd) -> Result<RawFd, Self::Error>;
    /// Duplicates `source` to `target`, another number, which stays open at exec.
    fn duplicate_to(&mut self, source: RawFd, target: RawFd) -> Result<(), Self::Error>;
    /// Makes `fd` stay open at exec.
    fn keep_on_exec(&mut self, fd: RawFd) -> Result<(), Self::Error>;
    /// Makes what is open from `first` to `last` close-on-exec.
    fn close_on_exec(&mut self, first: RawFd, last: RawFd) -> Result<(), Self::Error>;
}

#[derive(Debug)]
struct Mapping {
    source: RawFd,
    target: RawFd,
    /// Whether the source is a target of another mapping, and has to be moved away first.
    conflicts: bool,
}

/// The steps, prepared so that [`Plan::apply`] allocates nothing.
#[derive(Debug)]
pub struct Plan {
    mappings: Vec<Mapping>,
    /// The ranges from 3 up that have no target; exec closes them.
    gaps: Vec<(RawFd, RawFd)>,
    /// The first number above every target.
    above: RawFd,
    error_pipe: RawFd,
    move_error_pipe: bool,
}

impl Plan {
    /// Plans for pairs of (source, target) and the write end of the error pipe.
    /// None when two pairs have the same target or a number cannot be one.
    pub fn new(fds: &[(RawFd, RawFd)], error_pipe: RawFd) -> Option<Plan> {
        let mut targets: Vec<RawFd> = fds.iter().map(|&(_, target)| target).collect();
        targets.sort_unstable();
        let doubled = targets.windows(2).any(|pair| pair[0] == pair[1]);
        let possible = |fd: RawFd| (0..RawFd::MAX).contains(&fd);
        if doubled || !fds.iter().all(|&(from, to)| possible(from) && possible(to)) {
            return None;
        }

        let taken = |fd| targets.binary_search(&fd).is_ok();
        let mappings = fds
            .iter()
            .map(|&(source, target)| Mapping {
                source,
                target,
                // A source that is its own target stays: no other mapping has that target.
                conflicts: source != target && taken(source),
            })
            .collect();

        let mut gaps = Vec::with_capacity(targets.len() + 1);
        let mut next = 3;
        for &target in targets.iter().filter(|&&target| target >= 3) {
            if next < target {
                gaps.push((next, target - 1));
            }
            next = target + 1;
        }
        gaps.push((next, RawFd::MAX));

        Some(Plan { mappings, gaps, above: next, error_pipe, move_error_pipe: taken(error_pipe) })
    }

    /// The present number of the write end of the error pipe.
    pub fn error_pipe(&self) -> RawFd {
        self.error_pipe
    }

    /// Takes the steps. Allocates nothing and cannot panic: for the child
    /// between fork and exec.
    ///
    /// # Errors
    /// The first error of the table; earlier steps are not undone.
    pub fn apply<T: FdTable>(&mut self, table: &mut T) -> Result<(), T::Error> {
        if self.move_error_pipe {
            self.error_pipe = table.duplicate_above(self.error_pipe, self.above)?;
        }
        for mapping in self.mappings.iter_mut().filter(|mapping| mapping.conflicts) {
            mapping.source = table.duplicate_above(mapping.source, self.above)?;
        }
        for mapping in &self.mappings {
            if mapping.source == mapping.target {
                // dup2(2) of a number to itself would leave close-on-exec set.
                table.keep_on_exec(mapping.target)?;
            } else {
                table.duplicate_to(mapping.source, mapping.target)?;
            }
        }
        for &(first, last) in &self.gaps {
            table.close_on_exec(first, last)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Number → (which file, close-on-exec).
    #[derive(Debug, Default)]
    struct Simulated(BTreeMap<RawFd, (u32, bool)>);

    impl FdTable for Simulated {
        type Error = String;

        fn duplicate_above(&mut self, fd: RawFd, least: RawFd) -> Result<RawFd, String> {
            let (file, _) = *self.0.get(&fd).ok_or("duplicate_above: not open")?;
            let free = (least..).find(|fd| !self.0.contains_key(fd)).ok_or("full")?;
            self.0.insert(free, (file, true));
            Ok(free)
        }

        fn duplicate_to(&mut self, source: RawFd, target: RawFd) -> Result<(), String> {
            assert_ne!(source, target);
            let (file, _) = *self.0.get(&source).ok_or("duplicate_to: not open")?;
            self.0.insert(target, (file, false));
            Ok(())
        }

        fn keep_on_exec(&mut self, fd: RawFd) -> Result<(), String> {
            self.0.get_mut(&fd).ok_or("keep_on_exec: not open")?.1 = false;
            Ok(())
        }

        fn close_on_exec(&mut self, first: RawFd, last: RawFd) -> Result<(), String> {
            self.0.range_mut(first..=last).for_each(|(_, (_, close))| *close = true);
            Ok(())
        }
    }

    proptest! {
        /// Small numbers, so that sources, targets, strangers and the error
        /// pipe collide in most cases.
        #[test]
        fn each_target_holds_its_source_and_nothing_else_survives(
            pairs in proptest::collection::vec((0..14_i32, 0..14_i32), 0..9),
            error_pipe in 3..16_i32,
            strangers in proptest::collection::btree_set(3..40_i32, 0..12),
        ) {
            let mut used = BTreeSet::new();
            let pairs: Vec<(RawFd, RawFd)> = pairs
                .into_iter()
                .filter(|&(source, target)| source != error_pipe && used.insert(target))
                .collect();
            // File n is what number n held at first; all is close-on-exec but stdio
            // and, the point of closing, strangers.
            let mut table = Simulated::default();
            for fd in 0..3 {
                table.0.insert(fd, (fd as u32, false));
            }
            for &(source, _) in &pairs {
                table.0.entry(source).or_insert((source as u32, true));
            }
            for fd in strangers {
                table.0.entry(fd).or_insert((fd as u32, false));
            }
            table.0.insert(error_pipe, (error_pipe as u32, true));

            let mut plan = Plan::new(&pairs, error_pipe).expect("targets differ");
            plan.apply(&mut table).expect("every source is open");

            for &(source, target) in &pairs {
                prop_assert_eq!(table.0.get(&target), Some(&(source as u32, false)));
            }
            prop_assert!(!used.contains(&plan.error_pipe()));
            prop_assert_eq!(table.0.get(&plan.error_pipe()), Some(&(error_pipe as u32, true)));
            for (fd, &(file, close)) in &table.0 {
                if used.contains(fd) {
                    continue;
                }
                if *fd < 3 {
                    prop_assert_eq!((file, close), (*fd as u32, false));
                } else {
                    prop_assert!(close, "{fd} would reach the worker");
                }
            }
        }
    }

    #[test]
    fn a_target_for_two_or_a_negative_number_is_refused() {
        assert!(Plan::new(&[(5, 3), (6, 3)], 9).is_none());
        assert!(Plan::new(&[(5, -1)], 9).is_none());
        assert!(Plan::new(&[(-1, 3)], 9).is_none());
        assert!(Plan::new(&[(5, RawFd::MAX)], 9).is_none());
    }
}
