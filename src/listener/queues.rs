//! How many connections wait at the listeners, and by which ports and paths they come in.

use super::{Kind, Listener, Listeners};
use crate::sys::connections::ListenPorts;
use crate::sys::fd::{self, Queue};
use socket2::SockRef;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

impl Listener {
    /// The connections that wait at a TCP listener, over all its sockets. This is one system call
    /// for each socket. None for other kinds.
    pub fn queue(&self) -> Option<Queue> {
        if self.kind != Kind::Tcp {
            return None;
        }
        let queues = self.all().filter_map(|socket| fd::tcp_queue(socket.as_fd()).ok()?);
        queues.reduce(|sum, one| Queue {
            length: sum.length.saturating_add(one.length),
            backlog: sum.backlog.saturating_add(one.backlog),
        })
    }

    /// The inodes of a unix listener's sockets, by which
    /// [`unix_queues`](crate::sys::connections::unix_queues) finds the length of their queues.
    pub fn unix_inodes(&self) -> Vec<u64> {
        match self.kind {
            Kind::Unix | Kind::UnixSeqpacket => vec![self.inode(0, 0)],
            _ => Vec::new(),
        }
    }
}

impl Listeners {
    /// The ports, paths and names by which the workers' connections come in.
    pub fn listen_ports(&self) -> ListenPorts {
        let mut listen_ports = ListenPorts::default();
        for listener in self.iter().filter(|listener| listener.is_stream()) {
            listen_ports.listeners.extend(listener.inodes());
            match listener.inet {
                Some(SocketAddr::V4(address)) => drop(listen_ports.ipv4_ports.insert(address.port())),
                Some(SocketAddr::V6(address)) => drop(listen_ports.ipv6_ports.insert(address.port())),
                None => listen_ports.unix_names.extend(name_in_kernel(listener)),
            }
        }
        listen_ports
    }
}

/// The path or the abstract name as the kernel has it: a path may differ from what the user wrote.
fn name_in_kernel(listener: &Listener) -> Option<Vec<u8>> {
    let address = SockRef::from(&listener.fd(0, 0)).local_addr().ok()?;
    if let Some(name) = address.as_abstract_namespace() {
        return Some([b"\0", name].concat());
    }
    address.as_pathname().map(|path| path.as_os_str().as_bytes().to_vec())
}
