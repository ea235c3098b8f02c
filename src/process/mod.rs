//! Which process stands behind which worker: what the core does not know.

mod orphans;
mod saved;

pub use saved::Saved;

use crate::core::event::{Exit, Generation, Slot, Time, WorkerId};
use crate::listener::repair::Look;
use crate::sys::process;
use crate::sys::tree::{self, Family, Lineage, Sender};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
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
    /// What it says that it does.
    pub status: Option<String>,
    /// What it has not done that would make it ready, for people.
    pub lacks: Option<String>,
    /// What it still has to serve, for people.
    pub left: Option<String>,
    /// How its process is found, if another worker is to start it.
    pub predecessor: Option<Predecessor>,
}

/// A worker that another one is to start.
#[derive(Debug)]
pub struct Predecessor {
    /// That other one.
    pub of: WorkerId,
    /// Processes that were there before.
    pub before: BTreeSet<Pid>,
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
    /// Whether what it left behind has been asked to stop.
    pub asked: bool,
    /// Whether what it left behind may finish what it has.
    pub drains: bool,
    /// It has gone into the background: what it left behind is the server.
    pub daemonised: bool,
    /// Connections that those had accepted which it left behind, when they were last looked at.
    pub accepted: BTreeMap<Pid, BTreeSet<u64>>,
    /// What went into the background from it without a trace of where it came from.
    pub claimed: Vec<Pid>,
    /// Whether what it left behind is to be killed.
    pub killed: bool,
    /// TERMs that it has sent us.
    pub terms: u32,
    /// How often it has been looked at whether it accepts.
    pub looks: u32,
    /// Closed once no predecessor of its slot lives: it tells the worker so.
    pub until_alone: Option<OwnedFd>,
    /// Pins the number on kernels that have it.
    pub pidfd: Option<OwnedFd>,
    /// When it was forked, which tells it from another with its number; 0 where
    /// nobody asks.
    pub born: u64,
    /// Since when what is born is its own: that moment, or, of a worker that went
    /// into the background, the birth of its first process.
    pub since: u64,
    /// When the worker after it was forked: what is younger belongs to that one.
    pub until: Option<u64>,
    /// We did not start it: it may be another's child.
    pub adopted: bool,
    /// The listening sockets that it was given, or that it was last seen to hold.
    pub listening: BTreeSet<u64>,
    /// Those of them on which it was seen to wait.
    pub waited: BTreeSet<u64>,
    /// Who took over from it, until that one has an entry.
    pub successor: Option<Pid>,
}

impl Process {
    /// One that we have started, the leader of its own group if `leads`.
    pub fn started(family: Family, leads: bool, pidfd: Option<OwnedFd>) -> Process {
        Process {
            pid: family.worker,
            reaped: false,
            leads,
            family,
            check: None,
            asked: false,
            drains: false,
            daemonised: false,
            accepted: BTreeMap::new(),
            claimed: Vec::new(),
            killed: false,
            terms: 0,
            looks: 0,
            until_alone: None,
            pidfd,
            born: 0,
            since: 0,
            until: None,
            adopted: false,
            listening: BTreeSet::new(),
            waited: BTreeSet::new(),
            successor: None,
        }
    }

    /// Whether it can still be signalled. That an adopted one has ended is told to
    /// its parent, and its number may be somebody else's.
    pub fn lives(&self) -> bool {
        let same = || tree::stat(self.pid).is_some_and(|stat| stat.is_live() && stat.born == self.born);
        !self.reaped && (!self.adopted || same())
    }
}

