//! The loop: what happens becomes an event, the core answers with actions, and the loop performs
//! them. Only this thread forks, signals and reaps.

use super::adopt::Adoption;
use super::clock::STALL;
use super::context::{Context, Verdict};
use super::control::Control;
use super::follow::Follow;
use super::halts::Halts;
use super::hangup::Hangup;
use super::held::Held;
use super::hold;
use super::hooks::{Hooks, Start};
use super::inputs::{Input, Threads};
use super::interrupts::Interrupts;
use super::listening::Listening;
use super::orphans::Orphans;
use super::readiness::{Readiness, end_check, find_elsewhere};
use super::reexec::Reexec;
use super::repeats::Repeats;
use super::report;
use super::rollback::RolledBack;
use super::service::Service;
use super::workers::Workers;
use crate::ack::WorkerMessage;
use crate::core::event::{Ending, Event, Time, WorkerId};
use crate::core::{Phase, ShownStage};
use crate::error::Error;
use crate::listener::repair::Occasion;
use crate::sys::memory;
use crossbeam_channel::Receiver;
use std::collections::BTreeSet;
use std::time::Duration;

/// The interval at which it is checked whether a stopping worker has ended: not every end comes
/// with a signal (a process may have left its group, or its parent may not reap it).
pub(super) const END_CHECK: Duration = Duration::from_secs(1);

/// A wait that is longer than this counts as idle.
const IDLE: Duration = Duration::from_millis(100);

/// The supervisor: the context, and an owner of each part of the work. An owner that was
/// not asked for is absent.
pub(super) struct EventLoop {
    pub(super) ctx: Context,
    pub(super) workers: Workers,
    pub(super) readiness: Readiness,
    pub(super) halts: Halts,
    pub(super) orphans: Orphans,
    pub(super) listening: Listening,
    pub(super) hooks: Hooks,
    pub(super) interrupts: Interrupts,
    pub(super) hangup: Hangup,
    pub(super) rolled_back: RolledBack,
    pub(super) repeats: Repeats,
    /// `--follow`
    pub(super) follow: Option<Follow>,
    /// The listeners of followed workers, during upgrades.
    pub(super) held: Held,
    /// `--adopt`
    pub(super) adoption: Option<Adoption>,
    pub(super) service: Service,
    pub(super) reexec: Reexec,
    pub(super) threads: Threads,
    /// A start, an upgrade or a takeover is over: the program text that only it needed can be
    /// released.
    pub(super) trim_text: bool,
    pub(super) ending: Option<Ending>,
    /// A failure of our own that made us stop.
    pub(super) failure: Option<Error>,
    /// Dropped last: the name stays locked until everything else is gone.
    pub(super) control: Control,
}

