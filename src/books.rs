//! Which process stands behind which worker: what the core does not know.

use crate::core::event::{Exit, Generation, Slot, Time, WorkerId};
use crate::listener::guard::Look;
use crate::sys::process;
use crate::sys::tree::{self, Family};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long the number of a worker that has been reaped is taken for its own. By
/// then its signals have been told, and the number is not yet somebody else's.
const REMEMBERED: Duration = Duration::from_secs(10);
/// So many of them at most.
const MOST_REMEMBERED: usize = 1024;

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
    /// Whether it leads a group of its own that has not been seen empty: the
    /// number of an empty one may soon be somebody else's.
    pub leads: bool,
    /// How its descendants are recognised.
    pub family: Family,
    /// The user's check, while it runs.
    pub check: Option<Pid>,
    /// What it left behind and has been asked to stop; None: nothing has.
    pub asked: Option<BTreeSet<Pid>>,
    /// Whether what it left behind is to be killed.
    pub killed: bool,
    /// TERMs that it has sent us.
    pub terms: u32,
    /// Closed once no predecessor of its slot lives: it tells the worker so.
    pub until_alone: Option<OwnedFd>,
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
    /// Workers that have been reaped of late: a signal of one may be told after
    /// its end.
    dead: VecDeque<(Pid, WorkerId, Time)>,
    /// Children that we had before we started any.
    strangers: Vec<Pid>,
    /// Everything is to go: whatever is left to us belongs to the last workers.
    pub stopping: bool,
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
        Books {
            entries: BTreeMap::new(),
            command,
            last_refused: None,
            dead: VecDeque::new(),
            strangers: tree::living_children(Pid::this(), &[]),
            stopping: false,
        }
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

    /// What is looked at in the listeners as this worker starts, is ready or ends.
    pub fn look(&self, id: WorkerId) -> Look {
        let entry = self.get(id);
        let starting = entry.is_none_or(|entry| entry.process.is_none());
        let lives = |entry: &&Entry| entry.process.as_ref().is_some_and(|process| !process.reaped);
        let living = self.entries.values().filter(lives);
        let generation = match entry.filter(|_| !starting) {
            Some(entry) => Some(entry.generation),
            None => living.map(|entry| entry.generation).max(),
        };
        Look { generation, slot: entry.map_or(0, |entry| entry.slot.0), starting }
    }

    /// The entries of which `lives` does not hold.
    pub fn gone(&self, lives: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        self.entries.keys().copied().filter(|&id| !lives(id)).collect()
    }

    /// Closes an entry.
    pub fn close(&mut self, id: WorkerId) {
        self.entries.remove(&id);
        self.leave_alone();
    }

    /// Keeps what tells a worker that it is alone, while it is not.
    pub fn until_alone(&mut self, id: WorkerId, fd: Option<OwnedFd>) {
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.until_alone = fd;
        }
        self.leave_alone();
    }

    /// Tells the workers that have no predecessor left in their slot.
    fn leave_alone(&mut self) {
        let oldest = self.entries.iter().rev().map(|(&id, entry)| (entry.slot, id));
        let oldest: BTreeMap<Slot, WorkerId> = oldest.collect();
        for (id, entry) in &mut self.entries {
            if let Some(process) = entry.process.as_mut().filter(|_| oldest.get(&entry.slot) == Some(id)) {
                process.until_alone = None;
            }
        }
    }

    /// Notes that a worker was reaped.
    pub fn reaped(&mut self, id: WorkerId, now: Time) {
        let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) else {
            return;
        };
        process.reaped = true;
        process.pidfd = None;
        self.dead.retain(|(_, _, at)| now.saturating_sub(*at) < REMEMBERED);
        self.dead.truncate(MOST_REMEMBERED);
        self.dead.push_front((process.pid, id, now));
    }

    /// The worker whose process, or descendant, `pid` is or was until just now.
    pub fn sender(&self, pid: Pid, now: Time) -> Option<WorkerId> {
        let lives = |entry: &Entry| entry.process.as_ref().is_some_and(|it| it.pid == pid && !it.reaped);
        if let Some((&id, _)) = self.entries.iter().find(|(_, entry)| lives(entry)) {
            return Some(id);
        }
        if tree::parent(pid).is_some() {
            let has = |entry: &Entry| entry.process.as_ref().is_some_and(|it| it.family.has(pid));
            return self.entries.iter().find(|(_, entry)| has(entry)).map(|(&id, _)| id);
        }
        let recent = |at: Time| now.saturating_sub(at) < REMEMBERED;
        self.dead.iter().find(|(dead, _, at)| *dead == pid && recent(*at)).map(|(_, id, _)| *id)
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

    /// Processes that a reaped worker has left behind: those that were given to us,
    /// and what is below them.
    fn orphans(&self, process: &Process) -> BTreeSet<Pid> {
        let others = self.entries.values().filter_map(|entry| entry.process.as_ref());
        let mut others: Vec<Pid> = others
            .flat_map(|process| [(!process.reaped).then_some(process.pid), process.check])
            .flatten()
            .collect();
        others.extend(&self.strangers);
        let roots = match self.stopping {
            true => tree::living_children(Pid::this(), &others),
            false => process.family.orphans(&others),
        };
        roots.into_iter().flat_map(|root| std::iter::once(root).chain(tree::descendants(root))).collect()
    }

    /// Whether anything of a reaped worker lives on.
    pub fn remains(&mut self, id: WorkerId) -> bool {
        let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) else {
            return false;
        };
        process.leads = process.leads
            && process::group_exists(process.pid)
            && tree::group_lives(process.pid).unwrap_or(true);
        let leads = process.leads;
        leads || self.process(id).is_some_and(|process| !self.orphans(process).is_empty())
    }

    /// Asks what a reaped worker has left behind to stop, or kills it.
    pub fn end_remains(&mut self, id: WorkerId, signal: Signal) {
        if !self.remains(id) {
            return;
        }
        let Some(process) = self.process(id) else { return };
        let (pid, leads, orphans) = (process.pid, process.leads, self.orphans(process));
        if leads {
            log_failure(pid, process::signal_group(pid, signal as i32));
            // A stopped process keeps the signal until it is continued.
            log_failure(pid, process::signal_group(pid, Signal::SIGCONT as i32));
        }
        for &orphan in orphans.iter().filter(|&&orphan| !leads || getpgid(Some(orphan)) != Ok(pid)) {
            log_failure(orphan, process::signal(orphan, signal as i32));
            log_failure(orphan, process::signal(orphan, Signal::SIGCONT as i32));
        }
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.asked.get_or_insert_default().extend(orphans);
            process.killed |= signal == Signal::SIGKILL;
        }
    }

    /// Those that were given to us since then, by the end of others, get the same.
    pub fn end_newcomers(&mut self, id: WorkerId) {
        let Some(process) = self.process(id) else { return };
        if process.killed {
            return self.end_remains(id, Signal::SIGKILL);
        }
        let Some(asked) = &process.asked else { return };
        let new: BTreeSet<Pid> = self.orphans(process).difference(asked).copied().collect();
        for &orphan in &new {
            log_failure(orphan, process::signal(orphan, Signal::SIGTERM as i32));
        }
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.asked.get_or_insert_default().extend(new);
        }
    }

    /// Sends a signal to the worker alone.
    pub fn signal(&self, id: WorkerId, signal: i32) {
        if let Some(process) = self.process(id).filter(|process| !process.reaped) {
            log_failure(process.pid, process::signal(process.pid, signal));
        }
    }

    /// Sends a signal to the worker, which may have left its group, and to the
    /// group.
    pub fn signal_group(&self, id: WorkerId, signal: Signal) {
        let Some(process) = self.process(id).filter(|process| !process.reaped) else { return };
        if process.leads {
            log_failure(process.pid, process::signal_group(process.pid, signal as i32));
        }
        self.signal(id, signal as i32);
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
