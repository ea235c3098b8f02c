//! The control socket: its clients, their pending requests, and the history that they can ask
//! for. It is started, or restored after an execve(2).
//!
//! Contract: the socket and the lock of the name are made again when somebody has removed them. A
//! notice of the kernel, a start or an end of a worker causes a check. While they are missing, and
//! for a while after they were made again (a file system may be mounted over them: logind(8) does
//! that as a user logs in), there are further checks; otherwise nothing wakes us.

use super::context::Context;
use super::file_checks::FileChecks;
use super::history::History;
use super::inputs::Threads;
use super::pending::{Awaits, Pending, PendingRequest};
use super::report::KilledBy;
use super::verdicts::OwnStop;
use super::workers::Workers;
use crate::control::instance::{self, Instance};
use crate::control::removal;
use crate::control::server::{self, ClientId, Clients, Message, SavedClients};
use crate::core::event::{Report, Request, Time};
use crate::error::{Error, reason};
use crate::listener::{PrivateSocket, SavedPrivate};
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The fields are dropped in this order: the socket goes before the lock of the name.
#[derive(Debug)]
pub(super) struct Control {
    socket: Option<PrivateSocket>,
    clients: Option<Clients>,
    /// Holds the lock of the name.
    instance: Instance,
    /// Of the socket's file and the lock's.
    checks: FileChecks,
    pub(super) pending: Pending,
    pub(super) history: History,
    /// A client or a signal has asked us to stop.
    stop_requested: bool,
    /// Who has asked us last for anything.
    asked_by: String,
    /// Who has asked us to kill everything.
    kill_asked_by: Option<String>,
    /// Who asks for it in this step that what drains is killed.
    hammered_by: Option<String>,
    /// An INT has asked us to stop; another one kills.
    interrupted: bool,
    /// How it came that the last worker was killed.
    killed_by: KilledBy,
}

/// The clients as they are saved over an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    socket: Option<(SavedPrivate, SavedClients)>,
    instance: instance::Saved,
    pending: Vec<(ClientId, Awaits)>,
    history: History,
    stop_requested: bool,
}

