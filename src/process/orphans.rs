//! What workers leave behind: to whom it belongs, and that it is asked to stop
//! once, then killed.

use super::{Entry, Process, ProcessTable, log_failure};
use crate::ack::accepting;
use crate::core::event::WorkerId;
use crate::sys::proc_fd;
use crate::sys::tree::{self, Family};
use crate::sys::{listening, process};
use log::info;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use std::collections::{BTreeMap, BTreeSet};
use std::iter;

impl ProcessTable {
    /// Workers that have been reaped and left something behind.
    pub fn leftovers(&self) -> Vec<WorkerId> {
        let reaped = |entry: &Entry| entry.process.as_ref().is_some_and(|process| process.reaped);
        self.entries.iter().filter(|(_, entry)| reaped(entry)).map(|(&id, _)| id).collect()
    }

    /// Processes that a reaped worker has left behind: those that were given to us,
    /// and what is below them.
    fn orphans(&self, process: &Process) -> BTreeSet<Pid> {
        let roots = match (self.stopping, self.follow) {
            (true, _) => {
                let all = self.unknown_children().into_iter();
                all.filter(|&pid| self.answers_for(pid) == Some(process.family.start)).collect()
            }
            (false, true) => {
                let of_its_time = |born| born >= process.since && process.until.is_none_or(|end| born < end);
                let known = |pid: &Pid| tree::stat(*pid).is_some_and(|stat| of_its_time(stat.born));
                self.unknown_children().into_iter().filter(known).collect()
            }
            (false, false) => {
                let known = self.known();
                let claimed = || tree::living_children(Pid::this(), &known).into_iter();
                let claimed = claimed().filter(|pid| process.claimed.contains(pid));
                process.family.orphans(&known).into_iter().chain(claimed).collect::<Vec<_>>()
            }
        };
        let all = roots.into_iter().flat_map(|root| iter::once(root).chain(tree::descendants(root)));
        all.filter(|&pid| self.stopping || !is_apart(process, pid)).collect()
    }

    /// The start whose leftover `pid` is, once everything is to go: one that cannot
    /// be told apart is that of the first worker that was reaped.
    fn answers_for(&self, pid: Pid) -> Option<u32> {
        let reaped = || {
            self.entries.values().filter_map(|entry| entry.process.as_ref()).filter(|process| process.reaped)
        };
        let own = reaped().find(|process| process.family.left_behind(pid) || process.claimed.contains(&pid));
        own.or_else(|| reaped().next()).map(|process| process.family.start)
    }

