//! What workers leave behind: to whom it belongs, and that it is asked to stop
//! once, then killed.

use super::{Books, Entry, Process, log_failure};
use crate::core::event::WorkerId;
use crate::sys::process;
use crate::sys::tree::{self, Family};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid};
use std::collections::BTreeSet;
use std::iter;

impl Books {
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
        roots.into_iter().flat_map(|root| iter::once(root).chain(tree::descendants(root))).collect()
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
        }
    }

    /// Asks a leftover to stop, once.
    fn ask(&mut self, pid: Pid) {
        let born = tree::stat(pid).map_or(0, |stat| stat.born);
        self.asked.retain(|(pid, _)| tree::is_live(*pid));
        if self.asked.insert((pid, born)) {
            log_failure(pid, process::signal(pid, Signal::SIGTERM as i32));
            // A stopped process keeps the signal until it is continued.
            log_failure(pid, process::signal(pid, Signal::SIGCONT as i32));
        }
    }

    /// Asks every child that no worker answers for to stop, or kills them; whether
    /// there are any.
    pub fn end_strays(&mut self, kill: bool) -> bool {
        let strays = self.unknown_children();
        for &stray in &strays {
            match kill {
                true => log_failure(stray, process::signal(stray, Signal::SIGKILL as i32)),
                false => self.ask(stray),
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
        let (pid, leads, orphans) = (process.pid, process.leads, self.orphans(process));
        if leads {
            log_failure(pid, process::signal_group(pid, signal as i32));
            // A stopped process keeps the signal until it is continued.
            log_failure(pid, process::signal_group(pid, Signal::SIGCONT as i32));
        }
        let alone = orphans.iter().filter(|&&orphan| !leads || getpgid(Some(orphan)) != Ok(pid));
        for &orphan in alone {
            match signal {
                Signal::SIGTERM => self.ask(orphan),
                _ => log_failure(orphan, process::signal(orphan, signal as i32)),
            }
        }
        // Those of the group have had theirs.
        let born = |pid: &Pid| Some((*pid, tree::stat(*pid)?.born));
        self.asked.extend(orphans.iter().filter_map(born));
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
            for orphan in self.orphans(process) {
                self.ask(orphan);
            }
        }
    }
}
