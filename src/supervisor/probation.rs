//! A generation that was rolled back: what it was made of, so that the same is not tried
//! again because somebody touched it; and what cannot be had again of the one before.

use super::Run;
use crate::core::event::Generation;
use crate::launch::pin::FileId;
use crate::reexec::fd_transfer::path;
use crate::sys::process;
use log::{info, warn};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// A file, by where its name led and what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    #[serde(with = "path")]
    real: PathBuf,
    file: Option<FileId>,
}

/// What was rolled back last: its program and arguments, and what is watched for changes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RolledBack {
    files: Vec<Seen>,
    /// It was told that the generation before cannot be started again.
    pub(super) failed: bool,
}

impl Run {
    /// Notes what a generation that is rolled back was made of.
    pub(super) fn note_rollback(&mut self, from: Generation) {
        let made_of = self.readings.get(&from).map(|reading| reading.files()).unwrap_or_default();
        let made_of = made_of.into_iter().map(|(real, file)| Seen { real, file });
        // What has changed since it was started is written by the server itself.
        let made_of = made_of.filter(|seen| FileId::of(&seen.real) == seen.file);
        let files: Vec<Seen> = made_of.chain(self.watched_now()).collect();
        // A later try is of the same.
        if files != self.rolled_back.files {
            self.rolled_back = RolledBack { files, failed: false };
        }
    }

    /// Whether what is there now is what was rolled back.
    fn is_rolled_back(&self) -> bool {
        let then = &self.rolled_back.files;
        let same = |seen: &Seen| FileId::of(&seen.real) == seen.file;
        !then.is_empty() && then.iter().all(same) && self.watched_now().all(|now| then.contains(&now))
    }

    fn watched_now(&self) -> impl Iterator<Item = Seen> {
        let seen = |path: PathBuf| {
            let real = fs::canonicalize(&path).unwrap_or(path);
            Seen { file: FileId::of(&real), real }
        };
        self.config.watch.iter().flat_map(move |path| {
            let path = self.around.directory.join(path);
            // Of a directory its entries count, as they do for --watch.
            let entries = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.chain([path.clone()]).map(seen).collect::<Vec<_>>()
        })
    }

    /// Files that the workers of this generation have open to write to: that they change says
    /// nothing of the release.
    pub(super) fn note_written(&mut self, generation: Generation) {
        let workers = self.core.workers().filter(|shown| shown.generation == generation);
        let pids: Vec<Pid> = workers.flat_map(|shown| self.processes.own_tree(shown.worker)).collect();
        let Some(reading) = self.readings.get_mut(&generation) else { return };
        for path in pids.into_iter().flat_map(process::written) {
            reading.is_written(&path);
        }
    }

    /// Says what another start of this generation would not have as it was.
    pub(super) fn warn_of_lost(&self, generation: Generation) {
        let lost = self.lost(generation);
        if !lost.is_empty() {
            warn!(generation = generation.0; "{generation}: not as it was any more: {}: a worker that is started again takes what is there now (install each release in a directory of its own)", lost.join(", "));
        }
    }

    /// Files of a generation that another start would not have as they were.
    pub(super) fn lost(&self, generation: Generation) -> Vec<String> {
        let lost = self.readings.get(&generation).map(|reading| reading.lost()).unwrap_or_default();
        lost.into_iter().map(|path| path.display().to_string()).collect()
    }

    /// The same of every generation that may be started again.
    pub(super) fn lost_now(&self) -> Vec<String> {
        let failed = self.control.last.as_ref().is_some_and(|last| last.result != "ok");
        let serving = failed.then(|| self.core.generation());
        let before = self.core.probation().map(|shown| shown.before);
        serving.into_iter().chain(before).flat_map(|generation| self.lost(generation)).collect()
    }

    /// Whether a change of what is watched is none: it was rolled back, and is the same.
    pub(super) fn is_old_news(&self) -> bool {
        let same = self.is_rolled_back();
        if same {
            info!(
                "nothing else is there than what was rolled back: no upgrade (ask for one to try it again)"
            );
        }
        same
    }
}
