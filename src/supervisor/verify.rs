//! What the command of `--verify` writes: it goes to our stderr as the output of every hook does,
//! and its last lines are the reason if it fails.

use crate::core::event::WorkerId;
use crate::launch::capture::Capture;
use crate::reexec::quiesce::Quiesce;
use crate::sys::child::Launch;
use crate::sys::identity::Identity;
use log::warn;
use std::os::fd::{AsRawFd, OwnedFd};

/// The most lines of a reason, and the most characters of it.
const LINES: usize = 3;
const LONGEST: usize = 400;

/// The output of the command that runs, or has run last.
#[derive(Default)]
pub(super) struct Output {
    /// Started with the first command.
    capture: Option<Capture>,
    /// The number of the command, which is the name of its output.
    runs: u32,
}

/// Both ends of the pipe of a command that is about to start.
pub(super) struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Output {
    /// Starts the thread that reads the output.
    pub(super) fn start(&mut self, quiesce: &Quiesce) {
        if self.capture.is_none() {
            let started = Capture::start(quiesce);
            self.capture = started.inspect_err(|error| warn!("{error}: --verify gives no reasons")).ok();
        }
    }

    /// A pipe for a command that runs as `identity`; it is its stdout and stderr.
    pub(super) fn pipe(&self, identity: Option<&Identity>, launch: &mut Launch) -> Option<Pipe> {
        self.capture.as_ref()?;
        let (ours, theirs) = Capture::pipe(identity).ok()?;
        launch.fds.extend([1, 2].map(|target| (theirs.as_raw_fd(), target)));
        Some(Pipe { ours, theirs })
    }

    /// The command has started, with this pipe.
    pub(super) fn watch(&mut self, pipe: Pipe) {
        let Pipe { ours, theirs } = pipe;
        drop(theirs);
        self.runs = self.runs.wrapping_add(1);
        if let Some(capture) = &self.capture
            && let Err(error) = capture.watch(WorkerId(self.runs), ours)
        {
            warn!("the output of --verify cannot be read: {error}");
        }
    }

    /// The last lines of the command, which has ended; as the end of a sentence.
    pub(super) fn end(&mut self) -> String {
        let Some(capture) = &self.capture else { return String::new() };
        let lines = capture.last_lines(WorkerId(self.runs));
        capture.forget(WorkerId(self.runs));
        let said: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        let last = said[said.len().saturating_sub(LINES)..].join("; ");
        let cut = last.chars().count().saturating_sub(LONGEST);
        let last: String = last.chars().skip(cut).collect();
        match (last.is_empty(), cut) {
            (true, _) => String::new(),
            (false, 0) => format!(": {last}"),
            (false, _) => format!(": …{last}"),
        }
    }
}
