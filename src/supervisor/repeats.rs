//! Reports that the log has made already: what comes again and again is told once.
//!
//! Contract: a request that is kept is told once for each upgrade that follows. A rollback to a
//! generation whose files are lost is attempted at every crash: that it cannot be, and why, is told
//! once, until another reason comes or the files are back. Clients of `ctl` get every report.

use super::context::Context;
use crate::core::event::{Failure, Generation, Report};

#[derive(Default)]
pub(super) struct Repeats {
    /// It was told that an upgrade follows, while this generation served.
    kept: Option<Generation>,
    /// The generation that a rollback starts.
    returning: Option<Generation>,
    /// It was not told that it does: it will fail as the last one did.
    silent: bool,
    /// The last rollback that could not be started: from where, to where, and why.
    lost: Option<(Generation, Generation, String)>,
}

impl Repeats {
    /// Whether the log has said already what this report says.
    pub(super) fn has_told(&mut self, report: &Report, ctx: &Context) -> bool {
        match *report {
            Report::UpgradeKept(_) => {
                let serving = Some(ctx.core.generation());
                std::mem::replace(&mut self.kept, serving) == serving
            }
            Report::UpgradeStarted { .. } | Report::UpgradeFailed { .. } => {
                self.kept = None;
                false
            }
            Report::RollbackStarted { from, to, .. } => {
                self.returning = Some(to);
                let spec = ctx.launcher.specs.get(&to);
                let refused = spec.and_then(|spec| spec.exactly().err()).map(|refused| refused.message);
                self.silent = refused.is_some_and(|why| self.is_lost(from, to, &why));
                self.silent
            }
            // The report that the rollback has failed follows, with the same reason.
            Report::NotStarted { worker, again: false, .. } => {
                let generation = ctx.processes.get(worker).map(|entry| entry.generation);
                self.returning.is_some() && generation == self.returning
            }
            Report::RollbackFailed { from, to, why } => {
                self.returning = None;
                let Failure::NotStarted(worker, _) = why else { return false };
                let why = ctx.processes.start_error(worker);
                let told = self.silent && self.is_lost(from, to, why);
                self.lost = Some((from, to, why.to_owned()));
                told
            }
            Report::RolledBack { .. } => {
                self.returning = None;
                false
            }
            _ => false,
        }
    }

    fn is_lost(&self, from: Generation, to: Generation, why: &str) -> bool {
        self.lost.as_ref().is_some_and(|lost| (lost.0, lost.1, lost.2.as_str()) == (from, to, why))
    }
}
