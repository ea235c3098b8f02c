//! How much waits at the listeners, and what connections come in through.

use super::{Kind, Listener, Listeners};
use crate::sys::connections::{self, Doors};
use crate::sys::fd::{self, Queue};
use socket2::SockRef;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

impl Listener {
    /// The connections that wait to be accepted, over all its sockets; None where
    /// there are none (datagrams) or the kernel does not tell. One question to the
    /// kernel for each socket.
    pub fn queue(&self) -> Option<Queue> {
        let count = self.sockets.len() as u32;
        match self.kind {
            Kind::Tcp => {
                let queues = self.sockets.iter().filter_map(|socket| fd::tcp_queue(socket.as_fd()).ok()?);
                let sum = |sum: Queue, one: Queue| Queue {
                    length: sum.length.saturating_add(one.length),
                    backlog: sum.backlog.saturating_add(one.backlog),
                };
                queues.reduce(sum)
            }
            Kind::Unix | Kind::UnixSeqpacket => {
                let inodes: Vec<u64> = (0..count).map(|slot| self.inode(slot)).collect();
                let lengths = connections::unix_queues(&inodes);
                let length = lengths.values().copied().reduce(u32::saturating_add)?;
                Some(Queue { length, backlog: self.backlog })
            }
            Kind::Udp | Kind::UnixDatagram => None,
        }
    }
}

impl Listeners {
    /// What the workers' connections come in through.
    pub fn doors(&self) -> Doors {
        let mut doors = Doors::default();
        for listener in self.iter().filter(|listener| listener.is_stream()) {
            doors.ports.extend(listener.inet.map(|address| address.port()));
            if listener.inet.is_none() {
                doors.names.extend(name(listener));
            }
        }
        doors
    }
}

/// As the kernel has it, which for a path is not always as the user wrote it.
fn name(listener: &Listener) -> Option<Vec<u8>> {
    let address = SockRef::from(&listener.fd(0)).local_addr().ok()?;
    if let Some(name) = address.as_abstract_namespace() {
        return Some([b"\0", name].concat());
    }
    address.as_pathname().map(|path| path.as_os_str().as_bytes().to_vec())
}
