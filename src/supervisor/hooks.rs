//! The user's hooks: what they are told, who waits for them, and that none of
//! them outlives its time.
//!
//! A hook is a child like any other: it is reaped with the rest, and a deadline of
//! the loop ends it, so the loop never waits for one. Those of one event run one
//! after another. What waits for them follows when the last has ended: the loop
//! takes it from [`Hooks::finished`].

use super::context::Context;
use super::hook_queue::{EventHooks, HookQueue, Running, Then};
use super::report;
use super::rollback::RolledBack;
use crate::config::hooks::Occasion;
use crate::core::ShownStage;
use crate::core::event::{
    Event, Failure, Generation, LaunchSource as From, Refusal, Report, Slot, Time, WorkerId,
};
use crate::core::policy::PROBATION_CRASHES;
use crate::error::reason;
use crate::launch::Refused;
use crate::launch::hook::HookContext;
use crate::launch::start::refused;
use crate::process::exit_of;
use crate::sys::child;
use crate::sys::process::{self, Exit};
use log::{debug, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::VecDeque;

/// So many hooks that nobody waits for run at a time; the others come after them.
const MOST: usize = 32;
/// So many may wait: where workers crash faster than hooks end, some are left out.
const LONGEST_QUEUE: usize = 1024;

/// A worker whose hooks have ended well: it is to be started.
pub(super) struct Start {
    pub(super) worker: WorkerId,
    pub(super) generation: Generation,
    pub(super) slot: Slot,
    pub(super) from: From,
}

pub(super) struct Hooks {
    queue: HookQueue,
    /// Workers whose pre-start hooks have ended well since the loop asked.
    starts: VecDeque<Start>,
}

impl Hooks {
    pub(super) fn new(queue: HookQueue) -> Hooks {
        Hooks { queue, starts: VecDeque::new() }
    }

    /// For the next image of ourselves.
    pub(super) fn save(&self) -> HookQueue {
        self.queue.clone()
    }

    /// The processes of the hooks that run.
    pub(super) fn running(&self) -> Vec<Pid> {
        self.queue.running().map(|running| Pid::from_raw(running.pid)).collect()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.queue.deadline()
    }

    /// The next worker to start whose hooks have ended well.
    pub(super) fn finished(&mut self) -> Option<Start> {
        self.starts.pop_front()
    }

    /// Asks the user whether the upgrade may begin.
    pub(super) fn pre_upgrade(&mut self, to: Generation, ctx: &mut Context) {
        let about = HookContext {
            occasion: Occasion::PreUpgrade,
            generation: to,
            slot: None,
            worker: None,
            reason: None,
        };
        self.send(about, Then::Upgrade(to), ctx);
    }

    /// Queues the pre-start hooks of a worker. Where there are none, or where it is another try of
    /// a start that has had them, the worker is to be started now: false.
    pub(super) fn pre_start(&mut self, start: &Start, ctx: &mut Context) -> bool {
        let Start { worker, generation, slot, from } = *start;
        let tried = ctx.processes.get(worker).is_some();
        if tried || ctx.config.hooks.of(Occasion::PreStart).next().is_none() {
            return false;
        }
        ctx.processes.open(worker, generation, slot);
        let about = HookContext {
            occasion: Occasion::PreStart,
            generation,
            slot: Some(slot),
            worker: None,
            reason: None,
        };
        self.send(about, Then::Start { worker, generation, slot, from }, ctx);
        true
    }

    /// The worker is asked to stop when its hooks have ended.
    pub(super) fn pre_stop(&mut self, id: WorkerId, ctx: &mut Context) {
        match about(Occasion::PreStop, id, ctx) {
            Some(about) => self.send(about, Then::Stop(id), ctx),
            None => ctx.queue(Event::PreStopped(id)),
        }
    }

    /// Runs the hooks that nobody waits for; ends those of an upgrade that is over.
    pub(super) fn on_report(&mut self, report: &Report, rolled_back: &mut RolledBack, ctx: &mut Context) {
        match *report {
            Report::Ready(id, ..) => self.send_about(Occasion::PostReady, id, ctx),
            Report::Gone { worker, .. } => self.send_about(Occasion::PostStop, worker, ctx),
            Report::UpgradeFailed { to, why, left, held, .. } => {
                self.cancel(|then| then == Then::Upgrade(to));
                if !matches!(why, Failure::Stopped | Failure::Superseded) {
                    self.tell_failed(to, report::why_failed(why, left, held, &ctx.processes), ctx);
                }
            }
            // Later tries are of the same upgrade.
            Report::RollbackStarted { from, to, crashes: PROBATION_CRASHES, .. } => {
                let reason = report::rolled_back(report, &ctx.processes).unwrap_or_default();
                self.tell_failed(from, format!("{reason}: {to} is started again"), ctx);
            }
            // Told once, however often it is tried.
            Report::RollbackFailed { from, why, .. }
                if why != Failure::Stopped && rolled_back.tell_failed() =>
            {
                let reason = report::not_rolled_back(report, &ctx.processes).unwrap_or_default();
                self.tell_failed(from, reason, ctx);
            }
            _ => {}
        }
    }

    fn tell_failed(&mut self, generation: Generation, reason: String, ctx: &mut Context) {
        let occasion = Occasion::UpgradeFailed;
        let about = HookContext { occasion, generation, slot: None, worker: None, reason: Some(reason) };
        self.send(about, Then::Nothing, ctx);
    }

    fn send_about(&mut self, occasion: Occasion, id: WorkerId, ctx: &mut Context) {
        if let Some(about) = about(occasion, id, ctx) {
            self.send(about, Then::Nothing, ctx);
        }
    }

    fn send(&mut self, about: HookContext, then: Then, ctx: &mut Context) {
        let rest: VecDeque<String> = ctx.config.hooks.of(about.occasion).map(String::from).collect();
        if then == Then::Nothing && rest.is_empty() {
            return;
        }
        if then == Then::Nothing && self.queue.0.len() >= LONGEST_QUEUE {
            let (occasion, generation) = (about.occasion.name(), about.generation);
            return warn!("{generation}: {occasion} hook left out: {LONGEST_QUEUE} others wait");
        }
        self.queue.0.push(EventHooks { about, then, now: None, rest });
        self.run(ctx);
    }

    /// Starts the hooks that are to run next; what waited for hooks that have ended follows.
    fn run(&mut self, ctx: &mut Context) {
        let mut at = 0;
        while at < self.queue.0.len() {
            if self.queue.0[at].now.is_some() {
                at += 1;
                continue;
            }
            let batches = &self.queue.0;
            let unawaited = batches.iter().filter(|batch| batch.then == Then::Nothing);
            let crowded = unawaited.filter(|batch| batch.now.is_some()).count() >= MOST;
            if crowded && batches[at].then == Then::Nothing {
                at += 1;
                continue;
            }
            let Some(command) = self.queue.0[at].rest.pop_front() else {
                let batch = self.queue.0.remove(at);
                self.finish(batch.then, ctx);
                continue;
            };
            match self.start_hook(&self.queue.0[at].about, &command, ctx) {
                Ok(pid) => {
                    let until = ctx.now() + ctx.config.hooks.timeout;
                    ctx.processes.hooks.insert(pid);
                    self.queue.0[at].now = Some(Running { pid: pid.as_raw(), command, until });
                }
                Err(Refused { message, .. }) => {
                    self.failed(at, &command, &format!("cannot be run: {message}"), ctx);
                }
            }
        }
    }

    fn start_hook(&self, about: &HookContext, command: &str, ctx: &Context) -> Result<Pid, Refused> {
        debug!("{} hook of {}: {command}", about.occasion.name(), about.generation);
        let reading = ctx.launcher.reading_of_hook(about.generation)?;
        let launch = ctx.launcher.settings.hook(&reading, command, about)?;
        child::spawn(&launch).map(|child| child.pid).map_err(|error| refused(&error, &reading))
    }

    /// The hook has ended, or will never start. One that could have refused has.
    fn failed(&mut self, at: usize, command: &str, how: &str, ctx: &mut Context) {
        let batch = &mut self.queue.0[at];
        batch.now = None;
        let (occasion, generation) = (batch.about.occasion.name(), batch.about.generation);
        let message = format!("{occasion} hook '{}' {how}", command.escape_debug());
        match batch.then {
            Then::Upgrade(to) => {
                self.queue.0.remove(at);
                ctx.processes.set_upgrade_refusal(message);
                ctx.queue(Event::PreUpgraded(to, false));
            }
            Then::Start { worker, .. } => {
                self.queue.0.remove(at);
                let message = format!("cannot start '{}': {message}", ctx.processes.command());
                ctx.processes.set_start_error(worker, message);
                ctx.queue(Event::SpawnFailed(worker, Refusal::Other));
            }
            Then::Stop(_) | Then::Nothing => {
                warn!(generation = generation.0; "{generation}: {message}");
            }
        }
    }

    /// The hooks of an event have ended: what waited for them follows.
    fn finish(&mut self, then: Then, ctx: &mut Context) {
        match then {
            Then::Nothing => {}
            Then::Upgrade(to) => ctx.queue(Event::PreUpgraded(to, true)),
            Then::Start { worker, generation, slot, from } => {
                self.starts.push_back(Start { worker, generation, slot, from });
            }
            Then::Stop(id) => ctx.queue(Event::PreStopped(id)),
        }
    }

    /// A hook was reaped.
    pub(super) fn ended(&mut self, pid: Pid, exit: Exit, ctx: &mut Context) {
        ctx.processes.hooks.remove(&pid);
        let ours = |batch: &EventHooks| batch.now.as_ref().is_some_and(|running| running.pid == pid.as_raw());
        let Some(at) = self.queue.0.iter().position(ours) else { return };
        match (exit, self.queue.0[at].now.take()) {
            (Exit::Code(0), _) | (_, None) => {}
            (exit, Some(running)) => {
                self.failed(at, &running.command, &report::how(exit_of(exit)), ctx);
            }
        }
        self.run(ctx);
    }

    /// Hooks whose time has come are killed, and so are those of starts that nobody
    /// wants any more.
    pub(super) fn end_late(&mut self, ctx: &mut Context) {
        if self.queue.0.is_empty() {
            return;
        }
        let now = ctx.now();
        let late = |batch: &EventHooks| batch.now.as_ref().is_some_and(|running| running.until <= now);
        while let Some(at) = self.queue.0.iter().position(late) {
            let Some(running) = self.queue.0[at].now.take() else { break };
            kill(&running);
            let limit = report::length(ctx.config.hooks.timeout);
            self.failed(at, &running.command, &format!("was killed after {limit} (--hook-timeout)"), ctx);
        }
        let given_up: Vec<WorkerId> = ctx.in_stage(ShownStage::Draining).map(|shown| shown.worker).collect();
        let unwanted = |then| matches!(then, Then::Start { worker, .. } if given_up.contains(&worker));
        for worker in self.cancel(unwanted) {
            ctx.processes.set_start_error(worker, "its start was given up while a pre-start hook ran".into());
            ctx.queue(Event::SpawnFailed(worker, Refusal::Other));
        }
        self.run(ctx);
    }

    /// Ends the hooks after which something that `which` holds for would follow; the workers
    /// that would have been started.
    fn cancel(&mut self, which: impl Fn(Then) -> bool) -> Vec<WorkerId> {
        let gone = self.queue.0.extract_if(.., |batch| which(batch.then));
        let mut starts = Vec::new();
        for batch in gone {
            batch.now.iter().for_each(kill);
            if let Then::Start { worker, .. } = batch.then {
                starts.push(worker);
            }
        }
        starts
    }

    /// Kills the hooks of every other occasion than `last`, and those that wait.
    pub(super) fn keep_only(&mut self, last: Occasion, ctx: &mut Context) {
        for batch in self.queue.0.extract_if(.., |batch| batch.about.occasion != last) {
            batch.now.iter().for_each(kill);
        }
        self.run(ctx);
    }

    /// Kills every hook.
    pub(super) fn kill_all(&mut self) {
        self.queue.0.drain(..).for_each(|batch| batch.now.iter().for_each(kill));
    }
}

fn about(occasion: Occasion, id: WorkerId, ctx: &Context) -> Option<HookContext> {
    let entry = ctx.processes.get(id)?;
    let worker = entry.process.as_ref().map(|process| process.pid.as_raw());
    Some(HookContext { occasion, generation: entry.generation, slot: Some(entry.slot), worker, reason: None })
}

/// The hook and what it has started.
fn kill(running: &Running) {
    if let Err(errno) = process::signal_group(Pid::from_raw(running.pid), Signal::SIGKILL as i32) {
        warn!("cannot kill hook '{}': {}", running.command.escape_debug(), reason(&errno.into()));
    }
}
