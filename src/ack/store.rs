//! The store of descriptors: workers store them with us (FDSTORE=1, sd_notify(3)) for the next
//! worker in their slot, across crashes and upgrades.
//!
//! What a replacement stores or removes counts for its own generation only, until that generation
//! serves in the slot. If the upgrade is undone, its changes are dropped.

use crate::core::event::{Generation, Slot};
use crate::sys::fd::is_same_file;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use serde::{Deserialize, Serialize};
use std::io;

/// The most descriptors of a slot; further ones are closed.
pub(super) const MAX_STORED: usize = 128;
/// The name of a descriptor that was stored without a name, or with one that is not allowed.
const UNNAMED: &str = "stored";
/// The longest name, in bytes.
const LONGEST_NAME: usize = 255;

/// The stored descriptors of all slots.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: BTreeMap<Slot, Vec<Kept>>,
    /// The generation that serves in each slot, as of the last upgrade.
    served: BTreeMap<Slot, Generation>,
    /// Generations whose upgrade was undone: nothing more of them is stored.
    undone: BTreeSet<Generation>,
}

/// What is done with a descriptor that a worker asks to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept.
    Kept,
    /// The same file is stored already, or the upgrade to the worker's generation was undone.
    Ignored,
    /// Its slot has [`MAX_STORED`] descriptors.
    NoRoom,
}

/// A stored descriptor.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
    generation: Generation,
    /// The generation that has removed it, which counts unless that one is undone.
    removed_by: Option<Generation>,
    /// The key by which the watcher reports its end; None if it is not watched.
    pub(super) key: Option<u64>,
}

/// The store across an execve(2).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    kept: Vec<(Slot, SavedKept)>,
    served: BTreeMap<Slot, Generation>,
    undone: BTreeSet<Generation>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedKept {
    fd: Fd,
    name: String,
    generation: Generation,
    removed_by: Option<Generation>,
    /// Whether it is watched for its end.
    watched: bool,
}

impl Kept {
    fn is_seen_by(&self, generation: Generation) -> bool {
        self.generation <= generation && self.removed_by.is_none_or(|by| by > generation)
    }
}

impl Store {
    /// Lists the descriptors and copies the other values.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let mut save = |it: &Kept| -> io::Result<SavedKept> {
            let (name, generation, removed_by) = (it.name.clone(), it.generation, it.removed_by);
            let watched = it.key.is_some();
            Ok(SavedKept { fd: transfer.add(&it.fd)?, name, generation, removed_by, watched })
        };
        let all = self.kept.iter().flat_map(|(&slot, kept)| kept.iter().map(move |it| (slot, it)));
        let kept = all.map(|(slot, it)| Ok((slot, save(it)?))).collect::<io::Result<_>>()?;
        Ok(Saved { kept, served: self.served.clone(), undone: self.undone.clone() })
    }

    /// The store as it was; `watch` gives a key to each descriptor that is watched for its end.
    pub(super) fn restore(
        saved: Saved,
        fds: &mut InheritedFds,
        mut watch: impl FnMut(&OwnedFd) -> Option<u64>,
    ) -> Store {
        let mut kept: BTreeMap<Slot, Vec<Kept>> = BTreeMap::new();
        for (slot, SavedKept { fd, name, generation, removed_by, watched }) in saved.kept {
            let fd = fds.take(fd);
            let key = if watched { watch(&fd) } else { None };
            kept.entry(slot).or_default().push(Kept { fd, name, generation, removed_by, key });
        }
        Store { kept, served: saved.served, undone: saved.undone }
    }

    /// What would be done with a descriptor.
    pub(super) fn verdict(&self, slot: Slot, generation: Generation, fd: &OwnedFd) -> Verdict {
        let served = self.served.get(&slot).is_some_and(|served| generation <= *served);
        let same = |it: &Kept| is_same_file(it.fd.as_raw_fd(), fd.as_raw_fd());
        match self.kept.get(&slot).map_or(0, Vec::len) {
            _ if !served && self.undone.contains(&generation) => Verdict::Ignored,
            _ if self.stored(slot, generation).any(same) => Verdict::Ignored,
            count if count >= MAX_STORED => Verdict::NoRoom,
            _ => Verdict::Kept,
        }
    }

    /// Stores a descriptor.
    pub(super) fn add(
        &mut self,
        slot: Slot,
        generation: Generation,
        name: Option<&str>,
        fd: OwnedFd,
        key: Option<u64>,
    ) {
        let name = name.filter(|name| is_name(name)).unwrap_or(UNNAMED).to_owned();
        self.kept.entry(slot).or_default().push(Kept { fd, name, generation, removed_by: None, key });
    }

    /// Removes the descriptors called `name`; returns those that are closed.
    pub(super) fn remove(&mut self, slot: Slot, generation: Generation, name: &str) -> Vec<Kept> {
        let served = self.served.get(&slot).is_some_and(|served| generation <= *served);
        let Some(kept) = self.kept.get_mut(&slot) else { return Vec::new() };
        for it in kept.iter_mut().filter(|it| it.name == name && it.is_seen_by(generation)) {
            it.removed_by = Some(generation);
        }
        let gone = |it: &mut Kept| it.removed_by.is_some_and(|by| served || by == it.generation);
        kept.extract_if(.., gone).collect()
    }

    /// The descriptors that a worker of this slot and generation is given, in the order in which
    /// they were stored.
    pub(super) fn stored(&self, slot: Slot, generation: Generation) -> impl Iterator<Item = &Kept> {
        let kept = self.kept.get(&slot).into_iter().flatten();
        kept.filter(move |it| it.is_seen_by(generation))
    }

    /// An upgrade to `to` has ended, and `served` lists the generation that serves in each slot.
    /// Returns the descriptors that are closed.
    pub(super) fn end_upgrade(&mut self, to: Generation, served: &[(Slot, Generation)]) -> Vec<Kept> {
        let mut gone = Vec::new();
        for &(slot, serving) in served {
            self.served.insert(slot, serving);
            let Some(kept) = self.kept.get_mut(&slot) else { continue };
            if serving >= to {
                gone.extend(kept.extract_if(.., |it| it.removed_by.is_some_and(|by| by <= serving)));
                continue;
            }
            gone.extend(kept.extract_if(.., |it| it.generation == to));
            for it in kept.iter_mut().filter(|it| it.removed_by == Some(to)) {
                it.removed_by = None;
            }
        }
        if served.iter().any(|(_, serving)| *serving < to) {
            self.undone.insert(to);
        }
        // No worker of a generation that was undone long ago is left.
        while self.undone.len() > MAX_STORED {
            self.undone.pop_first();
        }
        gone
    }

    /// Takes out the descriptor with this key.
    pub(super) fn take(&mut self, key: u64) -> Option<Kept> {
        let mut slots = self.kept.values_mut();
        slots.find_map(|kept| kept.extract_if(.., |it| it.key == Some(key)).next())
    }
}

