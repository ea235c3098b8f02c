//! Masters that stay: a followed worker that does not serve itself, and starts a new server of its
//! own at our signal (overseer, Server::Starter).
//!
//! Such a worker is the parent of its successor, as nginx is, but the end of it would be the end of
//! its successor. Before the signal it is noted which of its children that have executed a program
//! serve. The parent of the successor is a master if such a child of it served, and if it does not
//! serve itself. A Go program that only keeps a listener for its children has it in an epoll set,
//! and seems to serve: there the child from before must have given the listeners up.

use super::context::Context;
use crate::ack::accepting;
use crate::core::event::WorkerId;
use crate::process::Server;
use crate::sys::listeners;
use crate::sys::tree::{self, Stat};
use nix::unistd::Pid;
use std::collections::BTreeSet;

/// The children in the tree of a worker that have executed a program, and serve.
pub(super) fn servers(id: WorkerId, ctx: &Context) -> Vec<Server> {
    let own = ctx.processes.own_tree(id);
    let held = listeners::listening_sockets(&own);
    if held.is_empty() {
        return Vec::new();
    }
    let executed = own.iter().skip(1).filter_map(|&pid| Some((pid, executed(pid)?)));
    let server = |(pid, stat): (Pid, Stat)| {
        let depth = serving_depth(pid, &[stat.parent], &held)?;
        let parent_serves = serves(&forked(stat.parent), &[], &held);
        Some(Server { pid, parent: stat.parent, depth, parent_serves })
    };
    executed.filter_map(server).collect()
}

/// Whether the worker `id` stays as the master of `successor`, which serves.
pub(super) fn is_master_of(id: WorkerId, successor: Pid, ctx: &Context) -> bool {
    let Some(worker) = ctx.processes.process(id).filter(|worker| !worker.reaped) else { return false };
    let Some(Stat { parent, .. }) = executed(successor) else { return false };
    let mut before = worker.servers.iter().filter(|server| server.parent == parent).peekable();
    if before.peek().is_none() || !ctx.processes.own_tree(id).contains(&parent) {
        return false;
    }
    let held = listeners::listening_sockets(&[successor]);
    let depth = serving_depth(successor, &[parent], &held);
    before.any(|server| {
        let serves = || accepting::is_any_waited_on(&forked(server.pid), &worker.listening);
        depth.is_none_or(|depth| depth == server.depth) && (!server.parent_serves || !serves())
    })
}

/// What is read of a process that lives and has executed a program.
fn executed(pid: Pid) -> Option<Stat> {
    tree::stat(pid).filter(|stat| stat.is_live() && stat.executed)
}

/// The process `pid` and those below it that it has forked, and that run the same program.
fn forked(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let forked = |pid: &Pid| tree::stat(*pid).is_some_and(|stat| stat.is_live() && !stat.executed);
        found.extend(tree::children(pid).into_iter().filter(forked));
    }
    found
}

/// How many programs below that of `pid` the one is that serves; None if none is seen to.
fn serving_depth(pid: Pid, others: &[Pid], held: &BTreeSet<u64>) -> Option<u32> {
    let own = forked(pid);
    if serves(&own, others, held) {
        return Some(0);
    }
    let below = own.iter().flat_map(|&pid| tree::children(pid)).filter(|&pid| executed(pid).is_some());
    below.filter_map(|pid| Some(serving_depth(pid, others, held)? + 1)).min()
}

/// Whether one of `pids` waits on one of these listeners or, if there are `others`, has
/// connections of them that none of the others has.
fn serves(pids: &[Pid], others: &[Pid], held: &BTreeSet<u64>) -> bool {
    accepting::is_any_waited_on(pids, held)
        || !others.is_empty() && listeners::have_accepted_on_each(pids, others, held)
}
