//! The orphans of workers: which worker each belongs to. They are asked to stop once, and killed
//! later.

use super::entry::{Entry, Process};
use super::table::{ProcessTable, warn_of_failure};
use crate::ack::accepting;
use crate::core::event::WorkerId;
use crate::sys::proc_fd;
use crate::sys::tree::{self, Family};
use crate::sys::{listeners, process};
use log::info;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use std::collections::{BTreeMap, BTreeSet};
use std::iter;

impl ProcessTable {
    /// Workers that have been reaped and may have orphans.
    pub fn reaped_workers(&self) -> Vec<WorkerId> {
        let reaped = |entry: &Entry| entry.process.as_ref().is_some_and(|process| process.reaped);
        self.entries.iter().filter(|(_, entry)| reaped(entry)).map(|(&id, _)| id).collect()
    }

    /// The orphans of a reaped worker: processes of it that became our children, and their
    /// descendants.
    fn orphans(&self, process: &Process) -> BTreeSet<Pid> {
        let roots = match (self.stopping, self.follow) {
            (true, _) => {
                let all = self.unknown_children().into_iter();
                all.filter(|&pid| self.start_number(pid) == Some(process.family.start)).collect()
            }
            (false, true) => {
                let in_its_time = |start_time| {
                    start_time >= process.owns_from && process.owns_until.is_none_or(|end| start_time < end)
                };
                let is_its_own =
                    |pid: &Pid| tree::stat(*pid).is_some_and(|stat| in_its_time(stat.start_time));
                self.unknown_children().into_iter().filter(is_its_own).collect()
            }
            (false, false) => {
                let known = self.known();
                let claimed = || tree::live_children(Pid::this(), &known).into_iter();
                let claimed = claimed().filter(|pid| process.claimed.contains(pid));
                process.family.orphans(&known).into_iter().chain(claimed).collect::<Vec<_>>()
            }
        };
        let all = roots.into_iter().flat_map(|root| iter::once(root).chain(tree::descendants(root)));
        all.filter(|&pid| self.stopping || !is_independent(process, pid)).collect()
    }

    /// Children of ours that another worker than this one has left behind, or has put there while it
    /// lives, by a process between them that has ended.
    pub fn orphans_of_others(&self, id: WorkerId) -> Vec<Pid> {
        let own = self.process(id).map(|process| process.family);
        let families: Vec<Family> = self.processes().map(|process| process.family).collect();
        let is_own = |pid: Pid| own.is_some_and(|own| own.comes_from_worker(pid));
        let of_others = |pid: &Pid| !is_own(*pid) && families.iter().any(|it| it.comes_from_worker(*pid));
        self.unknown_children().into_iter().filter(of_others).collect()
    }

    /// The number of the start that the orphan `pid` belongs to, while everything stops. An orphan
    /// of unknown origin belongs to the first worker that was reaped.
    fn start_number(&self, pid: Pid) -> Option<u32> {
        let reaped = || self.processes().filter(|process| process.reaped);
        let own =
            reaped().find(|process| process.family.comes_from_worker(pid) || process.claimed.contains(&pid));
        own.or_else(|| reaped().next()).map(|process| process.family.start)
    }

    /// A worker has gone into the background: it exited with status 0 and was not asked to stop.
    /// The children that we got since its start become its orphans, except those that are known
    /// to come from another worker.
    pub fn claim_orphans(&mut self, id: WorkerId) {
        let Some(start_time) = self.process(id).map(|process| process.start_time) else { return };
        let families: Vec<Family> = self.processes().map(|process| process.family).collect();
        let traceless = |pid: &Pid| !families.iter().any(|family| family.comes_from_worker(*pid));
        let since = |pid: &Pid| tree::stat(*pid).is_some_and(|stat| stat.start_time >= start_time);
        let claimed = self.unknown_children().into_iter().filter(traceless).filter(since).collect();
        if let Some(process) = self.process_mut(id) {
            process.claimed = claimed;
            process.daemonised = true;
        }
    }

    /// Sends TERM to an orphan, once; false if it was sent before. One that has had a signal from
    /// whoever stops us gets none. `of` is the worker that has left it behind.
    fn send_term_once(&mut self, pid: Pid, of: Option<WorkerId>) -> bool {
        let Some(start_time) = tree::stat(pid).map(|stat| stat.start_time) else { return true };
        self.term_sent.retain(|(pid, _)| tree::is_live(*pid));
        let first = self.term_sent.insert((pid, start_time));
        let prefix = of.map_or(String::new(), |id| self.prefix(id));
        if first && of.map_or(self.signalled, |id| self.is_signalled(id)) {
            info!("{prefix}pid {pid} ({}), left behind, may finish", tree::name(pid));
        } else if first {
            info!("{prefix}pid {pid} ({}), left behind, is asked to stop", tree::name(pid));
            warn_of_failure(pid, process::signal(pid, Signal::SIGTERM as i32));
            // A stopped process does not act on TERM before it is continued.
            warn_of_failure(pid, process::signal(pid, Signal::SIGCONT as i32));
        }
        first
    }

