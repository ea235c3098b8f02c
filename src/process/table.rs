//! The process table: which process belongs to which worker, and which worker a process
//! belongs to.

use super::entry::{Entry, Process};
use crate::core::event::{Generation, Slot, Time, WorkerId};
use crate::listener::repair::Occasion;
use crate::profiles::Profile;
use crate::sys::process;
use crate::sys::tree::{self, Halt, Lineage, Sender};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long after it was reaped the process id of a worker still counts as that worker's. Its
/// signals have arrived by then, and the id is not yet reused.
const REMEMBERED: Duration = Duration::from_secs(10);
/// The most reaped workers that are remembered.
const MOST_REMEMBERED: usize = 1024;

/// Every worker of which a process may be left.
#[derive(Debug)]
pub struct ProcessTable {
    pub(super) entries: BTreeMap<WorkerId, Entry>,
    pub(super) command: String,
    /// Why the last start was refused. It outlives the entry, for our last line.
    pub(super) last_refused: Option<String>,
    /// The last hint about a worker that is gone, for our last line.
    pub(super) last_hint: Option<(WorkerId, String)>,
    /// Workers that were reaped recently: a signal of one may arrive after its end.
    pub(super) recently_reaped: VecDeque<(Pid, WorkerId, Time)>,
    /// Orphans that were sent TERM, with their start times: a second TERM would cut the
    /// requests that they finish.
    pub(super) term_sent: BTreeSet<(Pid, u64)>,
    /// The known server that the command starts.
    pub server: Option<&'static Profile>,
    /// Children that this process had before it started any.
    pub(super) earlier_children: Vec<Pid>,
    /// The user's hooks, and the binary that is checked before a re-execution, until they are
    /// reaped.
    pub hooks: BTreeSet<Pid>,
    /// Why the user's hook refused the last upgrade.
    pub(super) upgrade_refused: Option<String>,
    /// Everything is to stop: every orphan belongs to one of the last workers.
    pub stopping: bool,
    /// Whoever stops us has signalled every process of ours: a TERM from us would be the second.
    pub signalled: bool,
    /// Workers start their successors (`--follow`). Generations then share the environment and the
    /// process group, and descendants are told apart by their start times.
    pub follow: bool,
}

/// The owner of a process that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The worker itself.
    Worker(WorkerId),
    /// Its check.
    Check(WorkerId),
    /// One of the user's hooks.
    Hook,
    /// No process that we started: an orphan that became our child.
    Unknown,
}

impl ProcessTable {
    /// An empty table for workers of `command`, as messages name it.
    pub fn new(command: String, follow: bool) -> ProcessTable {
        ProcessTable {
            entries: BTreeMap::new(),
            command,
            last_refused: None,
            last_hint: None,
            recently_reaped: VecDeque::new(),
            term_sent: BTreeSet::new(),
            server: None,
            earlier_children: tree::live_children(Pid::this(), &[]),
            hooks: BTreeSet::new(),
            upgrade_refused: None,
            stopping: false,
            signalled: false,
            follow,
        }
    }

