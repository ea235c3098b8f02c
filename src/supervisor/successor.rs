//! Finds the process of a successor that a worker has started: one that has a listening
//! socket of the worker open, and may accept on it.

use super::context::Context;
use crate::ack::accepting;
use crate::core::ShownStage;
use crate::core::event::{Exit, Time, WorkerId};
use crate::core::policy::TAKEOVER;
use crate::process::{Process, exit_of};
use crate::sys::tree::{self, Stat};
use crate::sys::{listeners, pidfd, process};
use nix::unistd::Pid;
use std::thread;
use std::time::Duration;

/// The pause between two checks whether a successor of a worker that has ended accepts.
const TAKEOVER_CHECK: Duration = Duration::from_millis(20);

/// A server reaps a helper that has ended within this time.
const REAPED_WITHIN: Duration = Duration::from_millis(300);

/// A process that has one of a worker's listening sockets open.
pub(super) struct Candidate {
    pub(super) pid: Pid,
    pub(super) stat: Stat,
    /// It waits on, or has accepted from, everything that it listens on.
    pub(super) accepting: bool,
}

/// The successor that the worker `id` was asked to start.
pub(super) fn successor_of(id: WorkerId, ctx: &Context) -> Option<WorkerId> {
    let shown = ctx.core.workers().filter(|shown| {
        matches!(shown.stage, ShownStage::Starting | ShownStage::Ready)
            && ctx.processes.get(shown.worker).is_some_and(|entry| {
                entry.predecessor.as_ref().is_some_and(|predecessor| predecessor.worker == id)
            })
    });
    shown.map(|shown| shown.worker).next()
}

/// The processes of a worker that has not been reaped.
pub(super) fn living_tree(id: WorkerId, ctx: &Context) -> Vec<Pid> {
    match ctx.processes.process(id) {
        Some(process) if !process.reaped => ctx.processes.own_tree(id),
        _ => Vec::new(),
    }
}

/// A process that may be the successor of the worker `predecessor`; one that accepts is preferred.
pub(super) fn candidate(
    predecessor: WorkerId,
    suits: impl Fn(&Candidate) -> bool,
    ctx: &Context,
) -> Option<Candidate> {
    let mut best = None;
    for found in candidates(predecessor, ctx).filter(suits) {
        if found.accepting {
            return Some(found);
        }
        best.get_or_insert(found);
    }
    best
}

/// Processes that have a listener of the worker `predecessor` open and may be its successor. The
/// worker may have ended.
pub(super) fn candidates(predecessor: WorkerId, ctx: &Context) -> impl Iterator<Item = Candidate> {
    let id = successor_of(predecessor, ctx);
    let handover = id.and_then(|id| ctx.processes.get(id)?.predecessor.as_ref());
    // The entry of its successor has the listeners as well.
    let old = ctx.processes.process(predecessor).or_else(|| ctx.processes.process(id?));
    let lives = ctx.processes.process(predecessor).is_some_and(|old| !old.reaped);
    let own = living_tree(predecessor, ctx);
    let below = match old {
        Some(old) if lives => tree::descendants(old.pid),
        _ => Vec::new(),
    };
    let all = below.into_iter().chain(ctx.processes.unknown_children());
    let new = all.filter(move |pid| handover.is_none_or(|handover| !handover.before.contains(pid)));
    new.filter_map(move |pid| {
        let stat = tree::stat(pid).filter(Stat::is_live)?;
        if lives && !stat.executed {
            return None;
        }
        let theirs: Vec<Pid> = std::iter::once(pid).chain(tree::descendants(pid)).collect();
        let held = listeners::listening_sockets(&theirs);
        let remembered = &old?.listening;
        if held.is_empty() || !remembered.is_empty() && held.is_disjoint(remembered) {
            return None;
        }
        let others: Vec<Pid> = own.iter().filter(|pid| !theirs.contains(pid)).copied().collect();
        Some(Candidate { pid, stat, accepting: accepts(pid, &theirs, &others) })
    })
}

