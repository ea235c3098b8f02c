//! The workers' channels: their acks and messages, the descriptors that they have
//! stored with us, and their stderr where it is captured; and the start of a worker,
//! which makes these channels.

use super::context::Context;
use super::messages::MessageRate;
use crate::ack::{self, Directory, Watcher, WorkerMessage};
use crate::core::Phase;
use crate::core::ShownStage;
use crate::core::event::{Event, Failure, Generation, LaunchSource, Refusal, Report, Slot, Time, WorkerId};
use crate::core::policy::EXTEND_LIMIT;
use crate::dialect::{FIRST_FD, first_listener};
use crate::error::reason;
use crate::launch::Refused;
use crate::launch::capture::Capture;
use crate::launch::exec_error::refused;
use crate::process::Process;
use crate::sys::child;
use crate::sys::tree::{self, Family};
use log::{info, warn};
use nix::unistd::{Pid, Uid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// What a worker's message means for the service manager.
pub(super) enum ForManager {
    Nothing,
    /// The start takes so much longer; None: no limit.
    Prolong(Option<Duration>),
    /// The text of a serving worker has changed.
    Status(String),
}

pub(super) struct Workers {
    pub(super) watcher: Watcher,
    messages: MessageRate,
    /// The workers' stderr, if it is captured.
    pub(super) capture: Option<Capture>,
    /// The warning that not all stored descriptors can be handed over was logged.
    warned_of_cut: bool,
    /// The directory of the notify sockets. It is dropped after the watcher, which holds
    /// some of them.
    pub(super) directory: Directory,
}

impl Workers {
    pub(super) fn new(
        watcher: Watcher,
        capture: Option<Capture>,
        directory: Directory,
        watchdog: Option<Duration>,
    ) -> Workers {
        Workers { watcher, messages: MessageRate::new(watchdog), capture, warned_of_cut: false, directory }
    }

    /// Starts a worker: reads what it is started from, makes its channels, and enters its
    /// process in the table. Returns the descriptor of its system calls, with `--adopt`.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be started; nothing of it is left then.
    pub(super) fn spawn(
        &mut self,
        id: WorkerId,
        generation: Generation,
        slot: Slot,
        source: LaunchSource,
        ctx: &mut Context,
    ) -> Result<Option<OwnedFd>, Refused> {
        let spec = ctx.launcher.spec(generation, source)?;
        let changed = ctx.launcher.changed(generation);
        let settings = &ctx.launcher.settings;
        let no_channels = |error: io::Error| Refused {
            refusal: Refusal::Other,
            message: format!("cannot make the ack channels: {}", reason(&error)),
        };
        let stderr = match &self.capture {
            Some(_) => Some(Capture::pipe(settings.identity.as_ref()).map_err(no_channels)?),
            None => None,
        };
        let stored = self.stored(slot, generation, ctx).map_err(no_channels)?;
        let exported = settings.exported(generation);
        let taken = &ctx.config.worker.pass_fds;
        let channels = ctx.config.acks.open(&self.directory, &exported, stored.len(), taken);
        let channels = channels.map_err(no_channels)?;
        let mut launch = settings.worker(&spec, &channels, &stored, id, generation, slot)?;
        launch.fds.extend(stderr.as_ref().map(|(_, theirs)| (theirs.as_raw_fd(), 2)));
        let mut started = child::spawn(&launch).map_err(|error| refused(&error, &launch, &spec))?;
        info!(
            generation = generation.0, pid = started.pid.as_raw(), slot = slot.0;
            "{generation}: started pid {} (slot {}): {}", started.pid, slot.0, spec.real_program().display()
        );
        let ours = Uid::effective();
        let uid = settings.identity.as_ref().map_or(ours, |identity| Uid::from_raw(identity.uid));
        let family = Family { worker: started.pid, group: started.pid, supervisor: Pid::this(), start: id.0 };
        let worker = ack::Worker { uid, generation, slot, stores: settings.stores(), family };
        if let Some(entry) = ctx.processes.get_mut(id) {
            let mut process = Process::started(family, launch.own_group, started.pidfd);
            process.start_time = tree::stat(started.pid).map_or(0, |stat| stat.start_time);
            let given =
                settings.listeners.of(generation.0).map(|listener| listener.inode(generation.0, slot.0));
            process.listening = given.collect();
            entry.process = Some(process);
            entry.changed = changed;
        }
        match channels.watch(&self.watcher, id, worker) {
            Ok(parent_pipe) => ctx.processes.parent_pipe(id, parent_pipe),
            Err(error) => {
                warn!("{generation}: pid {}: its acks cannot be heard: {}", started.pid, reason(&error));
            }
        }
        if let (Some(capture), Some((ours, _))) = (&self.capture, stderr)
            && let Err(error) = capture.watch(id, ours)
        {
            warn!("{generation}: pid {}: its stderr cannot be read: {}", started.pid, reason(&error));
        }
        ctx.launcher.keep(generation, spec);
        Ok(started.seccomp_listener.take())
    }

    /// The descriptors that workers of this slot have stored, as far as there is room before
    /// the numbers of --pass-fd and --ack fd:N.
    fn stored(
        &mut self,
        slot: Slot,
        generation: Generation,
        ctx: &Context,
    ) -> io::Result<Vec<(String, OwnedFd)>> {
        let settings = &ctx.launcher.settings;
        if !settings.stores() {
            return Ok(Vec::new());
        }
        let mut stored = self.watcher.stored(slot, generation)?;
        let first = first_listener(&settings.dialects).unwrap_or(FIRST_FD);
        let next = first + settings.exported(generation).len() as i32;
        let taken = ctx.config.worker.pass_fds.iter().chain(&ctx.config.acks.fd_number);
        let room = taken.map(|&number| (number - next).max(0) as usize).min().unwrap_or(usize::MAX);
        if stored.len() > room {
            if !std::mem::replace(&mut self.warned_of_cut, true) {
                warn!("only {room} of {} stored descriptors fit below --pass-fd or --ack fd:N", stored.len());
            }
            stored.truncate(room);
        }
        Ok(stored)
    }

    /// Handles a message of a worker.
    pub(super) fn on_message(
        &mut self,
        id: WorkerId,
        message: WorkerMessage,
        ctx: &mut Context,
    ) -> ForManager {
        match message {
            WorkerMessage::Ready(kind) => ctx.queue(Event::Ack(id, kind)),
            WorkerMessage::Extend(by) => {
                let longest = ctx.config.policy.ack_timeout.map(|timeout| timeout * EXTEND_LIMIT);
                ctx.queue(Event::Extend(id, by));
                return ForManager::Prolong(longest.map(|longest| longest.min(by)));
            }
            WorkerMessage::NewStatus => self.messages.arrived(id),
            WorkerMessage::Barrier(fd) => {
                let status = self.read(id, ctx);
                drop(fd);
                return status.map_or(ForManager::Nothing, ForManager::Status);
            }
        }
        ForManager::Nothing
    }

    /// Reads the messages of the workers that are due: the new status texts for the service
    /// manager.
    pub(super) fn read_due(&mut self, ctx: &mut Context) -> Vec<String> {
        let due = self.messages.due(ctx.now());
        due.into_iter().filter_map(|id| self.read(id, ctx)).collect()
    }

    /// Reads all messages, as [`Workers::read_due`] does.
    pub(super) fn read_all(&mut self, ctx: &mut Context) -> Vec<String> {
        self.messages.unread().into_iter().filter_map(|id| self.read(id, ctx)).collect()
    }

    /// Reads the messages of a worker: its new status text, if it is for the service manager.
    fn read(&mut self, id: WorkerId, ctx: &mut Context) -> Option<String> {
        let update = self.watcher.take_status(id);
        if update.heartbeat {
            ctx.queue(Event::Heartbeat(id));
        }
        let entry = ctx.processes.get_mut(id)?;
        entry.status = Some(update.status?);
        let serves = ctx.core.phase() == Phase::Running && ctx.stage(id) == Some(ShownStage::Ready);
        serves.then(|| status_text(id, ctx))
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.messages.deadline()
    }

    /// Descriptors that were stored during an upgrade are kept if it succeeds, and dropped if it
    /// fails.
    pub(super) fn on_report(&self, report: &Report, ctx: &Context) {
        let to = match *report {
            Report::UpgradeFailed { why: Failure::Stopped, .. } => return,
            Report::UpgradeDone { to, .. } | Report::UpgradeFailed { to, .. } => to,
            Report::RolledBack { to, .. } => to,
            _ => return,
        };
        let serving: Vec<(Slot, Generation)> = ctx.core.serving_generations().collect();
        self.watcher.end_upgrade(to, &serving);
    }

    /// A worker that another one has started has its stderr.
    pub(super) fn inherit_stderr(&self, id: WorkerId, from: WorkerId) {
        if let Some(capture) = &self.capture {
            capture.inherit(id, from);
        }
    }

    /// Nothing is left of the worker.
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.watcher.forget(id);
        self.messages.forget(id);
        if let Some(capture) = &self.capture {
            capture.forget(id);
        }
    }

    /// What the worker that made an upgrade fail wrote to stderr last.
    pub(super) fn last_lines(&self, why: Failure) -> Vec<String> {
        why.worker().map_or(Vec::new(), |worker| self.last_words(worker))
    }

    /// What a worker wrote to stderr last, if that is captured.
    pub(super) fn last_words(&self, id: WorkerId) -> Vec<String> {
        self.capture.as_ref().map_or(Vec::new(), |capture| capture.last_lines(id))
    }
}

/// The status text that the service manager shows while a generation serves: with that of
/// this worker, if it has any.
fn status_text(id: WorkerId, ctx: &Context) -> String {
    let Some(entry) = ctx.processes.get(id) else { return String::new() };
    let slot = if ctx.config.policy.workers > 1 { format!("slot {}: ", entry.slot.0) } else { String::new() };
    let said = entry.status.as_ref().map_or(String::new(), |said| format!(": {slot}{said}"));
    format!("{} serves{said}", entry.generation)
}

/// The status text once `generation` serves: with that of its first worker that has any.
pub(super) fn serves_text(generation: Generation, ctx: &Context) -> String {
    let said = |id: WorkerId| ctx.processes.get(id).is_some_and(|entry| entry.status.is_some());
    match ctx.of_generation(generation).find(|shown| said(shown.worker)) {
        Some(shown) => status_text(shown.worker, ctx),
        None => format!("{generation} serves"),
    }
}
