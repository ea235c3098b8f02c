//! Which process stands behind which worker: what the core does not know.

use crate::core::event::{Exit, Generation, Slot, WorkerId};
use crate::sys::process;
use crate::sys::tree::Family;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// One start of the command.
#[derive(Debug)]
pub struct Entry {
    /// Its generation.
    pub generation: Generation,
    /// Its place.
    pub slot: Slot,
    /// Its process, from the moment that there is one.
    pub process: Option<Process>,
    /// Why it could not be started, for people.
    pub refused: Option<String>,
}

/// The process of a worker, and what hangs on it.
#[derive(Debug)]
pub struct Process {
    /// Its number, ours to signal until it is reaped.
    pub pid: Pid,
    /// Whether it has been reaped: then only its group and orphans are left.
    pub reaped: bool,
    /// Whether it leads a group of its own.
    pub leads: bool,
    /// How its descendants are recognised.
    pub family: Family,
    /// The user's check, while it runs.
    pub check: Option<Pid>,
    /// Pins the number on kernels that have it.
    pub pidfd: Option<OwnedFd>,
}

/// Every worker of which something is left.
#[derive(Debug)]
pub struct Books {
    entries: BTreeMap<WorkerId, Entry>,
    command: String,
    /// Why a start was refused last; it outlives its entry, for our last words.
    last_refused: Option<String>,
}

/// Whose process it was that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The worker itself.
    Worker(WorkerId),
    /// Its check.
    Check(WorkerId),
    /// Nobody that we started: an orphan that was given to us.
    Nobody,
}

impl Books {
    /// Empty books for workers of `command`, as messages name it.
    pub fn new(command: String) -> Books {
        Books { entries: BTreeMap::new(), command, last_refused: None }
    }

    /// The command, as messages name it.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// How many entries are open.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Opens an entry, or the same one again for another try.
    pub fn open(&mut self, id: WorkerId, generation: Generation, slot: Slot) {
        self.entries.entry(id).or_insert(Entry { generation, slot, process: None, refused: None });
    }

    /// Notes why a start was refused.
    pub fn refuse(&mut self, id: WorkerId, message: String) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.refused = Some(message.clone());
        }
        self.last_refused = Some(message);
    }

    /// Why the start of a worker was refused.
    pub fn refused(&self, id: WorkerId) -> &str {
        let entry = self.entries.get(&id).and_then(|entry| entry.refused.as_ref());
        entry.or(self.last_refused.as_ref()).map_or("cannot start the command", String::as_str)
    }

    /// The entry of a worker.
    pub fn get(&self, id: WorkerId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The entry of a worker, to be changed.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Closes every entry of which `lives` does not hold, and says which.
    pub fn close(&mut self, lives: impl Fn(WorkerId) -> bool) -> Vec<(WorkerId, Entry)> {
        let gone: Vec<WorkerId> = self.entries.keys().copied().filter(|&id| !lives(id)).collect();
        gone.into_iter().filter_map(|id| Some((id, self.entries.remove(&id)?))).collect()
    }

    /// Whose process `pid` is.
    pub fn owner(&self, pid: Pid) -> Owner {
        let owner = self.entries.iter().find_map(|(&id, entry)| match &entry.process {
            Some(process) if process.pid == pid && !process.reaped => Some(Owner::Worker(id)),
            Some(process) if process.check == Some(pid) => Some(Owner::Check(id)),
            _ => None,
        });
        owner.unwrap_or(Owner::Nobody)
    }

    /// Workers that have been reaped and left something behind.
    pub fn leftovers(&self) -> Vec<WorkerId> {
        let reaped = |entry: &Entry| entry.process.as_ref().is_some_and(|process| process.reaped);
        self.entries.iter().filter(|(_, entry)| reaped(entry)).map(|(&id, _)| id).collect()
    }

    /// Processes that a reaped worker has left behind, outside its group.
    fn orphans(&self, process: &Process) -> Vec<Pid> {
        let ours: Vec<Pid> = self
            .entries
            .values()
            .filter_map(|entry| entry.process.as_ref())
            .flat_map(|process| [(!process.reaped).then_some(process.pid), process.check])
            .flatten()
            .collect();
        process.family.orphans(&ours)
    }

    /// Whether anything of a reaped worker lives on.
    pub fn remains(&self, id: WorkerId) -> bool {
        let Some(process) = self.process(id) else { return false };
        process.leads && process::group_exists(process.pid) || !self.orphans(process).is_empty()
    }

    /// Sends a signal to what a reaped worker has left behind.
    pub fn signal_remains(&self, id: WorkerId, signal: Signal) {
        let Some(process) = self.process(id) else { return };
        if process.leads {
            log_failure(process.pid, process::signal_group(process.pid, signal as i32));
        }
        for orphan in self.orphans(process) {
            if nix::unistd::getpgid(Some(orphan)) != Ok(process.pid) {
                log_failure(orphan, process::signal(orphan, signal as i32));
            }
        }
    }

    /// Sends a signal to the worker alone.
    pub fn signal(&self, id: WorkerId, signal: i32) {
        if let Some(process) = self.process(id).filter(|process| !process.reaped) {
            log_failure(process.pid, process::signal(process.pid, signal));
        }
    }

    /// Sends a signal to the worker and its group.
    pub fn signal_group(&self, id: WorkerId, signal: Signal) {
        let Some(process) = self.process(id) else { return };
        match process.leads {
            true => log_failure(process.pid, process::signal_group(process.pid, signal as i32)),
            false => self.signal(id, signal as i32),
        }
    }

    /// The process of a worker.
    pub fn process(&self, id: WorkerId) -> Option<&Process> {
        self.entries.get(&id)?.process.as_ref()
    }
}

fn log_failure(pid: Pid, result: nix::Result<()>) {
    if let Err(errno) = result {
        log::warn!("cannot signal pid {pid}: {}", crate::error::reason(&errno.into()));
    }
}

/// How a process ended, in the core's words.
pub fn exit(exit: process::Exit) -> Exit {
    match exit {
        process::Exit::Code(code) => Exit::Code(code),
        process::Exit::Signal(signal) => Exit::Signal(signal),
    }
}
