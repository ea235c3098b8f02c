//! `--adopt`: graceful upgrades of servers that bind their own sockets. The kernel hands us the
//! bind(2) and listen(2) calls of the workers (seccomp(2)), and we call listen(2) for them, on a
//! copy of the socket.
//!
//! So every address of a worker is known and, with *steer*, the order in which its sockets joined
//! the kernel's SO_REUSEPORT group of the address ([`group`]). New connections go to the sockets of
//! the workers that [serve](serving) and, from the switch on, to those of their replacements, while
//! the old workers [drain](drain). UDP sockets cannot be steered in this way: they, and with *share* all sockets,
//! are one socket that all generations use ([`shared`]).
//!
//! This is no security boundary: a call that is not understood is let through unchanged. Only the
//! main thread calls this module.

mod closed;
pub mod drain;
mod ended;
pub mod group;
mod guess;
pub(crate) mod key;
mod listener;
mod local;
mod looks;
mod names;
mod probing;
mod quiet;
mod removal;
mod replace;
mod saved;
mod serving;
mod shared;
mod sharing;
mod siblings;
mod socketless;
mod status;
mod stopping;
mod stranded;
mod strangers;
mod syscalls;
mod unix;
mod waiting;

pub use names::Names;
pub use saved::Saved;
pub use status::Shown;

use crate::config;
use crate::core::event::{Generation, Slot, Time, WorkerId};
use crate::sys::arrivals::Arrivals;
use crate::sys::fd;
use drain::Drain;
use guess::Guess;
use key::Key;
use listener::Listener;
use log::warn;
use looks::Looks;
use nix::unistd::Pid;
use quiet::Quiet;
use shared::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The listening sockets of one address.
type Group = group::Group<Listener>;

/// The workers whose system calls we see, and their sockets.
#[derive(Debug)]
pub struct Adopt {
    config: config::Adopt,
    /// The listening sockets of each address, where they are steered.
    groups: BTreeMap<Key, Group>,
    /// The sockets that all generations use.
    shared: Shared,
    workers: BTreeMap<WorkerId, Adopted>,
    /// The workers that serve; where none does, those that did last.
    serving: BTreeSet<WorkerId>,
    /// The one of them that gets a part of the new connections of its own.
    weighed: Option<group::Weighed>,
    /// The addresses at which they listen, and a replacement has to.
    wanted: BTreeSet<Key>,
    /// Those of them at which one was seen to wait for connections since the upgrade began.
    waited: BTreeSet<Key>,
    /// It was said that connections cannot be told from idle ones.
    told_of_blindness: bool,
    /// When it is checked which sockets were closed.
    looks: Looks,
    /// Sockets that nobody holds since the process has ended that held them, and since when that is
    /// known.
    suspects: BTreeMap<u64, Time>,
    /// Where connections to sockets of which we have copies are noticed.
    arrivals: Option<Arc<Arrivals>>,
    /// A socket of our own, to compare network namespaces with.
    ours: Option<OwnedFd>,
    /// The time of the current call.
    now: Time,
    /// Everything is to stop, and no socket is kept any more.
    stopping: bool,
    /// The unix sockets of the last worker that served by nothing else.
    unix: BTreeSet<PathBuf>,
    /// The names of the files of shared unix sockets.
    names: Arc<Names>,
    /// A worker was found to connect to its own address before it binds it: connect(2) of the workers
    /// after it is received.
    looks_first: bool,
    /// Whether that was concluded of a worker at a unix socket.
    guess: Guess,
}

/// A worker, until none of its processes is left.
#[derive(Debug)]
struct Adopted {
    /// The seccomp listener on which its calls arrive and are answered.
    calls: Arc<OwnedFd>,
    /// Its own process.
    root: Pid,
    /// When it was started, in nanoseconds since the epoch; 0 if that is not known.
    opened: u64,
    /// Those of the same generation are the same program.
    generation: Generation,
    /// Its slot: what waits at a worker that has ended is for the next one of the same slot.
    slot: Slot,
    /// connect(2) of it is received.
    connects_received: bool,
    /// The ports that it has asked for. Any other port that it listens on was chosen by the
    /// kernel.
    ports: BTreeSet<u16>,
    /// The addresses at which it listens.
    listens: BTreeSet<Key>,
    /// Sockets of a worker that has ended, which replaced its own at bind(2). They listen already,
    /// so it need not call listen(2) (gunicorn asks SO_ACCEPTCONN first).
    inherited: BTreeMap<Key, u64>,
    /// The addresses at which it listens without being adopted, as `--port` has it.
    others: BTreeSet<Key>,
    /// The same at ports that the kernel has chosen, which are never adopted, for people.
    elsewhere: BTreeSet<String>,
    /// The paths of the unix sockets on which it listens that are not adopted.
    unix: BTreeSet<PathBuf>,
    /// It serves by them alone.
    unix_alone: bool,
    /// It has bound nothing, and counts as a worker without sockets.
    socketless: bool,
    /// The addresses that it has asked for.
    bound: BTreeSet<Key>,
    /// When it has begun to listen at an address that is adopted.
    first_listen: Option<Time>,
    /// When it has last begun to listen anywhere.
    last_listen: Time,
    /// The addresses that it has opened before it was ready. Its replacement has to listen there, if
    /// this one does still.
    early: BTreeSet<Key>,
    /// Those that it has opened later, and when.
    late: BTreeMap<Key, Time>,
    /// What it opens later than this, for a debugger perhaps, is never asked of its replacement.
    start: Option<Time>,
    ready: bool,
    /// It was said that it listens at every address that it has to.
    announced: bool,
    /// It was asked to stop: connections that come to it may be lost.
    stop_sent: bool,
    /// Its own process has ended.
    gone: bool,
    /// None of its processes is left.
    deserted: bool,
    drain: Option<Drain>,
    /// The looks for a moment in which it has no connection of a shared unix socket.
    quiet: Option<Quiet>,
    /// The warnings that were logged about it.
    warnings: Vec<String>,
    /// The address that it found taken when it looked whether it is free.
    found_taken: Option<Key>,
}

