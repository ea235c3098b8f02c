//! Who waits for what, and what the reports of the core are for them.
//!
//! Contract: a report is all that is known of an outcome. What was asked for while
//! another upgrade was under way waits for the next to begin, and has the verdict of
//! that one.

use super::replies::{first, last, last_lines, serves, workers};
use super::{Run, Verdict};
use crate::control::instance::Instance;
use crate::control::protocol::{LastUpgrade, Outcome, Reply, line};
use crate::control::reply_queue::ReplyQueue;
use crate::control::server::{ClientId, Clients};
use crate::core::Phase;
use crate::core::event::{Failure, Generation, Report, Request, Time, WorkerId};
use crate::core::policy::PROBATION_CRASHES;
use crate::error::Error;
use crate::listener::PrivateSocket;
use crate::supervisor::report::{self, event};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long our last words to clients may take.
const FLUSH: Duration = Duration::from_secs(1);
/// The clients, and what they are told of the past.
#[derive(Debug)]
pub(super) struct Control {
    /// It goes with us, before the name does.
    pub(super) socket: Option<PrivateSocket>,
    pub(super) clients: Option<Clients>,
    /// Holds the lock of the name.
    pub(super) instance: Instance,
    pub(super) waiters: Vec<PendingRequest>,
    /// The generation that an upgrade under way is to.
    pub(super) to: Option<Generation>,
    pub(super) last: Option<LastUpgrade>,
    /// When that ended.
    pub(super) last_at: Option<Time>,
    pub(super) failed: u32,
    pub(super) crashes: u32,
    pub(super) upgrades: u32,
    /// How many workers somebody has asked for since the start.
    pub(super) wanted: Option<u32>,
    /// Workers whose end is no crash: it has been counted, or another took over.
    pub(super) silent: BTreeSet<WorkerId>,
    /// Somebody has asked us to stop.
    pub(super) stop_asked: bool,
    /// Held by every answer that is not written; nothing is ever sent.
    pub(super) written: (Sender<()>, Receiver<()>),
}

/// A client that has not had its result.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) client: ClientId,
    pub(super) answers: ReplyQueue,
    pub(super) waits: Awaits,
}

/// What a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaits {
    /// Whatever happens; so many events did not reach it.
    Events {
        missed: u64,
    },
    /// The end of the next upgrade, which has not begun; `hold` if it was to be held.
    Next {
        hold: bool,
    },
    /// The end of the upgrade to this generation.
    Upgrade(Generation),
    /// That what is on hold is committed, or rolled back.
    Commit,
    Rollback,
    /// So many workers.
    Scale(u32),
    /// The end of these.
    Gone(BTreeSet<WorkerId>),
    /// That another image of ours has taken over.
    Reexec,
    /// Our own end.
    Stop,
}

impl Control {
    /// What an answer holds until it is written.
    pub(super) fn written(&self) -> Sender<()> {
        self.written.0.clone()
    }

    /// Where our socket is.
    pub(super) fn path(&self) -> Option<&str> {
        self.socket.as_ref()?.path().to_str()
    }

    /// Tells those who asked whether another image has taken over.
    pub(super) fn reexecuted(&mut self, outcome: &Reply) {
        self.resolve(|waits| (*waits == Awaits::Reexec).then(|| outcome.clone()));
    }

    pub(super) fn take(&mut self, client: ClientId) -> Option<PendingRequest> {
        let at = self.waiters.iter().position(|waiter| waiter.client == client)?;
        Some(self.waiters.swap_remove(at))
    }

    /// Sends a result to each of whom it is one.
    fn resolve(&mut self, result: impl Fn(&Awaits) -> Option<Reply>) {
        let mut rest = Vec::with_capacity(self.waiters.len());
        for waiter in self.waiters.drain(..) {
            match result(&waiter.waits) {
                Some(reply) => waiter.answers.result(reply),
                None => rest.push(waiter),
            }
        }
        self.waiters = rest;
    }

