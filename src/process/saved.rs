//! The process table across an execve(2): workers stay our children, with the same process ids.

use super::entry::{ChangedFile, Entry, Predecessor, Process, Server};
use super::table::ProcessTable;
use crate::core::event::{Generation, Slot, Time, WorkerId};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use crate::sys::tree::Family;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;

/// Everything in [`ProcessTable`] that the command line does not say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    entries: Vec<SavedEntry>,
    last_refused: Option<String>,
    recently_reaped: Vec<(i32, WorkerId, Time)>,
    term_sent: Vec<(i32, u64)>,
    earlier_children: Vec<i32>,
    hooks: Vec<i32>,
    upgrade_refused: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedEntry {
    id: WorkerId,
    generation: Generation,
    slot: Slot,
    process: Option<SavedProcess>,
    refused: Option<String>,
    refusals: u32,
    #[serde(default)]
    changed: Vec<ChangedFile>,
    status: Option<String>,
    predecessor: Option<SavedPredecessor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedPredecessor {
    worker: WorkerId,
    before: Vec<i32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedProcess {
    pid: i32,
    reaped: bool,
    leads_group: bool,
    family: Family,
    check: Option<i32>,
    #[serde(default)]
    check_began: Time,
    term_sent: bool,
    orphans_finish: bool,
    daemonised: bool,
    #[serde(default)]
    accepted: Vec<(i32, BTreeSet<u64>)>,
    claimed: Vec<i32>,
    orphans_killed: bool,
    terms: u32,
    accept_checks: u32,
    parent_pipe: Option<Fd>,
    pidfd: Option<Fd>,
    start_time: u64,
    owns_from: u64,
    owns_until: Option<u64>,
    not_our_child: bool,
    listening: BTreeSet<u64>,
    waited: BTreeSet<u64>,
    successor: Option<i32>,
    #[serde(default)]
    servers: Vec<Server>,
    #[serde(default)]
    program: Option<String>,
}

fn numbers<'a>(pids: impl IntoIterator<Item = &'a Pid>) -> Vec<i32> {
    pids.into_iter().map(|pid| pid.as_raw()).collect()
}

fn pids<C: FromIterator<Pid>>(numbers: Vec<i32>) -> C {
    numbers.into_iter().map(Pid::from_raw).collect()
}

impl Saved {
    /// Lists the descriptors and copies the other values.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(processes: &ProcessTable, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let entries = processes.entries.iter().map(|(&id, entry)| save(id, entry, transfer));
        Ok(Saved {
            entries: entries.collect::<io::Result<_>>()?,
            last_refused: processes.last_refused.clone(),
            recently_reaped: processes
                .recently_reaped
                .iter()
                .map(|&(pid, id, at)| (pid.as_raw(), id, at))
                .collect(),
            term_sent: processes
                .term_sent
                .iter()
                .map(|&(pid, start_time)| (pid.as_raw(), start_time))
                .collect(),
            earlier_children: numbers(&processes.earlier_children),
            hooks: numbers(&processes.hooks),
            upgrade_refused: processes.upgrade_refused.clone(),
        })
    }

    /// The table as it was, for the same `command`.
    pub fn restore(self, command: String, follow: bool, fds: &mut InheritedFds) -> ProcessTable {
        ProcessTable {
            entries: self.entries.into_iter().map(|saved| (saved.id, restore(saved, fds))).collect(),
            command,
            server: None,
            last_refused: self.last_refused,
            last_hint: None,
            recently_reaped: self
                .recently_reaped
                .into_iter()
                .map(|(pid, id, at)| (Pid::from_raw(pid), id, at))
                .collect(),
            term_sent: self
                .term_sent
                .into_iter()
                .map(|(pid, start_time)| (Pid::from_raw(pid), start_time))
                .collect(),
            earlier_children: pids(self.earlier_children),
            hooks: pids(self.hooks),
            upgrade_refused: self.upgrade_refused,
            stopping: false,
            signalled: false,
            follow,
        }
    }
}

fn save(id: WorkerId, entry: &Entry, transfer: &mut FdTransfer) -> io::Result<SavedEntry> {
    let predecessor = entry.predecessor.as_ref();
    Ok(SavedEntry {
        id,
        generation: entry.generation,
        slot: entry.slot,
        process: entry.process.as_ref().map(|process| save_process(process, transfer)).transpose()?,
        refused: entry.refused.clone(),
        refusals: entry.refusals,
        changed: entry.changed.clone(),
        status: entry.status.clone(),
        predecessor: predecessor.map(|predecessor| SavedPredecessor {
            worker: predecessor.worker,
            before: numbers(&predecessor.before),
        }),
    })
}

fn restore(saved: SavedEntry, fds: &mut InheritedFds) -> Entry {
    Entry {
        generation: saved.generation,
        slot: saved.slot,
        process: saved.process.map(|process| restore_process(process, fds)),
        refused: saved.refused,
        refusals: saved.refusals,
        changed: saved.changed,
        status: saved.status,
        unmet: None,
        symptom: None,
        unbound: None,
        hint: None,
        halted: None,
        remaining: None,
        predecessor: saved
            .predecessor
            .map(|predecessor| Predecessor::new(predecessor.worker, pids(predecessor.before))),
    }
}

fn save_process(process: &Process, transfer: &mut FdTransfer) -> io::Result<SavedProcess> {
    Ok(SavedProcess {
        pid: process.pid.as_raw(),
        reaped: process.reaped,
        leads_group: process.leads_group,
        family: process.family,
        check: process.check.map(Pid::as_raw),
        check_began: process.check_began,
        term_sent: process.term_sent,
        orphans_finish: process.orphans_finish,
        daemonised: process.daemonised,
        accepted: process.accepted.iter().map(|(pid, inodes)| (pid.as_raw(), inodes.clone())).collect(),
        claimed: numbers(&process.claimed),
        orphans_killed: process.orphans_killed,
        terms: process.terms,
        accept_checks: process.accept_checks,
        parent_pipe: transfer.add_some(process.parent_pipe.as_ref())?,
        pidfd: transfer.add_some(process.pidfd.as_ref())?,
        start_time: process.start_time,
        owns_from: process.owns_from,
        owns_until: process.owns_until,
        not_our_child: process.not_our_child,
        listening: process.listening.clone(),
        waited: process.waited.clone(),
        successor: process.successor.map(Pid::as_raw),
        servers: process.servers.clone(),
        program: process.program.clone(),
    })
}

fn restore_process(saved: SavedProcess, fds: &mut InheritedFds) -> Process {
    Process {
        pid: Pid::from_raw(saved.pid),
        reaped: saved.reaped,
        ended_as: None,
        leads_group: saved.leads_group,
        family: saved.family,
        check: saved.check.map(Pid::from_raw),
        check_began: saved.check_began,
        term_sent: saved.term_sent,
        orphans_finish: saved.orphans_finish,
        daemonised: saved.daemonised,
        accepted: saved.accepted.into_iter().map(|(pid, inodes)| (Pid::from_raw(pid), inodes)).collect(),
        claimed: pids(saved.claimed),
        orphans_killed: saved.orphans_killed,
        missed_signal: false,
        terms: saved.terms,
        accept_checks: saved.accept_checks,
        parent_pipe: fds.take_some(saved.parent_pipe),
        pidfd: fds.take_some(saved.pidfd),
        start_time: saved.start_time,
        owns_from: saved.owns_from,
        owns_until: saved.owns_until,
        not_our_child: saved.not_our_child,
        listening: saved.listening,
        waited: saved.waited,
        successor: saved.successor.map(Pid::from_raw),
        servers: saved.servers,
        program: saved.program,
    }
}