impl Adopt {
    /// No worker has bound anything yet. `ours` are our sockets, which replace those of workers
    /// at the same address.
    pub fn new<'a>(config: config::Adopt, ours: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>) -> Adopt {
        let shared = Shared::new(ours);
        Adopt {
            config,
            groups: BTreeMap::new(),
            wanted: shared.ours().collect(),
            waited: BTreeSet::new(),
            told_of_blindness: false,
            shared,
            workers: BTreeMap::new(),
            serving: BTreeSet::new(),
            weighed: None,
            looks: Looks::default(),
            suspects: BTreeMap::new(),
            arrivals: new_arrivals(),
            ours: fd::any_socket(),
            now: Time::ZERO,
            stopping: false,
            unix: BTreeSet::new(),
            guess: Guess::default(),
            names: Arc::default(),
            looks_first: false,
        }
    }

    /// A worker has been started as the process `root` in this place; its calls arrive on `calls`. What
    /// it opens after `start` is not asked of its replacement; None: everything is.
    pub fn open(
        &mut self,
        id: WorkerId,
        (generation, slot): (Generation, Slot),
        root: Pid,
        calls: Arc<OwnedFd>,
        start: Option<Time>,
    ) {
        let worker = Adopted {
            calls,
            root,
            opened: UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64),
            generation,
            slot,
            connects_received: self.looks_first,
            ports: BTreeSet::new(),
            listens: BTreeSet::new(),
            inherited: BTreeMap::new(),
            others: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            unix: BTreeSet::new(),
            unix_alone: false,
            socketless: false,
            bound: BTreeSet::new(),
            first_listen: None,
            last_listen: Time::ZERO,
            early: BTreeSet::new(),
            late: BTreeMap::new(),
            start,
            ready: false,
            announced: false,
            stop_sent: false,
            gone: false,
            deserted: false,
            drain: None,
            quiet: None,
            warnings: Vec::new(),
            found_taken: None,
        };
        self.workers.insert(id, worker);
    }

    /// Everything is to stop: no socket is kept, so that no client waits in a queue that is not
    /// served any more.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.groups.clear();
        for (key, sockets) in &self.shared.sockets {
            Adopt::remove_path(key, sockets);
        }
        self.shared.clear();
        self.update_names();
    }

    /// Where connections are noticed.
    pub fn arrivals(&self) -> Option<Arc<Arrivals>> {
        self.arrivals.clone()
    }

    /// The same, with the process of each worker.
    pub fn roots(&self) -> impl Iterator<Item = (WorkerId, Pid, Arc<OwnedFd>)> {
        self.workers.iter().map(|(&id, worker)| (id, worker.root, Arc::clone(&worker.calls)))
    }

    /// The workers whose calls are to be answered, each with its seccomp listener.
    pub fn callers(&self) -> impl Iterator<Item = (WorkerId, Arc<OwnedFd>)> {
        self.workers.iter().map(|(&id, worker)| (id, Arc::clone(&worker.calls)))
    }

    /// Logs a warning about a worker, each only once, whichever process of it is its reason.
    fn warn_once(&mut self, id: WorkerId, line: String) {
        if let Some(worker) = self.workers.get_mut(&id)
            && !worker.warnings.iter().any(|before| without_pids(before).eq(without_pids(&line)))
        {
            warn!("{line}");
            worker.warnings.push(line);
        }
    }
}

/// The words of a warning, without those that follow "pid".
fn without_pids(line: &str) -> impl Iterator<Item = &str> {
    let mut before = "";
    line.split(' ').filter(move |word| std::mem::replace(&mut before, word) != "pid")
}

fn new_arrivals() -> Option<Arc<Arrivals>> {
    let arrivals = Arrivals::new();
    arrivals
        .inspect_err(|errno| warn!("cannot notice connections to closed sockets: {errno}"))
        .ok()
        .map(Arc::new)
}

fn report(result: std::io::Result<()>, attempt: &str) {
    if let Err(error) = result {
        warn!("cannot {attempt}: {error}");
    }
}