/// As systemd has it: printable ASCII without a colon, which separates names.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const SLOT: Slot = Slot(0);

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn add(store: &mut Store, generation: u32, name: &str) {
        store.add(SLOT, Generation(generation), Some(name), null(), None);
    }

    fn names(store: &Store, generation: u32) -> Vec<&str> {
        store.stored(SLOT, Generation(generation)).map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn an_undone_upgrade_loses_nothing() {
        let mut store = Store::default();
        add(&mut store, 1, "old");
        add(&mut store, 2, "new");
        assert!(store.remove(SLOT, Generation(2), "old").is_empty());
        assert_eq!((names(&store, 1), names(&store, 2)), (vec!["old"], vec!["new"]));
        assert_eq!(store.end_upgrade(Generation(2), &[(SLOT, Generation(1))]).len(), 1);
        // It still drains.
        assert_eq!(store.verdict(SLOT, Generation(2), &null()), Verdict::Ignored);
        assert_eq!((names(&store, 1), names(&store, 3)), (vec!["old"], vec!["old"]));
    }

    #[test]
    fn an_upgrade_hands_on_what_its_worker_did_not_remove() {
        let mut store = Store::default();
        for name in ["a", "b"] {
            add(&mut store, 1, name);
        }
        store.remove(SLOT, Generation(2), "a");
        add(&mut store, 2, "c");
        assert_eq!(store.end_upgrade(Generation(2), &[(SLOT, Generation(2))]).len(), 1);
        assert_eq!(names(&store, 2), ["b", "c"]);
        assert_eq!(store.remove(SLOT, Generation(2), "b").len(), 1, "one that serves removes at once");
        assert_eq!(names(&store, 3), ["c"]);
    }

    #[test]
    fn a_slot_that_was_replaced_keeps_what_its_worker_did_when_another_fails() {
        let mut store = Store::default();
        let other = Slot(1);
        for slot in [SLOT, other] {
            store.add(slot, Generation(2), None, null(), None);
        }
        store.end_upgrade(Generation(2), &[(SLOT, Generation(2)), (other, Generation(1))]);
        assert_eq!(names(&store, 2), [UNNAMED]);
        assert_eq!(store.stored(other, Generation(2)).count(), 0);
    }

    #[test]
    fn the_same_file_is_kept_once_and_never_too_many() {
        let mut store = Store::default();
        let (file, one) = (null(), Generation(1));
        store.add(SLOT, one, Some("x"), file.try_clone().unwrap(), None);
        assert_eq!(store.verdict(SLOT, one, &file), Verdict::Ignored);
        assert_eq!(store.verdict(SLOT, one, &null()), Verdict::Kept);
        for _ in 1..MAX_STORED {
            add(&mut store, 1, "y");
        }
        assert_eq!(store.verdict(SLOT, one, &file), Verdict::Ignored);
        assert_eq!(store.verdict(SLOT, one, &null()), Verdict::NoRoom);
        assert_eq!(store.remove(SLOT, Generation(1), "y").len(), MAX_STORED - 1);
    }

    #[test]
    fn impossible_names_are_replaced() {
        for name in ["", "a:b", "a\tb", "é", &"x".repeat(256)] {
            assert!(!is_name(name), "{name:?}");
        }
        for name in ["http", "a b", "x=1,y;z", &"x".repeat(255)] {
            assert!(is_name(name), "{name:?}");
        }
    }
}
