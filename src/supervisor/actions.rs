//! Performs the actions of the core: each one goes to its owner.

use super::event_loop::EventLoop;
use super::hold;
use super::hooks::Start;
use super::inputs::Input;
use super::readiness::start_check;
use crate::core::event::{Action, Event, Generation, Request, WorkerId};
use crate::dialect::Dialect;
use crate::launch::Refused;
use crate::sys::seccomp::{Filter, Received};
use log::warn;
use nix::sys::signal::{Signal, raise};

impl EventLoop {
    pub(super) fn perform(&mut self, action: Action) {
        let ctx = &mut self.ctx;
        match action {
            Action::Spawn { worker, generation, slot, source } => {
                let start = Start { worker, generation, slot, source };
                match self.hooks.pre_start(&start, ctx) {
                    true => self.start_after_hooks(),
                    false => self.spawn(&start),
                }
            }
            Action::RequestHandover { worker, predecessor, generation, slot } => {
                self.workers.inherit_stderr(worker, predecessor);
                if let Some(follow) = &self.follow {
                    follow.request_handover(worker, predecessor, generation, slot, ctx);
                }
            }
            Action::TakeSuccessor { worker, predecessor, generation, slot } => {
                self.workers.inherit_stderr(worker, predecessor);
                if let Some(follow) = &self.follow {
                    follow.take_successor(worker, predecessor, generation, slot, ctx);
                }
            }
            Action::KeepMaster { worker, predecessor } => {
                if let Some(follow) = &self.follow {
                    follow.keep_master(worker, predecessor, ctx);
                }
            }
            Action::Probe(id) => self.probe(id),
            Action::Switch(to) => self.switch(to),
            Action::CheckDrained(id) => match &mut self.adoption {
                Some(adoption) => adoption.check_drained(id, ctx),
                None => hold::check_queue(id, ctx),
            },
            Action::Weigh(to, weight) => self.weigh(to, weight),
            Action::Verify(id) => self.hooks.verify(id, self.threads.quiesce(), ctx),
            Action::CheckAlive => {
                self.reap();
                self.find_handovers();
                self.readiness.find_own_sockets(&mut self.ctx);
                self.halts.look(&mut self.ctx);
                self.ctx.queue(Event::CheckedAlive);
            }
            Action::CheckWaiting => self.readiness.begin_wait_check(ctx),
            Action::PreUpgrade(to) => self.hooks.pre_upgrade(to, ctx),
            Action::PreStop(id) => self.hooks.pre_stop(id, ctx),
            Action::Stop(id) | Action::StopUnready(id) => {
                let unready = matches!(action, Action::StopUnready(_));
                if !ctx.processes.stopping {
                    ctx.launcher.settings.listeners.release_worker_sockets(id);
                }
                let signal = if unready { Signal::SIGTERM } else { ctx.config.stop_signal };
                match self.adoption.as_ref().is_some_and(|adoption| adoption.is_halted(id)) {
                    // It is continued by whoever has halted it.
                    true => ctx.processes.signal_halted(id, signal),
                    false => ctx.processes.stop(id, signal),
                }
            }
            Action::Kill(id) => ctx.processes.signal_group(id, Signal::SIGKILL),
            Action::DrainRemains(id) => self.orphans.drain(id, self.adoption.as_ref(), ctx),
            Action::StopRemains(id) => ctx.processes.end_remains(id, Signal::SIGTERM),
            Action::KillRemains(id) => ctx.processes.end_remains(id, Signal::SIGKILL),
            Action::Forward(id, token) => ctx.processes.signal(id, token.0),
            Action::Suspend(id) => ctx.processes.signal_group(id, Signal::SIGSTOP),
            Action::Resume(id) => ctx.processes.signal_group(id, Signal::SIGCONT),
            Action::SuspendSelf => self.suspend(),
            Action::Forget(generation) => drop(ctx.launcher.specs.remove(&generation)),
            Action::Report(report) => self.report(&report),
            Action::Exit(ending) => self.ending = Some(ending),
        }
    }

