//! Copies of the listeners of a followed worker, from the begin of an upgrade until a worker serves.
//!
//! Some servers leave before their successor has proved itself, and endless ends its predecessor
//! before it accepts. If the successor fails nobody listens until a worker has been started again:
//! with our copy connections wait for it in the queue of the listener, instead of being refused. A
//! worker that is started meanwhile binds the same addresses, which our copies occupy. So it gets
//! them in the place of its own sockets at bind(2), as with `--adopt=share`.
//!
//! Contract: where the kernel allows neither the copies (pidfd_getfd(2)) nor the replacement
//! (seccomp(2)), nothing is held, and nothing else differs. Copies are never kept while a worker
//! serves alone: it may close a listener, and the address has to be free then.

use super::context::Context;
use super::inputs::Threads;
use crate::adopt::{Adopt, Saved};
use crate::config;
use crate::core::ShownStage;
use crate::core::event::{Generation, Refusal, Report, Slot, Time, WorkerId};
use crate::launch::Refused;
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::sys::seccomp::{Call, Filter, Received};
use crate::sys::{listeners, pidfd};
use log::info;
use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// With `--follow` there is one slot, and what a worker binds belongs to all generations.
const FOLLOWED: (Generation, Slot) = (Generation(0), Slot(0));

#[derive(Default)]
pub(super) struct Held {
    sockets: Vec<Copy>,
    /// The workers that were started while sockets were held. Their system calls are answered for
    /// as long as a process of them lives.
    adopt: Option<Adopt>,
}

struct Copy {
    fd: OwnedFd,
    /// Its flags when the copy was made. All holders of a socket share O_NONBLOCK.
    flags: OFlag,
}

impl Held {
    /// Nothing is held; `saved` are workers that an image of ours before this one has started.
    pub(super) fn new(saved: Option<Saved>, fds: &mut InheritedFds, now: Time) -> Held {
        Held { sockets: Vec::new(), adopt: saved.map(|saved| saved.restore(sharing(), fds, now)) }
    }

    /// As [`Saved::new`].
    ///
    /// # Errors
    /// As [`Saved::new`] has them.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<Option<Saved>> {
        self.adopt.as_ref().map(|adopt| Saved::new(adopt, transfer)).transpose()
    }

    /// Holds the listeners from the begin of an upgrade until a worker serves.
    pub(super) fn on_report(&mut self, report: &Report, ctx: &Context) {
        match *report {
            Report::UpgradeStarted { from, .. } => {
                // One that is stopped first may have been asked to in the same step.
                let workers = ctx.of_generation(from).map(|shown| shown.worker);
                let held: Vec<Copy> = workers.flat_map(|id| copies(&ctx.processes.own_tree(id))).collect();
                // Where none serves, what is held waits for the workers of this upgrade.
                if !held.is_empty() {
                    self.sockets = held;
                }
            }
            Report::UpgradeFailed { from, .. } if !self.sockets.is_empty() => {
                let serves = ctx.of_generation(from).any(|shown| {
                    shown.stage == ShownStage::Ready
                        && ctx.processes.process(shown.worker).is_some_and(|process| process.lives())
                });
                if serves {
                    self.restore_flags();
                    self.release();
                } else {
                    info!("{from}: its listeners are held: connections wait for the next worker");
                }
            }
            Report::Ready(..) if ctx.core.phase() != crate::core::Phase::Upgrading => self.release(),
            Report::UpgradeDone { .. } | Report::RolledBack { .. } => self.release(),
            Report::Stopping => {
                self.restore_flags();
                self.release();
            }
            _ => {}
        }
    }

    /// Nothing is held any more.
    pub(super) fn release(&mut self) {
        self.sockets.clear();
        if let Some(adopt) = &mut self.adopt {
            adopt.stop();
        }
    }

    /// A Go program makes its listeners blocking when it hands them to a child. If that one fails,
    /// a stop of the program would hang until one more connection comes.
    fn restore_flags(&self) {
        for Copy { fd, flags } in &self.sockets {
            let now = OFlag::from_bits_truncate(fcntl(fd, F_GETFL).unwrap_or(0));
            if flags.contains(OFlag::O_NONBLOCK) && !now.contains(OFlag::O_NONBLOCK) {
                let _ = fcntl(fd, F_SETFL(now | OFlag::O_NONBLOCK));
            }
        }
    }

    /// Whether the next worker is to be started with a filter, so that it gets what is held.
    pub(super) fn wants_calls(&self) -> bool {
        !self.sockets.is_empty() && Filter::new(Received::default()).is_some()
    }

    /// A start was refused: whether it is to be tried again without what is held.
    pub(super) fn gives_up(&mut self, refused: &Refused) -> bool {
        // That is also what a kernel says that allows no filter.
        let gives_up = refused.refusal == Refusal::Other && self.wants_calls();
        if gives_up {
            self.release();
        }
        gives_up
    }

    /// Starts to receive the calls of a worker that has just been started.
    pub(super) fn open(&mut self, id: WorkerId, root: Pid, calls: OwnedFd, threads: &Threads) {
        let calls = Arc::new(calls);
        let mut adopt = Adopt::new(sharing(), self.sockets.iter().map(|copy| copy.fd.as_fd()));
        // Workers of earlier starts are answered as well.
        for (id, root, calls) in self.adopt.iter().flat_map(Adopt::roots) {
            adopt.open(id, FOLLOWED, root, calls, None);
        }
        adopt.open(id, FOLLOWED, root, Arc::clone(&calls), None);
        self.adopt = Some(adopt);
        super::adopt::receive_calls(id, calls, None, Arc::default(), threads);
    }

    /// Starts the threads that receive the calls, after an execve(2).
    pub(super) fn receive_all_calls(&self, threads: &Threads) {
        for (id, calls) in self.adopt.iter().flat_map(Adopt::callers) {
            super::adopt::receive_calls(id, calls, None, Arc::default(), threads);
        }
    }

    /// A process of the worker waits for the answer to a call.
    pub(super) fn call(&mut self, id: WorkerId, call: &Call, now: Time) {
        if let Some(adopt) = &mut self.adopt {
            adopt.call(id, call, now);
        }
    }

    /// No process of the worker is left that could make a call.
    pub(super) fn on_calls_ended(&mut self, id: WorkerId) {
        if let Some(adopt) = &mut self.adopt {
            adopt.remove(id);
        }
    }
}

/// What is held is put in the place of what a worker binds.
fn sharing() -> config::Adopt {
    config::Adopt {
        share: true,
        ports: BTreeSet::new(),
        paths: false,
        idle: Duration::ZERO,
        must_wait: false,
        auto: false,
        may_bind_nothing: false,
    }
}

/// Copies of the listening sockets that these processes have open.
fn copies(pids: &[Pid]) -> Vec<Copy> {
    let copy = |inode| {
        let fd = pids.iter().find_map(|&pid| pidfd::duplicate_by_inode(pid, inode))?;
        let flags = OFlag::from_bits_truncate(fcntl(&fd, F_GETFL).ok()?);
        Some(Copy { fd, flags })
    };
    listeners::listening_sockets(pids).into_iter().filter_map(copy).collect()
}
