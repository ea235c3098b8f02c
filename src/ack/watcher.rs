//! The thread that reads the ack channels of all workers.
//!
//! It turns messages into events for the loop, and keeps the descriptors that workers store. The
//! statuses and watchdog pings of a worker make one event until the loop has read them
//! ([`Watcher::take_status`]), so that a flood of them does not fill the loop's queue.

use super::end::{End, Read, StoreRequest};
use super::message::{Worker, WorkerMessage, WorkerStatus};
use super::notify::{Change, shown};
use super::store::{self, Kept, MAX_STORED, Store, Verdict};
use crate::core::event::{Generation, Slot, WorkerId};
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Keys are not reused, so that a late event of a closed channel finds none.
    next_key: u64,
    /// An entry means that [`WorkerMessage::NewStatus`] has been sent.
    updates: BTreeMap<WorkerId, WorkerStatus>,
    store: Store,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: WorkerId,
    pub(super) worker: Worker,
    pub(super) end: End,
    /// Whether its ack has been passed on; further acks are not.
    pub(super) acked: bool,
    /// Whether a warning was logged that something was not stored.
    pub(super) warned: bool,
    /// The number of messages of other processes.
    pub(super) strangers: u64,
}

/// The most channels of one worker, which opens more by connecting to einhorn's socket.
const MOST_CHANNELS: usize = 16;
/// The most messages that are read from the channels of a worker that has ended.
const MOST_LAST_MESSAGES: usize = 64;

impl Watcher {
    /// Starts the thread. It calls `send`, which may block: that delays only messages of workers.
    /// It pauses when `quiesce` asks for it.
    ///
    /// # Errors
    /// When an epoll set or the thread cannot be created.
    pub fn start(
        quiesce: Quiesce,
        send: impl Fn(WorkerId, WorkerMessage) + Send + 'static,
    ) -> io::Result<Watcher> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let shared = Arc::new(Shared { epoll, channels: Mutex::default() });
        let watcher = Watcher { shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("acks".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.run(&quiesce, send))?;
        Ok(watcher)
    }

    pub(super) fn watch(&self, id: WorkerId, worker: Worker, end: End) -> io::Result<()> {
        let channel = Channel { id, worker, end, acked: false, warned: false, strangers: 0 };
        self.shared.watch(&mut self.shared.channels(), channel)
    }

    /// Restores the store after an execve(2).
    pub(super) fn resume_store(&self, saved: store::Saved, fds: &mut InheritedFds) {
        let mut table = self.shared.channels();
        let Table { store, next_key, .. } = &mut *table;
        *store = Store::restore(saved, fds, |fd| self.shared.watch_end(next_key, fd));
    }

    /// Lists the stored descriptors and copies the other values, for an execve(2).
    pub(super) fn save_store(&self, transfer: &mut FdTransfer) -> io::Result<store::Saved> {
        self.shared.channels().store.save(transfer)
    }

    /// Watches a channel that was watched before an execve(2).
    pub(super) fn resume(&self, channel: Channel) {
        let worker = channel.worker;
        if let Err(error) = self.shared.watch(&mut self.shared.channels(), channel) {
            log::warn!("the acks of pid {} cannot be heard any more: {error}", worker.family.worker);
        }
    }

    pub(super) fn with_channels<T>(&self, read: impl FnOnce(&mut dyn Iterator<Item = &Channel>) -> T) -> T {
        read(&mut self.shared.channels().by_key.values())
    }

    /// Closes the channels of a worker that has ended. What it asked to store last is stored first.
    pub fn forget(&self, id: WorkerId) {
        let mut table = self.shared.channels();
        let keys: Vec<u64> =
            table.by_key.iter().filter(|(_, channel)| channel.id == id).map(|(&key, _)| key).collect();
        for key in keys {
            self.shared.read_last(&mut table, key);
            self.shared.drop_channel(&mut table, key);
        }
        table.updates.remove(&id);
    }

    /// The status and watchdog ping of a worker since the last call.
    pub fn take_status(&self, id: WorkerId) -> WorkerStatus {
        self.shared.channels().updates.remove(&id).unwrap_or_default()
    }

