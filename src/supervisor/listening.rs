//! The listeners that we hold: they are checked and repaired when workers may have
//! changed them, and added and removed while workers serve.
//!
//! A check costs a few system calls for each listener. Many workers that start, become ready or
//! end together are one occasion: there is one check before the first start, and one when no
//! more inputs wait.

use super::context::Context;
use super::report;
use crate::core::event::{Failure, Report, Time};
use crate::dialect::first_listener;
use crate::error::Error;
use crate::listener::Bind;
use crate::listener::repair::Occasion;
use crate::process::{Entry, Symptom};
use log::{info, warn};
use std::time::Duration;

/// A check is not put off for longer, however many inputs wait.
const LONGEST_DELAY: Duration = Duration::from_millis(50);

pub(super) struct Listening {
    /// The check that was put off, and since when.
    due: Option<(Occasion, Time)>,
    /// There was a check before a start, and the loop has not waited since.
    checked_for_start: bool,
    /// Listeners that the last upgrade has closed: the generation before it had them.
    closed: Vec<String>,
}

impl Listening {
    pub(super) fn new() -> Listening {
        Listening { due: None, checked_for_start: false, closed: Vec::new() }
    }

    /// Checks the listeners on this occasion, or puts the check off. With `reuseport` each worker
    /// has a socket of its own, so each check concerns another socket: it is done at once.
    pub(super) fn check(&mut self, occasion: Occasion, ctx: &mut Context) {
        if ctx.launcher.settings.listeners.iter().any(|listener| listener.reuseport()) {
            return self.check_now(occasion, ctx);
        }
        if occasion.starting {
            if !std::mem::replace(&mut self.checked_for_start, true) {
                self.check_now(occasion, ctx);
            }
            return;
        }
        let since = match self.due.take() {
            Some((other, since)) if other.generation == occasion.generation => since,
            Some((other, _)) => {
                self.check_now(other, ctx);
                ctx.now()
            }
            None => ctx.now(),
        };
        self.due = Some((occasion, since));
    }

    /// Does the check that was put off, once there is nothing else to do.
    pub(super) fn check_if_due(&mut self, idle: bool, ctx: &mut Context) {
        self.checked_for_start = false;
        let now = ctx.now();
        if let Some((occasion, _)) = self.due.take_if(|(_, since)| idle || now > *since + LONGEST_DELAY) {
            self.check_now(occasion, ctx);
        }
    }

    fn check_now(&mut self, occasion: Occasion, ctx: &mut Context) {
        if !ctx.processes.stopping {
            ctx.launcher.settings.listeners.check(occasion);
        }
    }

    /// Listeners that were added or removed take effect with the upgrade, or are undone with it.
    /// Workers that become ready or end may have changed a listener.
    pub(super) fn on_report(&mut self, report: &Report, ctx: &mut Context) {
        let listeners = &mut ctx.launcher.settings.listeners;
        match *report {
            Report::UpgradeStarted { to, .. } => listeners.begin(to.0),
            Report::UpgradeFailed { to, replaced, why, .. } => {
                if replaced == 0 {
                    listeners.undo(to.0);
                }
                // The cause may be that another generation has changed O_NONBLOCK.
                let entry = why.worker().and_then(|worker| ctx.processes.get(worker));
                let got_eagain = entry.is_some_and(|entry| entry.symptom == Some(Symptom::WouldBlock));
                let waits = |entry: &Entry| entry.unmet.as_deref() == Some(report::WAITS);
                let hangs = matches!(why, Failure::NoAck(..)) && entry.is_some_and(waits);
                if got_eagain || hangs {
                    listeners.hint(to, got_eagain);
                }
            }
            Report::UpgradeDone { to, .. } => self.closed = listeners.close_for(to.0),
            Report::RollbackStarted { to, .. } if !self.closed.is_empty() => warn!(
                generation = to.0;
                "{to} is started again without {}, which ctl unbind has closed since", self.closed.join(", ")
            ),
            Report::Ready(worker, ..) | Report::Gone { worker, .. } => {
                self.check(ctx.processes.check_occasion(worker), ctx);
            }
            _ => {}
        }
    }

    /// Binds one more listener, which workers get from the next upgrade on: its name and its
    /// address.
    ///
    /// # Errors
    /// Why not, as at the start; nothing has changed then.
    pub(super) fn bind(&mut self, spec: &str, ctx: &mut Context) -> Result<(String, String), String> {
        let config = &ctx.config;
        if config.follow.is_some() {
            return Err("with --follow the program binds its own sockets".into());
        }
        if config.adopt.is_some() {
            return Err("with --adopt the program binds its own sockets".into());
        }
        if config.policy.canary.is_some_and(|canary| canary.weight.is_some()) {
            return Err("each upgrade has a weight (--canary), for which a socket has to have ,reuseport from the start".into());
        }
        let bind: Bind = spec.parse().map_err(|error: Error| error.to_string())?;
        let launcher = &mut ctx.launcher;
        if let Some(first) = first_listener(&config.dialects) {
            let number = first + launcher.settings.listeners.next().count() as i32;
            let asked = config.acks.fd_number.iter().chain(&config.worker.pass_fds);
            if asked.copied().any(|asked| asked == number) {
                return Err(format!("the worker has another descriptor {number} (--ack fd:N, --pass-fd)"));
            }
        }
        let directory = &launcher.surroundings.directory;
        let added = launcher.settings.listeners.add(bind, directory, &config.dialects);
        let (listener, new) = added.map_err(|error| match error {
            // The client names the attempt and the address itself.
            Error::Bind { why, advice: Some(advice), .. } => format!("{why} ({advice})"),
            Error::Bind { why, advice: None, .. } => why,
            error => error.to_string(),
        })?;
        match new {
            true => info!("listening on {listener}, for the workers of the next upgrade"),
            false => info!("{listener} stays"),
        }
        Ok((listener.name().to_owned(), listener.address().to_owned()))
    }

    /// Removes the listener of this name, from the next upgrade on; returns what that means.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub(super) fn unbind(&mut self, name: &str, ctx: &mut Context) -> Result<String, String> {
        let done = match ctx.launcher.settings.listeners.withdraw(name, &ctx.config.dialects)? {
            true => format!("{name} is closed: no worker had it"),
            false => format!(
                "{name} is closed once the next upgrade has succeeded (a rollback after that does not open it again)"
            ),
        };
        info!("{done}");
        Ok(done)
    }
}
