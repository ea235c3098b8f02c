//! Follow mode: the worker binds its own sockets and, at our signal, starts its
//! own successor.
//!
//! The successor is found in `/proc`. While the old worker lives, it is a new
//! descendant that has executed a program and has one of the old worker's listening
//! sockets open. It is ready when it waits on, or has accepted from, every listening
//! socket that it has open. A helper may have inherited a listener and never accept:
//! if another candidate accepts, it replaces one that does not. Once the old worker
//! has been reaped, the successor is the orphan that has a listener open and accepts;
//! it gets a moment to begin. The forked workers of a server that crashed have
//! executed nothing, so they do not count. While the old worker lives, its successor
//! may be its child: then its end is polled for, and its exit status is known
//! only while it is a zombie, or from Linux 6.15 on.

use super::context::Context;
use super::master::{is_master_of, servers};
use super::successor::{
    Candidate, accepts, await_execution, await_takeover, candidate, candidates, dead_successor, has_accepted,
    living_tree, runs_program_of, successor_of, unseen_exit,
};
use crate::ack::accepting;
use crate::config::signals;
use crate::core::ShownStage;
use crate::core::event::{AckKind, Event, Generation, Report, Slot, WorkerId};
use crate::core::policy::TAKEOVER;
use crate::process::{Predecessor, Process, Server};
use crate::sys::tree::{self, Family};
use crate::sys::{listeners, process};
use log::{info, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;

/// `--follow`.
pub(super) struct Follow {
    /// The signal at which a worker starts its successor.
    signal: Signal,
}

impl Follow {
    pub(super) fn new(signal: Signal) -> Follow {
        Follow { signal }
    }

    pub(super) fn on_report(&self, report: &Report, ctx: &mut Context) {
        match *report {
            Report::Ready(worker, ..) => self.remember_listeners(worker, ctx),
            Report::HandedOver { worker, .. } => self.warn_of_others(worker, ctx),
            Report::UpgradeDone { to, .. } => {
                ctx.of_generation(to).for_each(|shown| self.warn_of_others(shown.worker, ctx));
            }
            _ => {}
        }
    }

    /// Has the worker `predecessor` start its own successor, `id`.
    pub(super) fn request_handover(
        &self,
        id: WorkerId,
        predecessor: WorkerId,
        generation: Generation,
        slot: Slot,
        ctx: &mut Context,
    ) {
        let Some(old) = ctx.processes.process(predecessor) else { return };
        let signal = self.signal;
        let mut before: BTreeSet<Pid> = tree::descendants(old.pid).into_iter().collect();
        before.extend(ctx.processes.unknown_children());
        let old = old.pid;
        self.remember_listeners(predecessor, ctx);
        open(id, Predecessor::new(predecessor, before), generation, slot, ctx);
        info!(generation = generation.0; "{generation}: pid {old} is sent {}, to start its successor", signals::name(signal as i32));
        ctx.processes.signal(predecessor, signal as i32);
    }

    /// The successor that a worker has started by itself is a worker from now on.
    pub(super) fn take_successor(
        &self,
        id: WorkerId,
        predecessor: WorkerId,
        generation: Generation,
        slot: Slot,
        ctx: &mut Context,
    ) {
        open(id, Predecessor::new(predecessor, BTreeSet::new()), generation, slot, ctx);
        let pid =
            ctx.processes.get_mut(predecessor).and_then(|entry| entry.process.as_mut()?.successor.take());
        if let Some(pid) = pid {
            self.attach(id, predecessor, pid, ctx);
            self.remember_listeners(id, ctx);
        }
    }

    /// Checks whether a worker that we started accepts on everything that it listens on. It has
    /// inherited no connection: those that it has, it has accepted.
    pub(super) fn probe(&self, id: WorkerId, ctx: &mut Context) {
        let Some(process) = ctx.processes.process(id).filter(|_| ctx.config.acks.accepting) else { return };
        let tree = ctx.processes.own_tree(id);
        let inodes = listeners::listening_sockets(&tree);
        let accepts = accepting::is_accepting(process.pid, &inodes);
        if accepts || listeners::have_accepted_on_each(&tree, &[], &inodes) {
            ctx.queue(Event::Ack(id, AckKind::Accepting));
        }
    }

    /// Finds the process of a successor, then checks whether it accepts and lives.
    pub(super) fn probe_successor(&self, id: WorkerId, ctx: &mut Context) {
        let Some(predecessor) = ctx.processes.get(id).and_then(|entry| entry.predecessor.as_ref()) else {
            return;
        };
        let predecessor = predecessor.worker;
        let accepts = self.find_successor(id, predecessor, |candidate| candidate.stat.executed, ctx);
        if let Some(dead) = dead_successor(id, predecessor, ctx) {
            self.attach(id, predecessor, dead, ctx);
            ctx.queue(Event::Spawned(id));
        }
        self.find_unseen_exits(ctx);
        if accepts && ctx.processes.process(id).is_some_and(|process| !process.reaped) {
            ctx.queue(Event::Ack(id, AckKind::Accepting));
        }
    }

    /// Finds a process for the successor `id`, or another one instead of one that does
    /// not accept; true if it accepts.
    fn find_successor(
        &self,
        id: WorkerId,
        predecessor: WorkerId,
        suits: impl Fn(&Candidate) -> bool,
        ctx: &mut Context,
    ) -> bool {
        let before = living_tree(predecessor, ctx);
        let mut lives = false;
        let mut known = Vec::new();
        if let Some(process) = ctx.processes.process(id) {
            if process.reaped {
                return false;
            }
            lives = process.lives();
            known = ctx.processes.own_tree(id);
            if lives && accepts(process.pid, &known, &before) {
                return true;
            }
            if lives && before.is_empty() && has_accepted(id, &known, ctx) {
                return true;
            }
        }
        // The descendants of the known process belong to it.
        let found = candidate(
            predecessor,
            |candidate| {
                suits(candidate) && !known.contains(&candidate.pid) && (candidate.accepting || !lives)
            },
            ctx,
        );
        let Some(found) = found else { return false };
        self.attach(id, predecessor, found.pid, ctx);
        if known.is_empty() {
            ctx.queue(Event::Spawned(id));
        }
        found.accepting
    }

    /// A worker has been reaped: checks whether a process continues it. True if that is
    /// the same worker, which has only gone into the background.
    pub(super) fn is_continued(&self, id: WorkerId, exit: process::Exit, ctx: &mut Context) -> bool {
        let stage = ctx.core.workers().find(|shown| shown.worker == id).map(|shown| shown.stage);
        let starting = match stage {
            Some(ShownStage::Starting) => true,
            Some(ShownStage::Ready) => false,
            _ => return false,
        };
        if ctx.processes.stopping {
            return false;
        }
        let clean = exit == process::Exit::Code(0);
        if let Some(successor) = successor_of(id, ctx) {
            if clean {
                // A child that it has just forked gets the time to execute its program.
                await_execution(id, ctx.now() + TAKEOVER, ctx);
            }
            let suits = |candidate: &Candidate| candidate.stat.executed && (clean || candidate.accepting);
            // One that does not accept yet is checked again, for a moment.
            if self.find_successor(successor, id, suits, ctx) {
                ctx.queue(Event::Ack(successor, AckKind::Takeover));
            }
            return false;
        }
        if starting {
            // A server goes into the background before it is ready.
            if let Some(found) = candidate(id, |_| true, ctx).filter(|_| clean) {
                self.replace(id, found.pid, ctx);
                return true;
            }
        } else if let Some(pid) = await_takeover(id, clean, ctx) {
            self.record_handover(id, pid, ctx);
        }
        false
    }

    /// Finds workers that hand over to a successor, at our request or somebody else's:
    /// they get no stop signal, and nothing more is asked of them.
    pub(super) fn find_handovers(&self, ctx: &mut Context) {
        if ctx.processes.stopping {
            return;
        }
        let ready = ctx.core.workers().filter(|shown| shown.stage == ShownStage::Ready);
        for id in ready.map(|shown| shown.worker).collect::<Vec<_>>() {
            let successor = successor_of(id, ctx);
            let process = successor.and_then(|successor| ctx.processes.process(successor));
            let known = process.filter(|process| process.lives()).map(|process| process.pid);
            let found = match (successor, known) {
                (_, Some(pid)) => Some(pid),
                (Some(_), None) => None,
                (None, None) => {
                    let serves = |candidate: &Candidate| candidate.stat.executed && candidate.accepting;
                    candidate(id, serves, ctx).map(|found| found.pid)
                }
            };
            let Some(pid) = found else { continue };
            if is_master_of(id, pid, ctx) {
                ctx.queue(Event::StaysMaster(id));
                continue;
            }
            let theirs: Vec<Pid> = std::iter::once(pid).chain(tree::descendants(pid)).collect();
            let own: Vec<Pid> =
                ctx.processes.own_tree(id).into_iter().filter(|pid| !theirs.contains(pid)).collect();
            let mut held = listeners::listening_sockets(&theirs);
            if held.is_empty() {
                continue;
            }
            // The successor may have bound sockets of its own beside the old ones.
            held.extend(ctx.processes.process(id).iter().flat_map(|process| &process.listening));
            if accepting::have_stopped_accepting(&own, &held) {
                self.record_handover(id, pid, ctx);
            }
        }
    }

    /// A worker has ended. A successor that runs the same program still loads, and is no helper that
    /// only holds the listeners: it gets the whole ack timeout once more.
    pub(super) fn let_load(&self, id: WorkerId, ctx: &mut Context) {
        let Some(successor) = successor_of(id, ctx) else { return };
        let loads = ctx.processes.process(successor).is_some_and(|it| runs_program_of(id, it.pid, ctx));
        if let Some(timeout) = ctx.config.policy.ack_timeout.filter(|_| loads) {
            ctx.queue(Event::Extend(successor, timeout));
        }
    }

    fn record_handover(&self, id: WorkerId, successor: Pid, ctx: &mut Context) {
        if let Some(process) = ctx.processes.process_mut(id) {
            process.successor = Some(successor);
            process.owns_until = tree::stat(successor).map(|stat| stat.start_time);
            process.leads_group = false;
        }
        ctx.queue(Event::HandedOver(id));
    }

    /// Finds workers that have ended as children of another process.
    pub(super) fn find_unseen_exits(&self, ctx: &mut Context) {
        for worker in ctx.processes.ids() {
            let Some(process) = ctx.processes.process(worker) else { continue };
            let unseen = process.not_our_child && !process.reaped && !process.lives();
            if !unseen || tree::parent(process.pid) == Some(Pid::this()) {
                continue;
            }
            let exit = unseen_exit(process);
            ctx.processes.reaped(worker, None, ctx.now());
            let remains = ctx.processes.has_remains(worker);
            ctx.queue(Event::Exited { worker, exit, remains });
            self.let_load(worker, ctx);
        }
    }

    /// Warns of processes that accept beside the successor `id`: of several that were
    /// started at once, only one is the worker.
    fn warn_of_others(&self, id: WorkerId, ctx: &Context) {
        let Some(entry) = ctx.processes.get(id) else { return };
        let (Some(predecessor), Some(process)) = (&entry.predecessor, &entry.process) else { return };
        let (generation, predecessor, start_time) =
            (entry.generation, predecessor.worker, process.start_time);
        let own = ctx.processes.own_tree(id);
        let others = candidates(predecessor, ctx).filter(|it| it.accepting && it.stat.executed);
        // Older ones are the old worker's own.
        for Candidate { pid, .. } in
            others.filter(|it| it.stat.start_time >= start_time && !own.contains(&it.pid))
        {
            warn!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {pid} listens as well, and is left alone until we stop");
        }
    }

    /// Notes which sockets a worker listens on: once it has ended, `/proc` does not show them.
    fn remember_listeners(&self, id: WorkerId, ctx: &mut Context) {
        let held = listeners::listening_sockets(&ctx.processes.own_tree(id));
        let servers = servers(id, ctx);
        if let Some(process) = ctx.processes.process_mut(id).filter(|_| !held.is_empty()) {
            process.listening = held;
            process.program = tree::program(process.pid);
            // One that is busy may not be seen to serve this time.
            let lives = |old: &Server| tree::parent(old.pid) == Some(old.parent);
            process.servers.retain(|old| lives(old) && servers.iter().all(|new| new.pid != old.pid));
            process.servers.extend(servers);
        }
    }

    /// The process of `predecessor` stays, and is the process of `id` from now on.
    pub(super) fn keep_master(&self, id: WorkerId, predecessor: WorkerId, ctx: &mut Context) {
        let process = ctx.processes.get_mut(predecessor).and_then(|entry| entry.process.take());
        let (Some(mut process), Some(entry)) = (process, ctx.processes.get_mut(id)) else { return };
        let pid = process.pid;
        process.leads_group = tree::stat(pid).is_some_and(|stat| stat.group == pid);
        process.owns_until = None;
        let server = entry.process.as_ref().map(|server| server.pid);
        let before =
            process.servers.iter().find(|before| server.and_then(tree::parent) == Some(before.parent));
        let next = before.zip(server).map(|(&before, pid)| Server { pid, ..before });
        process.servers.extend(next);
        entry.process = Some(process);
        entry.predecessor = None;
        let generation = entry.generation;
        if let Some(server) = server {
            info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {pid} stays, as the master of pid {server}");
        }
    }

    /// Processes that start after this worker belong to it, and no longer to an older one.
    pub(super) fn note_birth(&self, id: WorkerId, ctx: &mut Context) {
        let pid = ctx.processes.process(id).map(|process| process.pid);
        let Some(stat) = pid.and_then(tree::stat) else { return };
        for other in ctx.processes.ids() {
            let process = ctx.processes.process_mut(other);
            let Some(process) = process else { continue };
            if other == id {
                process.start_time = stat.start_time;
                process.owns_from = stat.start_time;
            } else {
                process.owns_until.get_or_insert(stat.start_time);
            }
        }
    }

    /// Makes `pid` the process of `id`, instead of one that it may have had. It shares the
    /// process group of the worker `predecessor`, which therefore no longer leads it.
    fn attach(&self, id: WorkerId, predecessor: WorkerId, pid: Pid, ctx: &mut Context) {
        let mistaken =
            ctx.processes.process(id).map(|it| (it.pid, it.family, it.listening.clone(), it.start_time));
        let start_time = mistaken.as_ref().map(|&(.., start_time)| start_time);
        let replaced = mistaken.as_ref().map(|&(pid, ..)| pid);
        let old = ctx.processes.process_mut(predecessor);
        let known = match old {
            Some(old) => {
                old.leads_group = false;
                // The process that was taken for the successor belongs to the old worker again.
                old.owns_until = old.owns_until.filter(|&until| Some(until) != start_time);
                Some((old.family, old.listening.clone(), None))
            }
            // The old worker is gone, so that process belongs to this one.
            None => mistaken.map(|(_, family, listening, start_time)| (family, listening, Some(start_time))),
        };
        let Some((family, listening, since)) = known else { return };
        let mut process = Process::started(Family { worker: pid, ..family }, false, process::pidfd(pid));
        process.not_our_child = true;
        process.listening = listening;
        let Some(entry) = ctx.processes.get_mut(id) else { return };
        let generation = entry.generation;
        entry.process = Some(process);
        self.note_birth(id, ctx);
        if let (Some(since), Some(process)) = (since, ctx.processes.process_mut(id)) {
            process.owns_from = since;
        }
        match replaced {
            None => {
                let from = family.worker;
                info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {from} started pid {pid}, its successor");
            }
            Some(replaced) => {
                info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {pid} is the successor, in the place of pid {replaced}");
            }
        }
    }

    /// The worker continues as `pid`: its first process has only started that one.
    fn replace(&self, id: WorkerId, pid: Pid, ctx: &mut Context) {
        let Some(entry) = ctx.processes.get_mut(id) else { return };
        let generation = entry.generation;
        let Some(process) = &mut entry.process else { return };
        let (from, since) = (process.pid, process.owns_from);
        let mut now = Process::started(Family { worker: pid, ..process.family }, false, process::pidfd(pid));
        now.not_our_child = true;
        now.listening.append(&mut process.listening);
        now.check = process.check.take();
        *process = now;
        self.note_birth(id, ctx);
        // What the first process left behind belongs to this worker as well.
        if let Some(process) = ctx.processes.process_mut(id) {
            process.owns_from = since;
        }
        info!(generation = generation.0, pid = pid.as_raw(); "{generation}: pid {from} went into the background as pid {pid}");
    }
}

/// Opens the table entry of a worker that another one starts, or has started.
fn open(id: WorkerId, predecessor: Predecessor, generation: Generation, slot: Slot, ctx: &mut Context) {
    ctx.launcher.keep_installed(generation);
    ctx.processes.open(id, generation, slot);
    if let Some(entry) = ctx.processes.get_mut(id) {
        entry.predecessor = Some(predecessor);
    }
}
