//! The control socket: its clients, their pending requests, and the history that they can ask
//! for. It is started, or restored after an execve(2).

use super::context::Context;
use super::history::History;
use super::pending::{Awaits, Pending, PendingRequest};
use super::report::KilledBy;
use super::verdicts::OwnStop;
use super::workers::Workers;
use crate::control::instance::{self, Instance};
use crate::control::server::{self, ClientId, Clients, Message, SavedClients};
use crate::core::event::{Report, Request};
use crate::error::{Error, reason};
use crate::listener::{PrivateSocket, SavedPrivate};
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;

/// The fields are dropped in this order: the socket goes before the lock of the name.
#[derive(Debug)]
pub(super) struct Control {
    socket: Option<PrivateSocket>,
    clients: Option<Clients>,
    /// Holds the lock of the name.
    instance: Instance,
    pub(super) pending: Pending,
    pub(super) history: History,
    /// A client or a signal has asked us to stop.
    stop_requested: bool,
    /// One has asked us to kill workers.
    kill_requested: bool,
    /// An INT has asked us to stop; another one kills.
    interrupted: bool,
    /// How long after it was asked to stop the last worker was killed.
    killed_after: Duration,
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
            pending: Pending::new(),
            history: History::default(),
            stop_requested: false,
            kill_requested: false,
            interrupted: false,
            killed_after: Duration::ZERO,
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
            pending,
            history: saved.history,
            stop_requested: saved.stop_requested,
            kill_requested: false,
            interrupted: false,
            killed_after: Duration::ZERO,
        })
    }

    /// The path of the socket.
    pub(super) fn path(&self) -> Option<&str> {
        self.socket.as_ref()?.path().to_str()
    }

    /// The core gets a request, from a client or by a signal.
    pub(super) fn on_request(&mut self, request: Request, ctx: &Context) {
        self.stop_requested |= matches!(
            request,
            Request::Stop | Request::StopSignalled | Request::Interrupt { .. } | Request::Kill
        );
        self.kill_requested |= match request {
            Request::Kill | Request::Hammer => true,
            Request::Interrupt { .. } => std::mem::replace(&mut self.interrupted, true),
            _ => false,
        };
        self.pending.supersede(request, ctx);
    }

    /// How it came that a worker had to be killed, if one had to be.
    pub(super) fn killed_by(&self) -> KilledBy {
        if self.kill_requested { KilledBy::Request } else { KilledBy::Limit(self.killed_after) }
    }

    /// `failed` if a failure of our own ends us.
    pub(super) fn on_report(&mut self, report: &Report, failed: bool, workers: &Workers, ctx: &Context) {
        if let Report::Killed(_, after) = *report {
            self.killed_after = after;
        }
        self.history.on_report(report, workers, ctx);
        let own_stop = OwnStop { requested: self.stop_requested && !failed, upgrade: self.history.to };
        self.pending.on_report(report, own_stop, workers, ctx);
    }
}
