//! Who is told of what happened: the log, the pid file, the service manager; and
//! what is looked at on the occasion.

use super::Run;
use crate::config::Config;
use crate::config::hooks::Occasion;
use crate::core::Phase;
use crate::core::event::{Event, Failure, Report, Request};
use crate::core::policy::TIMER_SOAK;
use crate::error::{Error, reason};
use crate::service::pid_file::PidFile;
use crate::supervisor::report;
use std::time::Duration;

/// How long we wait for a start; None: for ever.
/// The program took so long of late, and its replacement may take longer.
pub(super) fn start_limit(config: &Config, took: Duration) -> Option<Duration> {
    let (policy, hooks) = (&config.policy, &config.hooks);
    let before = hooks.longest(Occasion::PreUpgrade) + hooks.longest(Occasion::PreStart);
    // Of one that only the timer of `auto` makes ready, too.
    Some(before + policy.ack_timeout?.max(took * 2) + policy.soak.max(TIMER_SOAK).max(took))
}

/// How long a stop may take: of workers, then of what they leave behind.
fn stop_limit(config: &Config) -> Option<Duration> {
    let (policy, hooks) = (&config.policy, &config.hooks);
    let told = hooks.longest(Occasion::PreStop) + hooks.longest(Occasion::PostStop);
    Some(told + policy.stop_timeout?.max(policy.parent_term_stop_timeout?) * 2)
}

impl Run {
    pub(super) fn report(&mut self, report: &Report) {
        // Whoever reads that it serves looks for the pid file, and could not find us.
        if let Report::Serving(_) = report
            && let Some(Err(error)) = self.pid_file.as_ref().map(PidFile::publish)
        {
            self.failure = Some(Error::cannot("put the pid file in its place", reason(&error)));
            self.soon.push_back(Event::Request(Request::Stop));
            return;
        }
        self.tell_adopt(report);
        self.note_unseen(report);
        report::log(report, &self.processes, &self.config);
        self.tell_control(report);
        self.change_listeners(report);
        self.tell_hooks(report);
        match *report {
            Report::Serving(generation) => {
                let status = self.serves(generation);
                self.service.ready(&status);
                self.heavy = true;
            }
            Report::HandedOver { worker, .. } => {
                self.warn_of_others(worker);
                let generation = self.processes.get(worker).map_or(0, |entry| entry.generation.0);
                self.service.ready(&format!("generation {generation} serves"));
            }
            Report::UpgradeStarted { from, to } => {
                self.note_written(from);
                let limit = start_limit(&self.config, self.core.took());
                self.service.reloading(&format!("{to} starts"), limit);
            }
            Report::Started(_) if self.core.phase() == Phase::Upgrading => {
                self.service.prolong(start_limit(&self.config, self.core.took()));
            }
            Report::Held { from, to, .. } => {
                self.service.ready(&format!("{from} serves, {to} is on hold beside it"));
            }
            Report::UpgradeDone { to, .. } => {
                for shown in self.core.workers().filter(|shown| shown.generation == to) {
                    self.warn_of_others(shown.worker);
                }
                self.settle(to);
                let status = self.serves(to);
                self.service.ready(&status);
                self.heavy = true;
            }
            // What follows is STOPPING=1, the last word.
            Report::UpgradeFailed { why: Failure::Stopped, .. } => {}
            Report::UpgradeFailed { from, to, left, why, .. } => {
                self.settle(to);
                self.warn_of_lost(from);
                // What an accept(2) that finds nothing may have to do with.
                if matches!(why, Failure::Exited { ready: false, .. } | Failure::NoAck(..)) {
                    self.repair.hint(&self.common.listeners, to);
                }
                let gone = left || matches!(why, Failure::NoSuccessor { .. });
                let old = if gone { "is gone" } else { "serves" };
                let ended = match why {
                    Failure::RolledBack | Failure::Superseded => "was undone",
                    _ => "failed",
                };
                self.service.ready(&format!("upgrade to {to} {ended}, {from} {old}"));
            }
            Report::RollbackStarted { from, to, .. } => {
                self.note_rollback(from);
                self.service.status(format!("{from} kept ending, {to} is started again"));
            }
            Report::RolledBack { from, to, .. } => {
                self.settle(to);
                self.service.status(format!("{to} serves again, {from} was rolled back"));
                self.heavy = true;
            }
            Report::Stopping => {
                self.processes.stopping = true;
                self.service.stopping(stop_limit(&self.config));
            }
            // Whatever else it was asked, it has answered.
            Report::Ready(id, ..) => {
                self.end_check(id);
                self.remember_listeners(id);
                self.look(self.processes.look(id));
            }
            Report::Gone { worker, .. } => self.look(self.processes.look(worker)),
            _ => {}
        }
    }
}
