//! Follow mode: the worker binds its own sockets and, at our signal, starts its
//! own successor.
//!
//! Who that is, is read from `/proc`. While the old worker lives, it is a new
//! descendant that has executed a program and holds one of the old one's listening
//! sockets; it is ready when the whole of what it holds is waited on, or accepted
//! from. A helper may have inherited a listener and never accept: while the one
//! that was found does not, another that does is taken instead. Once the old one
//! has been reaped, it is the orphan that holds one and accepts, for which it has a
//! moment; the forked workers of a server that crashed have executed nothing. A
//! successor may be a child of the old one for as long as that lives: then its end
//! is looked for, and its exit status is not ours to know.

use super::Run;
use crate::ack::accepting;
use crate::config::signals;
use crate::core::ShownStage;
use crate::core::event::{AckKind, Event, Exit, Generation, Slot, WorkerId};
use crate::core::policy::TAKEOVER;
use crate::process::{Predecessor, Process};
use crate::sys::tree::{self, Family, Stat};
use crate::sys::{listening, process};
use log::{info, warn};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Between two looks at who is to accept in the place of a worker that has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// A process that holds one of a worker's listening sockets.
struct Candidate {
    pid: Pid,
    stat: Stat,
    /// Everything that it listens on is waited on, or accepted from.
    accepting: bool,
}

impl Run {
    /// Has the worker `of` start its own successor, `id`.
    pub(super) fn succeed(&mut self, id: WorkerId, of: WorkerId, generation: Generation, slot: Slot) {
        let (Some(signal), Some(old)) = (self.config.follow, self.processes.process(of)) else { return };
        let mut before: BTreeSet<Pid> = tree::descendants(old.pid).into_iter().collect();
        before.extend(self.processes.unknown_children());
        let old = old.pid;
        self.remember_listeners(of);
        self.note_reading(generation);
        self.processes.open(id, generation, slot);
        if let Some(entry) = self.processes.get_mut(id) {
            entry.predecessor = Some(Predecessor { of, before });
        }
        info!(generation = generation.0; "{generation}: pid {old} is sent {}, to start its successor", signals::name(signal as i32));
        self.processes.signal(of, signal as i32);
    }

    /// The successor that was found unasked is a worker from now on.
    pub(super) fn adopt(&mut self, id: WorkerId, of: WorkerId, generation: Generation, slot: Slot) {
        self.note_reading(generation);
        self.processes.open(id, generation, slot);
        if let Some(entry) = self.processes.get_mut(id) {
            entry.predecessor = Some(Predecessor { of, before: BTreeSet::new() });
        }
        let pid = self.processes.get_mut(of).and_then(|entry| entry.process.as_mut()?.successor.take());
        if let Some(pid) = pid {
            self.attach(id, of, pid);
            self.remember_listeners(id);
        }
    }

    /// Whether a worker that we started accepts, on everything that it listens on.
    pub(super) fn probe_first(&mut self, id: WorkerId) {
        let Some(process) = self.processes.process(id).filter(|_| self.config.acks.accepting) else { return };
        let inodes = listening::held(&self.processes.own_tree(id));
        if accepting::is_accepting(process.pid, &inodes) {
            self.soon.push_back(Event::Ack(id, AckKind::Accepting));
        }
    }

    /// Looks for the process of a successor, then whether it accepts and lives.
    pub(super) fn probe_successor(&mut self, id: WorkerId) {
        let Some(predecessor) = self.processes.get(id).and_then(|entry| entry.predecessor.as_ref()) else {
            return;
        };
        let of = predecessor.of;
        let accepts = self.find_successor(id, of, |candidate| candidate.stat.executed);
        self.look_for_unseen_ends();
        if accepts && self.processes.process(id).is_some_and(|process| !process.reaped) {
            self.soon.push_back(Event::Ack(id, AckKind::Accepting));
        }
    }

