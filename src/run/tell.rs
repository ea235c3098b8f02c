//! Who is told of what happened: the log, the pid file, the service manager; and
//! what is looked at on the occasion.

use super::Run;
use crate::core::event::{Event, Failure, Report, Request};
use crate::error::{Error, reason};
use crate::pid_file::PidFile;
use crate::report;
use crate::sys::memory;

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
        report::log(report, &self.books, &self.config);
        self.change_listeners(report);
        match *report {
            Report::Serving(generation) => {
                self.upward.ready(&format!("{generation} serves"));
                memory::let_go_of_text();
            }
            Report::TookOver { worker, .. } => {
                self.warn_of_others(worker);
                let generation = self.books.get(worker).map_or(0, |entry| entry.generation.0);
                self.upward.ready(&format!("generation {generation} serves"));
            }
            Report::UpgradeStarted { to, .. } => self.upward.reloading(&format!("{to} starts")),
            Report::UpgradeDone { to, .. } => {
                for shown in self.core.workers().filter(|shown| shown.generation == to) {
                    self.warn_of_others(shown.worker);
                }
                self.readings.retain(|&generation, _| generation >= to);
                self.upward.ready(&format!("{to} serves"));
                memory::let_go_of_text();
            }
            // What follows is STOPPING=1, the last word.
            Report::UpgradeFailed { why: Failure::Stopped, .. } => {}
            Report::UpgradeFailed { from, to, replaced, left, why, .. } => {
                if replaced == 0 {
                    self.readings.remove(&to);
                }
                self.guard.hint(&self.common.listeners, to);
                let gone = left || matches!(why, Failure::NoSuccessor { .. });
                let old = if gone { "is gone" } else { "serves" };
                self.upward.ready(&format!("upgrade to {to} failed, {from} {old}"));
            }
            Report::Stopping => {
                self.books.stopping = true;
                self.upward.stopping();
            }
            // Whatever else it was asked, it has answered.
            Report::Ready(id, ..) => {
                self.end_check(id);
                self.remember_listeners(id);
                self.look(self.books.look(id));
            }
            Report::Gone { worker, .. } => self.look(self.books.look(worker)),
            _ => {}
        }
    }
}
