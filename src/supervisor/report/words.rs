//! The texts for workers, exits, requests and durations that the log, the events
//! and the reasons have in common.

use crate::config::signals;
use crate::core::event::{Behind, Exit, Generation, Request, Token, WorkerId};
use crate::core::policy::{MOST_WORKERS, Policy};
use crate::process::ProcessTable;
use crate::profiles::Profile;
use crate::sys::{inherited, tree};
use std::time::Duration;

/// Begins the reason why a worker is not ready that has to be seen waiting on its listeners.
pub const UNSEEN: &str = "it was not seen to wait on";

/// Who sends SIGSYS: seccomp(2), SECCOMP_RET_KILL_PROCESS. With `--adopt` the call may be our own.
const FILTERED: &str = ", which a system call filter sends (SystemCallFilter= in systemd, a container's \
    profile; graceful-run doctor says what --adopt needs)";
/// The reason why a worker is not ready that is seen waiting, where that is not enough.
pub const WAITS: &str = "it waits on its listeners and has not said that it is ready";

/// A worker as a log line names it.
pub(super) struct WorkerName {
    pub(super) generation: Generation,
    pub(super) pid: i32,
    pub(super) command: String,
    /// The known server that this is.
    pub(super) server: Option<&'static Profile>,
    /// What its process was called when it ended.
    pub(super) ended_as: String,
    pub(super) refused: String,
    /// How often it was refused for that, one after another.
    pub(super) refusals: u32,
}

impl std::fmt::Display for WorkerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: pid {}", self.generation, self.pid)
    }
}

impl WorkerName {
    pub(super) fn new(id: WorkerId, processes: &ProcessTable) -> WorkerName {
        let entry = processes.get(id);
        let process = entry.and_then(|entry| entry.process.as_ref());
        let pid = process.map_or(0, |process| process.pid.as_raw());
        WorkerName {
            generation: entry.map_or(Generation(0), |entry| entry.generation),
            pid,
            command: processes.command().to_string(),
            server: processes.server,
            ended_as: process.and_then(|process| process.ended_as.clone()).unwrap_or_default(),
            refused: processes.start_error(id).to_string(),
            refusals: entry.map_or(0, |entry| entry.refusals),
        }
    }
}

/// How a process ended, as the predicate of a sentence.
pub fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        // Otherwise it has undone what it was started with.
        Exit::Signal(signal @ libc::SIGPIPE) if !inherited::ignored(signal) => {
            format!(
                "was ended by signal {signal} (PIPE): it wrote to a pipe or connection that was closed (if it should ignore that: sh -c \"trap '' PIPE; exec graceful-run …\")"
            )
        }
        Exit::Signal(signal) => {
            let who = if signal == libc::SIGSYS { FILTERED } else { "" };
            format!("was ended by signal {signal} ({}){who}", signals::name(signal))
        }
        Exit::Unseen => "ended (its exit status went to its parent)".into(),
    }
}

/// That a signal has halted a worker, as the predicate of a sentence. `by` is 0 where it is not
/// known; then it may be another process of the worker.
pub fn halt_text(id: WorkerId, by: Token, processes: &ProcessTable) -> String {
    let process = processes.get(id).and_then(|entry| entry.halted);
    match (by.0, process) {
        (0, Some(pid)) => format!("has a process that is stopped, pid {pid} ({})", tree::name(pid)),
        (0, None) => "is stopped, by a signal or a debugger".into(),
        (by, _) => format!("is stopped by signal {by} ({})", signals::name(by)),
    }
}

/// How a worker that this signal has halted is continued, or does not get it again.
pub fn halt_cure(pid: i32, by: Token, foreground_tty: bool) -> String {
    let again = match (by.0, foreground_tty) {
        (libc::SIGTTIN, false) => {
            "it reads its terminal from the background: start graceful-run with </dev/null, or with --foreground-tty"
        }
        (libc::SIGTTOU, false) => {
            "it writes to its terminal, or sets it, from the background: start graceful-run with --foreground-tty, or without a terminal"
        }
        (libc::SIGTTIN | libc::SIGTTOU, true) => {
            "graceful-run is in the background itself: fg, or start it without a terminal"
        }
        _ => return format!("kill -CONT {pid}"),
    };
    again.into()
}

/// What a request for an upgrade waits for, and what follows then.
pub(super) fn behind_text(behind: Behind) -> &'static str {
    match behind {
        Behind::FirstStart => "the first generation is not ready yet: it follows then",
        Behind::Upgrade => "one is under way: another follows it",
        Behind::Worker => "a worker starts or leaves: it follows then",
    }
}

pub(super) fn request_name(request: Request) -> &'static str {
    match request {
        Request::Upgrade | Request::UpgradeNow | Request::Hold(_) => "upgrade",
        Request::Weigh(_) => "weigh",
        Request::Commit => "commit",
        Request::Rollback => "roll back",
        Request::Scale(_) => "scale",
        Request::More => "one worker more",
        Request::Fewer => "one worker fewer",
        Request::Forward(_) => "signal to pass on",
        Request::Stop | Request::StopSignalled | Request::Interrupt { .. } | Request::Kill => "stop",
        Request::Hammer => "hammer",
        Request::Suspend | Request::Resume => "job control",
    }
}

/// Why the number of workers cannot be what was asked for.
pub fn limit_text(policy: &Policy) -> String {
    match policy.follow {
        true => "with --follow the program starts its successor itself, and there is one (let it start workers of its own)".into(),
        _ if policy.least_workers > 1 => format!("with ,reuseport nobody would serve the queue of a slot without a worker: from {} to {MOST_WORKERS} can be asked for", policy.least_workers),
        _ => format!("from {} to {MOST_WORKERS} can be asked for", policy.least_workers),
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
