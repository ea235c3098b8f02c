//! Looks at a worker that is to become ready, and the user's own check of it.

use super::Run;
use crate::ack::accepting;
use crate::core::event::{AckKind, Event, WorkerId};
use crate::launch::start::refused;
use crate::listener::Listener;
use crate::sys::{child, process};
use log::warn;
use nix::sys::signal::Signal;

impl Run {
    /// Is the worker accepting? Is the user's check done? An answer comes as an
    /// ack; a check that still runs is not started twice.
    pub(super) fn probe(&mut self, id: WorkerId) {
        if self.books.get(id).is_some_and(|entry| entry.heir.is_some()) {
            return self.probe_successor(id);
        }
        self.probe_bound(id);
        if self.config.follow.is_some() {
            self.probe_first(id);
        } else if (self.config.acks.accepting || self.books.terms(id) > 0) && self.is_accepting(id) {
            self.soon.push_back(Event::Ack(id, AckKind::Accepting));
            if self.books.terms(id) > 0 {
                self.soon.push_back(Event::Ack(id, AckKind::ParentTerm));
            }
        }
        if self.books.process(id).is_some_and(|process| process.check.is_none())
            && let Some(command) = self.config.acks.exec.clone()
        {
            self.check(id, &command);
        }
    }

    /// Asking for connections costs more than a look into /proc, and a worker that
    /// rests at all is soon seen at it.
    fn is_accepting(&mut self, id: WorkerId) -> bool {
        const LOOKS_AT_REST: u32 = 5;
        let Some(entry) = self.books.get_mut(id) else { return false };
        let (slot, generation) = (entry.slot.0, entry.generation.0);
        let Some(process) = &mut entry.process else { return false };
        process.looks = process.looks.saturating_add(1);
        let listeners = self.common.listeners.of(generation);
        if process.looks > LOOKS_AT_REST {
            let port = |listener: &Listener| {
                listener.exported().inet.filter(|_| listener.is_stream()).map(|address| address.port())
            };
            let wanted: Vec<(u64, Option<u16>)> =
                listeners.map(|listener| (listener.inode(slot), port(listener))).collect();
            return accepting::is_serving(process.pid, &wanted);
        }
        accepting::is_accepting(process.pid, &listeners.map(|listener| listener.inode(slot)).collect())
    }

    fn check(&mut self, id: WorkerId, command: &str) {
        let Some(entry) = self.books.get_mut(id) else { return };
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
        let process = self.books.get_mut(id).and_then(|entry| entry.process.as_mut());
        if let Some(check) = process.and_then(|process| process.check.take()) {
            let _ = process::signal_group(check, Signal::SIGKILL as i32);
        }
    }
}
