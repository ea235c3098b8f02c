//! The checks of readiness that we make ourselves: whether a worker waits for connections on
//! its listeners, or listens on a socket of its own instead, and whether the user's check of it
//! succeeds.
//!
//! Contract: when an upgrade begins, it is checked on which listeners the serving workers wait;
//! a replacement has to be seen waiting on the same ones. The result of each check that the core
//! asks for is an event.

use super::context::Context;
use super::report;
use crate::ack::accepting::{self, Origin};
use crate::ack::own_socket::OwnSocket;
use crate::ack::{kind, own_socket};
use crate::core::event::{AckKind, Event, Generation, Report, Slot, Time, WorkerId};
use crate::core::policy::Strength;
use crate::core::{Shown, ShownStage};
use crate::launch::exec_error::refused;
use crate::listener::Listener;
use crate::process::Process;
use crate::sys::{child, process};
use log::warn;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often the serving workers are checked for whether they wait, and the pause between two
/// checks. A server may accept in the thread that serves: its request is over by then.
const WAIT_CHECKS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// At every so many of these checks the connections of the workers are read as well, which costs more.
const ACCEPT_CHECK_EVERY: u32 = 5;

/// How often /proc is read for whether a worker waits, before its connections are read as well,
/// which costs more.
const PROC_CHECKS: u32 = 5;

/// What helps where a server binds by itself what it is handed.
const OWN_SOCKET_CURE: &str = "have it take its socket from us: LISTEN_FDS or another --export, for dbus-daemon the address systemd:; or leave -b out: --adopt";

/// How old a worker is at least when it is said that it does not use its listeners. It may send its
/// ack before it has loaded.
const UNUSED_AFTER: Duration = Duration::from_secs(5);

/// How long the user's check may run where there is no ack timeout. Otherwise it is half of that.
const LONGEST_CHECK: Duration = Duration::from_secs(15);

/// The check of the serving workers, while it goes on.
#[derive(Debug, Clone, Copy)]
struct WaitCheck {
    left: u32,
    next: Time,
}

pub(super) struct Readiness {
    /// The listeners, by inode, on which the worker of a slot was seen waiting, or accepting, when
    /// the last upgrade began.
    waited: BTreeMap<Slot, BTreeSet<u64>>,
    /// The connections that serving workers had of a listener, while the check goes on.
    accepted: BTreeMap<(WorkerId, u64), BTreeSet<u64>>,
    check: Option<WaitCheck>,
    /// The last generation of which it was said that it listens with a socket of its own.
    warned_of: Option<Generation>,
    /// The last generation of which it was said that it does not use its listeners.
    unused_in: Option<Generation>,
}

impl Readiness {
    pub(super) fn new(waited: BTreeMap<Slot, BTreeSet<u64>>) -> Readiness {
        Readiness { waited, accepted: BTreeMap::new(), check: None, warned_of: None, unused_in: None }
    }

    /// For the next image of ourselves.
    pub(super) fn save(&self) -> BTreeMap<Slot, BTreeSet<u64>> {
        self.waited.clone()
    }