impl EventLoop {
    pub(super) fn run(mut self, inputs: &Receiver<Input>) -> Result<Verdict, Error> {
        let ending = self.run_until_ending(inputs);
        self.end_children(inputs);
        let ctx = &self.ctx;
        let verdict =
            report::last_line(ending, &ctx.processes, self.control.killed_by(), ctx.core.has_served());
        let verdict = match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(verdict),
        };
        self.control.pending.end(&verdict);
        verdict
    }

    fn run_until_ending(&mut self, inputs: &Receiver<Input>) -> Ending {
        loop {
            self.read_messages();
            self.readiness.check_waiting(&mut self.ctx);
            self.check_hangup();
            self.process_events();
            if let Some(ending) = self.ending {
                return ending;
            }
            self.hooks.kill_late(&mut self.ctx);
            self.halts.look_again(&mut self.ctx);
            self.start_after_hooks();
            self.listening.check_if_due(inputs.is_empty(), &mut self.ctx);
            if let Some(adoption) = &mut self.adoption {
                adoption.check_closed(&mut self.ctx);
            }
            self.control.check_if_due(&self.threads, self.ctx.now());
            self.reexec_if_due(inputs);
            self.service.manager.send_due();
            let input = self.next(inputs);
            self.ctx.clock.begin_step();
            self.handle(input);
            self.reexec.end_slow_check(false, self.ctx.now());
        }
    }

    /// Passes an input to its owner.
    pub(super) fn handle(&mut self, input: Option<Input>) {
        match input {
            Some(Input::Signal(libc::SIGCHLD, _)) => self.reap(),
            Some(Input::Signal(signal, origin)) => self.on_signal(signal, &origin),
            Some(Input::WorkerMessage(id, message)) => {
                if matches!(message, WorkerMessage::Ready(_)) {
                    self.readiness.find_own_socket(id, &mut self.ctx);
                    find_elsewhere(id, &mut self.ctx);
                }
                let message = self.workers.on_message(id, message, &mut self.ctx);
                self.service.pass_on(message);
            }
            Some(Input::Changed(paths)) => self.on_change(&paths),
            Some(Input::Control(message)) => self.on_message(message),
            Some(Input::ControlGone) => self.control.on_file_gone(self.ctx.now()),
            Some(Input::Call(id, call)) => match &mut self.adoption {
                Some(adoption) => adoption.call(id, &call, &mut self.ctx),
                None => self.held.call(id, &call, self.ctx.now()),
            },
            Some(Input::CallsEnded(id)) => match &mut self.adoption {
                Some(adoption) => adoption.on_calls_ended(id),
                None => self.held.on_calls_ended(id),
            },
            Some(Input::Read(worker, generation, slot, source)) => {
                self.spawn_now(&Start { worker, generation, slot, source });
            }
            Some(Input::Arrival) => {
                if let Some(adoption) = &mut self.adoption {
                    adoption.on_arrival(&self.ctx);
                }
            }
            Some(Input::PathGone) => {
                self.listening.check(Occasion::path_removed(&self.ctx.core), &mut self.ctx);
            }
            None => self.ctx.queue(Event::Tick),
        }
    }

    /// Reads the messages of workers that are due.
    fn read_messages(&mut self) {
        for text in self.workers.read_due(&mut self.ctx) {
            self.service.manager.status(text);
        }
    }

    /// Feeds the core with the queued events, and with those that follow from them.
    pub(super) fn process_events(&mut self) {
        while let Some(event) = self.ctx.events.pop_front() {
            self.step(event);
        }
    }

    pub(super) fn step(&mut self, event: Event) {
        if let Event::Request(request) = event {
            self.control.on_request(request, &self.ctx);
        }
        let now = self.ctx.clock.next_step();
        let actions = self.ctx.core.step(now, event);
        for action in actions {
            self.perform(action);
        }
        if let Some(adoption) = &mut self.adoption {
            adoption.follow_core(&self.ctx);
        }
        // At the end the table is still needed for the last line.
        if self.ending.is_none() && self.ctx.core.workers().count() < self.ctx.processes.count() {
            self.forget_gone();
        }
        hold::close_sockets(&mut self.ctx);
        if self.ctx.core.phase() != Phase::Holding {
            self.hooks.end_verify();
        }
        self.control.end_step();
        self.control.pending.after_step(&self.ctx);
    }

    /// Forgets the workers that have no process left.
    fn forget_gone(&mut self) {
        let left: BTreeSet<WorkerId> = self.ctx.core.workers().map(|shown| shown.worker).collect();
        for id in self.ctx.processes.ids_unless(|id| left.contains(&id)) {
            end_check(id, &mut self.ctx);
            // What it had left behind may have held a path of ours until now.
            self.listening.check(self.ctx.processes.check_occasion(id), &mut self.ctx);
            self.workers.forget(id);
            self.ctx.processes.close(id);
        }
    }

    /// The next input, or nothing once the first deadline has come.
    fn next(&mut self, inputs: &Receiver<Input>) -> Option<Input> {
        let before = self.ctx.now();
        let wait_for = |deadline: Time| deadline.saturating_sub(before);
        let due = [self.ctx.core.deadline(), self.hooks.deadline(), self.reexec.deadline()];
        let due = due.into_iter().flatten().min().map(wait_for);
        let stops = self.is_any_stopping().then_some(END_CHECK);
        let others = [
            self.service.deadline(before),
            self.workers.deadline(),
            self.readiness.deadline(),
            self.hangup.deadline(),
            self.halts.deadline(),
            self.control.deadline(),
            self.adoption.as_ref().and_then(Adoption::deadline),
        ];
        let others = others.into_iter().flatten().map(wait_for);
        let wait = others.chain(due).chain(stops).min();
        if self.trim_text && inputs.is_empty() && wait.is_none_or(|wait| wait > IDLE) {
            self.trim_text = false;
            memory::release_text();
        }
        let Some(wait) = wait else { return inputs.recv().ok() };
        let input = inputs.recv_timeout(wait).ok();
        let slept = self.ctx.now() - before;
        if slept > wait + STALL {
            // What we waited for may have happened meanwhile, and its input may still wait.
            self.ctx.clock.exclude(slept);
        }
        if input.is_none() && stops.is_some() && due.is_none_or(|due| wait < due) {
            self.reap();
        }
        input
    }

    fn is_any_stopping(&self) -> bool {
        let stops = |stage| matches!(stage, ShownStage::Draining | ShownStage::Killed);
        self.ctx.core.workers().any(|shown| stops(shown.stage))
    }
}
