//! The threads of the control socket: one accepts, one serves each
//! [connection](super::connection).
//!
//! Contract: who may not connect is told so before anything of theirs is read.
//! There is an end to the number of connections, the length of a line, the time
//! that half a line may take, and what waits for a client that does not read. What
//! a client does or leaves undone holds up its own thread and nobody else's.

use super::admission::MOST;
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

/// After the system had no descriptor for a connection, this long passes.
const BREATH: Duration = Duration::from_millis(100);
/// The stack of a thread.
const STACK: usize = 128 * 1024;

/// The connections, for an execve(2).
#[derive(Debug, Clone)]
pub struct Clients {
    table: Table,
}

/// All of them on their way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedClients {
    last: u64,
    clients: Vec<SavedClient>,
}

impl Clients {
    /// Lists the descriptors and writes down the rest. The threads have to rest.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<SavedClients> {
        let (last, clients) = self.table.save(transfer)?;
        Ok(SavedClients { last, clients })
    }
}

/// Starts the threads. `group` may connect beside root and ourselves; `tell` returns
/// false once nobody listens any more.
///
/// # Errors
/// When no thread can be had.
pub fn start<T>(listener: UnixListener, group: Option<Gid>, quiesce: &Quiesce, tell: T) -> io::Result<Clients>
where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    let table = Table::default();
    let clients = Clients { table: table.clone() };
    let (spare, quiesce) = (File::open("/dev/null").ok(), quiesce.clone());
    let accept = move || accept(&listener, group, spare, &table, &quiesce, &tell);
    std::thread::Builder::new().name("control".into()).stack_size(STACK).spawn(accept)?;
    Ok(clients)
}

/// The same with the connections that there were before an execve(2), and the way
/// back to those that wait for something.
///
/// # Errors
/// When no thread can be had.
pub fn resume<T>(
    listener: UnixListener,
    group: Option<Gid>,
    quiesce: &Quiesce,
    tell: T,
    saved: SavedClients,
    fds: &mut InheritedFds,
) -> io::Result<(Clients, Vec<(ClientId, ReplyQueue)>)>
where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    let clients = start(listener, group, quiesce, tell.clone())?;
    let (connections, ways) = clients.table.restore((saved.last, saved.clients), fds);
    for client in connections {
        serve(Connection { client, tell: tell.clone(), quiesce: quiesce.clone() });
    }
    Ok((clients, ways))
}

fn serve<T: Fn(Message) -> bool + Send + 'static>(connection: Connection<T>) {
    let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK);
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
    tell: &T,
) where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    loop {
        let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        let _active = quiesce.activity();
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // With the spare one, whoever waits learns that there is no room.
                drop(spare.take());
                if out_of_descriptors(&error) {
                    drop(listener.accept());
                }
                std::thread::sleep(BREATH);
                spare = File::open("/dev/null").ok();
                continue;
            }
        };
        let peer = match admit(&stream, group) {
            Ok(peer) => peer,
            Err(why) => {
                log::debug!("control: {why}");
                send_away(&stream, &Reply::because(Outcome::Denied, why));
                continue;
            }
        };
        match table.enter(stream, peer) {
            Ok(client) => serve(Connection { client, tell: tell.clone(), quiesce: quiesce.clone() }),
            Err(stream) => send_away(&stream, &Reply::failed(format!("{MOST} clients wait already"))),
        }
    }
}

/// Nothing has been sent to it: there is room for a line.
fn send_away(mut stream: &UnixStream, reply: &Reply) {
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&protocol::line(reply));
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Root, ourselves, and the group if there is one.
fn admit(stream: &UnixStream, group: Option<Gid>) -> Result<Peer, String> {
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
        std::thread::Builder::new().stack_size(STACK / 2).spawn(read).unwrap().join().unwrap();
    }
}
