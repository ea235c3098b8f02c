//! The results of requests, from the reports of the core.
//!
//! Contract: a result comes from a report alone. A request that came while another
//! upgrade was under way waits for the next one, and gets the result of that one.

use super::context::Context;
use super::pending::{Awaits, Pending};
use super::replies::{count_of_workers, first, serves};
use super::report::{self, event};
use super::workers::Workers;
use crate::config::weight_text;
use crate::control::protocol::{Outcome, Reply};
use crate::core::Phase;
use crate::core::event::{Failure, Generation, Report, Request, WorkerId};

/// What is known of our own stop, when it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnStop {
    /// It was requested; otherwise the reason follows when we end.
    pub(super) requested: bool,
    /// The target generation of the upgrade that is under way.
    pub(super) upgrade: Option<Generation>,
}

impl Pending {
    /// The core gets a request, from a client or by a signal. Of several requests for an upgrade
    /// that has not begun the last one counts: a client that asked for the other kind gets a result.
    pub(super) fn supersede(&mut self, request: Request, ctx: &Context) {
        let policy = &ctx.config.policy;
        let held = match request {
            Request::Upgrade | Request::UpgradeNow => false,
            Request::Hold(weight) if policy.can_hold() && (weight.is_none() || policy.weighs) => true,
            _ => return,
        };
        let since = if held { "one that is to be held" } else { "one that replaces everything" };
        self.resolve(|awaits| {
            let other = matches!(*awaits, Awaits::Next { hold } if hold != held);
            let why = || format!("overruled: {since} was asked for since (the last word counts)");
            other.then(|| Reply::because(Outcome::Superseded, why()))
        });
    }

    /// Sends the event of a report to every client, and the result to those that wait for it.
    pub(super) fn on_report(&mut self, report: &Report, own_stop: OwnStop, workers: &Workers, ctx: &Context) {
        if self.is_empty() {
            return;
        }
        self.send_event(&event::event(report, &ctx.processes, &ctx.config));
        match *report {
            Report::UpgradeStarted { to, .. } => {
                for awaits in self.awaits_mut().filter(|awaits| matches!(awaits, Awaits::Next { .. })) {
                    *awaits = Awaits::Upgrade(to);
                }
            }
            // It has its verdict once the hold is over.
            Report::Held { lasts: Some(_), .. } => {}
            Report::Held { from, to, took, .. } => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it == to => {
                    let done = Reply::done(format!(
                        "{to} is on hold after {}: one worker of it serves beside {from} (commit, or rollback)",
                        report::duration_text(took)
                    ));
                    Some(Reply { held: Some(true), ..done }.of(from, to, took))
                }
                Awaits::Next { .. } => Some(Reply::failed(format!(
                    "{to} is on hold: the upgrade follows once that is committed (a rollback drops it)"
                ))),
                _ => None,
            }),
            Report::CannotHold => self.resolve(|awaits| {
                let why = "a generation cannot be on hold with --stop-first or --follow";
                matches!(awaits, Awaits::Next { hold: true }).then(|| Reply::failed(why))
            }),
            Report::Weighed(to, weight) => self.resolve(|awaits| {
                let done = || Reply::done(format!("{to} gets {} of the new connections", weight_text(weight)));
                (*awaits == Awaits::Weight).then(done)
            }),
            Report::NotWeighed(..) => self.resolve(|awaits| {
                (*awaits == Awaits::Weight).then(|| Reply::failed(ctx.processes.upgrade_refusal()))
            }),
            Report::CannotWeigh => self.resolve(|awaits| {
                let mine = matches!(awaits, Awaits::Weight | Awaits::Next { hold: true });
                mine.then(|| Reply::failed(report::CANNOT_WEIGH))
            }),
            Report::NothingHeld(request) => self.resolve(|awaits| {
                let why = match ctx.core.phase() {
                    Phase::Upgrading => {
                        "nothing is on hold; the upgrade under way goes on (upgrade --now replaces it by another one)"
                    }
                    _ => "nothing is on hold",
                };
                let mine = match awaits {
                    Awaits::Commit => request == Request::Commit,
                    Awaits::Rollback => request == Request::Rollback,
                    Awaits::Weight => matches!(request, Request::Weigh(_)),
                    _ => false,
                };
                mine.then(|| Reply::failed(why))
            }),
            Report::UpgradeDone { from, to, took } => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it == to => Some(serves(from, to, took)),
                Awaits::Commit => Some(serves(from, to, took)),
                Awaits::Rollback => Some(Reply::failed(format!("{to} serves already"))),
                _ => None,
            }),
            Report::UpgradeFailed { from, to, why, took, replaced, slots, .. } => {
                let reason = report::undo_reason(report, &ctx.processes, &ctx.config).unwrap_or_default();
                // With unlimited surge all slots are replaced, or none.
                let how_far = ctx.config.policy.surge.map(|_| (replaced, slots));
                let stderr = workers.last_lines(why);
                self.resolve(|awaits| {
                    let failed = |result| Reply {
                        stderr: stderr.clone(),
                        replaced: how_far.map(|(replaced, _)| replaced),
                        of: how_far.map(|(_, slots)| slots),
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
                let why =
                    format!("the number of workers stays {stays}: {}", report::limit_text(&ctx.config.policy));
                matches!(awaits, Awaits::Scale(_)).then(|| Reply { workers: Some(stays), ..Reply::failed(why) })
            }),
            // The first start is done, with this generation or one that replaced it.
            Report::Serving(serving) => self.resolve(|awaits| match *awaits {
                Awaits::Upgrade(it) if it <= serving => Some(first(serving)),
                _ => None,
            }),
            // If it was not requested, the reason follows when we end.
            Report::Stopping if own_stop.requested => {
                let to = own_stop.upgrade;
                self.resolve(|awaits| {
                let later = match awaits {
                    Awaits::Next { .. } | Awaits::Scale(_) | Awaits::Commit => true,
                    // A first start: no report gives its result.
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
        let remains = |id: &WorkerId| core.workers().any(|shown| shown.worker == *id);
        // Where nothing served yet, the requested upgrade became the first start.
        let not_pending = !core.has_pending_upgrade();
        // A pending upgrade that has not begun and is no longer pending was dropped.
        let dropped = not_pending && phase != Phase::Stopping;
        let generation = core.generation();
        for awaits in self.awaits_mut() {
            if phase == Phase::Starting && not_pending && matches!(awaits, Awaits::Next { .. }) {
                *awaits = Awaits::Upgrade(generation);
            }
        }
        self.resolve(|awaits| match awaits {
            Awaits::Gone(ids) if !ids.iter().any(remains) => {
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
