//! Passes each report of the core to every owner that it concerns, and to the log.

use super::context::Context;
use super::event_loop::EventLoop;
use super::hints;
use super::profile;
use super::readiness::end_check;
use super::report;
use crate::core::event::{Event, Report, Request, WorkerId};
use log::info;
use std::time::Duration;

/// A soak that goes on for longer is explained.
const LONG_SOAK: Duration = Duration::from_secs(1);

impl EventLoop {
    pub(super) fn report(&mut self, report: &Report) {
        let ctx = &mut self.ctx;
        if let Report::Serving(_) = report
            && let Err(error) = self.service.publish_pid()
        {
            self.failure = Some(error);
            return ctx.queue(Event::Request(Request::Stop));
        }
        // These note reasons and hints for the log and the clients, so they come first.
        if let Some(adoption) = &mut self.adoption {
            adoption.on_report(report, ctx);
        }
        self.readiness.on_report(report, ctx);
        hints::on_report(report, &self.workers, ctx);
        profile::on_report(report, ctx);
        if !self.repeats.has_told(report, ctx) {
            report::log(report, &ctx.processes, &ctx.config, ctx.core.has_served());
        }
        self.control.on_report(report, self.failure.is_some(), &self.workers, ctx);
        match *report {
            Report::Stopping => ctx.processes.stopping = true,
            Report::Started(_) | Report::Gone { .. } => self.control.check_files(&self.threads, ctx.now()),
            Report::Ready(id, ..) => {
                // The user's check no longer matters.
                end_check(id, ctx);
                log_startup_soak(id, ctx);
            }
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

/// Says why a replacement that is ready does not serve for a while.
fn log_startup_soak(id: WorkerId, ctx: &Context) {
    let Some(until) = ctx.core.startup_soak(id).filter(|until| *until > ctx.now() + LONG_SOAK) else {
        return;
    };
    let (wait, took) = (until - ctx.now(), ctx.core.startup_time());
    let Some(entry) = ctx.processes.get(id) else { return };
    let (generation, pid) = (entry.generation, entry.process.as_ref().map_or(0, |it| it.pid.as_raw()));
    info!(
        generation = generation.0, pid = pid;
        "{generation}: pid {pid} replaces its predecessor in {}, if it lives: that one took {} to start, and this one has to live as long (an ack that the worker sends itself ends the wait)",
        report::duration_text(wait), report::duration_text(took)
    );
}
