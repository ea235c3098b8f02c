//! The one thread that listens to every worker's ack channels.
//!
//! It only makes events.

use super::end::End;
use crate::core::event::{AckKind, WorkerId};
use crate::sys::tree::Family;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Uid;
use std::collections::HashMap;
use std::io;
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
    channels: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<u64, Channel>,
    /// Never given out twice: an event that is late finds nobody.
    next_key: u64,
}

#[derive(Debug)]
struct Channel {
    id: WorkerId,
    worker: Worker,
    end: End,
    /// Whether its ack has been passed on; a flood of others is not.
    said: bool,
    /// Messages of strangers.
    strangers: u64,
}

/// Channels of one worker; it can open more by connecting, and then waits.
const MOST_CHANNELS: usize = 16;

impl Watcher {
    /// Starts the thread; `tell` is called on it and may block: only the workers
    /// that speak are held up.
    ///
    /// # Errors
    /// When there is no epoll or no thread to be had.
    pub fn start(tell: impl Fn(WorkerId, Heard) + Send + 'static) -> io::Result<Watcher> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let shared = Arc::new(Shared { epoll, channels: Mutex::default() });
        let watcher = Watcher { shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("acks".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.listen(tell))?;
        Ok(watcher)
    }

    pub(super) fn watch(&self, id: WorkerId, worker: Worker, end: End) -> io::Result<()> {
        self.shared.watch(&mut self.shared.channels(), id, worker, end)
    }

    /// Closes the channels of a worker that has gone.
    pub fn forget(&self, id: WorkerId) {
        let mut table = self.shared.channels();
        let keys: Vec<u64> =
            table.by_key.iter().filter(|(_, channel)| channel.id == id).map(|(&key, _)| key).collect();
        for key in keys {
            self.shared.drop_channel(&mut table, key);
        }
    }
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, Table> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, table: &mut Table, id: WorkerId, worker: Worker, end: End) -> io::Result<()> {
        let key = table.next_key;
        table.next_key += 1;
        self.epoll.add(end.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        table.by_key.insert(key, Channel { id, worker, end, said: false, strangers: 0 });
        Ok(())
    }

    fn drop_channel(&self, table: &mut Table, key: u64) {
        if let Some(channel) = table.by_key.remove(&key) {
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
        let mut table = self.channels();
        let Some(channel) = table.by_key.get_mut(&key) else { return Vec::new() };
        let (id, worker) = (channel.id, channel.worker);
        let mut read = channel.end.read(worker, &mut channel.strangers);
        if let Some(kind) = read.ready.filter(|_| !std::mem::replace(&mut channel.said, true)) {
            read.heard.push(Heard::Ready(kind));
        }
        for end in read.new {
            let open = table.by_key.values().filter(|channel| channel.id == id).count();
            if open >= MOST_CHANNELS || self.watch(&mut table, id, worker, end).is_err() {
                log::debug!("a connection of pid {} is closed: it has too many", worker.family.worker);
            }
        }
        if read.ended {
            self.drop_channel(&mut table, key);
        }
        read.heard.into_iter().map(|heard| (id, heard)).collect()
    }
}
