//! The generation that was rolled back: its files are noted, so that a change of `--watch`
//! that brings the same files back causes no upgrade. And the warning of files of the
//! generation before that have changed since.

use super::context::Context;
use crate::core::event::{Generation, Report};
use crate::launch::pin::FileId;
use crate::reexec::fd_transfer::path;
use crate::sys::process;
use log::{info, warn};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// A file: the path that its name resolved to, and its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeenFile {
    #[serde(with = "path")]
    real: PathBuf,
    file: Option<FileId>,
}

/// The generation that was rolled back last: its program, its arguments, and the files that
/// were watched for changes at that time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RolledBack {
    files: Vec<SeenFile>,
    /// The upgrade-failed hooks have run for the failure of this rollback.
    failure_reported: bool,
}

impl RolledBack {
    pub(super) fn on_report(&mut self, report: &Report, ctx: &mut Context) {
        match *report {
            Report::UpgradeStarted { from, .. } => note_written(from, ctx),
            Report::UpgradeFailed { from, .. } => warn_of_lost(from, ctx),
            Report::RollbackStarted { from, .. } => self.note(from, ctx),
            _ => {}
        }
    }

    /// Whether this is the first failure of this rollback: the hooks run once, however often it is
    /// attempted.
    pub(super) fn is_first_failure(&mut self) -> bool {
        !std::mem::replace(&mut self.failure_reported, true)
    }

    /// Notes the files of a generation that is rolled back.
    fn note(&mut self, from: Generation, ctx: &Context) {
        let spec = ctx.launcher.specs.get(&from);
        let made_of = spec.map(|spec| spec.files()).unwrap_or_default();
        let made_of = made_of.into_iter().map(|(real, file)| SeenFile { real, file });
        // A file that has changed since the start is one that the server itself writes.
        let made_of = made_of.filter(|seen| FileId::of(&seen.real) == seen.file);
        let files: Vec<SeenFile> = made_of.chain(watched(ctx)).collect();
        // A later attempt of the same rollback has the same files.
        if files != self.files {
            *self = RolledBack { files, failure_reported: false };
        }
    }

    /// Whether the watched files are those that were rolled back.
    pub(super) fn is_same(&self, ctx: &Context) -> bool {
        let same = |seen: &SeenFile| FileId::of(&seen.real) == seen.file;
        let same = !self.files.is_empty()
            && self.files.iter().all(same)
            && watched(ctx).all(|now| self.files.contains(&now));
        if same {
            info!(
                "nothing else is there than what was rolled back: no upgrade (ask for one to try it again)"
            );
        }
        same
    }
}

fn watched(ctx: &Context) -> impl Iterator<Item = SeenFile> {
    let seen = |path: PathBuf| {
        let real = fs::canonicalize(&path).unwrap_or(path);
        SeenFile { file: FileId::of(&real), real }
    };
    let directory = &ctx.launcher.surroundings.directory;
    ctx.config.watch.iter().flat_map(move |path| {
        let path = directory.join(path);
        // The entries of a directory count, as for --watch.
        let entries = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.chain([path.clone()]).map(seen).collect::<Vec<_>>()
    })
}

/// Notes the files that the workers of this generation have open for writing.
fn note_written(generation: Generation, ctx: &mut Context) {
    let workers = ctx.of_generation(generation).map(|shown| shown.worker);
    let pids: Vec<Pid> = workers.flat_map(|worker| ctx.processes.own_tree(worker)).collect();
    for path in pids.into_iter().flat_map(process::files_open_for_writing) {
        ctx.launcher.forget_written(generation, &path);
    }
}

/// Warns of files that have changed: another start of this generation would get the new ones.
fn warn_of_lost(generation: Generation, ctx: &Context) {
    let lost = ctx.launcher.lost(generation);
    if !lost.is_empty() {
        warn!(generation = generation.0; "{generation}: files have changed: {}: a worker that is started again uses what is there now (install each release in a directory of its own)", lost.join(", "));
    }
}