impl Control {
    /// Starts the threads, if there is a socket.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        socket: Option<PrivateSocket>,
        instance: Instance,
        quiesce: &Quiesce,
        send: impl Fn(Message) -> bool + Clone + Send + 'static,
    ) -> Result<Control, Error> {
        let start =
            |socket: &PrivateSocket| server::start(socket.listener()?, instance.group(), quiesce, send);
        let failed = |error: io::Error| Error::cannot("listen on the control socket", reason(&error));
        let clients = socket.as_ref().map(start).transpose().map_err(failed)?;
        Ok(Control {
            socket,
            clients,
            instance,
            checks: FileChecks::new(),
            pending: Pending::new(),
            history: History::default(),
            stop_requested: false,
            asked_by: String::new(),
            kill_asked_by: None,
            hammered_by: None,
            interrupted: false,
            killed_by: KilledBy::Limit { after: Duration::ZERO, ready: true },
        })
    }

    /// Lists the descriptors and saves the other fields. The threads have to be quiet.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let socket = match (&self.socket, &self.clients) {
            (Some(socket), Some(clients)) => Some((socket.save(transfer)?, clients.save(transfer)?)),
            _ => None,
        };
        Ok(Saved {
            socket,
            instance: self.instance.save(transfer)?,
            pending: self.pending.save(),
            history: self.history.clone(),
            stop_requested: self.stop_requested,
        })
    }

    /// Restores the clients that there were.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn restore(
        saved: Saved,
        fds: &mut InheritedFds,
        quiesce: &Quiesce,
        send: impl Fn(Message) -> bool + Clone + Send + 'static,
    ) -> io::Result<Control> {
        let instance = Instance::restore(saved.instance, fds);
        let (mut socket, mut clients, mut queues) = (None, None, Vec::new());
        if let Some((private, connections)) = saved.socket {
            let private = PrivateSocket::restore(private, fds);
            let listener = private.listener()?;
            let resumed = server::resume(listener, instance.group(), quiesce, send, connections, fds)?;
            (socket, clients, queues) = (Some(private), Some(resumed.0), resumed.1);
        }
        let mut pending = Pending::new();
        for (client, awaits) in saved.pending {
            if let Some(at) = queues.iter().position(|(of, _)| *of == client) {
                let (_, mut replies) = queues.swap_remove(at);
                replies.signal_when_written(pending.written());
                pending.push(PendingRequest { client, replies, awaits });
            }
        }
        Ok(Control {
            socket,
            clients,
            instance,
            checks: FileChecks::new(),
            pending,
            history: saved.history,
            stop_requested: saved.stop_requested,
            asked_by: String::new(),
            kill_asked_by: None,
            hammered_by: None,
            interrupted: false,
            killed_by: KilledBy::Limit { after: Duration::ZERO, ready: true },
        })
    }

    /// The path of the socket.
    pub(super) fn path(&self) -> Option<&str> {
        self.socket.as_ref()?.path().to_str()
    }

    /// When the files have to be checked.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.checks.deadline()
    }

    pub(super) fn check_if_due(&mut self, threads: &Threads, now: Time) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.check_files(threads, now);
        }
    }

    /// A file was removed. Whoever removes its directory too has not come to that yet, and could not
    /// do it if the file were there again.
    pub(super) fn on_file_gone(&mut self, now: Time) {
        self.checks.restart();
        self.checks.schedule(now);
    }

    /// Makes the files again if they were removed.
    pub(super) fn check_files(&mut self, threads: &Threads, now: Time) {
        if self.instance.is_in_place() && self.socket.as_ref().is_none_or(PrivateSocket::is_in_place) {
            self.checks.missing = false;
            if !self.checks.watched {
                self.watch_files(threads);
            }
            if self.deadline().is_some() {
                self.checks.schedule(now);
            }
            return;
        }
        match self.repair(threads) {
            Ok(()) => {
                info!("the control socket or the lock of the name was removed, and is there again");
                self.checks.missing = false;
                self.checks.restart();
                self.watch_files(threads);
            }
            Err(error) if !self.checks.missing => {
                warn!(
                    "the control socket was removed, and ctl does not reach us until it can be made again: {error}"
                );
                (self.checks.missing, self.checks.watched) = (true, false);
                self.checks.restart();
            }
            Err(_) => {}
        }
        self.checks.schedule(now);
    }

    fn repair(&mut self, threads: &Threads) -> Result<(), Error> {
        self.instance.repair()?;
        let (Some(socket), Some(clients)) = (&mut self.socket, &self.clients) else { return Ok(()) };
        if socket.is_in_place() {
            return Ok(());
        }
        let failed = |error: io::Error| Error::cannot("listen on the control socket", reason(&error));
        let new = self.instance.open_at(socket.path())?;
        let (listener, group) = (new.listener().map_err(failed)?, self.instance.group());
        clients.listen(listener, group, threads.quiesce(), threads.to_loop()).map_err(failed)?;
        std::mem::replace(socket, new).shut_down();
        Ok(())
    }

    /// Has the kernel tell when a file is removed. Without that, a worker that starts or ends
    /// causes a check.
    fn watch_files(&mut self, threads: &Threads) {
        self.checks.watched = true;
        let socket = self.socket.as_ref().map(|socket| socket.path().clone());
        let files: Vec<PathBuf> = socket.into_iter().chain(self.instance.lock_path()).collect();
        if files.is_empty() {
            return;
        }
        if let Err(error) = removal::watch(files, threads.tell_control_gone()) {
            log::debug!("the control socket is not watched: {}", reason(&error));
        }
    }

    /// The next request comes from here: `ctl stop --now`, `ALRM`.
    pub(super) fn asked_by(&mut self, who: String) {
        self.asked_by = who;
    }

    /// The core gets a request, from a client or by a signal.
    pub(super) fn on_request(&mut self, request: Request, ctx: &Context) {
        self.stop_requested |= matches!(
            request,
            Request::Stop | Request::StopSignalled | Request::Interrupt { .. } | Request::Kill
        );
        match request {
            Request::Kill => self.kill_asked_by = Some(self.asked_by.clone()),
            Request::Hammer => self.hammered_by = Some(self.asked_by.clone()),
            Request::Interrupt { .. } if std::mem::replace(&mut self.interrupted, true) => {
                self.kill_asked_by = Some(format!("a second {}", self.asked_by));
            }
            _ => {}
        }
        self.pending.supersede(request, ctx);
    }

    /// How it came that a worker had to be killed, if one had to be.
    pub(super) fn killed_by(&self) -> &KilledBy {
        &self.killed_by
    }

    /// A step of the core is over: what it has killed, it has killed.
    pub(super) fn end_step(&mut self) {
        self.hammered_by = None;
    }

    /// `failed` if a failure of our own ends us.
    pub(super) fn on_report(&mut self, report: &Report, failed: bool, workers: &Workers, ctx: &Context) {
        if let Report::Killed(worker, after) = *report {
            let ready = |id| ctx.core.workers().any(|shown| shown.worker == id && shown.ack.is_some());
            self.killed_by = match self.kill_asked_by.as_ref().or(self.hammered_by.as_ref()) {
                Some(who) => KilledBy::Request(who.clone()),
                None if ctx.processes.is_signalled(worker) => KilledBy::LimitUnasked(after),
                None => KilledBy::Limit { after, ready: ready(worker) },
            };
        }
        self.history.on_report(report, workers, ctx);
        let own_stop = OwnStop { requested: self.stop_requested && !failed, upgrade: self.history.to };
        self.pending.on_report(report, own_stop, workers, ctx);
    }
}