    /// A worker that was asked to stop has left orphans, which may finish the connections that
    /// they have.
    pub fn let_remains_finish(&mut self, id: WorkerId) {
        if let Some(process) = self.process(id) {
            let named = |pid: &Pid| format!("pid {pid} ({})", tree::name(*pid));
            let left: Vec<String> = self.orphans(process).iter().map(named).collect();
            // The group may have members that /proc does not show to us, and one may have ended.
            if !left.is_empty() {
                info!("{}left behind by pid {}: {}", self.prefix(id), process.pid, left.join(", "));
            }
        }
        if let Some(process) = self.process_mut(id) {
            process.orphans_finish = true;
        }
    }

    /// Asks those orphans of a worker to stop that still accept connections: they wait on a
    /// listener that the worker was given or on a socket that workers have `bound`, or they have
    /// accepted one at these `ports` since the last inspection.
    pub fn stop_accepting(&mut self, id: WorkerId, ports: &BTreeSet<u16>, bound: &BTreeSet<u64>) {
        let Some(process) = self.process(id).filter(|process| process.orphans_finish && !process.term_sent)
        else {
            return;
        };
        let left = self.orphans(process);
        let listeners: BTreeSet<u64> = process.listening.union(bound).copied().collect();
        let waits = |pid: &Pid| accepting::waits_on_any(*pid, &listeners);
        let holds = |pid: &Pid| !proc_fd::socket_inodes(*pid).is_disjoint(&process.listening);
        let now: BTreeMap<Pid, BTreeSet<u64>> = left
            .iter()
            .filter(|pid| holds(pid))
            .map(|&pid| (pid, listeners::accepted_connections(pid, ports)))
            .collect();
        let has_accepted = |pid: &Pid| match (process.accepted.get(pid), now.get(pid)) {
            (Some(before), Some(now)) => !now.is_subset(before),
            _ => false,
        };
        let accepting: Vec<Pid> = left.into_iter().filter(|pid| waits(pid) || has_accepted(pid)).collect();
        if let Some(process) = self.process_mut(id) {
            process.accepted = now;
        }
        for pid in accepting {
            self.send_term_once(pid, Some(id));
        }
    }

    /// The beginning of a log line about a process of this worker.
    fn prefix(&self, id: WorkerId) -> String {
        self.get(id).map_or(String::new(), |entry| format!("{}: ", entry.generation))
    }

    /// Asks every child that belongs to no worker to stop, or kills it. True if there is any.
    pub fn end_unknown_children(&mut self, kill: bool) -> bool {
        let unknown = self.unknown_children();
        for &pid in &unknown {
            match kill {
                true => kill_one(pid, ""),
                false => drop(self.send_term_once(pid, None)),
            }
        }
        !unknown.is_empty()
    }

    /// Whether a process of a reaped worker is left: its group, or an orphan.
    pub fn has_remains(&mut self, id: WorkerId) -> bool {
        let Some(process) = self.process_mut(id) else { return false };
        process.leads_group = process.leads_group
            && process::group_exists(process.pid)
            && tree::is_group_live(process.pid).unwrap_or(true);
        let leads_group = process.leads_group;
        leads_group || self.process(id).is_some_and(|process| !self.orphans(process).is_empty())
    }

    /// Asks the processes that a reaped worker has left to stop, or kills them.
    pub fn end_remains(&mut self, id: WorkerId, signal: Signal) {
        if !self.has_remains(id) {
            return;
        }
        let Some(process) = self.process(id) else { return };
        let (pid, leads_group, orphans, finish) =
            (process.pid, process.leads_group, self.orphans(process), process.orphans_finish);
        let prefix = self.prefix(id);
        let asks = signal == Signal::SIGTERM;
        // An orphan that was sent TERM before, because it accepted connections, has had the same
        // time to finish as the others.
        for &orphan in &orphans {
            if !asks || !self.send_term_once(orphan, Some(id)) && finish && !self.stopping {
                kill_one(orphan, &prefix);
            }
        }
        // The group may have members that /proc does not show to us.
        if leads_group && (!asks || orphans.is_empty() && !self.is_signalled(id)) {
            warn_of_failure(pid, process::signal_group(pid, signal as i32));
            // A stopped process does not act on TERM before it is continued.
            warn_of_failure(pid, process::signal_group(pid, Signal::SIGCONT as i32));
        }
        if let Some(process) = self.process_mut(id) {
            process.term_sent = true;
            process.orphans_killed |= signal == Signal::SIGKILL;
        }
    }

    /// Treats orphans alike that became our children since [`end_remains`](Self::end_remains),
    /// because their parents ended.
    pub fn end_new_orphans(&mut self, id: WorkerId) {
        let Some(process) = self.process(id) else { return };
        if process.orphans_killed {
            return self.end_remains(id, Signal::SIGKILL);
        }
        if process.term_sent {
            for orphan in self.orphans(process) {
                self.send_term_once(orphan, Some(id));
            }
        }
    }
}

/// Whether an orphan is in a session of its own and serves nobody on a listener of the worker; it
/// may have inherited one, as what a shell starts does. It then serves other
/// programs too, and is stopped only when we stop ourselves.
fn is_independent(process: &Process, pid: Pid) -> bool {
    let sessions = [getsid(None).ok(), Some(process.pid)];
    !process.daemonised
        && tree::stat(pid).is_some_and(|stat| !sessions.contains(&Some(stat.session)))
        && !accepting::serves_on_any(pid, &process.listening)
}

fn kill_one(pid: Pid, prefix: &str) {
    info!("{prefix}pid {pid} ({}), left behind, is killed", tree::name(pid));
    warn_of_failure(pid, process::signal(pid, Signal::SIGKILL as i32));
}