/// Every worker of which something is left.
#[derive(Debug)]
pub struct ProcessTable {
    entries: BTreeMap<WorkerId, Entry>,
    command: String,
    /// Why a start was refused last; it outlives its entry, for our last words.
    last_refused: Option<String>,
    /// Workers that have been reaped of late: a signal of one may be told after
    /// its end.
    dead: VecDeque<(Pid, WorkerId, Time)>,
    /// Leftovers that have had their TERM, with their birth: a second one would cut
    /// what they are finishing.
    asked: BTreeSet<(Pid, u64)>,
    /// Children that we had before we started any.
    strangers: Vec<Pid>,
    /// The user's hooks, and a binary that is to replace us, until they are reaped.
    pub hooks: BTreeSet<Pid>,
    /// Why the user's hook refused an upgrade last.
    upgrade_refused: Option<String>,
    /// Everything is to go: whatever is left to us belongs to the last workers.
    pub stopping: bool,
    /// Workers start their successors: a family is told by its age, for those that
    /// share an environment and a group are no longer told apart by them.
    pub follow: bool,
}

/// Whose process it was that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The worker itself.
    Worker(WorkerId),
    /// Its check.
    Check(WorkerId),
    /// A hook of the user's.
    Hook,
    /// Nobody that we started: an orphan that was given to us.
    Nobody,
}

impl ProcessTable {
    /// Empty processes for workers of `command`, as messages name it.
    pub fn new(command: String, follow: bool) -> ProcessTable {
        ProcessTable {
            entries: BTreeMap::new(),
            command,
            last_refused: None,
            dead: VecDeque::new(),
            asked: BTreeSet::new(),
            strangers: tree::living_children(Pid::this(), &[]),
            hooks: BTreeSet::new(),
            upgrade_refused: None,
            stopping: false,
            follow,
        }
    }

    /// The command, as messages name it.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Whether a process of this generation is there.
    pub fn lives(&self, generation: Generation) -> bool {
        let lives = |entry: &Entry| entry.process.as_ref().is_some_and(|process| !process.reaped);
        self.entries.values().any(|entry| entry.generation == generation && lives(entry))
    }

