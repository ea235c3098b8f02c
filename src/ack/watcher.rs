//! The one thread that listens to every worker's ack channels.
//!
//! It only makes events. Who may speak for a worker is decided here: the worker
//! itself, a descendant, or a helper that has already gone (systemd-notify(1)
//! exits before its datagram is read); never another user.

use super::notify;
use crate::core::event::{AckKind, WorkerId};
use crate::sys::notify::NotifySocket;
use crate::sys::tree::Family;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose channels they are.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// The user it was started as.
    pub uid: Uid,
    /// Its generation, for people.
    pub generation: u32,
    /// Its process and descendants.
    pub family: Family,
}

/// What a worker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// That it is ready.
    Ready(AckKind),
    /// That it needs this much longer.
    Extend(Duration),
}

/// Adds and removes channels; the thread lives as long as the process.
#[derive(Debug, Clone)]
pub struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    channels: Mutex<HashMap<u64, Channel>>,
}

#[derive(Debug)]
struct Channel {
    id: WorkerId,
    worker: Worker,
    end: End,
    /// Whether its ack has been passed on; a flood of others is not.
    said: bool,
    /// Messages of strangers. The first is told of, a flood is not.
    strangers: u64,
}

#[derive(Debug)]
enum End {
    Notify(NotifySocket),
    Pipe(OwnedFd),
}

/// Datagrams of one worker that are read before the others get their turn.
const BURST: usize = 16;

impl Watcher {
    /// Starts the thread; `tell` is called on it and may block: only the workers
    /// that speak are held up.
    ///
    /// # Errors
    /// When there is no epoll or no thread to be had.
    pub fn start(tell: impl Fn(WorkerId, Heard) + Send + 'static) -> io::Result<Watcher> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let shared = Arc::new(Shared { epoll, channels: Mutex::new(HashMap::new()) });
        let watcher = Watcher { shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("acks".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.listen(tell))?;
        Ok(watcher)
    }

    pub(super) fn watch(
        &self,
        id: WorkerId,
        worker: Worker,
        notify: Option<NotifySocket>,
        pipe: Option<OwnedFd>,
    ) -> io::Result<()> {
        let ends = [notify.map(End::Notify), pipe.map(End::Pipe)];
        for (key, end) in keys(id).into_iter().zip(ends) {
            let Some(end) = end else { continue };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
            let mut channels = self.shared.channels();
            self.shared.epoll.add(end.as_fd(), event)?;
            channels.insert(key, Channel { id, worker, end, said: false, strangers: 0 });
        }
        Ok(())
    }

    /// Closes the channels of a worker that has gone.
    pub fn forget(&self, id: WorkerId) {
        for key in keys(id) {
            self.shared.drop_channel(key);
        }
    }
}

fn keys(id: WorkerId) -> [u64; 2] {
    [u64::from(id.0) * 2, u64::from(id.0) * 2 + 1]
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, HashMap<u64, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_channel(&self, key: u64) {
        if let Some(channel) = self.channels().remove(&key) {
            // A child between its fork and its exec may hold a copy, which would
            // keep the closed descriptor in the epoll set.
            let _ = self.epoll.delete(channel.end.as_fd());
        }
    }

    fn listen(&self, tell: impl Fn(WorkerId, Heard)) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return log::error!("cannot listen for acks any more: {error}"),
            };
            for event in events.iter().take(count) {
                for (id, heard) in self.read(event.data()) {
                    tell(id, heard);
                }
            }
        }
    }

    /// What a channel holds. The lock is not kept while it is told.
    fn read(&self, key: u64) -> Vec<(WorkerId, Heard)> {
        let mut heard = Vec::new();
        let mut channels = self.channels();
        let Some(channel) = channels.get_mut(&key) else { return Vec::new() };
        let open = channel.read(&mut heard);
        let id = channel.id;
        drop(channels);
        if !open {
            self.drop_channel(key);
        }
        heard.into_iter().map(|heard| (id, heard)).collect()
    }
}

impl Channel {
    /// Reads what is there; false once there will be no more.
    fn read(&mut self, heard: &mut Vec<Heard>) -> bool {
        let (ready, open) = match &self.end {
            End::Notify(socket) => (read_notify(socket, self.worker, &mut self.strangers, heard), true),
            End::Pipe(pipe) => read_pipe(pipe),
        };
        let kind = match self.end {
            End::Notify(_) => AckKind::Notify,
            End::Pipe(_) => AckKind::Fd,
        };
        if ready && !std::mem::replace(&mut self.said, true) {
            heard.push(Heard::Ready(kind));
        }
        open
    }
}

impl End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Notify(socket) => socket.as_fd(),
            End::Pipe(pipe) => pipe.as_fd(),
        }
    }
}

/// Whether one of the datagrams says READY=1. Descriptors that came along are
/// closed: that is the answer to BARRIER=1 (sd_notify_barrier(3)), and nothing
/// else is made of them.
fn read_notify(socket: &NotifySocket, worker: Worker, strangers: &mut u64, heard: &mut Vec<Heard>) -> bool {
    let mut ready = false;
    for _ in 0..BURST {
        let datagram = match socket.receive() {
            Ok(Some(datagram)) => datagram,
            Ok(None) => break,
            Err(error) => {
                log::debug!("cannot read the notify socket of pid {}: {error}", worker.family.worker);
                break;
            }
        };
        if !speaks_for(datagram.pid, datagram.uid, worker) {
            *strangers += 1;
            let level = if *strangers == 1 { log::Level::Warn } else { log::Level::Trace };
            log::log!(
                level,
                "generation {}: ack ignored, pid {} is not a process of worker pid {}",
                worker.generation,
                datagram.pid,
                worker.family.worker
            );
            continue;
        }
        let message = notify::parse(&datagram.text);
        ready |= message.ready;
        heard.extend(message.extend.map(Heard::Extend));
    }
    ready
}

/// A worker's own process speaks for it as whatever user it has become. One that
/// has gone is known by its user alone.
fn speaks_for(pid: i32, uid: u32, worker: Worker) -> bool {
    let (pid, uid) = (Pid::from_raw(pid), Uid::from_raw(uid));
    let known = uid == worker.uid || uid.is_root() || uid == Uid::effective();
    pid.as_raw() > 0 && (worker.family.has(pid) || known && kill(pid, None) == Err(Errno::ESRCH))
}

/// s6's protocol: a newline means ready, whatever stands before or after it.
fn read_pipe(pipe: &OwnedFd) -> (bool, bool) {
    let mut buffer = [0; 4096];
    match nix::unistd::read(pipe, &mut buffer) {
        Ok(0) => (false, false),
        Ok(count) => (buffer.iter().take(count).any(|&byte| byte == b'\n'), true),
        Err(Errno::EAGAIN | Errno::EINTR) => (false, true),
        Err(_) => (false, false),
    }
}