    /// Whether the check of the serving workers goes on: the core waits for its result.
    pub(super) fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.check.map(|check| check.next)
    }

    /// Begins to check on which listeners the serving workers wait.
    pub(super) fn begin_wait_check(&mut self, ctx: &Context) {
        self.waited.clear();
        self.check = Some(WaitCheck { left: WAIT_CHECKS, next: ctx.now() });
    }

    /// Checks it, if that is due: several times, because a server that accepts in the thread that
    /// serves may be busy at one moment. Listeners on which a worker was seen waiting earlier count
    /// as well, and those of which it accepts connections during the check: its replacement will
    /// wait there, or have its share of them. That it has a connection does not count: the
    /// replacement may have none.
    pub(super) fn check_waiting(&mut self, ctx: &mut Context) {
        let now = ctx.now();
        let Some(check) = self.check.filter(|check| check.next <= now) else { return };
        let mut all = true;
        let serving: Vec<Shown> = ctx.in_stage(ShownStage::Ready).collect();
        for shown in serving {
            let Some(process) = ctx.processes.process(shown.worker) else { continue };
            let listeners = ctx.launcher.settings.listeners.of(shown.generation.0);
            let given: BTreeSet<u64> = listeners.map(|listener| listener.inode(shown.slot.0)).collect();
            let waited = self.waited.entry(shown.slot).or_default();
            waited.extend(process.waited.intersection(&given));
            let open: BTreeSet<u64> = given.difference(waited).copied().collect();
            let mut unseen = accepting::not_waited_on(process.pid, &open);
            if check.left.is_multiple_of(ACCEPT_CHECK_EVERY) {
                unseen.retain(|&inode| !has_accepted_more(&mut self.accepted, &shown, inode, ctx));
            }
            waited.extend(open.difference(&unseen));
            all &= unseen.is_empty();
        }
        if check.left > 0 && !all {
            self.check = Some(WaitCheck { left: check.left - 1, next: now + PAUSE });
            return;
        }
        self.check = None;
        self.accepted.clear();
        self.waited.retain(|_, waited| !waited.is_empty());
        ctx.events.extend(self.waited.keys().map(|&slot| Event::Waits(slot)));
        ctx.queue(Event::CheckedWaiting);
    }

    /// Checks whether a worker that we have started waits on the listeners that we hold.
    pub(super) fn probe(&mut self, id: WorkerId, ctx: &mut Context) {
        let terms = ctx.processes.terms(id) > 0;
        if !ctx.config.policy.listeners && !terms {
            return;
        }
        if self.is_accepting(id, ctx) {
            ctx.queue(Event::Ack(id, AckKind::Accepting));
            if terms {
                ctx.queue(Event::Ack(id, AckKind::ParentTerm));
            }
        } else if ctx.processes.process(id).is_some_and(|process| process.accept_checks > PROC_CHECKS) {
            self.find_own_socket(id, ctx);
            self.warn_of_unused_listeners(id, ctx);
        }
    }

    /// A worker that serves may have said that it is ready, and use none of the sockets that it was
    /// given: then that is said, once for each generation.
    fn warn_of_unused_listeners(&mut self, id: WorkerId, ctx: &Context) {
        let serving = ctx.core.generation();
        let shown = ctx.in_stage(ShownStage::Ready).find(|shown| shown.worker == id);
        let Some(shown) = shown.filter(|shown| shown.generation == serving && shown.halted.is_none()) else {
            return;
        };
        let age = ctx.now().saturating_sub(shown.since);
        let Some(kind) = shown.ack.filter(|kind| kind.strength() == Strength::Said) else { return };
        let Some(process) = ctx.processes.process(id).filter(|_| age >= UNUSED_AFTER) else { return };
        let told = self.warned_of == Some(serving) || self.unused_in == Some(serving);
        if told || !process.waited.is_empty() || !accepting::can_be_seen(process.pid) {
            return;
        }
        let listeners = ctx.launcher.settings.listeners.of(serving.0);
        let given: Vec<&Listener> = listeners.filter(|listener| listener.is_stream()).collect();
        let tree = ctx.processes.own_tree(id);
        let used = |listener: &&Listener| {
            accepting::serves_on(&tree, listener.inode(shown.slot.0), &origin(listener))
        };
        if given.is_empty() || given.iter().any(used) {
            return;
        }
        self.unused_in = Some(serving);
        let addresses: Vec<&str> = given.iter().map(|listener| listener.address()).collect();
        let own = elsewhere(id, ctx).map(|addresses| format!(", but listens on {addresses}"));
        warn!(
            generation = serving.0, pid = process.pid.as_raw();
            "{serving}: pid {} said that it is ready ({}){}, and was not seen to wait on {} in {}: connections there hang until it does ({OWN_SOCKET_CURE})",
            process.pid, kind::row(kind).name, own.unwrap_or_default(), addresses.join(", "), report::duration_text(age)
        );
    }

    /// Checks whether a worker listens with a socket of its own on an address of ours: then it is
    /// refused as a replacement, and of one that serves that is said.
    pub(super) fn find_own_socket(&mut self, id: WorkerId, ctx: &mut Context) {
        let Some(entry) = ctx.processes.get(id).filter(|_| ctx.config.policy.listeners) else { return };
        let Some(process) = &entry.process else { return };
        let (generation, all) = (entry.generation, &ctx.launcher.settings.listeners);
        let ours = ours(process, ctx);
        let tree = ctx.processes.own_tree(id);
        let found = own_socket::find(&tree, all.of(generation.0), &ours, &process.waited);
        let Some((pid, address)) = found.first().map(|own| (own.pid, own.address())) else { return };
        let own: Vec<(u64, String)> = found.iter().map(OwnSocket::at).collect();
        if generation == ctx.core.generation() {
            let listeners = &mut ctx.launcher.settings.listeners;
            let kept = own.iter().filter(|(inode, at)| listeners.keep_worker_socket(at, id, *inode));
            let is_kept = kept.count() > 0;
            if self.warned_of.replace(generation) != Some(generation) {
                let means = match is_kept {
                    true => {
                        "it serves there in the place of ours, but every upgrade to a program that does so will be refused, and clients may find nothing at the path for a moment"
                    }
                    false => {
                        "nobody accepts from the one that we hold, connections that come there hang, and every upgrade will be refused"
                    }
                };
                warn!(
                    generation = generation.0, pid = pid.as_raw();
                    "{generation}: pid {pid} listens on {address} with a socket of its own: {means} ({OWN_SOCKET_CURE})"
                );
            }
        }
        if let Some(entry) = ctx.processes.get_mut(id) {
            entry.unmet = Some(format!(
                "it listens on {address} with a socket of its own, and not on the one that it was handed ({OWN_SOCKET_CURE})"
            ));
        }
        ctx.queue(Event::OwnSocket(id));
    }

    /// Checks that of the workers that an upgrade is about to put into service.
    pub(super) fn find_own_sockets(&mut self, ctx: &mut Context) {
        let serving = ctx.core.generation();
        let new: Vec<Shown> =
            ctx.in_stage(ShownStage::Ready).filter(|shown| shown.generation > serving).collect();
        for shown in new {
            self.find_own_socket(shown.worker, ctx);
        }
    }

    fn is_accepting(&self, id: WorkerId, ctx: &mut Context) -> bool {
        let Some(process) = ctx.processes.process_mut(id) else { return false };
        process.accept_checks = process.accept_checks.saturating_add(1);
        let (pid, checks) = (process.pid, process.accept_checks);
        let wanted: Vec<(u64, Origin)> =
            self.wanted(id, ctx).iter().map(|&(listener, inode)| (inode, origin(listener))).collect();
        let inodes: BTreeSet<u64> = wanted.iter().map(|(inode, _)| *inode).collect();
        if accepting::is_accepting(pid, &inodes) {
            if let Some(process) = ctx.processes.process_mut(id) {
                process.waited = inodes;
            }
            return true;
        }
        checks > PROC_CHECKS && accepting::is_serving(pid, &wanted)
    }

    /// The listeners on which a worker has to be seen waiting, with their inodes: those of its
    /// predecessor in the slot; where nothing is known of that one, those of another worker, or all.
    fn wanted<'a>(&self, id: WorkerId, ctx: &'a Context) -> Vec<(&'a Listener, u64)> {
        let Some(entry) = ctx.processes.get(id) else { return Vec::new() };
        let all = || {
            let listeners = ctx.launcher.settings.listeners.of(entry.generation.0);
            listeners.map(|listener| (listener, listener.inode(entry.slot.0)))
        };
        let waited = self.waited.get(&entry.slot).or_else(|| self.waited.values().next());
        let known: Vec<(&Listener, u64)> =
            all().filter(|(_, inode)| waited.is_some_and(|waited| waited.contains(inode))).collect();
        if known.is_empty() { all().collect() } else { known }
    }

    /// Notes, for the log, on which listeners a worker was not seen waiting. This comes before the
    /// report is logged.
    pub(super) fn on_report(&mut self, report: &Report, ctx: &mut Context) {
        if let Report::Ready(id, ..) = *report
            && ctx.processes.get(id).is_some_and(|entry| entry.generation == ctx.core.generation())
        {
            self.find_own_socket(id, ctx);
        }
        match *report {
            // It may have bound the path only after it was ready.
            Report::UpgradeStarted { .. } if ctx.launcher.settings.listeners.is_any_path_taken() => {
                let serving: Vec<WorkerId> =
                    ctx.in_stage(ShownStage::Ready).map(|shown| shown.worker).collect();
                serving.into_iter().for_each(|id| self.find_own_socket(id, ctx));
            }
            Report::UpgradeFailed { to, .. } if ctx.launcher.settings.listeners.is_any_path_taken() => {
                take_paths_back(to, ctx);
            }
            _ => {}
        }
        let (Report::Unseen { worker: id, .. } | Report::NoAck(id, _) | Report::Ready(id, AckKind::Timer, _)) =
            *report
        else {
            return;
        };
        let shown = ctx.core.workers().find(|shown| shown.worker == id);
        if let Some(by) = shown.and_then(|shown| shown.halted) {
            let halted = format!("it {}", report::halt_text(id, by, &ctx.processes));
            return ctx
                .processes
                .get_mut(id)
                .into_iter()
                .for_each(|entry| entry.unmet = Some(halted.clone()));
        }
        let policy = &ctx.config.policy;
        let is_checked = policy.must_see_accepting() || policy.listeners && ctx.config.acks.accepting;
        if !is_checked {
            return;
        }
        let Some(pid) = ctx.processes.process(id).map(|process| process.pid) else { return };
        let wanted = self.wanted(id, ctx);
        let unseen = accepting::not_waited_on(pid, &wanted.iter().map(|&(_, inode)| inode).collect());
        let unseen = wanted.iter().filter(|(_, inode)| unseen.contains(inode));
        let names: Vec<&str> = unseen.map(|(listener, _)| listener.address()).collect();
        let lacks = match names.is_empty() {
            true => report::WAITS.into(),
            false => {
                let own = elsewhere(id, ctx).map(|addresses| format!(" (it listens on {addresses})"));
                format!("{} {}{}", report::UNSEEN, names.join(", "), own.unwrap_or_default())
            }
        };
        if let Some(entry) = ctx.processes.get_mut(id) {
            entry.unmet = Some(lacks);
        }
    }
}

