//! What the reports of the core are for the clients that wait.
//!
//! Contract: a report is all that is known of an outcome. What was asked for while
//! another upgrade was under way waits for the next to begin, and has the verdict of
//! that one.

use super::context::Context;
use super::pending::{Awaits, Pending};
use super::replies::{count_of_workers, first, serves};
use super::report::{self, event};
use super::workers::Workers;
use crate::control::protocol::{Outcome, Reply};
use crate::core::Phase;
use crate::core::event::{Failure, Generation, Report, Request, WorkerId};

/// What is known of our own end, when it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stops {
    /// Somebody has asked for it; otherwise the reason follows, with our end.
    pub(super) asked: bool,
    /// The generation that an upgrade under way is to.
    pub(super) upgrade: Option<Generation>,
}

impl Pending {
    /// The core gets a request, of a client or by a signal. The last request for an upgrade that
    /// has not begun counts: a client that asked for the other kind is told.
    pub(super) fn overrule(&mut self, request: Request, ctx: &Context) {
        let policy = &ctx.config.policy;
        let held = match request {
            Request::Upgrade | Request::UpgradeNow => false,
            Request::Hold if !policy.stop_first && !policy.follow => true,
            _ => return,
        };
        let since = if held { "one that is to be held" } else { "one that replaces everything" };
        self.resolve(|awaits| {
            let other = matches!(*awaits, Awaits::Next { hold } if hold != held);
            let why = || format!("overruled: {since} was asked for since (the last word counts)");
            other.then(|| Reply::because(Outcome::Superseded, why()))
        });
    }

    /// What a report means for the clients: every one is sent the event, and those for whose
    /// request it is the result get that.
    pub(super) fn on_report(&mut self, report: &Report, stops: Stops, workers: &Workers, ctx: &Context) {
        if self.is_empty() {
            return;
        }
        self.tell(&event::event(report, &ctx.processes, &ctx.config));
        match *report {
            Report::UpgradeStarted { to, .. } => {
                for awaits in self.awaits_mut().filter(|awaits| matches!(awaits, Awaits::Next { .. })) {
                    *awaits = Awaits::Upgrade(to);
                }
            }
            Report::Held { from, to, took } => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it == to => {
                    let done = Reply::done(format!(
                        "{to} is on hold after {}: one worker of it serves beside {from} (commit, or rollback)",
                        report::length(took)
                    ));
                    Some(Reply { held: Some(true), ..done }.of(from, to, took))
                }
                Awaits::Next { .. } => Some(Reply::failed(format!(
                    "{to} is on hold: the upgrade follows once that is committed (a rollback drops it)"
                ))),
                _ => None,
            }),
            Report::CannotHold => self.resolve(|awaits| {
                let why = "a generation cannot be on hold with --stop-first, --follow or --adopt";
                matches!(awaits, Awaits::Next { hold: true }).then(|| Reply::failed(why))
            }),
            Report::NothingHeld(request) => self.resolve(|awaits| {
                let mine = match awaits {
                    Awaits::Commit => request == Request::Commit,
                    Awaits::Rollback => request == Request::Rollback,
                    _ => false,
                };
                mine.then(|| Reply::failed("nothing is on hold"))
            }),
            Report::UpgradeDone { from, to, took } => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it == to => Some(serves(from, to, took)),
                Awaits::Commit => Some(serves(from, to, took)),
                Awaits::Rollback => Some(Reply::failed(format!("{to} serves already"))),
                _ => None,
            }),
            Report::UpgradeFailed { from, to, why, took, replaced, of, .. } => {
                let reason = report::undone(report, &ctx.processes, &ctx.config).unwrap_or_default();
                // Without a bound on the surge it is all or nothing.
                let how_far = ctx.config.policy.surge.map(|_| (replaced, of));
                let stderr = workers.last_lines(why);
                self.resolve(|awaits| {
                    let failed = |result| Reply {
                        stderr: stderr.clone(),
                        replaced: how_far.map(|(replaced, _)| replaced),
                        of: how_far.map(|(_, of)| of),
                        ..Reply::because(result, reason.clone()).of(from, to, took)
                    };
                    match *awaits {
                        Awaits::Upgrade(it) if it == to && why == Failure::Superseded => {
                            Some(failed(Outcome::Superseded))
                        }
                        Awaits::Upgrade(it) if it == to => Some(failed(Outcome::Failed)),
                        Awaits::Commit => Some(failed(Outcome::Failed)),
                        Awaits::Rollback => Some(Reply::done(format!("{to} is undone: {reason}")).of(from, to, took)),
                        _ => None,
                    }
                });
            }
            Report::Scaled(workers) => self.resolve(|awaits| {
                let other = matches!(*awaits, Awaits::Scale(it) if it != workers);
                other.then(|| Reply::because(Outcome::Superseded, format!("{workers} were asked for since")))
            }),
            Report::ScaleDone(ready) => self.resolve(|awaits| match *awaits {
                Awaits::Scale(wanted) if ready < wanted => Some(Reply {
                    workers: Some(ready),
                    ..Reply::failed(format!("{ready} are ready, the other slots stay empty (--restart)"))
                }),
                Awaits::Scale(_) => Some(Reply {
                    workers: Some(ready),
                    ..Reply::done(format!("{} ready", count_of_workers(ready)))
                }),
                _ => None,
            }),
            Report::CannotScale(stays) => self.resolve(|awaits| {
                let why = format!("the number of workers stays {stays}: that is the limit");
                matches!(awaits, Awaits::Scale(_)).then(|| Reply { workers: Some(stays), ..Reply::failed(why) })
            }),
            // What was the first start to some has served, or another has in its stead.
            Report::Serving(serving) => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it <= serving => Some(first(serving)),
                _ => None,
            }),
            // Where nobody asked for it the reason follows, with our end.
            Report::Stopping if stops.asked => {
                let to = stops.upgrade;
                self.resolve(|awaits| {
                let later = match awaits {
                    Awaits::Next { .. } | Awaits::Scale(_) | Awaits::Commit => true,
                    // A first start: there is no verdict on that.
                    Awaits::Upgrade(it) => to != Some(*it),
                    _ => false,
                };
                later.then(|| Reply::failed("a stop came in between"))
                });
            }
            _ => {}
        }
    }

    /// Resolves the requests that no report is about, once a step is over.
    pub(super) fn after_step(&mut self, ctx: &Context) {
        if self.is_empty() {
            return;
        }
        let (core, phase) = (&ctx.core, ctx.core.phase());
        let here = |id: &WorkerId| core.workers().any(|shown| shown.worker == *id);
        // Where nothing served yet, the wish became the first start.
        let taken_up = !core.has_pending_upgrade();
        // What was kept and has neither begun nor is kept is no longer wanted.
        let dropped = taken_up && phase != Phase::Stopping;
        let generation = core.generation();
        for awaits in self.awaits_mut() {
            if phase == Phase::Starting && taken_up && matches!(awaits, Awaits::Next { .. }) {
                *awaits = Awaits::Upgrade(generation);
            }
        }
        self.resolve(|awaits| match awaits {
            Awaits::Gone(ids) if !ids.iter().any(here) => {
                let count = ids.len() as u32;
                let done = Reply::done(format!("{} killed", count_of_workers(count)));
                Some(Reply { workers: Some(count), ..done })
            }
            Awaits::Next { .. } if dropped => {
                let why = "a rollback came in between, and takes back whatever was asked for meanwhile";
                Some(Reply::because(Outcome::Superseded, why))
            }
            _ => None,
        });
    }
}
