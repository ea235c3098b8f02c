//! The texts for workers, exits, requests and durations that the log, the events
//! and the reasons have in common.

use crate::config::signals;
use crate::core::event::{Exit, Generation, Request, WorkerId};
use crate::process::ProcessTable;
use crate::sys::inherited;
use std::time::Duration;

/// Begins the reason why a worker is not ready that has to be seen waiting on its listeners.
pub const UNSEEN: &str = "it was not seen to wait on";

/// A worker as a log line names it.
pub(super) struct WorkerName {
    pub(super) generation: Generation,
    pub(super) pid: i32,
    pub(super) command: String,
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
        let pid = entry.and_then(|entry| entry.process.as_ref()).map_or(0, |process| process.pid.as_raw());
        WorkerName {
            generation: entry.map_or(Generation(0), |entry| entry.generation),
            pid,
            command: processes.command().to_string(),
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
        Exit::Signal(signal) => format!("was ended by signal {signal} ({})", signals::name(signal)),
        Exit::Unseen => "ended (its exit status went to its parent)".into(),
    }
}

pub(super) fn request_name(request: Request) -> &'static str {
    match request {
        Request::Upgrade | Request::UpgradeNow | Request::Hold => "upgrade",
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

pub(super) fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Milliseconds below ten seconds, seconds above.
pub fn duration_text(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..10_000 => format!("{millis} ms"),
        millis => format!("{} s", millis / 1000),
    }
}
