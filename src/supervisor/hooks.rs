//! Runs the user's hooks: their context, what waits for them, and their time limit.
//!
//! A hook is a child like any other: it is reaped with the others, and a deadline of
//! the loop ends it, so the loop never waits for one. The hooks of one event run one
//! after another. What waits for them follows when the last has ended: the loop
//! takes workers to start from [`Hooks::next_start`].

use super::context::Context;
use super::hook_queue::{EventHooks, HookQueue, Running, Then};
use super::report;
use super::rollback::RolledBack;
use super::verify::Output;
use crate::config::hooks::Occasion;
use crate::core::ShownStage;
use crate::core::event::{Event, Failure, Generation, LaunchSource, Refusal, Report, Slot, Time, WorkerId};
use crate::core::policy::PROBATION_CRASHES;
use crate::error::reason;
use crate::launch::Refused;
use crate::launch::exec_error::refused;
use crate::launch::hook::HookContext;
use crate::process::exit_of;
use crate::reexec::quiesce::Quiesce;
use crate::sys::child;
use crate::sys::process::{self, Exit};
use log::{debug, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::VecDeque;

/// How many hooks that nothing waits for run at a time; the others run after them.
const MAX_UNAWAITED: usize = 32;
/// How many may wait: where workers crash faster than hooks end, some are left out.
const MAX_QUEUE: usize = 1024;

/// A worker that is to be started: its hooks have exited with status 0.
pub(super) struct Start {
    pub(super) worker: WorkerId,
    pub(super) generation: Generation,
    pub(super) slot: Slot,
    pub(super) source: LaunchSource,
}

pub(super) struct Hooks {
    queue: HookQueue,
    /// Workers to start that the loop has not taken yet.
    starts: VecDeque<Start>,
    /// What the command of `--verify` writes.
    output: Output,
}

impl Hooks {
    pub(super) fn new(queue: HookQueue) -> Hooks {
        Hooks { queue, starts: VecDeque::new(), output: Output::default() }
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

    /// The next worker to start after its hooks.
    pub(super) fn next_start(&mut self) -> Option<Start> {
        self.starts.pop_front()
    }

    /// Queues the pre-upgrade hooks, which may refuse the upgrade.
    pub(super) fn pre_upgrade(&mut self, to: Generation, ctx: &mut Context) {
        let context = HookContext {
            occasion: Occasion::PreUpgrade,
            generation: to,
            slot: None,
            worker: None,
            reason: None,
        };
        self.send(context, Then::Upgrade(to), ctx);
    }

    /// Queues the pre-start hooks of a worker. False where there are none, or where this is another
    /// attempt of a start that has had them: the worker is to be started now.
    pub(super) fn pre_start(&mut self, start: &Start, ctx: &mut Context) -> bool {
        let Start { worker, generation, slot, source } = *start;
        let tried = ctx.processes.get(worker).is_some();
        if tried || ctx.config.hooks.of(Occasion::PreStart).next().is_none() {
            return false;
        }
        ctx.processes.open(worker, generation, slot);
        let context = HookContext {
            occasion: Occasion::PreStart,
            generation,
            slot: Some(slot),
            worker: None,
            reason: None,
        };
        self.send(context, Then::Start { worker, generation, slot, source }, ctx);
        true
    }

    /// Queues the pre-stop hooks of a worker: it is asked to stop when they have ended.
    pub(super) fn pre_stop(&mut self, id: WorkerId, ctx: &mut Context) {
        match context_of(Occasion::PreStop, id, ctx) {
            Some(context) => self.send(context, Then::Stop(id), ctx),
            None => ctx.queue(Event::PreStopped(id)),
        }
    }

    /// Runs the command that says whether a worker on hold is good.
    pub(super) fn verify(&mut self, id: WorkerId, quiesce: &Quiesce, ctx: &mut Context) {
        self.output.start(quiesce);
        match context_of(Occasion::Verify, id, ctx) {
            Some(context) => self.send(context, Then::Verify(id), ctx),
            None => ctx.queue(Event::Verified(id, false)),
        }
    }

    /// The hold is over, or another image of ours goes on with it: the command is of no use any more.
    pub(super) fn end_verify(&mut self) {
        self.cancel(|then| matches!(then, Then::Verify(_)));
    }

    /// Runs the hooks that nothing waits for; ends those of an upgrade that is over.
    pub(super) fn on_report(&mut self, report: &Report, rolled_back: &mut RolledBack, ctx: &mut Context) {
        match *report {
            Report::Ready(id, ..) => self.send_about(Occasion::PostReady, id, ctx),
            Report::Gone { worker, .. } => self.send_about(Occasion::PostStop, worker, ctx),
            Report::UpgradeFailed { to, why, predecessor_left, held, .. } => {
                self.cancel(|then| then == Then::Upgrade(to));
                if !matches!(why, Failure::Stopped | Failure::Superseded) {
                    self.send_upgrade_failed(
                        to,
                        report::failure_reason(why, predecessor_left, held, &ctx.processes),
                        ctx,
                    );
                }
            }
            // Later attempts belong to the same upgrade.
            Report::RollbackStarted { from, to, crashes: PROBATION_CRASHES, .. } => {
                let reason = report::rollback_reason(report, &ctx.processes).unwrap_or_default();
                self.send_upgrade_failed(from, format!("{reason}: {to} is to be started again"), ctx);
            }
            // Once, however often the rollback is attempted.
            Report::RollbackFailed { from, why, .. }
                if why != Failure::Stopped && rolled_back.is_first_failure() =>
            {
                let reason = report::rollback_failure(report, &ctx.processes).unwrap_or_default();
                self.send_upgrade_failed(from, reason, ctx);
            }
            _ => {}
        }
    }

    fn send_upgrade_failed(&mut self, generation: Generation, reason: String, ctx: &mut Context) {
        let occasion = Occasion::UpgradeFailed;
        let context = HookContext { occasion, generation, slot: None, worker: None, reason: Some(reason) };
        self.send(context, Then::Nothing, ctx);
    }

    fn send_about(&mut self, occasion: Occasion, id: WorkerId, ctx: &mut Context) {
        if let Some(context) = context_of(occasion, id, ctx) {
            self.send(context, Then::Nothing, ctx);
        }
    }

    fn send(&mut self, context: HookContext, then: Then, ctx: &mut Context) {
        let commands: VecDeque<String> = ctx.config.hooks.of(context.occasion).map(String::from).collect();
        if then == Then::Nothing && commands.is_empty() {
            return;
        }
        if then == Then::Nothing && self.queue.0.len() >= MAX_QUEUE {
            let (occasion, generation) = (context.occasion.name(), context.generation);
            return warn!("{generation}: {occasion} hook left out: {MAX_QUEUE} others wait");
        }
        self.queue.0.push(EventHooks { context, then, running: None, waiting: commands });
        self.run(ctx);
    }

    /// Starts the hooks that are to run next, and finishes the events whose hooks have ended.
    fn run(&mut self, ctx: &mut Context) {
        let mut at = 0;
        while at < self.queue.0.len() {
            if self.queue.0[at].running.is_some() {
                at += 1;
                continue;
            }
            let batches = &self.queue.0;
            let unawaited = batches.iter().filter(|batch| batch.then == Then::Nothing);
            let crowded = unawaited.filter(|batch| batch.running.is_some()).count() >= MAX_UNAWAITED;
            if crowded && batches[at].then == Then::Nothing {
                at += 1;
                continue;
            }
            let Some(command) = self.queue.0[at].waiting.pop_front() else {
                let batch = self.queue.0.remove(at);
                self.finish(batch.then, ctx);
                continue;
            };
            let context = self.queue.0[at].context.clone();
            match self.start_hook(&context, &command, ctx) {
                Ok(pid) => {
                    let until = ctx.now() + ctx.config.hooks.timeout;
                    ctx.processes.hooks.insert(pid);
                    self.queue.0[at].running = Some(Running { pid: pid.as_raw(), command, until });
                }
                Err(Refused { message, .. }) => {
                    self.failed(at, &command, &format!("cannot be run: {message}"), ctx);
                }
            }
        }
    }

    fn start_hook(&mut self, context: &HookContext, command: &str, ctx: &Context) -> Result<Pid, Refused> {
        debug!("{} hook of {}: {command}", context.occasion.name(), context.generation);
        let spec = ctx.launcher.hook_spec(context.generation)?;
        let settings = &ctx.launcher.settings;
        let mut launch = match ctx.config.hooks.is_own_check(context.occasion, command) {
            true => settings.own_check(&spec, command, context)?,
            false => settings.hook(&spec, command, context)?,
        };
        let identity = settings.identity.as_ref();
        let is_verify = context.occasion == Occasion::Verify;
        let pipe = is_verify.then(|| self.output.pipe(identity, &mut launch)).flatten();
        let child = child::spawn(&launch).map_err(|error| refused(&error, &launch, &spec))?;
        if let Some(pipe) = pipe {
            self.output.watch(pipe);
        }
        Ok(child.pid)
    }

    /// The hook failed, or could not be started. What waited for it is refused.
    fn failed(&mut self, at: usize, command: &str, how: &str, ctx: &mut Context) {
        let batch = &mut self.queue.0[at];
        batch.running = None;
        let (occasion, generation) = (batch.context.occasion.name(), batch.context.generation);
        let own = match ctx.config.hooks.is_own_check(batch.context.occasion, command) {
            true => {
                " (what it wrote is in our stderr; --hook pre-upgrade=CMD runs CMD instead, --hook pre-upgrade=true nothing)"
            }
            false => "",
        };
        let what = match batch.then {
            Then::Verify(_) => "--verify".into(),
            _ if own.is_empty() => format!("{occasion} hook"),
            _ => "the server's own check".into(),
        };
        let message = format!("{what} '{command}' {how}{own}");
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
            Then::Verify(worker) => {
                self.queue.0.remove(at);
                ctx.processes.set_upgrade_refusal(format!("{message}{}", self.output.end()));
                ctx.queue(Event::Verified(worker, false));
            }
            Then::Stop(_) | Then::Nothing => {
                warn!(generation = generation.0; "{generation}: {message}");
            }
        }
    }

    /// The hooks of an event have ended: does what waited for them.
    fn finish(&mut self, then: Then, ctx: &mut Context) {
        match then {
            Then::Nothing => {}
            Then::Upgrade(to) => ctx.queue(Event::PreUpgraded(to, true)),
            Then::Start { worker, generation, slot, source } => {
                self.starts.push_back(Start { worker, generation, slot, source });
            }
            Then::Stop(id) => ctx.queue(Event::PreStopped(id)),
            Then::Verify(id) => {
                self.output.end();
                ctx.queue(Event::Verified(id, true));
            }
        }
    }

    /// A hook was reaped.
    pub(super) fn ended(&mut self, pid: Pid, exit: Exit, ctx: &mut Context) {
        ctx.processes.hooks.remove(&pid);
        let ours =
            |batch: &EventHooks| batch.running.as_ref().is_some_and(|running| running.pid == pid.as_raw());
        let Some(at) = self.queue.0.iter().position(ours) else { return };
        match (exit, self.queue.0[at].running.take()) {
            (Exit::Code(0), _) | (_, None) => {}
            (Exit::Signal(_), Some(running))
                if ctx.config.hooks.is_own_check(self.queue.0[at].context.occasion, &running.command) =>
            {
                // A check that crashes has found nothing.
                let (command, how) = (running.command.escape_debug(), report::exit_text(exit_of(exit)));
                warn!("the server's own check '{command}' {how}: that says nothing, and the upgrade goes on");
            }
            (exit, Some(running)) => {
                self.failed(at, &running.command, &report::exit_text(exit_of(exit)), ctx);
            }
        }
        self.run(ctx);
    }

    /// Kills hooks that took too long, and those of starts that were given up.
    pub(super) fn kill_late(&mut self, ctx: &mut Context) {
        if self.queue.0.is_empty() {
            return;
        }
        let now = ctx.now();
        let late = |batch: &EventHooks| batch.running.as_ref().is_some_and(|running| running.until <= now);
        while let Some(at) = self.queue.0.iter().position(late) {
            let Some(running) = self.queue.0[at].running.take() else { break };
            kill(&running);
            let limit = report::duration_text(ctx.config.hooks.timeout);
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

    /// Ends the hooks that `which` selects by what follows them; returns the workers that would
    /// have been started.
    fn cancel(&mut self, which: impl Fn(Then) -> bool) -> Vec<WorkerId> {
        let gone = self.queue.0.extract_if(.., |batch| which(batch.then));
        let mut starts = Vec::new();
        for batch in gone {
            batch.running.iter().for_each(kill);
            if let Then::Start { worker, .. } = batch.then {
                starts.push(worker);
            }
        }
        starts
    }

    /// Kills the hooks of every other occasion than `last`, and those that wait.
    pub(super) fn keep_only(&mut self, last: Occasion, ctx: &mut Context) {
        for batch in self.queue.0.extract_if(.., |batch| batch.context.occasion != last) {
            batch.running.iter().for_each(kill);
        }
        self.run(ctx);
    }

    /// Kills every hook.
    pub(super) fn kill_all(&mut self) {
        self.queue.0.drain(..).for_each(|batch| batch.running.iter().for_each(kill));
    }
}

fn context_of(occasion: Occasion, id: WorkerId, ctx: &Context) -> Option<HookContext> {
    let entry = ctx.processes.get(id)?;
    let worker = entry.process.as_ref().map(|process| process.pid.as_raw());
    Some(HookContext { occasion, generation: entry.generation, slot: Some(entry.slot), worker, reason: None })
}

/// Kills the hook and what it has started.
fn kill(running: &Running) {
    if let Err(errno) = process::signal_group(Pid::from_raw(running.pid), Signal::SIGKILL as i32) {
        warn!("cannot kill hook '{}': {}", running.command.escape_debug(), reason(&errno.into()));
    }
}
