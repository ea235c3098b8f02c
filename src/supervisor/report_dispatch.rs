//! Passes each report of the core to every owner that it concerns, and to the log.

use super::event_loop::EventLoop;
use super::readiness::end_check;
use super::report;
use crate::core::event::{Event, Report, Request};

impl EventLoop {
    pub(super) fn report(&mut self, report: &Report) {
        let ctx = &mut self.ctx;
        if let Report::Serving(_) = report
            && let Err(error) = self.service.publish_pid()
        {
            self.failure = Some(error);
            return ctx.queue(Event::Request(Request::Stop));
        }
        // These two note reasons for the log and the clients, so they come first.
        if let Some(adoption) = &mut self.adoption {
            adoption.on_report(report, ctx);
        }
        self.readiness.on_report(report, ctx);
        report::log(report, &ctx.processes, &ctx.config);
        self.control.on_report(report, self.failure.is_some(), &self.workers, ctx);
        match *report {
            Report::Stopping => ctx.processes.stopping = true,
            // The user's check no longer matters.
            Report::Ready(id, ..) => end_check(id, ctx),
            Report::Serving(_) | Report::UpgradeDone { .. } | Report::RolledBack { .. } => {
                self.trim_text = true;
            }
            _ => {}
        }
        self.listening.on_report(report, ctx);
        self.hooks.on_report(report, &mut self.rolled_back, ctx);
        self.workers.on_report(report, ctx);
        self.rolled_back.on_report(report, ctx);
        if let Some(follow) = &self.follow {
            follow.on_report(report, ctx);
            self.held.on_report(report, ctx);
        }
        self.service.on_report(report, ctx);
        self.start_after_hooks();
    }
}
