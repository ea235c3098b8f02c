//! `--capture-stderr`: keeps the last lines that a worker wrote, for the message of its failure.
//!
//! The worker's stderr is then a pipe of ours. A thread copies it to our own stderr and keeps the
//! last lines of each worker. While our stderr blocks, the thread waits, the pipes fill, and
//! workers that write wait, as they would if they wrote there themselves. The loop never waits.
//!
//! A pipe is read until its last writer has closed it, which may be an orphan of the worker: an
//! earlier close would kill the orphan when it writes (SIGPIPE).

use super::last_lines::Ring;
use crate::core::event::WorkerId;
use crate::error::{Error, reason};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use crate::sys::identity::Identity;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::fcntl::{F_SETFL, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Gid, Uid, fchown, pipe2, read, write};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes that wait for our stderr, while it blocks.
const MOST_WAITING: usize = 256 << 10;
/// The most bytes of one read(2).
const CHUNK: usize = 16 << 10;
/// The capacity of a pipe: pipe(7).
const PIPE: usize = 64 << 10;
/// The bytes of one write(2): PIPE_BUF, which a pipe takes whole, and does not block on once
/// poll(2) reports room.
const PIECE: usize = 4096;
/// How long writing the rest may take when we exit.
const FLUSH: Duration = Duration::from_secs(1);
/// The key of the wake-up in the epoll set; no worker has it.
const WAKE: u64 = u64::MAX;

/// The pipes, and the thread that reads them.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    finished: Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    wake: EventFd,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sources: BTreeMap<u32, Source>,
    /// Workers that write to the pipe of another one, which has started them, with the number of lines
    /// that were in it before.
    heirs: BTreeMap<u32, (u32, usize)>,
    /// Bytes that were read and not yet written to our stderr.
    waiting: Vec<u8>,
    /// The number of bytes for which there was no room.
    lost: usize,
    /// We exit: the thread writes what is in the pipes, and ends.
    ends: bool,
}

impl Table {
    /// Keeps `text` for our stderr, as far as there is room.
    fn keep(&mut self, text: &[u8]) {
        let (kept, lost) = text.split_at(text.len().min(MOST_WAITING.saturating_sub(self.waiting.len())));
        self.waiting.extend(kept);
        self.lost += lost.len();
    }
}

/// The stderr of one worker.
#[derive(Debug, Default)]
struct Source {
    /// None once its last writer has closed it.
    pipe: Option<OwnedFd>,
    ring: Ring,
    /// The worker has ended: its lines are not asked for any more.
    forgotten: bool,
}

/// The pipes across an execve(2), with what was read and not yet written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    sources: Vec<SavedSource>,
    #[serde(default)]
    heirs: BTreeMap<u32, (u32, usize)>,
    waiting: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedSource {
    id: u32,
    pipe: Option<Fd>,
    lines: VecDeque<Vec<u8>>,
    open: bool,
    #[serde(default)]
    count: usize,
    forgotten: bool,
}

impl Capture {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the epoll set, the eventfd or the thread cannot be created.
    pub fn start(quiesce: &Quiesce) -> Result<Capture, Error> {
        let failed = |error: io::Error| Error::cannot("capture stderr", reason(&error));
        let shared = Shared::new().map_err(failed)?;
        let (finish, finished) = bounded(1);
        let (reader, quiesce) = (Arc::clone(&shared), quiesce.clone());
        let thread = std::thread::Builder::new().name("stderr".into()).stack_size(128 * 1024);
        thread.spawn(move || reader.copy(&quiesce, &finish)).map_err(failed)?;
        Ok(Capture { shared, finished })
    }