    /// How many entries are open.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Opens an entry, or the same one again for another try.
    pub fn open(&mut self, id: WorkerId, generation: Generation, slot: Slot) {
        self.entries.entry(id).or_insert(Entry {
            generation,
            slot,
            process: None,
            refused: None,
            status: None,
            lacks: None,
            left: None,
            predecessor: None,
        });
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

    /// Notes why the user's hook refused an upgrade.
    pub fn refuse_upgrade(&mut self, message: String) {
        self.upgrade_refused = Some(message);
    }

    /// Why the user's hook refused an upgrade last.
    pub fn upgrade_refused(&self) -> &str {
        self.upgrade_refused.as_deref().unwrap_or("the pre-upgrade hook said no")
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

    /// The worker whose process, or descendant, sent a signal. Whoever is below us
    /// is a worker's, but for children that we had before; as process 1 also for
    /// those that others have left to us.
    pub fn sender(&self, sender: &Sender, now: Time) -> Option<WorkerId> {
        let Lineage { line, below_us } = &sender.lineage;
        let Some(&(top, _)) = line.last() else {
            let recent = |at: Time| now.saturating_sub(at) < REMEMBERED;
            let dead = self.dead.iter().find(|(dead, _, at)| *dead == sender.pid && recent(*at));
            return dead.map(|(_, id, _)| *id);
        };
        if !below_us || self.strangers.contains(&top) || self.hooks.contains(&top) {
            return None;
        }
        let find = |has: &dyn Fn(&Process) -> bool| {
            let known = self.entries.iter().find(|(_, entry)| entry.process.as_ref().is_some_and(has));
            known.map(|(&id, _)| id)
        };
        let lives = |it: &Process| !it.reaped && line.iter().any(|&(pid, _)| pid == it.pid);
        let groups = |it: &Process| line.iter().any(|&(_, group)| group == it.family.group);
        let last = || self.entries.keys().next_back().copied();
        find(&lives)
            .or_else(|| find(&groups))
            .or_else(|| find(&|it| it.family.has(sender.pid)))
            .or_else(|| last().filter(|_| Pid::this().as_raw() != 1))
    }

    /// TERMs of the worker and of its siblings: theirs may have swallowed its own.
    pub fn terms(&self, id: WorkerId) -> u32 {
        let generation = self.get(id).map(|entry| entry.generation);
        let siblings = self.entries.values().filter(|entry| Some(entry.generation) == generation);
        siblings.filter_map(|entry| entry.process.as_ref()).map(|process| process.terms).sum()
    }

    /// Whose process `pid` is.
    pub fn owner(&self, pid: Pid) -> Owner {
        let owner = self.entries.iter().find_map(|(&id, entry)| match &entry.process {
            Some(process) if process.pid == pid && !process.reaped => Some(Owner::Worker(id)),
            Some(process) if process.check == Some(pid) => Some(Owner::Check(id)),
            _ => None,
        });
        owner.unwrap_or(if self.hooks.contains(&pid) { Owner::Hook } else { Owner::Nobody })
    }

    /// Processes that are no orphans: workers, checks, hooks, and those that we had
    /// before.
    fn known(&self) -> Vec<Pid> {
        let processes = self.entries.values().filter_map(|entry| entry.process.as_ref());
        let known = processes
            .flat_map(|process| [(!process.reaped).then_some(process.pid), process.check, process.successor]);
        known.flatten().chain(self.strangers.iter().chain(&self.hooks).copied()).collect()
    }

    /// Live children of ours that are no worker's own process: orphans of workers.
    pub fn unknown_children(&self) -> Vec<Pid> {
        tree::living_children(Pid::this(), &self.known())
    }

    /// A worker and its descendants, without other workers and theirs.
    pub fn own_tree(&self, id: WorkerId) -> Vec<Pid> {
        let Some(process) = self.process(id) else { return Vec::new() };
        let mut own: Vec<Pid> = iter::once(process.pid).chain(tree::descendants(process.pid)).collect();
        let others = self.entries.iter().filter(|&(&other, _)| other != id);
        for other in others.filter_map(|(_, entry)| entry.process.as_ref()).filter(|other| !other.reaped) {
            if own.contains(&other.pid) {
                let below = tree::descendants(other.pid);
                own.retain(|pid| *pid != other.pid && !below.contains(pid));
            }
        }
        own
    }

    /// Sends a signal to the worker alone.
    pub fn signal(&self, id: WorkerId, signal: i32) {
        if let Some(process) = self.process(id).filter(|process| process.lives()) {
            log_failure(process.pid, process::signal(process.pid, signal));
        }
    }

    /// Sends a signal to the worker, which may have left its group, and to the
    /// group; where several workers share that, to its own tree.
    pub fn signal_group(&self, id: WorkerId, signal: Signal) {
        let Some(process) = self.process(id).filter(|process| process.lives()) else { return };
        if process.leads {
            log_failure(process.pid, process::signal_group(process.pid, signal as i32));
        } else if self.follow {
            for pid in self.own_tree(id).into_iter().skip(1) {
                log_failure(pid, process::signal(pid, signal as i32));
            }
        }
        self.signal(id, signal as i32);
    }

    /// The process of a worker.
    pub fn process(&self, id: WorkerId) -> Option<&Process> {
        self.entries.get(&id)?.process.as_ref()
    }

    /// The process of a worker, to be changed.
    pub fn process_mut(&mut self, id: WorkerId) -> Option<&mut Process> {
        self.entries.get_mut(&id)?.process.as_mut()
    }
}

fn log_failure(pid: Pid, result: nix::Result<()>) {
    if let Err(errno) = result {
        log::warn!("cannot signal pid {pid}: {}", crate::error::reason(&errno.into()));
    }
}

/// How a process ended, in the core's words.
pub fn exit_of(exit: process::Exit) -> Exit {
    match exit {
        process::Exit::Code(code) => Exit::Code(code),
        process::Exit::Signal(signal) => Exit::Signal(signal),
    }
}
