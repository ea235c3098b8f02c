//! Replaces ourselves by the new binary at our path, once it has shown that it can take over:
//! the threads stop, the inputs that they sent are handled, and the new image gets the state of
//! that moment.

use super::event_loop::EventLoop;
use super::inputs::Input;
use super::reexec::{Successor, arguments, c_string, environment, retry_while_busy};
use super::saved_state::State;
use crate::config::Applied;
use crate::control::protocol::Reply;
use crate::core::event::{AckKind, Event, Exit};
use crate::core::{Phase, ShownStage};
use crate::error::reason;
use crate::reexec::fd_transfer::FdTransfer;
use crate::reexec::{envelope, program};
use crate::sys::{inherited, process};
use crate::{ack, launch, listener, logger, process as process_table};
use crossbeam_channel::Receiver;
use log::{info, warn};
use nix::errno::Errno;
use nix::unistd::execve;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;

impl EventLoop {
    /// Begins to replace ourselves, unless that is under way.
    pub(super) fn begin_reexec(&mut self) {
        if self.reexec.is_under_way() {
            return;
        }
        match self.start_check_of_binary() {
            Ok(pid) => drop(self.ctx.processes.hooks.insert(pid)),
            Err(why) => self.refuse_reexec(&why),
        }
    }

    fn start_check_of_binary(&mut self) -> Result<nix::unistd::Pid, String> {
        if self.ctx.core.phase() == Phase::Stopping {
            return Err("we are stopping".into());
        }
        let state = self.capture_state(&mut FdTransfer::default(), true)?.encode()?;
        self.reexec.check(&state, &self.ctx.launcher.surroundings, self.ctx.now())
    }

    pub(super) fn refuse_reexec(&mut self, why: &str) {
        let version = env!("CARGO_PKG_VERSION");
        warn!("cannot replace ourselves: {why}; version {version} goes on");
        self.control.pending.resolve_reexec(&Reply::failed(format!("{why}; version {version} goes on")));
    }

    /// Replaces ourselves if that is due; returns if it is not, or if it failed.
    pub(super) fn reexec_if_due(&mut self, inputs: &Receiver<Input>) {
        // A check takes a moment, and the core waits for its result.
        if self.expects_parent_term() || self.readiness.is_checking() || self.hangup.deadline().is_some() {
            return;
        }
        if let Some(successor) = self.reexec.take_due() {
            let Err(why) = self.hand_over(inputs, &successor);
            self.threads.resume();
            self.refuse_reexec(&why);
        }
    }

    /// Whether a TERM that comes now may be the ack of a worker. It would be pending over the
    /// execve(2); if its sender is gone when it is read, it would be taken for a stop.
    fn expects_parent_term(&self) -> bool {
        self.ctx.config.policy.readiness.kinds.contains(&AckKind::ParentTerm)
            && self.ctx.in_stage(ShownStage::Starting).next().is_some()
    }

    fn hand_over(&mut self, inputs: &Receiver<Input>, successor: &Successor) -> Result<Infallible, String> {
        let sent = self.threads.pause(inputs);
        let paused = sent.is_ok();
        for input in sent.unwrap_or_else(|sent| sent) {
            self.handle(Some(input));
        }
        self.reap();
        self.listening.check_if_due(true, &mut self.ctx);
        self.process_events();
        for text in self.workers.read_all(&mut self.ctx) {
            self.service.manager.status(text);
        }
        if !paused {
            return Err("our threads do not come to rest".into());
        }
        if self.ctx.core.phase() == Phase::Stopping || self.ending.is_some() {
            return Err("we are stopping".into());
        }
        let path = self.reexec.program()?.to_owned();
        if program::read(&path)? != successor.identity {
            return Err(format!("{} was replaced while it was looked at (try again)", path.display()));
        }
        if let Some(adoption) = &mut self.adoption {
            adoption.release_all();
        }
        let (ours, theirs) = (env!("CARGO_PKG_VERSION"), &successor.version);
        info!("version {ours} makes way for version {theirs} ({})", path.display());
        logger::flush_briefly();
        let sent = self.service.manager.flush();
        let mut transfer = FdTransfer::default();
        let state = envelope::seal(&envelope::wrap(&self.capture_state(&mut transfer, sent)?.encode()?))?;
        let failed = |error: io::Error| format!("cannot keep a descriptor: {}", reason(&error));
        transfer.add(&state).map_err(failed)?;
        let (arguments, environment) =
            (arguments()?, environment(&self.ctx.launcher.surroundings, state.as_raw_fd())?);
        let program = c_string(path.clone().into())?;
        let kept = transfer.keep(true);
        let errno = match kept {
            Ok(()) => {
                let executed =
                    retry_while_busy(|| execve(&program, &arguments, &environment), |errno| *errno);
                executed.map_or_else(|errno| errno, |never| match never {})
            }
            Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        };
        let _ = transfer.keep(false);
        Err(format!("cannot execute {}: {}", path.display(), reason(&errno.into())))
    }