    /// A worker that ended well, and was not asked to, has gone into the background:
    /// what was given to us since its start, and shows no other origin, is its.
    pub fn claim(&mut self, id: WorkerId) {
        let Some(born) = self.process(id).map(|process| process.born) else { return };
        let families: Vec<Family> =
            self.entries.values().filter_map(|entry| Some(entry.process.as_ref()?.family)).collect();
        let traceless = |pid: &Pid| !families.iter().any(|family| family.left_behind(*pid));
        let since = |pid: &Pid| tree::stat(*pid).is_some_and(|stat| stat.born >= born);
        let claimed = self.unknown_children().into_iter().filter(traceless).filter(since).collect();
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.claimed = claimed;
            process.daemonised = true;
        }
    }

    /// Asks something that `whose` left behind to stop, once; false if it has been asked.
    fn ask(&mut self, pid: Pid, whose: &str) -> bool {
        let Some(born) = tree::stat(pid).map(|stat| stat.born) else { return true };
        self.asked.retain(|(pid, _)| tree::is_live(*pid));
        let first = self.asked.insert((pid, born));
        if first {
            info!("{whose}pid {pid} ({}), left behind, is asked to stop", tree::name(pid));
            log_failure(pid, process::signal(pid, Signal::SIGTERM as i32));
            // A stopped process keeps the signal until it is continued.
            log_failure(pid, process::signal(pid, Signal::SIGCONT as i32));
        }
        first
    }

    /// A worker that was asked to stop has left something behind, which may finish what it
    /// has.
    pub fn drain_remains(&mut self, id: WorkerId) {
        if let Some(process) = self.process(id) {
            let named = |pid: &Pid| format!("pid {pid} ({})", tree::name(*pid));
            let left: Vec<String> = self.orphans(process).iter().map(named).collect();
            info!("{}left behind by pid {}: {}", self.whose(id), process.pid, left.join(", "));
        }
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.drains = true;
        }
    }

    /// Asks those of what a worker left behind to stop that wait for connections, on what it was
    /// given or on what is `bound` by workers themselves, or have accepted one at these `ports`
    /// since they were last looked at.
    pub fn stop_accepting(&mut self, id: WorkerId, ports: &BTreeSet<u16>, bound: &BTreeSet<u64>) {
        let Some(process) = self.process(id).filter(|process| process.drains && !process.asked) else {
            return;
        };
        let left = self.orphans(process);
        let ours: BTreeSet<u64> = process.listening.union(bound).copied().collect();
        let waits = |pid: &Pid| accepting::waits_on_any(*pid, &ours);
        let holds = |pid: &Pid| !proc_fd::sockets(*pid).is_disjoint(&process.listening);
        let now: BTreeMap<Pid, BTreeSet<u64>> =
            left.iter().filter(|pid| holds(pid)).map(|&pid| (pid, listening::accepted(pid, ports))).collect();
        let newer = |pid: &Pid| match (process.accepted.get(pid), now.get(pid)) {
            (Some(before), Some(now)) => !now.is_subset(before),
            _ => false,
        };
        let accepting: Vec<Pid> = left.into_iter().filter(|pid| waits(pid) || newer(pid)).collect();
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.accepted = now;
        }
        let whose = self.whose(id);
        for pid in accepting {
            self.ask(pid, &whose);
        }
    }

    /// Whose something is, for people.
    fn whose(&self, id: WorkerId) -> String {
        self.get(id).map_or(String::new(), |entry| format!("{}: ", entry.generation))
    }

    /// Asks every child that no worker answers for to stop, or kills them; whether
    /// there are any.
    pub fn end_strays(&mut self, kill: bool) -> bool {
        let strays = self.unknown_children();
        for &stray in &strays {
            match kill {
                true => kill_one(stray, ""),
                false => drop(self.ask(stray, "")),
            }
        }
        !strays.is_empty()
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
        let (pid, leads, orphans, drains) =
            (process.pid, process.leads, self.orphans(process), process.drains);
        let whose = self.whose(id);
        let asks = signal == Signal::SIGTERM;
        // Those that have had their TERM, for they accepted, have had their time as well.
        for &orphan in &orphans {
            if !asks || !self.ask(orphan, &whose) && drains && !self.stopping {
                kill_one(orphan, &whose);
            }
        }
        // What /proc does not show.
        if leads && (!asks || orphans.is_empty()) {
            log_failure(pid, process::signal_group(pid, signal as i32));
            // A stopped process keeps the signal until it is continued.
            log_failure(pid, process::signal_group(pid, Signal::SIGCONT as i32));
        }
        if let Some(process) = self.entries.get_mut(&id).and_then(|entry| entry.process.as_mut()) {
            process.asked = true;
            process.killed |= signal == Signal::SIGKILL;
        }
    }

    /// Those that were given to us since then, by the end of others, get the same.
    pub fn end_newcomers(&mut self, id: WorkerId) {
        let Some(process) = self.process(id) else { return };
        if process.killed {
            return self.end_remains(id, Signal::SIGKILL);
        }
        if process.asked {
            let whose = self.whose(id);
            for orphan in self.orphans(process) {
                self.ask(orphan, &whose);
            }
        }
    }
}

/// Something that a worker left behind has made a session of its own and holds no listener:
/// it serves others as well, and is nobody's to stop before we stop ourselves.
fn is_apart(process: &Process, pid: Pid) -> bool {
    let sessions = [getsid(None).ok(), Some(process.pid)];
    !process.daemonised
        && tree::stat(pid).is_some_and(|stat| !sessions.contains(&Some(stat.session)))
        && proc_fd::sockets(pid).is_disjoint(&process.listening)
}

fn kill_one(pid: Pid, whose: &str) {
    info!("{whose}pid {pid} ({}), left behind, is killed", tree::name(pid));
    log_failure(pid, process::signal(pid, Signal::SIGKILL as i32));
}