    /// Tells everybody of an event, as far as they read.
    pub(super) fn tell(&mut self, event: &Value) {
        let text: Arc<[u8]> = line(event).into();
        for waiter in &mut self.waiters {
            let Awaits::Events { missed } = &mut waiter.waits else {
                // It can do without: its result will tell.
                let _ = waiter.answers.line(&text);
                continue;
            };
            if *missed > 0 {
                let note = line(&event::named("missed", json!({"count": *missed})));
                if waiter.answers.line(&note.into()).is_ok() {
                    *missed = 0;
                }
            }
            if *missed > 0 || waiter.answers.line(&text).is_err() {
                *missed += 1;
            }
        }
    }

    /// Everybody's last result, before we exit.
    pub(super) fn end(&mut self, verdict: &Result<Verdict, Error>) {
        let (status, why) = match verdict {
            Ok((status, why)) => (*status, why.clone()),
            Err(error) => (error.status(), Some(error.to_string())),
        };
        let why = why.as_deref();
        for waiter in self.waiters.drain(..) {
            match waiter.waits {
                Awaits::Events { .. } => {
                    let event = event::named("ended", json!({"exit_status": status}));
                    waiter.answers.last_line(&line(&event).into());
                }
                Awaits::Stop => {
                    let done = why.map_or("stopped".into(), |why| format!("stopped; {why}"));
                    let reply = Reply { exit_status: Some(status), ..Reply::done(done) };
                    waiter.answers.last_result(reply);
                }
                _ => {
                    let why = why.map_or(String::new(), |why| format!(": {why}"));
                    let reply = Reply::failed(format!("graceful-run ends with status {status}{why}"));
                    let reply = Reply { exit_status: Some(status), ..reply };
                    waiter.answers.last_result(reply);
                }
            }
        }
        let (ours, all) = std::mem::replace(&mut self.written, bounded(0));
        drop(ours);
        // It ends when the last answer has let go of it.
        let _ = all.recv_timeout(FLUSH);
    }
}

impl Run {
    /// What somebody, client or not, asks the core for. The last word on an upgrade
    /// that has not begun counts: whoever asked for the other kind is told.
    pub(super) fn overrule(&mut self, request: Request) {
        let policy = &self.config.policy;
        let held = match request {
            Request::Upgrade | Request::UpgradeNow => false,
            Request::Hold if !policy.stop_first && !policy.follow => true,
            Request::Stop | Request::Interrupt { .. } | Request::Kill => {
                self.control.stop_asked = true;
                return;
            }
            _ => return,
        };
        let since = if held { "one that is to be held" } else { "one that replaces everything" };
        self.control.resolve(|waits| {
            let other = matches!(*waits, Awaits::Next { hold } if hold != held);
            let why = || format!("overruled: {since} was asked for since (the last word counts)");
            other.then(|| Reply::because(Outcome::Superseded, why()))
        });
    }

