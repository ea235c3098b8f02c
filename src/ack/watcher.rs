//! The one thread that listens to every worker's ack channels.
//!
//! It only makes events, and keeps what workers store with us. A worker that says
//! much is told of once until somebody has asked what it was: [`Watcher::news`].

use super::end::{End, Read, Storing};
use super::heard::{Heard, News, Worker};
use super::notify::{Change, shown};
use super::store::{self, Kept, MOST, Store, Verdict};
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
    /// Never given out twice: an event that is late finds nobody.
    next_key: u64,
    /// An entry means that [`Heard::News`] has been told.
    news: BTreeMap<WorkerId, News>,
    store: Store,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) id: WorkerId,
    pub(super) worker: Worker,
    pub(super) end: End,
    /// Whether its ack has been passed on; a flood of others is not.
    pub(super) said: bool,
    /// Whether it was told that something was not stored.
    pub(super) refused: bool,
    /// Messages of strangers.
    pub(super) strangers: u64,
}

/// Channels of one worker; it can open more by connecting, and then waits.
const MOST_CHANNELS: usize = 16;
/// What a worker said before it ended is read, so many messages at most.
const LAST_WORDS: usize = 64;

impl Watcher {
    /// Starts the thread; `tell` is called on it and may block: only the workers
    /// that speak are held up. It rests when it is wanted to.
    ///
    /// # Errors
    /// When there is no epoll or no thread to be had.
    pub fn start(rest: Quiesce, tell: impl Fn(WorkerId, Heard) + Send + 'static) -> io::Result<Watcher> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let shared = Arc::new(Shared { epoll, channels: Mutex::default() });
        let watcher = Watcher { shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("acks".into())
            .stack_size(128 * 1024)
            .spawn(move || shared.listen(&rest, tell))?;
        Ok(watcher)
    }

    pub(super) fn watch(&self, id: WorkerId, worker: Worker, end: End) -> io::Result<()> {
        let channel = Channel { id, worker, end, said: false, refused: false, strangers: 0 };
        self.shared.watch(&mut self.shared.channels(), channel)
    }

    /// What workers have stored was stored before an execve(2).
    pub(super) fn resume_store(&self, saved: store::Saved, fds: &mut InheritedFds) {
        let mut table = self.shared.channels();
        let Table { store, next_key, .. } = &mut *table;
        *store = Store::restore(saved, fds, |fd| self.shared.watch_end(next_key, fd));
    }

    /// Lists the descriptors of what is stored and writes down the rest.
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

    pub(super) fn with_channels<T>(&self, what: impl FnOnce(&mut dyn Iterator<Item = &Channel>) -> T) -> T {
        what(&mut self.shared.channels().by_key.values())
    }

    /// Closes the channels of a worker that has gone. What it stored last stays.
    pub fn forget(&self, id: WorkerId) {
        let mut table = self.shared.channels();
        let keys: Vec<u64> =
            table.by_key.iter().filter(|(_, channel)| channel.id == id).map(|(&key, _)| key).collect();
        for key in keys {
            self.shared.read_last(&mut table, key);
            self.shared.drop_channel(&mut table, key);
        }
        table.news.remove(&id);
    }

    /// What a worker has said since this was last asked.
    pub fn news(&self, id: WorkerId) -> News {
        self.shared.channels().news.remove(&id).unwrap_or_default()
    }

    /// Copies of what a worker of that slot and generation is to be given, with
    /// their names.
    ///
    /// # Errors
    /// When no descriptor is to be had.
    pub fn stored(&self, slot: Slot, generation: Generation) -> io::Result<Vec<(String, OwnedFd)>> {
        let table = self.shared.channels();
        let stored = table.store.stored(slot, generation);
        stored.map(|kept| Ok((kept.name.clone(), kept.fd.try_clone()?))).collect()
    }

    /// An upgrade to `to` is over, and `served` serves in each slot: what was
    /// stored meanwhile counts, or is dropped with what has failed.
    pub fn settle(&self, to: Generation, served: &[(Slot, Generation)]) {
        let mut table = self.shared.channels();
        let gone = table.store.settle(to, served);
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
            // A child between its fork and its exec may hold a copy, which would
            // keep the closed descriptor in the epoll set.
            let _ = self.epoll.delete(channel.end.as_fd());
        }
    }