/// Whether a worker has accepted a connection of this listener since this was asked last.
fn has_accepted_more(
    seen: &mut BTreeMap<(WorkerId, u64), BTreeSet<u64>>,
    shown: &Shown,
    inode: u64,
    ctx: &Context,
) -> bool {
    let mut listeners = ctx.launcher.settings.listeners.of(shown.generation.0);
    let Some(listener) = listeners.find(|listener| listener.inode(shown.slot.0) == inode) else {
        return false;
    };
    let now = accepting::accepted(&ctx.processes.own_tree(shown.worker), &origin(listener));
    let before = seen.insert((shown.worker, inode), now.clone());
    before.is_some_and(|before| !now.is_subset(&before))
}

/// Workers of this generation are refused: what they have put at our paths goes, before they are
/// asked to stop, so that clients reach what serves.
fn take_paths_back(generation: Generation, ctx: &mut Context) {
    let refused: Vec<WorkerId> = ctx.of_generation(generation).map(|shown| shown.worker).collect();
    for id in refused {
        let listeners = &ctx.launcher.settings.listeners;
        let ours = listeners.iter().flat_map(Listener::inodes).collect();
        let own = own_socket::find(&ctx.processes.own_tree(id), listeners.iter(), &ours, &BTreeSet::new());
        let own: Vec<(u64, String)> = own.iter().map(OwnSocket::at).collect();
        for (inode, address) in own {
            ctx.launcher.settings.listeners.take_back(&address, inode);
        }
    }
}

