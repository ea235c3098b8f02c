//! The control socket: its clients, their pending requests, and the history that they can ask
//! for. It is started, or restored after an execve(2).

use super::context::Context;
use super::history::History;
use super::pending::{Awaits, Pending, PendingRequest};
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
        let history = History::default();
        Ok(Control { socket, clients, instance, pending: Pending::new(), history, stop_requested: false })
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
        let (history, stop_requested) = (saved.history, saved.stop_requested);
        Ok(Control { socket, clients, instance, pending, history, stop_requested })
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
        self.pending.supersede(request, ctx);
    }

    /// `failed` if a failure of our own ends us.
    pub(super) fn on_report(&mut self, report: &Report, failed: bool, workers: &Workers, ctx: &Context) {
        self.history.on_report(report, workers, ctx);
        let own_stop = OwnStop { requested: self.stop_requested && !failed, upgrade: self.history.to };
        self.pending.on_report(report, own_stop, workers, ctx);
    }
}