    /// A pipe for the stderr of a worker that starts as `identity`: our end and its end. It belongs
    /// to that user, because servers open /dev/stderr again.
    ///
    /// # Errors
    /// As pipe2(2) and fchown(2).
    pub fn pipe(identity: Option<&Identity>) -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&ours, F_SETFL(OFlag::O_NONBLOCK))?;
        if let Some(identity) = identity {
            fchown(&theirs, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)))?;
        }
        Ok((ours, theirs))
    }

    /// Has the thread read this pipe.
    ///
    /// # Errors
    /// When the kernel cannot watch another descriptor.
    pub fn watch(&self, id: WorkerId, pipe: OwnedFd) -> io::Result<()> {
        let mut table = self.shared.table();
        self.shared.epoll.add(&pipe, EpollEvent::new(EpollFlags::EPOLLIN, id.0.into()))?;
        table.sources.insert(id.0, Source { pipe: Some(pipe), ..Source::default() });
        Ok(())
    }

    /// The worker `id` is started by another one, and has its stderr.
    pub fn inherit(&self, id: WorkerId, from: WorkerId) {
        let mut table = self.shared.table();
        let of = table.heirs.get(&from.0).map_or(from.0, |&(of, _)| of);
        let Some(source) = table.sources.get_mut(&of) else { return };
        let (rest, _) = source.read_all();
        let before = source.ring.count;
        table.keep(&rest);
        table.heirs.insert(id.0, (of, before));
        let _ = self.shared.wake.write(1);
    }

    /// The last lines of a worker, at most twenty, without control characters: what
    /// it wrote before it ended is among them.
    pub fn last_lines(&self, id: WorkerId) -> Vec<String> {
        let mut table = self.shared.table();
        let (of, before) = table.heirs.get(&id.0).copied().unwrap_or((id.0, 0));
        let Some(source) = table.sources.get_mut(&of) else { return Vec::new() };
        let (rest, _) = source.read_all();
        let lines = source.ring.lines_after(before);
        if !rest.is_empty() {
            table.keep(&rest);
            let _ = self.shared.wake.write(1);
        }
        lines
    }

    /// Lists the descriptors and copies the other values, for an execve(2).
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let table = self.shared.table();
        let mut sources = Vec::new();
        for (&id, source) in &table.sources {
            let Ring { lines, open, count } = &source.ring;
            let (pipe, forgotten) = (transfer.add_some(source.pipe.as_ref())?, source.forgotten);
            sources.push(SavedSource {
                id,
                pipe,
                lines: lines.clone(),
                open: *open,
                count: *count,
                forgotten,
            });
        }
        Ok(Saved { sources, heirs: table.heirs.clone(), waiting: table.waiting.clone() })
    }

    /// Restores the pipes and lines after an execve(2).
    pub fn restore(&self, saved: Saved, fds: &mut InheritedFds) {
        let mut table = self.shared.table();
        for SavedSource { id, pipe, lines, open, count, forgotten } in saved.sources {
            let pipe = fds.take_some(pipe);
            if let Some(pipe) = &pipe
                && let Err(error) =
                    self.shared.epoll.add(pipe, EpollEvent::new(EpollFlags::EPOLLIN, id.into()))
            {
                log::warn!("the stderr of a worker cannot be read any more: {error}");
            }
            table.sources.insert(id, Source { pipe, ring: Ring { lines, open, count }, forgotten });
        }
        table.heirs = saved.heirs;
        table.waiting = saved.waiting;
        let _ = self.shared.wake.write(1);
    }

    /// Forgets the lines of a worker that has ended.
    pub fn forget(&self, id: WorkerId) {
        let mut table = self.shared.table();
        table.heirs.remove(&id.0);
        let Some(source) = table.sources.get_mut(&id.0) else { return };
        source.forgotten = true;
        // While our stderr blocks, the thread does not read this pipe.
        let (rest, ended) = source.read_all();
        if let Some(pipe) = source.pipe.take_if(|_| ended) {
            let _ = self.shared.epoll.delete(&pipe);
        }
        if ended {
            table.sources.remove(&id.0);
        }
        table.keep(&rest);
        let _ = self.shared.wake.write(1);
    }
}

impl Drop for Capture {
    /// Returns once everything is written, or after a second.
    fn drop(&mut self) {
        self.shared.table().ends = true;
        let _ = self.shared.wake.write(1);
        let _ = self.finished.recv_timeout(FLUSH);
    }
}

