//! Which process succeeds a worker that starts its own successor: one that holds a
//! listening socket of the worker, and may accept on it.

use super::context::Context;
use crate::ack::accepting;
use crate::core::ShownStage;
use crate::core::event::WorkerId;
use crate::core::policy::TAKEOVER;
use crate::sys::listeners;
use crate::sys::tree::{self, Stat};
use nix::unistd::Pid;
use std::thread;
use std::time::Duration;

/// Between two looks at who is to accept in the place of a worker that has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// A process that holds one of a worker's listening sockets.
pub(super) struct Candidate {
    pub(super) pid: Pid,
    pub(super) stat: Stat,
    /// Everything that it listens on is waited on, or accepted from.
    pub(super) accepting: bool,
}

/// The worker that the worker `id` has been asked to start.
pub(super) fn successor_of(id: WorkerId, ctx: &Context) -> Option<WorkerId> {
    let shown = ctx.core.workers().filter(|shown| {
        matches!(shown.stage, ShownStage::Starting | ShownStage::Ready)
            && ctx.processes.get(shown.worker).is_some_and(|entry| {
                entry.predecessor.as_ref().is_some_and(|predecessor| predecessor.of == id)
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

/// The process that succeeds the worker `of`, one that accepts before others.
pub(super) fn candidate(
    of: WorkerId,
    suits: impl Fn(&Candidate) -> bool,
    ctx: &Context,
) -> Option<Candidate> {
    let mut best = None;
    for found in candidates(of, ctx).filter(suits) {
        if found.accepting {
            return Some(found);
        }
        best.get_or_insert(found);
    }
    best
}

/// Processes that hold a listener of the worker `of`, which may have gone, and
/// may succeed it.
pub(super) fn candidates(of: WorkerId, ctx: &Context) -> impl Iterator<Item = Candidate> {
    let id = successor_of(of, ctx);
    let predecessor = id.and_then(|id| ctx.processes.get(id)?.predecessor.as_ref());
    // Its successor remembers what it listened on.
    let old = ctx.processes.process(of).or_else(|| ctx.processes.process(id?));
    let lives = ctx.processes.process(of).is_some_and(|old| !old.reaped);
    let own = living_tree(of, ctx);
    let below = match old {
        Some(old) if lives => tree::descendants(old.pid),
        _ => Vec::new(),
    };
    let all = below.into_iter().chain(ctx.processes.unknown_children());
    let new = all.filter(move |pid| predecessor.is_none_or(|predecessor| !predecessor.before.contains(pid)));
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

/// Who accepts in the place of a worker that has ended unasked. After a clean
/// exit one that holds its listeners has a moment to begin: servers that send
/// their predecessor away do so just before.
pub(super) fn await_takeover(id: WorkerId, clean: bool, ctx: &Context) -> Option<Pid> {
    let until = ctx.now() + TAKEOVER;
    loop {
        let found = candidate(id, |candidate| candidate.stat.executed, ctx)?;
        if found.accepting {
            return Some(found.pid);
        }
        if !clean || ctx.now() >= until {
            return None;
        }
        thread::sleep(GLANCE);
    }
}

/// Whether `pid`, with its whole tree `theirs`, waits on all that it listens on, or
/// has accepted what none of `others` holds. Without others nothing is told by a
/// connection: it may be inherited.
pub(super) fn accepts(pid: Pid, theirs: &[Pid], others: &[Pid]) -> bool {
    let held = listeners::listening_sockets(theirs);
    accepting::is_accepting(pid, &held)
        || !others.is_empty() && listeners::have_accepted_on_each(theirs, others, &held)
}