    /// The command, as messages name it.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Whether a worker of this generation is running.
    pub fn lives(&self, generation: Generation) -> bool {
        self.entries.values().any(|entry| entry.generation == generation && entry.is_running())
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry, unless an earlier attempt to start this worker has done so.
    pub fn open(&mut self, id: WorkerId, generation: Generation, slot: Slot) {
        self.entries.entry(id).or_insert(Entry {
            generation,
            slot,
            process: None,
            refused: None,
            refusals: 0,
            status: None,
            unmet: None,
            symptom: None,
            unbound: None,
            hint: None,
            changed: Vec::new(),
            halted: None,
            remaining: None,
            predecessor: None,
        });
    }

    /// Notes why a start was refused.
    pub fn set_start_error(&mut self, id: WorkerId, message: String) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let before = entry.refused.replace(message.clone());
            entry.refusals = if before.as_ref() == Some(&message) { entry.refusals + 1 } else { 1 };
        }
        self.last_refused = Some(message);
    }

    /// Why the start of a worker was refused.
    pub fn start_error(&self, id: WorkerId) -> &str {
        let entry = self.entries.get(&id).and_then(|entry| entry.refused.as_ref());
        entry.or(self.last_refused.as_ref()).map_or("cannot start the command", String::as_str)
    }

    /// What the user can do about the failure of a worker.
    pub fn hint(&self, id: WorkerId) -> Option<&str> {
        let last = self.last_hint.as_ref().filter(|(of, _)| *of == id).map(|(_, hint)| hint);
        self.entries.get(&id).and_then(|entry| entry.hint.as_ref()).or(last).map(String::as_str)
    }

    /// Notes why the user's hook refused an upgrade.
    pub fn set_upgrade_refusal(&mut self, message: String) {
        self.upgrade_refused = Some(message);
    }

    /// Why the user's hook refused an upgrade last.
    pub fn upgrade_refusal(&self) -> &str {
        self.upgrade_refused.as_deref().unwrap_or("the pre-upgrade hook said no")
    }

    /// The entry of a worker.
    pub fn get(&self, id: WorkerId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// The entry of a worker.
    pub fn get_mut(&mut self, id: WorkerId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Which listeners are checked when this worker starts, becomes ready or ends.
    pub fn check_occasion(&self, id: WorkerId) -> Occasion {
        let entry = self.get(id);
        let starting = entry.is_none_or(|entry| entry.process.is_none());
        let running = self.entries.values().filter(|entry| entry.is_running());
        let generation = match entry.filter(|_| !starting) {
            Some(entry) => Some(entry.generation),
            None => running.map(|entry| entry.generation).max(),
        };
        Occasion { generation, slot: entry.map_or(0, |entry| entry.slot.0), starting }
    }

    /// The ids of all entries.
    pub fn ids(&self) -> Vec<WorkerId> {
        self.entries.keys().copied().collect()
    }

    /// The ids of the entries for which `is_kept` is false.
    pub fn ids_unless(&self, is_kept: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        self.entries.keys().copied().filter(|&id| !is_kept(id)).collect()
    }

    /// Removes an entry.
    pub fn close(&mut self, id: WorkerId) {
        let hint = self.entries.remove(&id).and_then(|entry| entry.hint);
        self.last_hint = hint.map(|hint| (id, hint)).or(self.last_hint.take());
        self.close_parent_pipes();
    }

    /// Keeps the descriptor that is closed once the worker has no predecessor left in its slot.
    pub fn parent_pipe(&mut self, id: WorkerId, fd: Option<OwnedFd>) {
        if let Some(process) = self.process_mut(id) {
            process.parent_pipe = fd;
        }
        self.close_parent_pipes();
    }

    /// Closes that descriptor of the workers that have no predecessor left in their slot.
    fn close_parent_pipes(&mut self) {
        let oldest = self.entries.iter().rev().map(|(&id, entry)| (entry.slot, id));
        let oldest: BTreeMap<Slot, WorkerId> = oldest.collect();
        for (id, entry) in &mut self.entries {
            if let Some(process) = entry.process.as_mut().filter(|_| oldest.get(&entry.slot) == Some(id)) {
                process.parent_pipe = None;
            }
        }
    }

    /// Notes that a worker was reaped, which was called `name` when it ended.
    pub fn reaped(&mut self, id: WorkerId, name: Option<String>, now: Time) {
        let Some(process) = self.process_mut(id) else { return };
        process.reaped = true;
        process.ended_as = name;
        process.pidfd = None;
        let pid = process.pid;
        self.recently_reaped.retain(|(_, _, at)| now.saturating_sub(*at) < REMEMBERED);
        self.recently_reaped.truncate(MOST_REMEMBERED);
        self.recently_reaped.push_front((pid, id, now));
    }

    /// The worker whose process, or a descendant of it, sent a signal. Every process below us
    /// belongs to a worker, except the children that we had before. If we are process 1, the
    /// orphans of unrelated processes are below us, too.
    pub fn sender(&self, sender: &Sender, now: Time) -> Option<WorkerId> {
        let Lineage { line, below_us } = &sender.lineage;
        let Some(&(top, _)) = line.last() else {
            let recent = |at: Time| now.saturating_sub(at) < REMEMBERED;
            let mut reaped = self.recently_reaped.iter();
            let worker = reaped.find(|(pid, _, at)| *pid == sender.pid && recent(*at));
            return worker.map(|(_, id, _)| *id);
        };
        if !below_us || self.earlier_children.contains(&top) || self.hooks.contains(&top) {
            return None;
        }
        let find = |has: &dyn Fn(&Process) -> bool| {
            let known = self.entries.iter().find(|(_, entry)| entry.process.as_ref().is_some_and(has));
            known.map(|(&id, _)| id)
        };
        let is_ancestor = |it: &Process| !it.reaped && line.iter().any(|&(pid, _)| pid == it.pid);
        let has_its_group = |it: &Process| line.iter().any(|&(_, group)| group == it.family.group);
        let last = || self.entries.keys().next_back().copied();
        find(&is_ancestor)
            .or_else(|| find(&has_its_group))
            .or_else(|| find(&|it| it.family.contains(sender.pid)))
            .or_else(|| last().filter(|_| Pid::this().as_raw() != 1))
    }

    /// How many TERMs the workers of the same generation have sent: two pending signals can be
    /// delivered as one, so that one of a sibling may stand for its own.
    pub fn terms(&self, id: WorkerId) -> u32 {
        let generation = self.get(id).map(|entry| entry.generation);
        let siblings = self.entries.values().filter(|entry| Some(entry.generation) == generation);
        siblings.filter_map(|entry| Some(entry.process.as_ref()?.terms)).sum()
    }

    /// The owner of the process `pid`.
    pub fn owner(&self, pid: Pid) -> Owner {
        let owner = self.entries.iter().find_map(|(&id, entry)| match &entry.process {
            Some(process) if process.pid == pid && !process.reaped => Some(Owner::Worker(id)),
            Some(process) if process.check == Some(pid) => Some(Owner::Check(id)),
            _ => None,
        });
        owner.unwrap_or(if self.hooks.contains(&pid) { Owner::Hook } else { Owner::Unknown })
    }

    /// Processes that are no orphans: workers, checks, hooks, and the children that we had before.
    pub(super) fn known(&self) -> Vec<Pid> {
        let known = self
            .processes()
            .flat_map(|process| [(!process.reaped).then_some(process.pid), process.check, process.successor]);
        known.flatten().chain(self.earlier_children.iter().chain(&self.hooks).copied()).collect()
    }

    /// Living children of ours that we did not start: orphans of workers.
    pub fn unknown_children(&self) -> Vec<Pid> {
        tree::live_children(Pid::this(), &self.known())
    }

    /// A worker and its descendants, without other workers and their descendants.
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

    /// A process of the worker that is halted.
    pub fn halted_process(&self, id: WorkerId, by: Halt) -> Option<Pid> {
        let worker = self.process(id).filter(|process| process.lives())?.pid;
        let others = self.processes().filter(|other| other.pid != worker && !other.reaped);
        tree::halted(worker, &others.map(|other| other.pid).collect(), by)
    }

    /// Sends the worker its stop signal.
    pub fn stop(&mut self, id: WorkerId, signal: Signal) {
        self.signal(id, signal as i32);
        // A stopped process keeps the signal until it is continued.
        self.signal(id, Signal::SIGCONT as i32);
        let signalled = self.signalled;
        if let Some(process) = self.process_mut(id) {
            process.missed_signal |= signalled;
        }
    }

    /// Whether the worker, and what it has started, has had the signal of whoever stops us.
    pub fn is_signalled(&self, id: WorkerId) -> bool {
        self.signalled && self.process(id).is_none_or(|process| !process.missed_signal)
    }

    /// Sends a signal to the worker's own process.
    pub fn signal(&self, id: WorkerId, signal: i32) {
        if let Some(process) = self.process(id).filter(|process| process.lives()) {
            warn_of_failure(process.pid, process::signal(process.pid, signal));
        }
    }

    /// Sends a signal to the worker's own process, which is halted and continued later.
    pub fn signal_halted(&self, id: WorkerId, signal: Signal) {
        if let Some(process) = self.process(id).filter(|process| process.lives()) {
            warn_of_failure(process.pid, process::signal_halted(process.pid, signal as i32));
        }
    }

    /// Sends a signal to the worker, which may have left its process group, and to the group;
    /// where several workers share the group, to the worker's own tree.
    pub fn signal_group(&self, id: WorkerId, signal: Signal) {
        let Some(process) = self.process(id).filter(|process| process.lives()) else { return };
        if process.leads_group {
            warn_of_failure(process.pid, process::signal_group(process.pid, signal as i32));
        } else if self.follow {
            for pid in self.own_tree(id).into_iter().skip(1) {
                warn_of_failure(pid, process::signal(pid, signal as i32));
            }
        }
        self.signal(id, signal as i32);
    }

    /// The processes of all entries, reaped or not.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.entries.values().filter_map(|entry| entry.process.as_ref())
    }

    /// The process of a worker.
    pub fn process(&self, id: WorkerId) -> Option<&Process> {
        self.entries.get(&id)?.process.as_ref()
    }

    /// The process of a worker.
    pub fn process_mut(&mut self, id: WorkerId) -> Option<&mut Process> {
        self.entries.get_mut(&id)?.process.as_mut()
    }
}

/// Warns that a signal could not be sent.
pub(super) fn warn_of_failure(pid: Pid, result: nix::Result<()>) {
    if let Err(errno) = result {
        log::warn!("cannot signal pid {pid}: {}", crate::error::reason(&errno.into()));
    }
}
