//! The control socket and its clients at the beginning of an image: started, or
//! taken over from the image before with whoever waits.

use super::pending::{Awaits, Control, PendingRequest};
use crate::control::instance::{self, Instance};
use crate::control::protocol::LastUpgrade;
use crate::control::server::{self, ClientId, Message, SavedClients};
use crate::core::event::{Generation, Time, WorkerId};
use crate::error::{Error, reason};
use crate::listener::{PrivateSocket, SavedPrivate};
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use crossbeam_channel::{Sender, bounded};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;

/// The clients on their way through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    socket: Option<(SavedPrivate, SavedClients)>,
    instance: instance::Saved,
    waiters: Vec<(ClientId, Awaits)>,
    to: Option<Generation>,
    last: Option<LastUpgrade>,
    failed: u32,
    crashes: u32,
    #[serde(default)]
    last_at: Option<Time>,
    #[serde(default)]
    upgrades: u32,
    #[serde(default)]
    wanted: Option<u32>,
    #[serde(default)]
    silent: BTreeSet<WorkerId>,
    #[serde(default)]
    stop_asked: bool,
}

impl Control {
    /// Starts the threads, if there is a socket.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        socket: Option<PrivateSocket>,
        instance: Instance,
        rest: &Quiesce,
        tell: impl Fn(Message) -> bool + Clone + Send + 'static,
    ) -> Result<Control, Error> {
        let start = |socket: &PrivateSocket| server::start(socket.listener()?, instance.group(), rest, tell);
        let failed = |error: io::Error| Error::cannot("listen on the control socket", reason(&error));
        let clients = socket.as_ref().map(start).transpose().map_err(failed)?;
        Ok(Control {
            socket,
            clients,
            instance,
            waiters: Vec::new(),
            to: None,
            last: None,
            failed: 0,
            crashes: 0,
            written: bounded(0),
            last_at: None,
            upgrades: 0,
            wanted: None,
            silent: BTreeSet::new(),
            stop_asked: false,
        })
    }

    /// Lists the descriptors and writes down the rest. The threads have to rest.
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
            waiters: self.waiters.iter().map(|waiter| (waiter.client, waiter.waits.clone())).collect(),
            to: self.to,
            last: self.last.clone(),
            failed: self.failed,
            crashes: self.crashes,
            last_at: self.last_at,
            upgrades: self.upgrades,
            wanted: self.wanted,
            silent: self.silent.clone(),
            stop_asked: self.stop_asked,
        })
    }

    /// Goes on with the clients that were there.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn restore(
        saved: Saved,
        fds: &mut InheritedFds,
        rest: &Quiesce,
        tell: impl Fn(Message) -> bool + Clone + Send + 'static,
    ) -> io::Result<Control> {
        let instance = Instance::restore(saved.instance, fds);
        let (mut socket, mut clients, mut ways) = (None, None, Vec::new());
        if let Some((private, connections)) = saved.socket {
            let private = PrivateSocket::restore(private, fds);
            let listener = private.listener()?;
            let resumed = server::resume(listener, instance.group(), rest, tell, connections, fds)?;
            (socket, clients, ways) = (Some(private), Some(resumed.0), resumed.1);
        }
        let (mut waiters, written) = (Vec::new(), bounded(0));
        for (client, waits) in saved.waiters {
            if let Some(at) = ways.iter().position(|(way, _)| *way == client) {
                let (_, mut answers) = ways.swap_remove(at);
                answers.tell_written(Sender::clone(&written.0));
                waiters.push(PendingRequest { client, answers, waits });
            }
        }
        Ok(Control {
            socket,
            clients,
            instance,
            waiters,
            to: saved.to,
            last: saved.last,
            last_at: saved.last_at,
            failed: saved.failed,
            crashes: saved.crashes,
            upgrades: saved.upgrades,
            wanted: saved.wanted,
            silent: saved.silent,
            stop_asked: saved.stop_asked,
            written,
        })
    }
}
