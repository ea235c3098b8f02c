//! Reaps children: every exit goes to its owner. When the supervisor ends, it ends every child.

use super::event_loop::{END_CHECK, EventLoop};
use super::inputs::Input;
use super::readiness::end_check;
use crate::config::hooks::Occasion;
use crate::core::event::{AckKind, Event, Token};
use crate::process::{Owner, exit_of};
use crate::sys::process::{self, Change};
use crossbeam_channel::Receiver;
use log::debug;
use nix::unistd::Pid;
use std::time::Duration;

/// The stop timeout of orphans where that of workers is unlimited.
const LAST_STOP_TIMEOUT: Duration = Duration::from_secs(30);

impl EventLoop {
    /// Reaps every child that has ended: several SIGCHLDs may be merged into one. The same way it
    /// is known that a child was halted, or continued.
    pub(super) fn reap(&mut self) {
        for (pid, change, name) in process::changes() {
            let exit = match change {
                Change::Ended(exit) => exit,
                change => {
                    self.on_halt(pid, change);
                    continue;
                }
            };
            if let Some(verdict) = self.reexec.ended(pid, exit) {
                self.ctx.processes.hooks.remove(&pid);
                if let Err(why) = verdict {
                    self.refuse_reexec(&why);
                }
                continue;
            }
            let ctx = &mut self.ctx;
            match ctx.processes.owner(pid) {
                Owner::Worker(worker) => {
                    ctx.processes.reaped(worker, name, ctx.clock.now());
                    if exit == process::Exit::Code(0) && ctx.is_wanted(worker) {
                        ctx.processes.claim_orphans(worker);
                    }
                    if self.follow.as_ref().is_some_and(|follow| follow.is_continued(worker, exit, ctx)) {
                        continue;
                    }
                    let remains = ctx.processes.has_remains(worker);
                    if !remains && self.is_started_again(worker) {
                        continue;
                    }
                    let ctx = &mut self.ctx;
                    ctx.queue(Event::Exited { worker, exit: exit_of(exit), remains });
                    if let Some(follow) = &self.follow {
                        follow.let_load(worker, ctx);
                    }
                }
                Owner::Check(worker) => {
                    if let Some(process) = ctx.processes.process_mut(worker) {
                        process.check = None;
                    }
                    if exit == process::Exit::Code(0) {
                        ctx.queue(Event::Ack(worker, AckKind::Exec));
                    }
                }
                Owner::Hook => {
                    self.hooks.ended(pid, exit, ctx);
                    self.start_after_hooks();
                }
                Owner::Unknown => debug!("reaped pid {pid}, an orphan"),
            }
        }
        if let Some(follow) = &self.follow {
            follow.find_unseen_exits(&mut self.ctx);
        }
        self.orphans.check(self.adoption.as_ref(), &mut self.ctx);
    }

    /// A child was halted or continued. Of a hook or a check that is no news: its time is limited.
    fn on_halt(&mut self, pid: Pid, change: Change) {
        if let Owner::Worker(worker) = self.ctx.processes.owner(pid) {
            // We have halted it, and continue it.
            if self.adoption.as_ref().is_some_and(|adoption| adoption.is_halted(worker)) {
                return;
            }
            self.ctx.queue(match change {
                Change::Halted(by) => Event::Halted(worker, Token(by)),
                _ => Event::Continued(worker),
            });
        }
    }

    /// Ends every child before we end: hooks, orphans and checks.
    pub(super) fn end_children(&mut self, inputs: &Receiver<Input>) {
        self.reexec.end_slow_check(true, self.ctx.now());
        self.end_hooks(inputs);
        self.end_unknown_children(inputs);
        for id in self.ctx.processes.ids() {
            end_check(id, &mut self.ctx);
        }
        // A zombie would be left to process 1, which may reap nothing in a container.
        process::reap().for_each(drop);
    }

    /// The post-stop hooks may finish, in the time that those of one worker have; a second INT
    /// or QUIT ends them. The other hooks are killed.
    fn end_hooks(&mut self, inputs: &Receiver<Input>) {
        let end = self.ctx.now() + self.ctx.config.hooks.longest(Occasion::PostStop);
        self.hooks.keep_only(Occasion::PostStop, &mut self.ctx);
        while let Some(until) = self.hooks.deadline() {
            self.service.manager.send_due();
            let wait = until.min(end).saturating_sub(self.ctx.now());
            let wait = self.service.manager.wait().map_or(wait, |due| due.min(wait));
            let input = inputs.recv_timeout(wait).ok();
            self.hooks.kill_late(&mut self.ctx);
            let kill_asked = self.is_interrupt(&input);
            if kill_asked || self.ctx.now() >= end {
                self.hooks.kill_all();
            }
            for (pid, exit) in process::reap() {
                self.hooks.ended(pid, exit, &mut self.ctx);
            }
        }
    }

    /// Stops the children that belong to no worker, then kills them, as the orphans of a worker.
    fn end_unknown_children(&mut self, inputs: &Receiver<Input>) {
        let until = self.ctx.now() + self.ctx.config.policy.stop_timeout.unwrap_or(LAST_STOP_TIMEOUT);
        let mut kill = false;
        while self.ctx.processes.end_unknown_children(kill) {
            self.service.manager.send_due();
            let input = inputs.recv_timeout(END_CHECK / 20).ok();
            kill |= self.ctx.now() >= until;
            kill |= self.is_interrupt(&input);
            if let Some(Input::Control(message)) = input {
                self.on_message(message);
            }
            process::reap().for_each(drop);
        }
    }

    /// Whether this is another INT or QUIT of the user: what still runs is killed.
    fn is_interrupt(&mut self, input: &Option<Input>) -> bool {
        match input {
            Some(Input::Signal(signal @ (libc::SIGINT | libc::SIGQUIT), origin)) => {
                !self.is_repeated_interrupt(*signal, origin)
            }
            _ => false,
        }
    }
}