    fn listen(&self, rest: &Quiesce, tell: impl Fn(WorkerId, Heard)) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return log::error!("cannot listen for acks any more: {error}"),
            };
            let _busy = rest.activity();
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
        let Some(channel) = table.by_key.get_mut(&key) else {
            let ended = table.store.take(key);
            self.close(ended);
            return Vec::new();
        };
        let (id, worker) = (channel.id, channel.worker);
        let mut read = channel.end.read(worker, &mut channel.strangers);
        if let Some(kind) = read.ready.filter(|_| !std::mem::replace(&mut channel.said, true)) {
            read.heard.push(Heard::Ready(kind));
        }
        if let Some(storing) = read.store.take() {
            self.store(&mut table, key, storing);
        }
        for end in std::mem::take(&mut read.new) {
            let open = table.by_key.values().filter(|channel| channel.id == id).count();
            let channel = Channel { id, worker, end, said: false, refused: false, strangers: 0 };
            if open >= MOST_CHANNELS || self.watch(&mut table, channel).is_err() {
                log::debug!("a connection of pid {} is closed: it has too many", worker.family.worker);
            }
        }
        if read.ended {
            self.drop_channel(&mut table, key);
        }
        if note(&mut table, id, &mut read) {
            read.heard.push(Heard::News);
        }
        read.heard.extend(read.barrier.map(Heard::Barrier));
        read.heard.into_iter().map(|heard| (id, heard)).collect()
    }

    /// What a worker that has ended still wanted to be stored: nothing else of its
    /// words matters any more.
    fn read_last(&self, table: &mut Table, key: u64) {
        for _ in 0..LAST_WORDS {
            let Some(channel) = table.by_key.get_mut(&key) else { return };
            if !channel.worker.stores || !matches!(channel.end, End::Notify(_)) {
                return;
            }
            let (worker, mut nobody) = (channel.worker, 1);
            let Some(storing) = channel.end.read(worker, &mut nobody).store else { return };
            self.store(table, key, storing);
        }
    }

    fn store(&self, table: &mut Table, key: u64, storing: Storing) {
        let Table { by_key, store, next_key, .. } = table;
        let Some(channel) = by_key.get_mut(&key) else { return };
        let Worker { generation, slot, stores, family, .. } = channel.worker;
        let pid = family.worker;
        if !stores {
            if !std::mem::replace(&mut channel.refused, true) {
                log::warn!("{generation}: pid {pid}: FDSTORE is for --export listen-fds; nothing is stored");
            }
            return;
        }
        if storing.change == Change::Remove {
            return self.close(store.remove(slot, generation, &storing.name.unwrap_or_default()));
        }
        for fd in storing.fds {
            match store.verdict(slot, generation, &fd) {
                Verdict::Useless => {}
                Verdict::NoRoom => {
                    if !std::mem::replace(&mut channel.refused, true) {
                        log::warn!(
                            "{generation}: pid {pid}: {MOST} descriptors are stored; others are closed"
                        );
                    }
                }
                Verdict::Kept => {
                    let key = if storing.unpolled { None } else { self.watch_end(next_key, &fd) };
                    store.add(slot, generation, storing.name.as_deref(), fd, key);
                }
            }
        }
    }

    /// The key by which the end of what is stored is told; nothing else of it is. A
    /// regular file has none: EPERM.
    fn watch_end(&self, next_key: &mut u64, fd: &OwnedFd) -> Option<u64> {
        let key = *next_key;
        let watched = self.epoll.add(fd, EpollEvent::new(EpollFlags::empty(), key));
        *next_key += 1;
        watched.ok().map(|()| key)
    }

    /// A copy in a worker would keep a closed descriptor in the epoll set.
    fn close(&self, stored: impl IntoIterator<Item = Kept>) {
        for kept in stored {
            if kept.key.is_some() {
                let _ = self.epoll.delete(&kept.fd);
            }
        }
    }
}

/// Keeps what was said; true if somebody has to be told that there is something.
fn note(table: &mut Table, id: WorkerId, read: &mut Read) -> bool {
    if !read.beat && read.status.is_none() {
        return false;
    }
    let told = table.news.contains_key(&id);
    let news = table.news.entry(id).or_default();
    news.beat |= read.beat;
    if let Some(status) = read.status.take() {
        news.status = Some(shown(&status));
    }
    !told
}