/// A worker has said that it is ready: checks whether it listens at another address than ours, where
/// its word would be enough.
pub(super) fn find_elsewhere(id: WorkerId, ctx: &mut Context) {
    let policy = &ctx.config.policy;
    if policy.must_see_accepting() && !policy.readiness.auto && elsewhere(id, ctx).is_some() {
        ctx.queue(Event::ListensElsewhere(id));
    }
}

/// The TCP addresses on which a worker listens, and which are none of ours.
fn elsewhere(id: WorkerId, ctx: &Context) -> Option<String> {
    let entry = ctx.processes.get(id)?;
    let ours = ours(entry.process.as_ref()?, ctx);
    let listeners: Vec<&Listener> = ctx.launcher.settings.listeners.of(entry.generation.0).collect();
    let found = own_socket::elsewhere(&ctx.processes.own_tree(id), listeners.into_iter(), &ours);
    let addresses: Vec<String> = found.iter().map(ToString::to_string).collect();
    (!addresses.is_empty()).then(|| addresses.join(", "))
}

/// The inodes of all sockets of ours that a worker may have.
fn ours(process: &Process, ctx: &Context) -> BTreeSet<u64> {
    let given = process.listening.iter().copied();
    ctx.launcher.settings.listeners.iter().flat_map(Listener::inodes).chain(given).collect()
}

