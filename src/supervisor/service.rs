//! What the service manager gets to know, and the pid file.

use super::context::Context;
use super::workers::{ForManager, serves_text};
use crate::config::Config;
use crate::config::hooks::Occasion;
use crate::core::Phase;
use crate::core::event::{Failure, Generation, Report, Time};
use crate::core::policy::TIMER_SOAK;
use crate::error::{Error, reason};
use crate::service::ServiceManager;
use crate::service::pid_file::PidFile;
use std::time::Duration;

pub(super) struct Service {
    pub(super) manager: ServiceManager,
    pub(super) pid_file: Option<PidFile>,
}

impl Service {
    /// Publishes the pid file. This comes before a generation is reported to serve: whoever
    /// gets the report may read the file.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub(super) fn publish_pid(&self) -> Result<(), Error> {
        let published = self.pid_file.as_ref().map_or(Ok(()), PidFile::publish);
        published.map_err(|error| Error::cannot("put the pid file in its place", reason(&error)))
    }

    /// Passes a worker's message on.
    pub(super) fn pass_on(&mut self, message: ForManager) {
        match message {
            ForManager::Nothing => {}
            ForManager::Prolong(by) => self.manager.prolong(by),
            ForManager::Status(text) => self.manager.status(text),
        }
    }

    pub(super) fn on_report(&mut self, report: &Report, ctx: &Context) {
        let manager = &mut self.manager;
        match *report {
            Report::Serving(to) | Report::UpgradeDone { to, .. } => manager.ready(&serves_text(to, ctx)),
            Report::HandedOver { worker, .. } => {
                let generation = ctx.processes.get(worker).map_or(Generation(0), |entry| entry.generation);
                manager.ready(&format!("{generation} serves"));
            }
            Report::UpgradeStarted { to, .. } => {
                manager.reloading(&format!("{to} starts"), start_limit(&ctx.config, ctx.core.startup_time()));
            }
            Report::Started(_) if ctx.core.phase() == Phase::Upgrading => {
                manager.prolong(start_limit(&ctx.config, ctx.core.startup_time()));
            }
            Report::Held { from, to, .. } => {
                manager.ready(&format!("{from} serves, {to} is on hold beside it"));
            }
            // STOPPING=1 follows, the last message.
            Report::UpgradeFailed { why: Failure::Stopped, .. } => {}
            Report::UpgradeFailed { from, to, predecessor_left, why, .. } => {
                let gone = predecessor_left || matches!(why, Failure::NoSuccessor { .. });
                let old = if gone { "is gone" } else { "serves" };
                let ended = match why {
                    Failure::RolledBack | Failure::Superseded => "was undone",
                    _ => "failed",
                };
                manager.ready(&format!("upgrade to {to} {ended}, {from} {old}"));
            }
            Report::RollbackStarted { from, to, .. } => {
                manager.status(format!("{from} kept ending, {to} is to be started again"));
            }
            Report::RolledBack { from, to, .. } => {
                manager.status(format!("{to} serves again, {from} was rolled back"));
            }
            Report::Stopping => manager.stopping(stop_limit(&ctx.config)),
            _ => {}
        }
    }

    /// When the next message to the service manager is due.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        self.manager.wait().map(|wait| now + wait)
    }
}

/// How long a start may take; None: unlimited. The last start took `took`, and the next may
/// take longer.
pub(super) fn start_limit(config: &Config, took: Duration) -> Option<Duration> {
    let (policy, hooks) = (&config.policy, &config.hooks);
    let before = hooks.longest(Occasion::PreUpgrade) + hooks.longest(Occasion::PreStart);
    // A worker that only the timer of `auto` makes ready soaks as well.
    Some(before + policy.ack_timeout?.max(took * 2) + policy.soak.max(TIMER_SOAK).max(took))
}

/// How long a stop may take: first the workers, then their orphans.
fn stop_limit(config: &Config) -> Option<Duration> {
    let (policy, hooks) = (&config.policy, &config.hooks);
    let hooks_take = hooks.longest(Occasion::PreStop) + hooks.longest(Occasion::PostStop);
    Some(hooks_take + policy.stop_timeout?.max(policy.parent_term_stop_timeout?) * 2)
}
