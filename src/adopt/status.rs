//! What status and messages show of the adopted sockets.

use super::key::{Key, Transport};
use super::{Adopt, Adopted};
use crate::core::event::WorkerId;
use crate::sys::connections::ListenPorts;
use crate::sys::{held, proc_tcp, steering};
use nix::unistd::Pid;
use socket2::SockRef;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// An address, as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The address.
    pub address: String,
    /// Whether all generations share its sockets.
    pub shared: bool,
    /// The workers that new connections go to; none if the sockets are shared.
    pub serving: Vec<WorkerId>,
    /// The number of those sockets.
    pub sockets: usize,
    /// The number of sockets of workers that drain, start or have ended.
    pub others: usize,
    /// The number of connections that the workers that serve have not accepted yet.
    pub queue: Option<u32>,
}

impl Adopt {
    /// Why the worker does not listen at every address that it has to, for people.
    pub fn unmet(&self, id: WorkerId) -> Option<String> {
        self.unmet_besides(id, |_| Vec::new())
    }

    /// The same, with listeners that it has made by calls that we do not see.
    pub fn unmet_with_unseen(&self, id: WorkerId) -> Option<String> {
        self.unmet_besides(id, unseen_listeners)
    }

    fn unmet_besides(&self, id: WorkerId, unseen: impl Fn(Pid) -> Vec<String>) -> Option<String> {
        let worker = self.workers.get(&id)?;
        let wanted = self.wanted_of(id);
        let missing = list(wanted.difference(&worker.listens));
        let seen = worker.listens.iter().map(ToString::to_string);
        let left_out = worker.others.iter().map(|key| format!("{key} (left out by --port)"));
        let unix = worker.unix.iter().map(|path| format!("the unix socket {}", path.display()));
        let elsewhere = worker.elsewhere.iter().cloned().chain(unix);
        let mut listens: Vec<String> = seen.chain(left_out).chain(elsewhere).collect();
        if listens.is_empty() {
            listens = unseen(worker.root);
        }
        let listens = listens.join(", ");
        Some(match (listens.is_empty(), missing.is_empty()) {
            (true, _) if !worker.warnings.is_empty() => worker.warnings.last()?.clone(),
            (true, true) => "it was never seen to listen (--ack-timeout if it takes longer)".into(),
            (true, false) => format!("it was never seen to listen, and is to listen on {missing}"),
            (false, false) => format!(
                "it is to listen on {missing}, and listens on {listens}{}",
                self.probing_hint(worker, id)
            ),
            (false, true) if worker.listens.is_empty() => {
                format!("it listens on {listens} alone, which is not adopted")
            }
            (false, true) => {
                let not_waited = self.not_waited_at(id);
                if not_waited.is_empty() {
                    return None;
                }
                format!(
                    "it was not seen to wait for connections at {}, as the worker that serves was (it may still load, or hang; --ack listen lets it count as ready)",
                    list(not_waited.iter())
                )
            }
        })
    }

    /// What a server does whose port is taken, if it has none of its addresses.
    fn probing_hint(&self, worker: &Adopted, id: WorkerId) -> &'static str {
        let serves = self.serving.iter().any(|&serving| serving != id);
        match serves && self.wanted.is_disjoint(&worker.listens) && !worker.elsewhere.is_empty() {
            true => {
                " (a server that connects to its port to see whether it is free finds the one that serves, and takes another: it has to be told not to, or needs its socket from -b)"
            }
            false => "",
        }
    }

    /// Who has an address that the worker has asked for and not got, for people.
    pub fn taken_address(&self, id: WorkerId) -> Option<String> {
        let worker = self.workers.get(&id)?;
        let missing = worker.bound.difference(&worker.listens);
        let taken = missing.filter(|key| key.transport == Transport::Stream);
        let mut taken = taken.filter_map(|key| Some((key, self.occupant(key)?)));
        taken.next().map(|(key, inode)| {
            format!(
                "it cannot listen on {key}, where somebody else does (socket {inode}; ss -ltnpe says who)"
            )
        })
    }

    /// Every address, for people.
    pub fn addresses(&self) -> Vec<Shown> {
        let steered = self.groups.iter().map(|(key, group)| {
            let own = || group.owned().filter(|(owner, ..)| group.serving().contains(owner));
            let sockets = own().count();
            let queue =
                own().filter_map(|(_, _, listener)| steering::queue_length(listener.copy()?).ok()).sum();
            Shown {
                address: key.to_string(),
                shared: false,
                serving: own().map(|(owner, ..)| owner).collect::<BTreeSet<_>>().into_iter().collect(),
                sockets,
                others: group.len() - sockets,
                queue: Some(queue),
            }
        });
        let shared = self.shared.counts().map(|(key, sockets, queue)| Shown {
            address: key.to_string(),
            shared: true,
            serving: Vec::new(),
            sockets,
            others: 0,
            queue,
        });
        steered.chain(shared).collect()
    }

    /// The listeners and ports at which connections come in.
    pub fn listen_ports(&self) -> ListenPorts {
        let mut listen_ports = ListenPorts::default();
        for (key, group) in &self.groups {
            listen_ports.listeners.extend(group.inodes());
            key.address.inet().into_iter().for_each(|address| listen_ports.add_tcp(address));
        }
        for (key, inode) in self.shared.all() {
            listen_ports.listeners.insert(inode);
            if key.transport == Transport::Stream {
                key.address.inet().into_iter().for_each(|address| listen_ports.add_tcp(address));
            }
        }
        let unix = self.shared.unix().filter_map(|(_, socket)| unix_name(socket.fd.as_fd()));
        listen_ports.unix_names.extend(unix);
        listen_ports
    }

    /// How sockets are adopted, as `--adopt` has it.
    pub fn mode(&self) -> &'static str {
        if self.config.share { "share" } else { "steer" }
    }

    /// The last warning about the worker.
    pub fn last_warning(&self, id: WorkerId) -> Option<&str> {
        self.workers.get(&id)?.warnings.last().map(String::as_str)
    }
}

/// The name of a unix socket, as getsockname(2) has it: connections that it accepts have the same.
pub(super) fn unix_name(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let address = SockRef::from(&socket).local_addr().ok()?;
    let path = || address.as_pathname().map(|path| path.as_os_str().as_bytes().to_vec());
    let name = address.as_abstract_namespace().map(|name| [b"\0", name].concat());
    name.or_else(path)
}

fn list<'a>(keys: impl Iterator<Item = &'a Key>) -> String {
    keys.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The TCP addresses at which processes of the worker listen by calls that we do not see.
fn unseen_listeners(root: Pid) -> Vec<String> {
    let held = held::tree_sockets(root, &BTreeSet::new()).unwrap_or_default();
    let mut found = Vec::new();
    let _ = proc_tcp::for_each(proc_tcp::LISTEN, |row| {
        if held.contains(&row.inode) {
            found.push(format!("{} (by a call that is not seen: io_uring, or a 32-bit program)", row.local));
        }
    });
    found
}