    /// Copies of the stored descriptors that a worker of this slot and generation is given, with
    /// their names.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn stored(&self, slot: Slot, generation: Generation) -> io::Result<Vec<(String, OwnedFd)>> {
        let table = self.shared.channels();
        let stored = table.store.stored(slot, generation);
        stored.map(|kept| Ok((kept.name.clone(), kept.fd.try_clone()?))).collect()
    }

    /// An upgrade to `to` has ended, and `serving` is the generation that serves in each slot.
    /// Descriptors that the upgrade stored are kept if it succeeded there, and dropped if not.
    pub fn end_upgrade(&self, to: Generation, serving: &[(Slot, Generation)]) {
        let mut table = self.shared.channels();
        let gone = table.store.end_upgrade(to, serving);
        self.shared.close(gone);
    }
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, Table> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, table: &mut Table, channel: Channel) -> io::Result<()> {
        let key = table.next_key;
        table.next_key += 1;
        self.epoll.add(channel.end.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        table.by_key.insert(key, channel);
        Ok(())
    }

    fn drop_channel(&self, table: &mut Table, key: u64) {
        if let Some(channel) = table.by_key.remove(&key) {
            // A copy in a child between fork and exec would keep the closed descriptor in the
            // epoll set.
            let _ = self.epoll.delete(channel.end.as_fd());
        }
    }

    fn run(&self, quiesce: &Quiesce, send: impl Fn(WorkerId, WorkerMessage)) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return log::error!("cannot listen for acks any more: {error}"),
            };
            let _active = quiesce.activity();
            for event in events.iter().take(count) {
                for (id, message) in self.read(event.data()) {
                    send(id, message);
                }
            }
        }
    }

    /// Reads a channel. The lock is released before the messages are sent.
    fn read(&self, key: u64) -> Vec<(WorkerId, WorkerMessage)> {
        let mut table = self.channels();
        let Some(channel) = table.by_key.get_mut(&key) else {
            let ended = table.store.take(key);
            self.close(ended);
            return Vec::new();
        };
        let (id, worker) = (channel.id, channel.worker);
        let mut read = channel.end.read(worker, &mut channel.strangers);
        if let Some(kind) = read.ready.filter(|_| !std::mem::replace(&mut channel.acked, true)) {
            read.messages.push(WorkerMessage::Ready(kind));
        }
        if let Some(request) = read.store.take() {
            self.store(&mut table, key, request);
        }
        for end in std::mem::take(&mut read.new) {
            let open = table.by_key.values().filter(|channel| channel.id == id).count();
            let channel = Channel { id, worker, end, acked: false, warned: false, strangers: 0 };
            if open >= MOST_CHANNELS || self.watch(&mut table, channel).is_err() {
                log::debug!("a connection of pid {} is closed: it has too many", worker.family.worker);
            }
        }
        if read.ended {
            self.drop_channel(&mut table, key);
        }
        if record_status(&mut table, id, &mut read) {
            read.messages.push(WorkerMessage::NewStatus);
        }
        read.messages.extend(read.barrier.map(WorkerMessage::Barrier));
        read.messages.into_iter().map(|message| (id, message)).collect()
    }

    /// Stores what a worker that has ended asked to store; its other messages no longer matter.
    fn read_last(&self, table: &mut Table, key: u64) {
        for _ in 0..MOST_LAST_MESSAGES {
            let Some(channel) = table.by_key.get_mut(&key) else { return };
            if !channel.worker.stores || !matches!(channel.end, End::Notify(_)) {
                return;
            }
            // Not 0, so that no warning about a stranger is logged.
            let (worker, mut strangers) = (channel.worker, 1);
            let Some(request) = channel.end.read(worker, &mut strangers).store else { return };
            self.store(table, key, request);
        }
    }

    fn store(&self, table: &mut Table, key: u64, request: StoreRequest) {
        let Table { by_key, store, next_key, .. } = table;
        let Some(channel) = by_key.get_mut(&key) else { return };
        let Worker { generation, slot, stores, family, .. } = channel.worker;
        let pid = family.worker;
        if !stores {
            if !std::mem::replace(&mut channel.warned, true) {
                log::warn!("{generation}: pid {pid}: FDSTORE is for --export listen-fds; nothing is stored");
            }
            return;
        }
        if request.change == Change::Remove {
            return self.close(store.remove(slot, generation, &request.name.unwrap_or_default()));
        }
        for fd in request.fds {
            match store.verdict(slot, generation, &fd) {
                Verdict::Ignored => {}
                Verdict::NoRoom => {
                    if !std::mem::replace(&mut channel.warned, true) {
                        log::warn!(
                            "{generation}: pid {pid}: {MAX_STORED} descriptors are stored; others are closed"
                        );
                    }
                }
                Verdict::Kept => {
                    let key = if request.unpolled { None } else { self.watch_end(next_key, &fd) };
                    store.add(slot, generation, request.name.as_deref(), fd, key);
                }
            }
        }
    }

    /// Watches a stored descriptor for its end (EPOLLHUP) only, and returns its key; a regular
    /// file cannot be watched (EPERM).
    fn watch_end(&self, next_key: &mut u64, fd: &OwnedFd) -> Option<u64> {
        let key = *next_key;
        let watched = self.epoll.add(fd, EpollEvent::new(EpollFlags::empty(), key));
        *next_key += 1;
        watched.ok().map(|()| key)
    }

    /// Closes stored descriptors. A copy in a worker would keep them in the epoll set.
    fn close(&self, stored: impl IntoIterator<Item = Kept>) {
        for kept in stored {
            if kept.key.is_some() {
                let _ = self.epoll.delete(&kept.fd);
            }
        }
    }
}

/// Keeps the status and the watchdog ping; true if the loop does not know of any yet.
fn record_status(table: &mut Table, id: WorkerId, read: &mut Read) -> bool {
    if !read.heartbeat && read.status.is_none() {
        return false;
    }
    let known = table.updates.contains_key(&id);
    let update = table.updates.entry(id).or_default();
    update.heartbeat |= read.heartbeat;
    if let Some(status) = read.status.take() {
        update.status = Some(shown(&status));
    }
    !known
}
