//! The part of a status that comes from the kernel. The connection's thread reads it, because
//! reading /proc takes too long for the loop.

use super::protocol::Status;
use crate::sys::connections::{self, ListenPorts};
use crate::sys::listeners;
use crate::sys::tree::{self, Halt};
use nix::unistd::Pid;
use std::collections::BTreeSet;

/// What the loop hands over for it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// In the order of [`Status::listeners`]: the inodes of the unix sockets, by which the
    /// kernel reports the length of their queues. Empty for other sockets.
    pub unix: Vec<Vec<u64>>,
    /// The ports and paths whose connections are counted; None: the ports on which the workers
    /// themselves listen.
    pub listen_ports: Option<ListenPorts>,
}

/// Completes a status before it is sent.
pub fn complete(status: &mut Status, snapshot: &Snapshot) {
    for (listener, inodes) in status.listeners.iter_mut().zip(&snapshot.unix) {
        let queues = connections::unix_queues(inodes);
        listener.queue = queues.values().copied().reduce(u32::saturating_add).or(listener.queue);
    }
    let pids: Vec<Pid> = status.workers.iter().filter_map(|worker| worker.pid).map(Pid::from_raw).collect();
    for worker in &mut status.workers {
        let Some(pid) = worker.pid.map(Pid::from_raw) else { continue };
        let others = pids.iter().copied().filter(|&other| other != pid).collect();
        // One that drains may be halted by us for a moment.
        if worker.stopped.is_none()
            && worker.stage != "draining"
            && let Some(halted) = tree::halted(pid, &others, Halt::Signal)
        {
            worker.stopped = Some(format!("pid {halted} ({})", tree::name(halted)));
        }
        if worker.stopped.is_some() && ["starting", "ready"].contains(&worker.stage.as_str()) {
            worker.stage = "stopped".into();
        }
    }
    let worker_ports = || {
        let ports: BTreeSet<u16> = pids.iter().flat_map(|&pid| listeners::listen_ports(pid)).collect();
        ListenPorts { ipv4_ports: ports.clone(), ipv6_ports: ports, ..ListenPorts::default() }
    };
    let listen_ports = snapshot.listen_ports.clone().unwrap_or_else(worker_ports);
    let mut held = connections::connection_counts(&pids, &listen_ports).into_iter();
    for worker in status.workers.iter_mut().filter(|worker| worker.pid.is_some()) {
        worker.connections = held.next().flatten();
    }
}