    /// Finds a process for the successor `id`, or another one in the place of one
    /// that does not accept; true if it accepts.
    fn find_successor(&mut self, id: WorkerId, of: WorkerId, suits: impl Fn(&Candidate) -> bool) -> bool {
        let before = self.living_tree(of);
        let mut lives = false;
        let mut known = Vec::new();
        if let Some(process) = self.processes.process(id) {
            if process.reaped {
                return false;
            }
            lives = process.lives();
            known = self.processes.own_tree(id);
            if lives && accepts(process.pid, &known, &before) {
                return true;
            }
        }
        // Whatever is below the known one belongs to it.
        let found = self.candidate(of, |candidate| {
            suits(candidate) && !known.contains(&candidate.pid) && (candidate.accepting || !lives)
        });
        let Some(found) = found else { return false };
        self.attach(id, of, found.pid);
        if known.is_empty() {
            self.soon.push_back(Event::Spawned(id));
        }
        found.accepting
    }

    /// A worker has been reaped: does a process go on in its place? True if that is
    /// the same worker, which has only gone into the background.
    pub(super) fn is_carried_on(&mut self, id: WorkerId, exit: process::Exit) -> bool {
        let stage = self.core.workers().find(|shown| shown.worker == id).map(|shown| shown.stage);
        let starting = match stage {
            Some(ShownStage::Starting) => true,
            Some(ShownStage::Ready) => false,
            _ => return false,
        };
        if self.config.follow.is_none() || self.processes.stopping {
            return false;
        }
        let clean = exit == process::Exit::Code(0);
        if let Some(successor) = self.successor_of(id) {
            let suits = |candidate: &Candidate| candidate.stat.executed && (clean || candidate.accepting);
            // One that does not accept yet goes on being looked at, for a moment.
            if self.find_successor(successor, id, suits) {
                self.soon.push_back(Event::Ack(successor, AckKind::Takeover));
            }
            return false;
        }
        if starting {
            // A server goes into the background before it is ready.
            if let Some(found) = self.candidate(id, |_| true).filter(|_| clean) {
                self.replace(id, found.pid);
                return true;
            }
        } else if let Some(pid) = self.await_takeover(id, clean) {
            self.say_succeeded(id, pid);
        }
        false
    }

    /// Who accepts in the place of a worker that has ended unasked. After a clean
    /// exit one that holds its listeners has a moment to begin: servers that send
    /// their predecessor away do so just before.
    fn await_takeover(&self, id: WorkerId, clean: bool) -> Option<Pid> {
        let until = self.clock.now() + TAKEOVER;
        loop {
            let found = self.candidate(id, |candidate| candidate.stat.executed)?;
            if found.accepting {
                return Some(found.pid);
            }
            if !clean || self.clock.now() >= until {
                return None;
            }
            thread::sleep(GLANCE);
        }
    }

    /// Workers that leave to a successor, asked to by us or by somebody else: they
    /// get no stop signal, and nothing more is asked of them.
    pub(super) fn look_for_takeovers(&mut self) {
        if self.config.follow.is_none() || self.processes.stopping {
            return;
        }
        let ready = self.core.workers().filter(|shown| shown.stage == ShownStage::Ready);
        for id in ready.map(|shown| shown.worker).collect::<Vec<_>>() {
            let successor = self.successor_of(id);
            let process = successor.and_then(|successor| self.processes.process(successor));
            let known = process.filter(|process| process.lives()).map(|process| process.pid);
            let found = match (successor, known) {
                (_, Some(pid)) => Some(pid),
                (Some(_), None) => None,
                (None, None) => {
                    let serves = |candidate: &Candidate| candidate.stat.executed && candidate.accepting;
                    self.candidate(id, serves).map(|found| found.pid)
                }
            };
            let Some(pid) = found else { continue };
            let theirs: Vec<Pid> = std::iter::once(pid).chain(tree::descendants(pid)).collect();
            let own: Vec<Pid> =
                self.processes.own_tree(id).into_iter().filter(|pid| !theirs.contains(pid)).collect();
            let mut held = listening::held(&theirs);
            if held.is_empty() {
                continue;
            }
            // The successor may have bound its own, beside the old ones.
            held.extend(self.processes.process(id).iter().flat_map(|process| &process.listening));
            if accepting::has_let_go(&own, &held) {
                self.say_succeeded(id, pid);
            }
        }
    }

