//! The history that status and metrics show: the last upgrade, and counts of upgrades and
//! crashes.

use super::context::Context;
use super::report::{self, event};
use super::workers::Workers;
use crate::control::protocol::LastUpgrade;
use crate::core::Phase;
use crate::core::event::{Generation, Report, Time, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// The target generation of the upgrade that is under way.
    pub(super) to: Option<Generation>,
    pub(super) last: Option<LastUpgrade>,
    /// When the last upgrade ended.
    pub(super) last_at: Option<Time>,
    pub(super) upgrades: u32,
    pub(super) failed: u32,
    /// How many upgrades that succeeded were rolled back, or were to be.
    #[serde(default)]
    pub(super) rolled_back: u32,
    /// The generation of the last one that succeeded, while no rollback of it has begun.
    #[serde(default)]
    live: Option<Generation>,
    pub(super) crashes: u32,
    /// The number of workers that was asked for since the start.
    pub(super) wanted: Option<u32>,
    /// Workers whose end does not count as a crash: it has been counted, or another worker took over.
    not_counted: BTreeSet<WorkerId>,
}

impl History {
    pub(super) fn on_report(&mut self, report: &Report, workers: &Workers, ctx: &Context) {
        let now = ctx.now();
        match *report {
            Report::UpgradeStarted { to, .. } => self.to = Some(to),
            Report::UpgradeDone { from, to, took } => {
                self.to = None;
                self.upgrades = self.upgrades.saturating_add(1);
                self.live = Some(to);
                self.last = Some(last(from, to, took, "ok", None));
                self.last_at = Some(now);
            }
            Report::UpgradeFailed { from, to, why, took, .. } => {
                self.to = None;
                let reason = report::undo_reason(report, &ctx.processes, &ctx.config);
                let result = event::result_of(why);
                let last = last(from, to, took, result, reason);
                self.last = Some(LastUpgrade { stderr: workers.last_lines(why), ..last });
                self.last_at = Some(now);
                self.failed = self.failed.saturating_add(u32::from(result == "failed"));
            }
            Report::RollbackStarted { from, to, why, after, .. } => {
                let reason = report::rollback_reason(report, &ctx.processes);
                let reason = reason.map(|reason| format!("{reason}{}", outlook(to)));
                let last = last(to, from, after, "failed", reason);
                self.last = Some(LastUpgrade { stderr: workers.last_lines(why), ..last });
                self.last_at = Some(now);
                // Later attempts belong to the same upgrade, and one that came half-way has failed
                // already.
                let first = u32::from(self.live.take_if(|live| *live == from).is_some());
                self.failed = self.failed.saturating_add(first);
                self.rolled_back = self.rolled_back.saturating_add(first);
            }
            Report::RolledBack { to, .. } => {
                self.last.iter_mut().for_each(|last| last.result = "rolled back".into());
                self.end_rollback(to, &format!("{to} was started again"), now);
            }
            Report::RollbackFailed { to, .. } => {
                let outcome = report::rollback_outcome(report, &ctx.processes).unwrap_or_default();
                self.end_rollback(to, &outcome, now);
            }
            Report::Scaled(workers) => self.wanted = Some(workers),
            Report::Gone { worker, .. } if self.not_counted.remove(&worker) => {}
            // It has ended in favour of its successor, as it was asked to; if there is none,
            // the upgrade has failed.
            Report::Gone { .. } if ctx.config.follow.is_some() && self.to.is_some() => {}
            Report::HandedOver { predecessor, .. } => drop(self.not_counted.insert(predecessor)),
            Report::Gone { worker, stop_sent: false, .. } | Report::Silent(worker, _)
                if ctx.core.phase() != Phase::Stopping =>
            {
                if matches!(report, Report::Silent(..)) {
                    self.not_counted.insert(worker);
                }
                // A replacement that ends counts as a failed upgrade instead.
                let generation = ctx.processes.get(worker).map(|entry| entry.generation);
                if self.to.is_none() || generation != self.to {
                    self.crashes = self.crashes.saturating_add(1);
                }
            }
            _ => {}
        }
    }
}

impl History {
    /// What was to happen has happened, or has failed: the reason says which.
    fn end_rollback(&mut self, to: Generation, outcome: &str, now: Time) {
        let reason = self.last.as_mut().and_then(|last| last.reason.as_mut());
        if let Some(reason) = reason {
            let why = reason.strip_suffix(&outlook(to)).unwrap_or(reason);
            *reason = format!("{why}; {outcome}");
        }
        self.last_at = Some(now);
    }
}

/// What a rollback is about to do, behind its reason.
fn outlook(to: Generation) -> String {
    format!("; {to} is to be started again")
}

fn last(
    from: Generation,
    to: Generation,
    took: Duration,
    result: &str,
    reason: Option<String>,
) -> LastUpgrade {
    let duration_ms = took.as_millis() as u64;
    let (from, to, result) = (from.0, to.0, result.into());
    LastUpgrade { from, to, result, reason, duration_ms, ..LastUpgrade::default() }
}