/// Starts the user's check of a worker that is not ready (`--ack exec:CMD`), unless one runs. One that
/// hangs is killed, and run again: it is not the worker that hangs.
pub(super) fn start_check(id: WorkerId, ctx: &mut Context) {
    let starts = ctx.stage(id) == Some(ShownStage::Starting);
    let Some(command) = ctx.config.acks.exec.clone().filter(|_| starts) else { return };
    let now = ctx.now();
    let limit = ctx.config.policy.ack_timeout.map_or(LONGEST_CHECK, |timeout| timeout / 2);
    let Some(entry) = ctx.processes.get_mut(id) else { return };
    let Some(process) = entry.process.as_mut() else { return };
    if let Some(check) = process.check {
        if now.saturating_sub(process.check_began) >= limit {
            process.check_began = now;
            let (generation, pid, limit) = (entry.generation, process.pid, report::duration_text(limit));
            warn!(
                generation = generation.0, pid = pid.as_raw();
                "{generation}: pid {pid}: its check has not ended after {limit}: it is killed, and run again (--ack exec)"
            );
            let _ = process::signal_group(check, Signal::SIGKILL as i32);
        }
        return;
    }
    let Some(spec) = ctx.launcher.specs.get(&entry.generation) else { return };
    let pid = process.pid.as_raw();
    let launch = ctx.launcher.settings.check(spec, &command, entry.generation, entry.slot, pid);
    let started =
        launch.and_then(|launch| child::spawn(&launch).map_err(|error| refused(&error, &launch, spec)));
    match started {
        Ok(child) => {
            process.check = Some(child.pid);
            process.check_began = now;
        }
        Err(refused) => warn!("cannot run the check of pid {pid}: {}", refused.message),
    }
}

/// Ends a check whose result no longer matters, with everything that it started.
pub(super) fn end_check(id: WorkerId, ctx: &mut Context) {
    let process = ctx.processes.process_mut(id);
    if let Some(check) = process.and_then(|process| process.check.take()) {
        let _ = process::signal_group(check, Signal::SIGKILL as i32);
    }
}

fn origin(listener: &Listener) -> Origin {
    match listener.exported().inet {
        _ if !listener.is_stream() => Origin::Nothing,
        Some(address) => Origin::Port(address.port()),
        None => Origin::Name(listener.address().into()),
    }
}