    /// Starts a worker, once the program has been read where its hash is needed. A program may be
    /// so large that the loop must not wait for that.
    fn spawn(&mut self, start: &Start) {
        let Start { worker, generation, slot, source } = *start;
        let launcher = &self.ctx.launcher;
        if launcher.settings.dialects.contains(&Dialect::Overseer)
            && let Ok(spec) = launcher.spec(generation, source)
            && !launcher.settings.binary_ids.is_known(spec.real_program())
        {
            let (ids, program) = (launcher.settings.binary_ids.clone(), spec.real_program().to_owned());
            // If it cannot be read, the start says so.
            let read = move || drop(ids.of(&program));
            if self.threads.read(read, Input::Read(worker, generation, slot, source)).is_ok() {
                self.ctx.processes.open(worker, generation, slot);
                return;
            }
        }
        self.spawn_now(start);
    }

    /// Starts a worker of which everything has been read.
    pub(super) fn spawn_now(&mut self, start: &Start) {
        let Start { worker: id, generation, slot, source } = *start;
        let filter = self.filter();
        let ctx = &mut self.ctx;
        ctx.processes.open(id, generation, slot);
        self.listening.check(ctx.processes.check_occasion(id), ctx);
        ctx.launcher.settings.filter = filter;
        let refused = self.adoption.as_ref().and_then(|adoption| adoption.refuses_second(id, ctx));
        let mut started = match refused {
            Some(refused) => Err(refused),
            None => hold::open_sockets(id, generation, slot, ctx)
                .and_then(|()| self.workers.spawn(id, generation, slot, source, ctx)),
        };
        if let Err(refused) = &started
            && self.held.gives_up(refused)
        {
            ctx.launcher.settings.filter = None;
            started = self.workers.spawn(id, generation, slot, source, ctx);
        }
        let event = match started {
            Ok(calls) => {
                if let Some(follow) = &self.follow {
                    follow.note_birth(id, ctx);
                }
                if let Some(adoption) = &mut self.adoption {
                    adoption.open(id, calls, &self.threads, ctx);
                } else if let (Some(calls), Some(process)) = (calls, ctx.processes.process(id)) {
                    self.held.open(id, process.pid, calls, &self.threads);
                }
                Event::Spawned(id)
            }
            Err(Refused { refusal, message }) => {
                ctx.processes.set_start_error(id, message);
                Event::SpawnFailed(id, refusal)
            }
        };
        self.ctx.queue(event);
    }

    /// The filter of the next worker, where we are to see its system calls.
    fn filter(&self) -> Option<Filter> {
        match &self.adoption {
            Some(adoption) => Filter::new(adoption.received()),
            None => self.held.wants_calls().then(|| Filter::new(Received::default())).flatten(),
        }
    }

    /// Starts the workers whose pre-start hooks have exited with status 0.
    pub(super) fn start_after_hooks(&mut self) {
        while let Some(start) = self.hooks.next_start() {
            self.spawn(&start);
        }
    }

    /// Checks whether the worker is ready, in each way that counts for it.
    fn probe(&mut self, id: WorkerId) {
        let ctx = &mut self.ctx;
        if let Some(follow) = &self.follow {
            if ctx.processes.get(id).is_some_and(|entry| entry.predecessor.is_some()) {
                follow.probe_successor(id, ctx);
                return self.halts.look_at(id, ctx);
            }
            follow.probe(id, ctx);
        } else {
            if let Some(adoption) = &mut self.adoption {
                adoption.probe(id, ctx);
            }
            self.readiness.probe(id, ctx);
        }
        self.halts.look_at(id, ctx);
        start_check(id, ctx);
    }

    /// Switches new connections. The result is queued before everything else
    /// that has happened meanwhile.
    fn switch(&mut self, to: Generation) {
        let done = match &mut self.adoption {
            Some(adoption) => adoption.switch(&mut self.ctx),
            None => hold::switch(to, &mut self.ctx),
        };
        self.ctx.events.push_front(Event::Switched(to, done));
    }

    /// Reports workers that have handed their listeners over to the core, before it decides
    /// what to ask of them.
    pub(super) fn find_handovers(&mut self) {
        if let Some(follow) = &self.follow {
            follow.find_handovers(&mut self.ctx);
        }
    }

    /// Stops ourselves: raise(3) of SIGSTOP returns when somebody continues us.
    fn suspend(&mut self) {
        let before = self.ctx.now();
        if let Err(errno) = raise(Signal::SIGSTOP) {
            warn!("cannot suspend ourselves: {errno}");
        }
        let stopped = self.ctx.now().saturating_sub(before);
        self.ctx.clock.exclude(stopped);
        // Process 1 cannot stop itself; and the workers are halted in any case.
        self.ctx.queue(Event::Request(Request::Resume));
    }
}
