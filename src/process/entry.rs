//! What is known of one start of the command, and of its process.

use super::symptom::Symptom;
use crate::core::event::{Generation, Slot, Time, WorkerId};
use crate::launch::pin::FileId;
use crate::sys::process::serde_pid;
use crate::sys::tree::{self, Family};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A changed file, as it was at a start.
pub type ChangedFile = (PathBuf, Option<FileId>);

/// One start of the command.
#[derive(Debug)]
pub struct Entry {
    /// Its generation.
    pub generation: Generation,
    /// Its slot.
    pub slot: Slot,
    /// Its process, once it has been forked.
    pub process: Option<Process>,
    /// Why it could not be started, for people.
    pub refused: Option<String>,
    /// How often that was the reason, one after another.
    pub refusals: u32,
    /// Its last `STATUS=` (sd_notify(3)).
    pub status: Option<String>,
    /// What it still has to do to become ready, for people.
    pub unmet: Option<String>,
    /// The cause of its failure, as it named it.
    pub symptom: Option<Symptom>,
    /// The address where another worker serves, for people, if it has ended and had bound none of
    /// those that it was to have (`--adopt`).
    pub unbound: Option<String>,
    /// What the user can do about its failure, for people.
    pub hint: Option<String>,
    /// Files that had changed since its generation was first started, when it was: they are what it runs.
    pub changed: Vec<ChangedFile>,
    /// A process of it that was seen to be halted, where it is not the worker's own.
    pub halted: Option<Pid>,
    /// What it still has to finish while it drains, for people.
    pub remaining: Option<String>,
    /// How its process is found, if its predecessor starts it.
    pub predecessor: Option<Predecessor>,
}

/// The worker that starts this one (`--follow`).
#[derive(Debug)]
pub struct Predecessor {
    /// The worker that starts it.
    pub worker: WorkerId,
    /// Processes that existed before it was asked to.
    pub before: BTreeSet<Pid>,
    /// A process that has ended since and was not reaped, and when that was first seen.
    pub dead: Option<(Pid, Time)>,
    /// The connections that the successor had at the last inspection.
    pub connections: Option<BTreeSet<u64>>,
}

impl Predecessor {
    /// The worker that is asked to start this one, or has done so.
    pub fn new(worker: WorkerId, before: BTreeSet<Pid>) -> Predecessor {
        Predecessor { worker, before, dead: None, connections: None }
    }
}

/// A process below a worker that has executed a program of its own, and was seen to serve.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Server {
    /// The process.
    #[serde(with = "serde_pid")]
    pub pid: Pid,
    /// Its parent.
    #[serde(with = "serde_pid")]
    pub parent: Pid,
    /// How many programs below its own the one is that waits on the listeners.
    pub depth: u32,
    /// Whether its parent seemed to wait on them as well.
    pub parent_serves: bool,
}

/// The process of a worker, and what belongs to it.
#[derive(Debug)]
pub struct Process {
    /// Its process id, which is safe to signal until it is reaped.
    pub pid: Pid,
    /// Whether it has been reaped: only its process group and its orphans may be left.
    pub reaped: bool,
    /// What it was called when it ended (comm of proc(5)), if that is known.
    pub ended_as: Option<String>,
    /// Whether it leads a process group that has not been seen empty. The number of an empty
    /// group may be reused.
    pub leads_group: bool,
    /// How its descendants are recognised.
    pub family: Family,
    /// The user's check (`--ack exec`), while it runs.
    pub check: Option<Pid>,
    /// When the check was started.
    pub check_began: Time,
    /// Whether its orphans have been asked to stop.
    pub term_sent: bool,
    /// Whether its orphans may first finish the connections that they have.
    pub orphans_finish: bool,
    /// Whether it has gone into the background: its orphans are the server.
    pub daemonised: bool,
    /// The accepted connections of its orphans, as of the last inspection.
    pub accepted: BTreeMap<Pid, BTreeSet<u64>>,
    /// Orphans that are its own by their start time alone.
    pub claimed: Vec<Pid>,
    /// Whether its orphans are killed.
    pub orphans_killed: bool,
    /// Whether we have asked it to stop although whoever stops us has signalled every process of
    /// ours: it was started after that.
    pub missed_signal: bool,
    /// How many TERMs it has sent to us.
    pub terms: u32,
    /// How often it was inspected for whether it accepts connections.
    pub accept_checks: u32,
    /// The writing end of a pipe to the worker (tableflip). It is closed once no predecessor in its
    /// slot is left: the worker reads the end of the pipe.
    pub parent_pipe: Option<OwnedFd>,
    /// The pidfd, on kernels that have it: it keeps the process id from being reused.
    pub pidfd: Option<OwnedFd>,
    /// The start time (proc(5)), which tells it from a later process with the same id; 0 where
    /// it is not needed.
    pub start_time: u64,
    /// With `--follow`: orphans that started from this time on are its own. It is its own start
    /// time or, of a worker that went into the background, that of its first process.
    pub owns_from: u64,
    /// The start time of its successor: orphans that started later belong to that one.
    pub owns_until: Option<u64>,
    /// Whether another worker has started it: it need not be our child.
    pub not_our_child: bool,
    /// The inodes of the listeners that it was given, or last had open.
    pub listening: BTreeSet<u64>,
    /// Those of them on which it was seen waiting for connections.
    pub waited: BTreeSet<u64>,
    /// The process that took over from it, until that one has an entry.
    pub successor: Option<Pid>,
    /// With `--follow`: the processes below it that served by a program of their own.
    pub servers: Vec<Server>,
    /// With `--follow`: what it runs ([`tree::program`]).
    pub program: Option<String>,
}

impl Entry {
    /// Whether its process has been forked and not yet reaped.
    pub(super) fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.reaped)
    }
}

impl Process {
    /// A process that we have started; `leads` says that it leads a process group of its own.
    pub fn started(family: Family, leads: bool, pidfd: Option<OwnedFd>) -> Process {
        Process {
            pid: family.worker,
            reaped: false,
            ended_as: None,
            leads_group: leads,
            family,
            check: None,
            check_began: Time::ZERO,
            term_sent: false,
            orphans_finish: false,
            daemonised: false,
            accepted: BTreeMap::new(),
            claimed: Vec::new(),
            orphans_killed: false,
            missed_signal: false,
            terms: 0,
            accept_checks: 0,
            parent_pipe: None,
            pidfd,
            start_time: 0,
            owns_from: 0,
            owns_until: None,
            not_our_child: false,
            listening: BTreeSet::new(),
            waited: BTreeSet::new(),
            successor: None,
            servers: Vec::new(),
            program: None,
        }
    }

    /// Whether it can still be signalled. The end of a process that is not our child is reported
    /// to its parent alone, and its process id may be reused.
    pub fn lives(&self) -> bool {
        let same =
            || tree::stat(self.pid).is_some_and(|stat| stat.is_live() && stat.start_time == self.start_time);
        !self.reaped && (!self.not_our_child || same())
    }
}