/// The process that accepts after a worker has ended without a request. After a clean
/// exit, a process that has its listeners open gets a moment to begin: some servers end
/// their predecessor just before they accept.
pub(super) fn await_takeover(id: WorkerId, clean: bool, ctx: &Context) -> Option<Pid> {
    let until = ctx.now() + TAKEOVER;
    loop {
        // Of one that has only been forked, that is awaited first.
        let found = match clean {
            true => await_execution(id, until, ctx)?,
            false => candidate(id, |candidate| candidate.stat.executed, ctx)?,
        };
        // One that runs the same program loads, or is too busy to be seen waiting.
        if found.accepting || clean && runs_program_of(id, found.pid, ctx) {
            return Some(found.pid);
        }
        if !clean || ctx.now() >= until {
            return None;
        }
        thread::sleep(TAKEOVER_CHECK);
    }
}

/// The process that continues a worker that has ended cleanly, once it has executed a program. A
/// worker may end before the child that it has forked has done that.
pub(super) fn await_execution(id: WorkerId, until: Time, ctx: &Context) -> Option<Candidate> {
    loop {
        let found = candidate(id, |candidate| candidate.stat.executed, ctx);
        if found.is_some() {
            return found;
        }
        candidate(id, |_| true, ctx).filter(|_| ctx.now() < until)?;
        thread::sleep(TAKEOVER_CHECK);
    }
}

/// Whether `pid`, with its whole tree `theirs`, waits on all that it listens on, or
/// has a connection that none of `others` has. Without others a connection proves
/// nothing: it may be inherited.
pub(super) fn accepts(pid: Pid, theirs: &[Pid], others: &[Pid]) -> bool {
    let held = listeners::listening_sockets(theirs);
    accepting::is_accepting(pid, &held)
        || !others.is_empty() && listeners::have_accepted_on_each(theirs, others, &held)
}

/// Whether `pid` runs the program of the worker `id`, which may have ended.
pub(super) fn runs_program_of(id: WorkerId, pid: Pid, ctx: &Context) -> bool {
    let program = ctx.processes.process(id).and_then(|process| process.program.as_ref());
    program.is_some() && program == tree::program(pid).as_ref()
}

/// Whether the successor `id`, with its tree `known`, has a connection that it did not have at the
/// last call. It must have accepted that one, where its predecessor has ended.
pub(super) fn has_accepted(id: WorkerId, known: &[Pid], ctx: &mut Context) -> bool {
    let now = listeners::accepted(known);
    let entry = ctx.processes.get_mut(id).and_then(|entry| entry.predecessor.as_mut());
    let before = entry.and_then(|predecessor| predecessor.connections.replace(now.clone()));
    before.is_some_and(|before| !now.is_subset(&before))
}

/// How a process ended that is the child of another one.
pub(super) fn unseen_exit(child: &Process) -> Exit {
    let status = child.pidfd.as_ref().and_then(pidfd::reaped_status);
    let status = status.or_else(|| tree::zombie_status(child.pid));
    status.map_or(Exit::Unseen, |status| exit_of(process::Exit::from_status(status)))
}

/// The process of a successor that ended before it was found: a zombie, which the worker
/// `predecessor` has started and does not reap. A helper is reaped by then, and whatever else it has
/// started and still runs may yet start the successor.
pub(super) fn dead_successor(id: WorkerId, predecessor: WorkerId, ctx: &mut Context) -> Option<Pid> {
    let now = ctx.now();
    let old = ctx.processes.process(predecessor).filter(|old| !old.reaped)?;
    let below = tree::descendants(old.pid).into_iter().chain(ctx.processes.unknown_children());
    let entry = ctx.processes.get(id).filter(|entry| entry.process.is_none())?;
    let before = &entry.predecessor.as_ref()?.before;
    let new = below.filter(|pid| !before.contains(pid)).filter_map(|pid| Some((pid, tree::stat(pid)?)));
    let new: Vec<(Pid, Stat)> = new.filter(|(_, stat)| stat.executed).collect();
    let runs = new.iter().any(|(_, stat)| stat.is_live());
    let dead = new.first().map(|&(pid, _)| pid).filter(|_| !runs);
    let seen = &mut ctx.processes.get_mut(id)?.predecessor.as_mut()?.dead;
    *seen = dead.map(|dead| (*seen).filter(|(pid, _)| *pid == dead).unwrap_or((dead, now)));
    seen.filter(|(_, since)| now >= *since + REAPED_WITHIN).map(|(pid, _)| pid)
}
