//! Listeners that go through an execve(2): the sockets stay open, and so keep their queues, the
//! inode of a path and the position in a `reuseport` group.

use super::apart::Apart;
use super::baseline::{Baseline, Flag};
use super::lifetime::FirstGeneration;
use super::options::Options;
use super::path::{BoundPath, PathBind, WorkerSocket};
use super::{Kind, Listener, Listeners};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds, path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// All listeners, with their baselines. What was logged already may be logged once more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    list: Vec<SavedListener>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedListener {
    path: Option<SavedPath>,
    sockets: Vec<Fd>,
    name: String,
    address: String,
    written: String,
    origin: String,
    kind: String,
    backlog: u32,
    backlog_known: bool,
    nonblock: Option<bool>,
    path_bind: Option<PathBind>,
    inet: Option<SocketAddr>,
    reuseport: bool,
    #[serde(default)]
    inet_options: Option<Options>,
    #[serde(default)]
    apart: Vec<SavedApart>,
    #[serde(default)]
    order: Vec<u64>,
    v6only: bool,
    flags: Vec<Flag>,
    since: FirstGeneration,
    until: Option<FirstGeneration>,
}

/// The handshakes that were noted are left out: their clients have had their time.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedApart {
    fd: Fd,
    generation: u32,
    slot: u32,
    weight: Option<u16>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedPath {
    #[serde(with = "path")]
    path: PathBuf,
    directory: Fd,
    name: OsString,
    inode: (u64, u64),
    link: Option<OsString>,
    #[serde(default)]
    worker: Option<WorkerSocket>,
}

impl SavedPath {
    pub(super) fn new(path: &BoundPath, transfer: &mut FdTransfer) -> io::Result<SavedPath> {
        Ok(SavedPath {
            path: path.path.clone(),
            directory: transfer.add(&path.directory)?,
            name: path.name.clone(),
            inode: path.inode,
            link: path.link.clone(),
            worker: path.worker.clone(),
        })
    }

    pub(super) fn restore(self, fds: &mut InheritedFds) -> BoundPath {
        BoundPath {
            path: self.path,
            directory: fds.take(self.directory).into(),
            name: self.name,
            inode: self.inode,
            link: self.link,
            worker: self.worker,
        }
    }
}

impl Saved {
    /// Lists the descriptors and saves everything else.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(listeners: &Listeners, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let list = listeners.iter().map(|listener| save(listener, transfer)).collect::<io::Result<_>>()?;
        Ok(Saved { list })
    }

    /// Checks that this version knows everything in it.
    ///
    /// # Errors
    /// What it does not know.
    pub fn check(&self) -> Result<(), String> {
        let unknown = self.list.iter().find(|saved| kind(&saved.kind).is_none());
        match unknown {
            Some(saved) => Err(format!("a listener is of the kind {}", saved.kind)),
            None => Ok(()),
        }
    }

    /// Each unix path that we have bound.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.list.iter().filter_map(|saved| Some(saved.path.as_ref()?.path.clone())).collect()
    }

    /// The listeners as they were.
    pub fn restore(self, fds: &mut InheritedFds) -> Listeners {
        Listeners { list: self.list.into_iter().map(|saved| restore(saved, fds)).collect() }
    }
}

fn save(listener: &Listener, transfer: &mut FdTransfer) -> io::Result<SavedListener> {
    let path = listener.path.as_ref().map(|path| SavedPath::new(path, transfer)).transpose()?;
    Ok(SavedListener {
        path,
        sockets: listener.sockets.iter().map(|socket| transfer.add(socket)).collect::<io::Result<_>>()?,
        name: listener.name.clone(),
        address: listener.address.clone(),
        written: listener.written.clone(),
        origin: listener.origin.clone(),
        kind: listener.kind.as_str().into(),
        backlog: listener.backlog,
        backlog_known: listener.backlog_known,
        nonblock: listener.nonblock,
        path_bind: listener.path_bind.clone(),
        inet: listener.inet,
        reuseport: listener.reuseport,
        inet_options: listener.inet_options.clone(),
        apart: listener
            .apart
            .iter()
            .map(|apart| {
                let Apart { fd, generation, slot, weight, .. } = apart;
                Ok(SavedApart {
                    fd: transfer.add(fd)?,
                    generation: *generation,
                    slot: *slot,
                    weight: *weight,
                })
            })
            .collect::<io::Result<_>>()?,
        order: listener.order.clone(),
        v6only: listener.v6only,
        flags: listener.baseline.flags.clone(),
        since: listener.since,
        until: listener.until,
    })
}

fn restore(saved: SavedListener, fds: &mut InheritedFds) -> Listener {
    let sockets: Vec<OwnedFd> = saved.sockets.into_iter().map(|fd| fds.take(fd)).collect();
    let path = saved.path.map(|path| path.restore(fds));
    let apart = saved.apart.into_iter().map(|SavedApart { fd, generation, slot, weight }| Apart {
        fd: fds.take(fd).into(),
        generation,
        slot,
        weight,
        handshakes: BTreeSet::new(),
    });
    let apart = apart.collect();
    Listener {
        path,
        baseline: Baseline::restore(&sockets, saved.flags),
        sockets,
        name: saved.name,
        address: saved.address,
        written: saved.written,
        origin: saved.origin,
        // `check` has refused unknown kinds before anything was taken over.
        kind: kind(&saved.kind).unwrap_or(Kind::Tcp),
        backlog: saved.backlog,
        backlog_known: saved.backlog_known,
        nonblock: saved.nonblock,
        path_bind: saved.path_bind,
        inet: saved.inet,
        reuseport: saved.reuseport,
        inet_options: saved.inet_options,
        apart,
        order: saved.order,
        v6only: saved.v6only,
        since: saved.since,
        until: saved.until,
    }
}

fn kind(name: &str) -> Option<Kind> {
    [Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram, Kind::UnixSeqpacket]
        .into_iter()
        .find(|kind| kind.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::listener::ListenFds;

    #[test]
    fn listeners_are_restored_and_the_path_stays() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("a.sock");
        let binds =
            ["127.0.0.1:0,backlog=7", "udp=udp://127.0.0.1:0", &format!("unix:{},nonblock", at.display())]
                .map(|bind| bind.parse().unwrap());
        let listeners =
            Listeners::open(ListenFds::default(), &binds, directory.path(), 1, &[Dialect::ListenFds])
                .unwrap();
        let mut transfer = FdTransfer::default();
        let saved = Saved::new(&listeners, &mut transfer).unwrap();
        assert_eq!(transfer.listed().len(), 4, "three sockets and a directory");
        let before = format!("{listeners:?}");
        // As with execve(2), nothing is dropped.
        std::mem::forget(listeners);
        let text = serde_json::to_string(&saved).unwrap();
        let saved: Saved = serde_json::from_str(&text).unwrap();
        saved.check().unwrap();
        assert_eq!(saved.paths(), std::slice::from_ref(&at));
        let mut fds = InheritedFds::new(transfer.listed()).unwrap();
        let listeners = saved.restore(&mut fds);
        assert_eq!(format!("{listeners:?}"), before);
        assert!(at.exists());
        drop(listeners);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "they are ours to remove");
    }
}
