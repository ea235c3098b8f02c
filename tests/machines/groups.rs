//! Control groups of this machine that belong to a test alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::WATCHDOG;

/// Where a hierarchy may be: that of version 2 itself, and whatever lies below it in version 1.
const ROOT: &str = "/sys/fs/cgroup";

/// The groups of one name, in every hierarchy that has them. They are removed when this is dropped.
pub struct Groups(String);

impl Groups {
    pub fn new(name: &str) -> Groups {
        Groups(name.to_owned())
    }

    /// Makes them in the hierarchies that systemd uses; false where there is none that we may write to.
    pub fn make(&self) -> bool {
        let hierarchies = ["systemd", "unified", ""].map(|name| Path::new(ROOT).join(name));
        let mut hierarchies = hierarchies.iter().filter(|it| it.join("cgroup.procs").exists()).peekable();
        hierarchies.peek().is_some() && hierarchies.all(|it| fs::create_dir(it.join(&self.0)).is_ok())
    }

    /// Those that are there.
    pub fn paths(&self) -> Vec<PathBuf> {
        let below = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
        let all = below.chain([ROOT.into()]).map(|hierarchy| hierarchy.join(&self.0));
        // A link leads to a hierarchy that has a name of its own (cpu, cpu,cpuacct).
        all.filter(|group| group.is_dir() && !group.parent().is_some_and(Path::is_symlink)).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let start = Instant::now();
        while !self.paths().iter().all(|group| is_removed(group)) && start.elapsed() < WATCHDOG {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(std::thread::panicking() || self.paths().is_empty(), "groups are left: {:?}", self.paths());
    }
}

/// Removes a group and those below it; whether it is gone.
fn is_removed(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            is_removed(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}
