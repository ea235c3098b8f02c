//! What workers say, and what they leave with us. One that talks without end is
//! listened to at its turns only.

use super::Run;
use crate::ack::Heard;
use crate::core::event::{Event, Generation, Slot, Time, WorkerId};
use crate::core::policy::EXTEND_LIMIT;
use crate::core::{Phase, ShownStage};
use crate::dialect::{FIRST_FD, first_listener};
use log::warn;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The pause between two turns of a worker.
const PAUSE: Duration = Duration::from_millis(100);

/// Who may be listened to from when on, and whether there is something.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: BTreeMap<WorkerId, (Time, bool)>,
    /// Whether it was told that not everything stored can be handed over.
    cut: bool,
}

impl Turns {
    /// How long until somebody's turn.
    pub(super) fn wait(&self, now: Time) -> Option<Duration> {
        let waiting = self.turns.values().filter(|(_, news)| *news);
        waiting.map(|(at, _)| at.saturating_sub(now)).min()
    }

    pub(super) fn forget(&mut self, id: WorkerId) {
        self.turns.remove(&id);
    }
}

impl Run {
    pub(super) fn hear(&mut self, id: WorkerId, heard: Heard) {
        match heard {
            Heard::Ready(kind) => self.soon.push_back(Event::Ack(id, kind)),
            Heard::Extend(by) => {
                let longest = self.config.policy.ack_timeout.map(|timeout| timeout * EXTEND_LIMIT);
                self.service.prolong(longest.map(|longest| longest.min(by)));
                self.soon.push_back(Event::Extend(id, by));
            }
            Heard::News => {
                let turn = self.turns.turns.entry(id).or_default();
                turn.1 = true;
                self.hear_news();
            }
            Heard::Barrier(fd) => {
                self.take_news(id);
                drop(fd);
            }
        }
    }

    /// Listens to those whose turn it is.
    pub(super) fn hear_news(&mut self) {
        let now = self.clock.now();
        let due = self.turns.turns.iter_mut().filter(|(_, (at, news))| *news && *at <= now);
        let due: Vec<WorkerId> = due.map(|(&id, _)| id).collect();
        for id in due {
            self.turns.turns.insert(id, (now + self.pause(), false));
            self.take_news(id);
        }
    }

    /// Listens to all that have something to say, whosever turn it is.
    pub(super) fn hear_all_news(&mut self) {
        let due: Vec<WorkerId> =
            self.turns.turns.iter().filter(|(_, (_, news))| *news).map(|(&id, _)| id).collect();
        for id in due {
            self.take_news(id);
        }
    }

    fn pause(&self) -> Duration {
        self.config.policy.worker_watchdog.map_or(PAUSE, |every| PAUSE.min(every / 8))
    }

    fn take_news(&mut self, id: WorkerId) {
        let news = self.watcher.news(id);
        if news.beat {
            self.soon.push_back(Event::Heartbeat(id));
        }
        let Some(status) = news.status else { return };
        let Some(entry) = self.processes.get_mut(id) else { return };
        entry.status = Some(status);
        let serves = |shown: &crate::core::Shown| shown.worker == id && shown.stage == ShownStage::Ready;
        if self.core.phase() == Phase::Running && self.core.workers().any(|shown| serves(&shown)) {
            let status = self.status(id);
            self.service.status(status);
        }
    }

    /// What the service manager shows of us while a generation serves: with the
    /// words of this worker, if it has any.
    fn status(&self, id: WorkerId) -> String {
        let Some(entry) = self.processes.get(id) else { return String::new() };
        let slot =
            if self.config.policy.workers > 1 { format!("slot {}: ", entry.slot.0) } else { String::new() };
        let said = entry.status.as_ref().map_or(String::new(), |said| format!(": {slot}{said}"));
        format!("{} serves{said}", entry.generation)
    }

    /// What `generation` is told that serves, with the words of its first worker
    /// that has any.
    pub(super) fn serves(&self, generation: Generation) -> String {
        let mut workers = self.core.workers().filter(|shown| shown.generation == generation);
        let said = |id: WorkerId| self.processes.get(id).is_some_and(|entry| entry.status.is_some());
        match workers.find(|shown| said(shown.worker)) {
            Some(shown) => self.status(shown.worker),
            None => format!("{generation} serves"),
        }
    }

    /// What workers of this slot have stored, as far as there is room before the
    /// numbers that somebody else was promised.
    pub(super) fn stored(
        &mut self,
        slot: Slot,
        generation: Generation,
    ) -> io::Result<Vec<(String, OwnedFd)>> {
        if !self.common.stores() {
            return Ok(Vec::new());
        }
        let mut stored = self.watcher.stored(slot, generation)?;
        let first = first_listener(&self.common.dialects).unwrap_or(FIRST_FD);
        let next = first + self.common.exported(generation).len() as i32;
        let taken = self.config.worker.pass_fds.iter().chain(&self.config.acks.fd_number);
        let room = taken.map(|&number| (number - next).max(0) as usize).min().unwrap_or(usize::MAX);
        if stored.len() > room {
            if !std::mem::replace(&mut self.turns.cut, true) {
                warn!("only {room} of {} stored descriptors fit below --pass-fd or --ack fd:N", stored.len());
            }
            stored.truncate(room);
        }
        Ok(stored)
    }

    /// What was stored during an upgrade counts now, or has failed with it.
    pub(super) fn settle(&self, to: Generation) {
        let settled: Vec<(Slot, Generation)> = self.core.settled().collect();
        self.watcher.settle(to, &settled);
    }
}
