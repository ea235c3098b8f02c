//! The threads of the control socket: one accepts, one serves each
//! [connection](super::connection).
//!
//! Contract: a client that may not connect gets a reply that says so before anything of it is
//! read. These have a limit: the number of connections, the length of a line, the time that
//! an incomplete line may take, and what waits for a client that does not read. A client can
//! delay only its own thread.

use super::admission::MAX_CONNECTIONS;
use super::connection::Connection;
use super::connection_table::{SavedClient, Table};
pub use super::message::{ClientId, ClientRequest, Message};
use super::protocol::{self, Outcome, Reply};
use super::reply_queue::ReplyQueue;
use crate::error::reason;
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use crate::sys::peer::{self, Peer};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// How long the thread waits after accept(2) has failed, for instance without a descriptor.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// The stack size of a thread.
const STACK_SIZE: usize = 128 * 1024;

/// The connections, which can be saved for an execve(2).
#[derive(Debug, Clone)]
pub struct Clients {
    table: Table,
}

/// All connections, which go through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedClients {
    last: u64,
    clients: Vec<SavedClient>,
}

impl Clients {
    /// Lists the descriptors and saves everything else. The threads must be quiesced.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<SavedClients> {
        let (last, clients) = self.table.save(transfer)?;
        Ok(SavedClients { last, clients })
    }

    /// Accepts connections from another listener as well. The thread of one that was shut down
    /// (shutdown(2)) ends.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn listen<T>(
        &self,
        listener: UnixListener,
        group: Option<Gid>,
        quiesce: &Quiesce,
        send_to_loop: T,
    ) -> io::Result<()>
    where
        T: Fn(Message) -> bool + Clone + Send + 'static,
    {
        let (table, quiesce) = (self.table.clone(), quiesce.clone());
        let spare = File::open("/dev/null").ok();
        let accept = move || accept(&listener, group, spare, &table, &quiesce, &send_to_loop);
        std::thread::Builder::new().name("control".into()).stack_size(STACK_SIZE).spawn(accept).map(drop)
    }
}

/// Starts the threads. Root, our own user and the members of `group` may connect.
/// `send_to_loop` returns false once the loop has ended.
///
/// # Errors
/// If no thread can be started.
pub fn start<T>(
    listener: UnixListener,
    group: Option<Gid>,
    quiesce: &Quiesce,
    send_to_loop: T,
) -> io::Result<Clients>
where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    let clients = Clients { table: Table::default() };
    clients.listen(listener, group, quiesce, send_to_loop)?;
    Ok(clients)
}

/// Starts the threads after an execve(2), and serves the connections that there were before.
/// Returns the reply queues of those that wait for an answer.
///
/// # Errors
/// If no thread can be started.
pub fn resume<T>(
    listener: UnixListener,
    group: Option<Gid>,
    quiesce: &Quiesce,
    send_to_loop: T,
    saved: SavedClients,
    fds: &mut InheritedFds,
) -> io::Result<(Clients, Vec<(ClientId, ReplyQueue)>)>
where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    let clients = start(listener, group, quiesce, send_to_loop.clone())?;
    let (connections, queues) = clients.table.restore((saved.last, saved.clients), fds);
    for client in connections {
        serve(Connection { client, send_to_loop: send_to_loop.clone(), quiesce: quiesce.clone() });
    }
    Ok((clients, queues))
}

fn serve<T: Fn(Message) -> bool + Send + 'static>(connection: Connection<T>) {
    let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK_SIZE);
    if let Err(error) = thread.spawn(move || connection.serve()) {
        log::info!("control: a client is not served: {}", reason(&error));
    }
}

fn accept<T>(
    listener: &UnixListener,
    group: Option<Gid>,
    mut spare: Option<File>,
    table: &Table,
    quiesce: &Quiesce,
    send_to_loop: &T,
) where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    loop {
        let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        let _active = quiesce.activity();
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => return,
            Err(error) => {
                // The spare descriptor is used to accept and close one connection, so that its
                // client does not wait.
                drop(spare.take());
                if out_of_descriptors(&error) {
                    drop(listener.accept());
                }
                std::thread::sleep(RETRY_DELAY);
                spare = File::open("/dev/null").ok();
                continue;
            }
        };
        let peer = match authorize(&stream, group) {
            Ok(peer) => peer,
            Err(why) => {
                log::debug!("control: {why}");
                reject(&stream, &Reply::because(Outcome::Denied, why));
                continue;
            }
        };
        match table.admit(stream, peer) {
            Ok(client) => {
                serve(Connection { client, send_to_loop: send_to_loop.clone(), quiesce: quiesce.clone() })
            }
            Err(stream) => reject(&stream, &Reply::failed(format!("{MAX_CONNECTIONS} clients wait already"))),
        }
    }
}

/// Sends the reply and closes the connection. This does not block: nothing was sent before, so
/// the socket's buffer has room for a line.
fn reject(mut stream: &UnixStream, reply: &Reply) {
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&protocol::line(reply));
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Checks that the peer is root, our own user or a member of the group.
fn authorize(stream: &UnixStream, group: Option<Gid>) -> Result<Peer, String> {
    let denied = |who: String| format!("{who} may not connect");
    let peer =
        peer::peer(stream).map_err(|errno| denied(format!("who cannot be told from others ({errno})")))?;
    let member = group.is_some_and(|group| peer.groups.contains(&group));
    match peer.uid.is_root() || peer.uid == Uid::effective() || member {
        true => Ok(peer),
        false => Err(denied(peer.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client sends must not overflow the stack of its thread.
    #[test]
    fn every_line_is_read_within_half_the_stack() {
        let read = || {
            for line in ["[", "{\"a\":"].map(|open| open.repeat(9000)) {
                let line = format!("{{\"version\":1,\"verb\":\"status\",\"x\":{line}");
                assert!(protocol::Request::read(line.as_bytes()).unwrap_err().contains("not understood"));
            }
            let unknown = protocol::Request::read(br#"{"version":1,"verb":"dance"}"#);
            assert!(unknown.unwrap_err().contains("(known: status, upgrade, "));
        };
        std::thread::Builder::new().stack_size(STACK_SIZE / 2).spawn(read).unwrap().join().unwrap();
    }
}
