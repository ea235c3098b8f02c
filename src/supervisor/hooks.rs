//! The user's hooks: what they are told, who waits for them, and that none of
//! them outlives its time.
//!
//! A hook is a child like any other: it is reaped with the rest and a deadline of
//! the loop ends it, so the loop never waits for one. Those of one event run one
//! after another. What waits for them goes on when the last has ended.

use super::Run;
use crate::config::hooks::Occasion;
use crate::core::ShownStage;
use crate::core::event::{Event, Failure, Generation, Reading as From, Refusal, Report, Slot, WorkerId};
use crate::core::policy::PROBATION_CRASHES;
use crate::error::reason;
use crate::launch::hook::HookContext;
use crate::launch::start::refused;
use crate::launch::{Reading, Refused};
use crate::supervisor::hook_queue::{EventHooks, Running, Then};
use crate::supervisor::inputs::Input;
use crate::supervisor::report;
use crate::sys::child;
use crate::sys::process::{self, Exit};
use crossbeam_channel::Receiver;
use log::{debug, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::VecDeque;

/// So many hooks that nobody waits for run at a time; the others come after them.
const MOST: usize = 32;
/// So many may wait: where workers crash faster than hooks end, some are left out.
const LONGEST_QUEUE: usize = 1024;

impl Run {
    /// Asks the user whether the upgrade may begin.
    pub(super) fn pre_upgrade(&mut self, to: Generation) {
        let about = HookContext {
            occasion: Occasion::PreUpgrade,
            generation: to,
            slot: None,
            worker: None,
            reason: None,
        };
        self.send(about, Then::Upgrade(to));
    }

    /// The worker is started when its hooks have ended well. Another try of the same
    /// start has had them.
    pub(super) fn pre_start(&mut self, worker: WorkerId, generation: Generation, slot: Slot, from: From) {
        if self.processes.get(worker).is_some() {
            return self.spawn(worker, generation, slot, from);
        }
        self.processes.open(worker, generation, slot);
        let about = HookContext {
            occasion: Occasion::PreStart,
            generation,
            slot: Some(slot),
            worker: None,
            reason: None,
        };
        self.send(about, Then::Start { worker, generation, slot, from });
    }

    /// The worker is asked to stop when its hooks have ended.
    pub(super) fn pre_stop(&mut self, id: WorkerId) {
        match self.about(Occasion::PreStop, id) {
            Some(about) => self.send(about, Then::Stop(id)),
            None => self.soon.push_back(Event::PreStopped(id)),
        }
    }

    /// What happened is told to those hooks that nobody waits for; and those that
    /// are waited for in vain go.
    pub(super) fn tell_hooks(&mut self, report: &Report) {
        match *report {
            Report::Ready(id, ..) => self.send_about(Occasion::PostReady, id),
            Report::Gone { worker, .. } => self.send_about(Occasion::PostStop, worker),
            Report::UpgradeFailed { to, why, left, held, .. } => {
                self.call_back(|then| then == Then::Upgrade(to));
                if !matches!(why, Failure::Stopped | Failure::Superseded) {
                    self.tell_failed(to, report::why_failed(why, left, held, &self.processes));
                }
            }
            // Later tries are of the same upgrade.
            Report::RollbackStarted { from, to, crashes: PROBATION_CRASHES, .. } => {
                let reason = report::rolled_back(report, &self.processes).unwrap_or_default();
                self.tell_failed(from, format!("{reason}: {to} is started again"));
            }
            // Told once, however often it is tried.
            Report::RollbackFailed { from, why, .. }
                if why != Failure::Stopped && !std::mem::replace(&mut self.rolled_back.failed, true) =>
            {
                let reason = report::not_rolled_back(report, &self.processes).unwrap_or_default();
                self.tell_failed(from, reason);
            }
            _ => {}
        }
    }

    fn tell_failed(&mut self, generation: Generation, reason: String) {
        let occasion = Occasion::UpgradeFailed;
        let about = HookContext { occasion, generation, slot: None, worker: None, reason: Some(reason) };
        self.send(about, Then::Nothing);
    }

    fn about(&self, occasion: Occasion, id: WorkerId) -> Option<HookContext> {
        let entry = self.processes.get(id)?;
        let worker = entry.process.as_ref().map(|process| process.pid.as_raw());
        Some(HookContext {
            occasion,
            generation: entry.generation,
            slot: Some(entry.slot),
            worker,
            reason: None,
        })
    }

    fn send_about(&mut self, occasion: Occasion, id: WorkerId) {
        if let Some(about) = self.about(occasion, id) {
            self.send(about, Then::Nothing);
        }
    }

    fn send(&mut self, about: HookContext, then: Then) {
        let rest: VecDeque<String> = self.config.hooks.of(about.occasion).map(String::from).collect();
        if then == Then::Nothing && rest.is_empty() {
            return;
        }
        if then == Then::Nothing && self.hooks.0.len() >= LONGEST_QUEUE {
            let (occasion, generation) = (about.occasion.name(), about.generation);
            return warn!("{generation}: {occasion} hook left out: {LONGEST_QUEUE} others wait");
        }
        self.hooks.0.push(EventHooks { about, then, now: None, rest });
        self.run_hooks();
    }

    /// Starts what is to run next, and lets go on what has waited for long enough.
    fn run_hooks(&mut self) {
        let mut at = 0;
        while at < self.hooks.0.len() {
            if self.hooks.0[at].now.is_some() {
                at += 1;
                continue;
            }
            let errands = &self.hooks.0;
            let unheeded = errands.iter().filter(|errand| errand.then == Then::Nothing);
            let crowded = unheeded.filter(|errand| errand.now.is_some()).count() >= MOST;
            if crowded && errands[at].then == Then::Nothing {
                at += 1;
                continue;
            }
            let Some(command) = self.hooks.0[at].rest.pop_front() else {
                let errand = self.hooks.0.remove(at);
                self.go_on(errand.then);
                continue;
            };
            match self.start_hook(&self.hooks.0[at].about, &command) {
                Ok(pid) => {
                    let until = self.clock.now() + self.config.hooks.timeout;
                    self.processes.hooks.insert(pid);
                    self.hooks.0[at].now = Some(Running { pid: pid.as_raw(), command, until });
                }
                Err(Refused { message, .. }) => {
                    self.failed(at, &command, &format!("cannot be run: {message}"));
                }
            }
        }
    }

    fn start_hook(&self, about: &HookContext, command: &str) -> Result<Pid, Refused> {
        debug!("{} hook of {}: {command}", about.occasion.name(), about.generation);
        let anew = || Reading::of_hook(&self.config.worker, &self.around, self.common.identity.as_ref());
        let reading = match (self.readings.get(&about.generation), about.occasion) {
            (Some(reading), _) => reading.clone(),
            (None, _) => anew()?,
        };
        let launch = self.common.hook(&reading, command, about)?;
        child::spawn(&launch).map(|child| child.pid).map_err(|error| refused(&error, &reading))
    }

    /// The hook has ended, or will never start. One that could have refused has.
    fn failed(&mut self, at: usize, command: &str, how: &str) {
        let errand = &mut self.hooks.0[at];
        errand.now = None;
        let (occasion, generation) = (errand.about.occasion.name(), errand.about.generation);
        let message = format!("{occasion} hook '{}' {how}", command.escape_debug());
        match errand.then {
            Then::Upgrade(to) => {
                self.hooks.0.remove(at);
                self.processes.refuse_upgrade(message);
                self.soon.push_back(Event::PreUpgraded(to, false));
            }
            Then::Start { worker, .. } => {
                self.hooks.0.remove(at);
                let message = format!("cannot start '{}': {message}", self.processes.command());
                self.processes.refuse(worker, message);
                self.soon.push_back(Event::SpawnFailed(worker, Refusal::Other));
            }
            Then::Stop(_) | Then::Nothing => {
                warn!(generation = generation.0; "{generation}: {message}");
            }
        }
    }

    fn go_on(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            Then::Upgrade(to) => self.soon.push_back(Event::PreUpgraded(to, true)),
            Then::Start { worker, generation, slot, from } => self.spawn(worker, generation, slot, from),
            Then::Stop(id) => self.soon.push_back(Event::PreStopped(id)),
        }
    }

    /// A hook was reaped.
    pub(super) fn hook_ended(&mut self, pid: Pid, exit: Exit) {
        self.processes.hooks.remove(&pid);
        let ours =
            |errand: &EventHooks| errand.now.as_ref().is_some_and(|running| running.pid == pid.as_raw());
        let Some(at) = self.hooks.0.iter().position(ours) else { return };
        match (exit, self.hooks.0[at].now.take()) {
            (Exit::Code(0), _) | (_, None) => {}
            (exit, Some(running)) => {
                self.failed(at, &running.command, &report::how(crate::process::exit_of(exit)));
            }
        }
        self.run_hooks();
    }

    /// Hooks whose time has come are killed, and so are those of starts that nobody
    /// wants any more.
    pub(super) fn end_late_hooks(&mut self) {
        if self.hooks.0.is_empty() {
            return;
        }
        let now = self.clock.now();
        let late = |errand: &EventHooks| errand.now.as_ref().is_some_and(|running| running.until <= now);
        while let Some(at) = self.hooks.0.iter().position(late) {
            let Some(running) = self.hooks.0[at].now.take() else { break };
            kill(&running);
            let limit = report::length(self.config.hooks.timeout);
            self.failed(at, &running.command, &format!("was killed after {limit} (--hook-timeout)"));
        }
        let given_up: Vec<WorkerId> = self
            .core
            .workers()
            .filter(|shown| shown.stage == ShownStage::Draining)
            .map(|shown| shown.worker)
            .collect();
        let unwanted = |then| matches!(then, Then::Start { worker, .. } if given_up.contains(&worker));
        for worker in self.call_back(unwanted) {
            self.processes.refuse(worker, "its start was given up while a pre-start hook ran".into());
            self.soon.push_back(Event::SpawnFailed(worker, Refusal::Other));
        }
        self.run_hooks();
    }

    /// Ends the errands after which `which` would go on; the workers that would have
    /// been started.
    fn call_back(&mut self, which: impl Fn(Then) -> bool) -> Vec<WorkerId> {
        let gone = self.hooks.0.extract_if(.., |errand| which(errand.then));
        let mut starts = Vec::new();
        for errand in gone {
            errand.now.iter().for_each(kill);
            if let Then::Start { worker, .. } = errand.then {
                starts.push(worker);
            }
        }
        starts
    }

    /// At our own end the hooks of those that have stopped may finish, in the time
    /// that those of one worker have; a second INT or QUIT ends them. The others are
    /// killed.
    pub(super) fn end_hooks(&mut self, inputs: &Receiver<Input>) {
        let last = |errand: &EventHooks| errand.about.occasion == Occasion::PostStop;
        for errand in self.hooks.0.extract_if(.., |errand| !last(errand)) {
            errand.now.iter().for_each(kill);
        }
        let end = self.clock.now() + self.config.hooks.longest(Occasion::PostStop);
        self.run_hooks();
        while let Some(until) = self.hooks.deadline() {
            self.service.turn();
            let wait = until.min(end).saturating_sub(self.clock.now());
            let wait = self.service.wait().map_or(wait, |turn| turn.min(wait));
            let input = inputs.recv_timeout(wait);
            self.end_late_hooks();
            let hurried = matches!(input, Ok(Input::Signal(libc::SIGINT | libc::SIGQUIT, _)));
            if hurried || self.clock.now() >= end {
                self.hooks.0.drain(..).for_each(|errand| errand.now.iter().for_each(kill));
            }
            for (pid, exit) in process::reap() {
                self.hook_ended(pid, exit);
            }
        }
    }
}

/// The hook and what it has started.
fn kill(running: &Running) {
    if let Err(errno) = process::signal_group(Pid::from_raw(running.pid), Signal::SIGKILL as i32) {
        warn!("cannot kill hook '{}': {}", running.command.escape_debug(), reason(&errno.into()));
    }
}