impl Shared {
    fn new() -> io::Result<Arc<Shared>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Arc::new(Shared { epoll, wake, table: Mutex::default() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self, quiesce: &Quiesce, finish: &Sender<()>) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return log::error!("cannot capture stderr any more: {error}"),
            };
            for event in events.iter().take(count) {
                let active = quiesce.activity();
                let ends = self.take(event.data());
                drop(active);
                self.write(quiesce);
                if ends {
                    let _ = finish.send(());
                    return;
                }
            }
        }
    }

    /// Reads the pipe with this key; true if we exit.
    fn take(&self, key: u64) -> bool {
        let mut table = self.table();
        let Table { sources, waiting, ends, .. } = &mut *table;
        if key == WAKE {
            let _ = self.wake.read();
            if *ends {
                sources.values_mut().for_each(|source| waiting.extend(source.read_all().0));
            }
            return *ends;
        }
        let Ok(id) = u32::try_from(key) else { return false };
        let Some(source) = sources.get_mut(&id) else { return false };
        let ended = source.read(CHUNK, waiting);
        if let Some(pipe) = source.pipe.take_if(|_| ended) {
            // A copy in a child between fork and exec would keep the closed descriptor in the
            // epoll set.
            let _ = self.epoll.delete(&pipe);
        }
        if ended && source.forgotten {
            sources.remove(&id);
        }
        false
    }

    /// Writes what waits to our stderr. It does so in pieces, so that none is half written when
    /// the thread has to pause. The lock is released meanwhile.
    fn write(&self, quiesce: &Quiesce) {
        let stderr = io::stderr();
        while !self.table().waiting.is_empty() {
            let _ = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            let _active = quiesce.activity();
            let piece: Vec<u8> = self.table().waiting.iter().take(PIECE).copied().collect();
            let written = match write(&stderr, &piece) {
                Ok(length) => length,
                Err(Errno::EINTR | Errno::EAGAIN) => 0,
                // Our stderr is closed, or its reader is.
                Err(_) => piece.len(),
            };
            self.table().waiting.drain(..written);
        }
        let lost = mem::take(&mut self.table().lost);
        if lost > 0 {
            log::warn!("{lost} bytes of workers' stderr were lost, since our own took nothing");
        }
    }
}

impl Source {
    /// Everything that the pipe holds at this moment, and whether its last writer has closed it.
    fn read_all(&mut self) -> (Vec<u8>, bool) {
        let mut text = Vec::new();
        while text.len() <= PIPE {
            let before = text.len();
            if self.read(CHUNK, &mut text) {
                return (text, true);
            }
            if text.len() == before {
                break;
            }
        }
        (text, false)
    }

    /// Appends at most this many bytes of the pipe; true if its last writer has closed it.
    fn read(&mut self, most: usize, text: &mut Vec<u8>) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        let mut chunk = vec![0; most];
        match read(pipe, &mut chunk) {
            Ok(0) => true,
            Ok(length) => {
                self.ring.push(&chunk[..length]);
                text.extend(&chunk[..length]);
                false
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_blocked_stderr_is_bounded() {
        let mut table = Table::default();
        table.keep(&vec![b'x'; MOST_WAITING - 1]);
        table.keep(b"more");
        assert_eq!((table.waiting.len(), table.lost), (MOST_WAITING, 3));
    }

    #[test]
    fn what_a_worker_wrote_before_its_end_is_there_at_once() {
        let capture = Capture::start(&Quiesce::default()).unwrap();
        for id in [1, 2].map(WorkerId) {
            let (ours, theirs) = Capture::pipe(None).unwrap();
            capture.watch(id, ours).unwrap();
            let line = format!("graceful-run test: worker {} says so\n", id.0);
            write(&theirs, line.as_bytes()).unwrap();
            drop(theirs);
            assert_eq!(capture.last_lines(id), [line.trim_end()]);
            capture.forget(id);
        }
        assert_eq!(capture.last_lines(WorkerId(3)), [""; 0]);
    }

    #[test]
    fn a_successor_has_the_lines_after_its_start() {
        let capture = Capture::start(&Quiesce::default()).unwrap();
        let (ours, theirs) = Capture::pipe(None).unwrap();
        capture.watch(WorkerId(1), ours).unwrap();
        let many: String = (0..30).map(|n| format!("graceful-run test: line {n}\n")).collect();
        write(&theirs, many.as_bytes()).unwrap();
        capture.inherit(WorkerId(2), WorkerId(1));
        assert_eq!(capture.last_lines(WorkerId(2)), [""; 0]);
        write(&theirs, b"graceful-run test: the second\n").unwrap();
        capture.forget(WorkerId(1));
        capture.inherit(WorkerId(3), WorkerId(2));
        write(&theirs, b"graceful-run test: the third\n").unwrap();
        let last = ["graceful-run test: the second", "graceful-run test: the third"];
        assert_eq!(capture.last_lines(WorkerId(2)), last);
        assert_eq!(capture.last_lines(WorkerId(3)), last[1..]);
    }
}