    fn say_succeeded(&mut self, id: WorkerId, successor: Pid) {
        if let Some(process) = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut()) {
            process.successor = Some(successor);
            process.until = tree::stat(successor).map(|stat| stat.born);
            process.leads = false;
        }
        self.soon.push_back(Event::HandedOver(id));
    }

    /// Adopted workers that have ended as children of somebody else.
    pub(super) fn look_for_unseen_ends(&mut self) {
        for worker in self.processes.gone(|_| false) {
            let Some(process) = self.processes.process(worker) else { continue };
            let unseen = process.adopted && !process.reaped && !process.lives();
            if !unseen || tree::parent(process.pid) == Some(Pid::this()) {
                continue;
            }
            self.processes.reaped(worker, self.clock.now());
            let remains = self.processes.remains(worker);
            self.soon.push_back(Event::Exited { worker, exit: Exit::Unseen, remains });
        }
    }

    /// Names the processes that accept beside the successor `id`: of several that
    /// were started at once one is the worker.
    pub(super) fn warn_of_others(&self, id: WorkerId) {
        let Some(entry) = self.processes.get(id) else { return };
        let (Some(predecessor), Some(process)) = (&entry.predecessor, &entry.process) else { return };
        let (generation, of, born) = (entry.generation, predecessor.of, process.born);
        let own = self.processes.own_tree(id);
        let others = self.candidates(of).filter(|it| it.accepting && it.stat.executed);
        // Older ones were there before, as the old worker's own.
        for Candidate { pid, .. } in others.filter(|it| it.stat.born >= born && !own.contains(&it.pid)) {
            warn!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {pid} listens as well, and is left alone until we stop");
        }
    }

    /// Notes which sockets a worker listens on: it cannot be asked once it has gone.
    pub(super) fn remember_listeners(&mut self, id: WorkerId) {
        if self.config.follow.is_none() {
            return;
        }
        let held = listening::held(&self.processes.own_tree(id));
        let process = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut());
        if let Some(process) = process.filter(|_| !held.is_empty()) {
            process.listening = held;
        }
    }

    /// From its birth on, what is born is a new worker's and no longer an older one's.
    pub(super) fn note_birth(&mut self, id: WorkerId) {
        let pid = self.processes.process(id).map(|process| process.pid);
        let Some(stat) = pid.filter(|_| self.config.follow.is_some()).and_then(tree::stat) else { return };
        for other in self.processes.gone(|_| false) {
            let process = self.processes.get_mut(other).and_then(|entry| entry.process.as_mut());
            let Some(process) = process else { continue };
            if other == id {
                process.born = stat.born;
                process.since = stat.born;
            } else {
                process.until.get_or_insert(stat.born);
            }
        }
    }

    /// The worker that the worker `id` has been asked to start.
    fn successor_of(&self, id: WorkerId) -> Option<WorkerId> {
        let shown = self.core.workers().filter(|shown| {
            matches!(shown.stage, ShownStage::Starting | ShownStage::Ready)
                && self.processes.get(shown.worker).is_some_and(|entry| {
                    entry.predecessor.as_ref().is_some_and(|predecessor| predecessor.of == id)
                })
        });
        shown.map(|shown| shown.worker).next()
    }

    /// The processes of a worker that has not been reaped.
    fn living_tree(&self, id: WorkerId) -> Vec<Pid> {
        match self.processes.process(id) {
            Some(process) if !process.reaped => self.processes.own_tree(id),
            _ => Vec::new(),
        }
    }

    /// The process that succeeds the worker `of`, one that accepts before others.
    fn candidate(&self, of: WorkerId, suits: impl Fn(&Candidate) -> bool) -> Option<Candidate> {
        let mut best = None;
        for found in self.candidates(of).filter(suits) {
            if found.accepting {
                return Some(found);
            }
            best.get_or_insert(found);
        }
        best
    }

    /// Processes that hold a listener of the worker `of`, which may have gone, and
    /// may succeed it.
    fn candidates(&self, of: WorkerId) -> impl Iterator<Item = Candidate> {
        let id = self.successor_of(of);
        let predecessor = id.and_then(|id| self.processes.get(id)?.predecessor.as_ref());
        // Its successor remembers what it listened on.
        let old = self.processes.process(of).or_else(|| self.processes.process(id?));
        let lives = self.processes.process(of).is_some_and(|old| !old.reaped);
        let own = self.living_tree(of);
        let below = match old {
            Some(old) if lives => tree::descendants(old.pid),
            _ => Vec::new(),
        };
        let all = below.into_iter().chain(self.processes.unknown_children());
        let new =
            all.filter(move |pid| predecessor.is_none_or(|predecessor| !predecessor.before.contains(pid)));
        new.filter_map(move |pid| {
            let stat = tree::stat(pid).filter(Stat::is_live)?;
            if lives && !stat.executed {
                return None;
            }
            let theirs: Vec<Pid> = std::iter::once(pid).chain(tree::descendants(pid)).collect();
            let held = listening::held(&theirs);
            let remembered = &old?.listening;
            if held.is_empty() || !remembered.is_empty() && held.is_disjoint(remembered) {
                return None;
            }
            let others: Vec<Pid> = own.iter().filter(|pid| !theirs.contains(pid)).copied().collect();
            Some(Candidate { pid, stat, accepting: accepts(pid, &theirs, &others) })
        })
    }

    /// `pid` is the process of `id`, in the place of one that it may have had. It
    /// shares the group of the worker `of`, which therefore leads no longer.
    fn attach(&mut self, id: WorkerId, of: WorkerId, pid: Pid) {
        let mistaken =
            self.processes.process(id).map(|it| (it.pid, it.family, it.listening.clone(), it.born));
        let born = mistaken.as_ref().map(|&(.., born)| born);
        let place = mistaken.as_ref().map(|&(pid, ..)| pid);
        let old = self.processes.get_mut(of).and_then(|entry| entry.process.as_mut());
        let known = match old {
            Some(old) => {
                old.leads = false;
                // What was taken for the successor is the old worker's again.
                old.until = old.until.filter(|&until| Some(until) != born);
                Some((old.family, old.listening.clone(), None))
            }
            // With nobody else to look after it, it is this worker's.
            None => mistaken.map(|(_, family, listening, born)| (family, listening, Some(born))),
        };
        let Some((family, listening, since)) = known else { return };
        let mut process = Process::started(Family { worker: pid, ..family }, false, process::pidfd(pid));
        process.adopted = true;
        process.listening = listening;
        let Some(entry) = self.processes.get_mut(id) else { return };
        let generation = entry.generation;
        entry.process = Some(process);
        self.note_birth(id);
        if let (Some(since), Some(process)) =
            (since, self.processes.get_mut(id).and_then(|entry| entry.process.as_mut()))
        {
            process.since = since;
        }
        match place {
            None => {
                let from = family.worker;
                info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {from} started pid {pid}, its successor");
            }
            Some(place) => {
                info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {pid} is the successor, in the place of pid {place}");
            }
        }
    }

    /// The worker goes on as `pid`: its first process has only started that one.
    fn replace(&mut self, id: WorkerId, pid: Pid) {
        let Some(entry) = self.processes.get_mut(id) else { return };
        let generation = entry.generation;
        let Some(process) = &mut entry.process else { return };
        let (from, since) = (process.pid, process.since);
        let mut now = Process::started(Family { worker: pid, ..process.family }, false, process::pidfd(pid));
        now.adopted = true;
        now.listening.append(&mut process.listening);
        now.check = process.check.take();
        *process = now;
        self.note_birth(id);
        // What the first process left behind is this worker's as well.
        if let Some(process) = self.processes.get_mut(id).and_then(|entry| entry.process.as_mut()) {
            process.since = since;
        }
        info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {from} went into the background as pid {pid}");
    }
}

/// Whether `pid`, with its whole tree `theirs`, waits on all that it listens on, or
/// has accepted what none of `others` holds. Without others nothing is told by a
/// connection: it may be inherited.
fn accepts(pid: Pid, theirs: &[Pid], others: &[Pid]) -> bool {
    let held = listening::held(theirs);
    accepting::is_accepting(pid, &held)
        || !others.is_empty() && listening::have_accepted(theirs, others, &held)
}
