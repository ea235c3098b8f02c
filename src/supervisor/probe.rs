//! Looks at a worker that is to become ready, and the user's own check of it.

use super::Run;
use crate::ack::accepting;
use crate::core::event::{AckKind, Event, Report, WorkerId};
use crate::core::{Shown, ShownStage};
use crate::launch::start::refused;
use crate::listener::Listener;
use crate::supervisor::report;
use crate::sys::{child, process};
use log::warn;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// So often it is looked whether those that serve wait, with such pauses: a request of a server
/// that accepts in the same thread is over by then, or another one is.
pub(super) const LOOKS: u32 = 40;
const GLANCE: Duration = Duration::from_millis(5);

impl Run {
    /// Is the worker accepting? Is the user's check done? An answer comes as an
    /// ack; a check that still runs is not started twice.
    pub(super) fn probe(&mut self, id: WorkerId) {
        if self.processes.get(id).is_some_and(|entry| entry.predecessor.is_some()) {
            return self.probe_successor(id);
        }
        self.probe_bound(id);
        if self.config.follow.is_some() {
            self.probe_first(id);
        } else if (self.config.policy.listeners || self.processes.terms(id) > 0) && self.is_accepting(id) {
            self.soon.push_back(Event::Ack(id, AckKind::Accepting));
            if self.processes.terms(id) > 0 {
                self.soon.push_back(Event::Ack(id, AckKind::ParentTerm));
            }
        }
        let starts =
            self.core.workers().any(|shown| shown.worker == id && shown.stage == ShownStage::Starting);
        if starts
            && self.processes.process(id).is_some_and(|process| process.check.is_none())
            && let Some(command) = self.config.acks.exec.clone()
        {
            self.check(id, &command);
        }
    }

    /// Asking for connections costs more than a look into /proc, and a worker that
    /// rests at all is soon seen at it.
    fn is_accepting(&mut self, id: WorkerId) -> bool {
        const LOOKS_AT_REST: u32 = 5;
        let Some(process) = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut()) else {
            return false;
        };
        process.looks = process.looks.saturating_add(1);
        let (pid, looks) = (process.pid, process.looks);
        let wanted: Vec<(u64, Option<u16>)> =
            self.wanted(id).iter().map(|&(listener, inode)| (inode, port(listener))).collect();
        let inodes: BTreeSet<u64> = wanted.iter().map(|&(inode, _)| inode).collect();
        if accepting::is_accepting(pid, &inodes) {
            if let Some(process) = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut()) {
                process.waited = inodes;
            }
            return true;
        }
        looks > LOOKS_AT_REST && accepting::is_serving(pid, &wanted)
    }

    /// The listeners on which a worker has to be seen to wait, with their inodes: those on which
    /// the one before it in its slot was; where nothing is known of that, another one's, else all.
    fn wanted(&self, id: WorkerId) -> Vec<(&Listener, u64)> {
        let Some(entry) = self.processes.get(id) else { return Vec::new() };
        let all = || {
            let listeners = self.common.listeners.of(entry.generation.0);
            listeners.map(|listener| (listener, listener.inode(entry.slot.0)))
        };
        let waited = self.waited.get(&entry.slot).or_else(|| self.waited.values().next());
        let known: Vec<(&Listener, u64)> =
            all().filter(|(_, inode)| waited.is_some_and(|waited| waited.contains(inode))).collect();
        if known.is_empty() { all().collect() } else { known }
    }

    /// Looks on which listeners the workers that serve wait, if that was asked for: several times,
    /// for a server that accepts in the same thread may be busy at one moment. What one was seen
    /// to wait on before counts as well. A connection that one holds is no sign here: its
    /// replacement may have none.
    pub(super) fn look_waiting(&mut self) {
        let now = self.clock.now();
        let Some((left, _)) = self.looking.filter(|(_, at)| *at <= now) else { return };
        let mut all = true;
        let serving: Vec<Shown> =
            self.core.workers().filter(|shown| shown.stage == ShownStage::Ready).collect();
        for shown in serving {
            let Some(process) = self.processes.process(shown.worker) else { continue };
            let listeners = self.common.listeners.of(shown.generation.0);
            let given: BTreeSet<u64> = listeners.map(|listener| listener.inode(shown.slot.0)).collect();
            let waited = self.waited.entry(shown.slot).or_default();
            waited.extend(process.waited.intersection(&given));
            let open: BTreeSet<u64> = given.difference(waited).copied().collect();
            let unseen = accepting::unseen(process.pid, &open);
            waited.extend(open.difference(&unseen));
            all &= unseen.is_empty();
        }
        if left > 0 && !all {
            self.looking = Some((left - 1, now + GLANCE));
            return;
        }
        self.looking = None;
        self.waited.retain(|_, waited| !waited.is_empty());
        self.soon.extend(self.waited.keys().map(|&slot| Event::Waits(slot)));
        self.soon.push_back(Event::LookedWaiting);
    }

    /// Notes on which listeners a worker was not seen to wait that has to, for people.
    pub(super) fn note_unseen(&mut self, report: &Report) {
        let (Report::Unseen { worker: id, .. } | Report::NoAck(id, _)) = *report else { return };
        if !self.config.policy.looks() {
            return;
        }
        let Some(pid) = self.processes.process(id).map(|process| process.pid) else { return };
        let wanted = self.wanted(id);
        let unseen = accepting::unseen(pid, &wanted.iter().map(|&(_, inode)| inode).collect());
        let unseen = wanted.iter().filter(|(_, inode)| unseen.contains(inode));
        let names: Vec<&str> = unseen.map(|(listener, _)| listener.address()).collect();
        let lacks = match names.is_empty() {
            true => "it waits on its listeners and has not said that it is ready".into(),
            false => format!("{} {}", report::UNSEEN, names.join(", ")),
        };
        if let Some(entry) = self.processes.get_mut(id) {
            entry.lacks = Some(lacks);
        }
    }

    fn check(&mut self, id: WorkerId, command: &str) {
        let Some(entry) = self.processes.get_mut(id) else { return };
        let (Some(process), Some(reading)) = (&mut entry.process, self.readings.get(&entry.generation))
        else {
            return;
        };
        let pid = process.pid.as_raw();
        let launch = self.common.check(reading, command, entry.generation, entry.slot, pid);
        let started =
            launch.and_then(|launch| child::spawn(&launch).map_err(|error| refused(&error, reading)));
        match started {
            Ok(child) => process.check = Some(child.pid),
            Err(refused) => warn!("cannot run the check of pid {pid}: {}", refused.message),
        }
    }

    /// A check that nobody waits for any more goes with everything that it started.
    pub(super) fn end_check(&mut self, id: WorkerId) {
        let process = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut());
        if let Some(check) = process.and_then(|process| process.check.take()) {
            let _ = process::signal_group(check, Signal::SIGKILL as i32);
        }
    }
}

/// The port of a listener of TCP.
fn port(listener: &Listener) -> Option<u16> {
    listener.exported().inet.filter(|_| listener.is_stream()).map(|address| address.port())
}