    /// What a report is for those who wait, and for the status.
    pub(super) fn tell_control(&mut self, report: &Report) {
        self.remember(report);
        if self.control.waiters.is_empty() {
            return;
        }
        let event = event::event(report, &self.processes, &self.config);
        self.control.tell(&event);
        match *report {
            Report::UpgradeStarted { to, .. } => {
                for waiter in &mut self.control.waiters {
                    if matches!(waiter.waits, Awaits::Next { .. }) {
                        waiter.waits = Awaits::Upgrade(to);
                    }
                }
            }
            Report::Held { from, to, took } => self.control.resolve(|waits| match *waits {
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
            Report::CannotHold => self.control.resolve(|waits| {
                let why = "a generation cannot be on hold with --stop-first, --follow or --adopt";
                matches!(waits, Awaits::Next { hold: true }).then(|| Reply::failed(why))
            }),
            Report::NothingHeld(request) => self.control.resolve(|waits| {
                let mine = match waits {
                    Awaits::Commit => request == Request::Commit,
                    Awaits::Rollback => request == Request::Rollback,
                    _ => false,
                };
                mine.then(|| Reply::failed("nothing is on hold"))
            }),
            Report::UpgradeDone { from, to, took } => self.control.resolve(|waits| match *waits {
                Awaits::Upgrade(it) if it == to => Some(serves(from, to, took)),
                Awaits::Commit => Some(serves(from, to, took)),
                Awaits::Rollback => Some(Reply::failed(format!("{to} serves already"))),
                _ => None,
            }),
            Report::UpgradeFailed { from, to, why, took, replaced, of, .. } => {
                let reason = report::undone(report, &self.processes, &self.config).unwrap_or_default();
                // Without a bound on the surge it is all or nothing.
                let how_far = self.config.policy.surge.map(|_| (replaced, of));
                let stderr = last_lines(self.capture.as_ref(), why);
                self.control.resolve(|waits| {
                    let failed = |result| Reply {
                        stderr: stderr.clone(),
                        replaced: how_far.map(|(replaced, _)| replaced),
                        of: how_far.map(|(_, of)| of),
                        ..Reply::because(result, reason.clone()).of(from, to, took)
                    };
                    match *waits {
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
            Report::Scaled(workers) => self.control.resolve(|waits| {
                let other = matches!(*waits, Awaits::Scale(it) if it != workers);
                other.then(|| Reply::because(Outcome::Superseded, format!("{workers} were asked for since")))
            }),
            Report::ScaleDone(ready) => self.control.resolve(|waits| match *waits {
                Awaits::Scale(wanted) if ready < wanted => Some(Reply {
                    workers: Some(ready),
                    ..Reply::failed(format!("{ready} are ready, the other slots stay empty (--restart)"))
                }),
                Awaits::Scale(_) => Some(Reply {
                    workers: Some(ready),
                    ..Reply::done(format!("{} ready", workers(ready)))
                }),
                _ => None,
            }),
            Report::CannotScale(stays) => self.control.resolve(|waits| {
                let why = format!("the number of workers stays {stays}: that is the limit");
                matches!(waits, Awaits::Scale(_)).then(|| Reply { workers: Some(stays), ..Reply::failed(why) })
            }),
            // What was the first start to some has served, or another has in its stead.
            Report::Serving(serving) => self.control.resolve(|waits| match *waits {
                Awaits::Upgrade(it) if it <= serving => Some(first(serving)),
                _ => None,
            }),
            // Where nobody asked for it the reason follows, with our end.
            Report::Stopping if self.control.stop_asked && self.failure.is_none() => {
                let to = self.control.to;
                self.control.resolve(|waits| {
                let later = match waits {
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

    fn remember(&mut self, report: &Report) {
        let now = self.clock.now();
        let control = &mut self.control;
        match *report {
            Report::UpgradeStarted { to, .. } => control.to = Some(to),
            Report::UpgradeDone { from, to, took } => {
                control.to = None;
                control.upgrades = control.upgrades.saturating_add(1);
                control.last = Some(last(from, to, took, "ok", None));
                control.last_at = Some(now);
            }
            Report::UpgradeFailed { from, to, why, took, .. } => {
                control.to = None;
                let reason = report::undone(report, &self.processes, &self.config);
                let result = event::result_of(why);
                let last = last(from, to, took, result, reason);
                control.last = Some(LastUpgrade { stderr: last_lines(self.capture.as_ref(), why), ..last });
                control.last_at = Some(now);
                control.failed = control.failed.saturating_add(u32::from(result == "failed"));
            }
            Report::RollbackStarted { from, to, why, after, crashes } => {
                let reason = report::rolled_back(report, &self.processes);
                let reason = reason.map(|reason| format!("{reason}; {to} is started again"));
                let last = last(to, from, after, "failed", reason);
                control.last = Some(LastUpgrade { stderr: last_lines(self.capture.as_ref(), why), ..last });
                control.last_at = Some(now);
                // Later tries are of the same upgrade.
                control.failed = control.failed.saturating_add(u32::from(crashes == PROBATION_CRASHES));
            }
            Report::RolledBack { .. } => {
                control.last.iter_mut().for_each(|last| last.result = "rolled back".into());
                control.last_at = Some(now);
            }
            Report::RollbackFailed { .. } => {
                let reason = report::not_rolled_back(report, &self.processes);
                control.last.iter_mut().for_each(|last| last.reason.clone_from(&reason));
                control.last_at = Some(now);
            }
            Report::Scaled(workers) => control.wanted = Some(workers),
            Report::Gone { worker, .. } if control.silent.remove(&worker) => {}
            // It has left to its successor, as it was told to; if there is none, the
            // upgrade has failed.
            Report::Gone { .. } if self.config.follow.is_some() && control.to.is_some() => {}
            Report::HandedOver { of, .. } => drop(control.silent.insert(of)),
            Report::Gone { worker, asked: false, .. } | Report::Silent(worker, _)
                if self.core.phase() != Phase::Stopping =>
            {
                if matches!(report, Report::Silent(..)) {
                    control.silent.insert(worker);
                }
                // A replacement that ends is a failed upgrade and told as that.
                let generation = self.processes.get(worker).map(|entry| entry.generation);
                if control.to.is_none() || generation != control.to {
                    control.crashes = control.crashes.saturating_add(1);
                }
            }
            _ => {}
        }
    }

    /// ReplyQueue what no report is about, once a step is over.
    pub(super) fn settle_control(&mut self) {
        if self.control.waiters.is_empty() {
            return;
        }
        let (core, phase) = (&self.core, self.core.phase());
        let here = |id: &WorkerId| core.workers().any(|shown| shown.worker == *id);
        // Where nothing served yet, the wish became the first start.
        let taken_up = !core.upgrade_pending();
        // What was kept and has neither begun nor is kept is no longer wanted.
        let dropped = taken_up && phase != Phase::Stopping;
        let generation = core.generation();
        for waiter in &mut self.control.waiters {
            if phase == Phase::Starting && taken_up && matches!(waiter.waits, Awaits::Next { .. }) {
                waiter.waits = Awaits::Upgrade(generation);
            }
        }
        self.control.resolve(|waits| match waits {
            Awaits::Gone(ids) if !ids.iter().any(here) => {
                let count = ids.len() as u32;
                let done = Reply::done(format!("{} killed", workers(count)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply_queue::Answer;
    use crate::reexec::quiesce::Quiesce;
    use std::path::Path;

    fn control(waits: Awaits) -> (Control, crossbeam_channel::Receiver<Answer>) {
        let nowhere = crate::config::Control { none: true, ..crate::config::Control::default() };
        let instance = Instance::take(&nowhere, &[], Path::new("/")).unwrap();
        let mut control = Control::start(None, instance, &Quiesce::default(), |_| true).unwrap();
        let (answers, received) = ReplyQueue::channel();
        control.waiters.push(PendingRequest { client: ClientId::default(), answers, waits });
        (control, received)
    }

    fn text(answer: Answer) -> String {
        match answer {
            Answer::Line(line) => String::from_utf8(line.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_that_reads_slowly_is_told_how_much_it_missed() {
        let (mut control, received) = control(Awaits::Events { missed: 0 });
        for _ in 0..2000 {
            control.tell(&event::named("asked", json!({})));
        }
        let fitted = received.try_iter().count() as u64;
        assert!((100..2000).contains(&fitted));
        control.tell(&event::named("stopping", json!({})));
        let missed: Value = serde_json::from_str(&text(received.try_recv().unwrap())).unwrap();
        assert_eq!((&missed["event"], &missed["count"]), (&json!("missed"), &json!(2000 - fitted)));
        assert!(text(received.try_recv().unwrap()).contains("stopping"));
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn however_slow_it_is_its_result_has_room() {
        let (mut control, received) = control(Awaits::Upgrade(Generation(2)));
        for _ in 0..2000 {
            control.tell(&event::named("asked", json!({})));
        }
        control.resolve(|waits| (*waits == Awaits::Upgrade(Generation(2))).then(|| Reply::failed("no")));
        assert!(control.waiters.is_empty());
        assert!(matches!(received.try_iter().last(), Some(Answer::Result(..))));
    }
}