    /// Finds children that another program in this process has reaped between two images: a
    /// shell that was installed in our place reaps whatever has ended by then.
    pub(super) fn find_lost_exits(&mut self) {
        for hook in self.hooks.running().into_iter().filter(|hook| !process::is_child(*hook)) {
            // Its exit status is unknown, so it counts as a refusal.
            self.hooks.ended(hook, process::Exit::Signal(0), &mut self.ctx);
        }
        for worker in self.ctx.processes.ids() {
            let Some(process) = self.ctx.processes.get_mut(worker).and_then(|entry| entry.process.as_mut())
            else {
                continue;
            };
            process.check.take_if(|check| !process::is_child(*check));
            if process.not_our_child || process.reaped || process::is_child(process.pid) {
                continue;
            }
            self.ctx.processes.reaped(worker, None, self.ctx.now());
            let remains = self.ctx.processes.has_remains(worker);
            self.ctx.queue(Event::Exited { worker, exit: Exit::Unseen, remains });
        }
    }

    /// Everything that the next image has to know, at this moment. `sent` says that every message
    /// to the service manager has been sent.
    fn capture_state(&self, transfer: &mut FdTransfer, sent: bool) -> Result<State, String> {
        let ctx = &self.ctx;
        let settings = &ctx.launcher.settings;
        let failed = |error: io::Error| format!("cannot write the state: {}", reason(&error));
        let mut save = || -> io::Result<State> {
            Ok(State {
                version: env!("CARGO_PKG_VERSION").into(),
                program: self.reexec.program.clone().unwrap_or_default(),
                inherited: inherited::inherited(),
                directory: ctx.launcher.surroundings.directory.clone(),
                clock: ctx.clock.save(),
                core: ctx.core.clone(),
                processes: process_table::Saved::new(&ctx.processes, transfer)?,
                specs: launch::Saved::new(&ctx.launcher.specs, transfer)?,
                rolled_back: self.rolled_back.clone(),
                waited: self.readiness.save(),
                identity: settings.identity.clone(),
                listeners: listener::Saved::new(&settings.listeners, transfer)?,
                acks: ack::Saved::new(&self.workers.watcher, &self.workers.directory, transfer)?,
                hooks: self.hooks.save(),
                control: self.control.save(transfer)?,
                watched: self.threads.known.save(),
                adopt: match &self.adoption {
                    Some(adoption) => Some(adoption.save(transfer)?),
                    None => self.held.save(transfer)?,
                },
                arguments_left_out: Some(ctx.config.applied.as_ref().is_some_and(Applied::has_left_out)),
                profile_left_out: ctx.config.applied.as_ref().map(|applied| applied.left_out.is_some()),
                capture: self.workers.capture.as_ref().map(|capture| capture.save(transfer)).transpose()?,
                service: self.service.manager.save(sent),
                pid_file: self.service.pid_file.as_ref().map(|file| file.save(transfer)).transpose()?,
                descriptors: Vec::new(),
            })
        };
        let state = save().map_err(failed)?;
        Ok(State { descriptors: transfer.listed().to_vec(), ..state })
    }
}
