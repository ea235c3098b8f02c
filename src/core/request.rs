//! What is asked for: written down, or answered at once where it is about now.

use super::Supervisor;
use super::event::{Action, Ending, Failure, Report, Request, Time, WorkerId};
use super::policy::MOST_WORKERS;
use super::upgrade::{Hold, Wish};
use super::worker::Stage;

impl Supervisor {
    pub(super) fn requested(&mut self, request: Request, now: Time) {
        match request {
            request if self.stopping && is_for_later(request) => self.report(Report::Ignored(request)),
            Request::Upgrade => self.want(Wish::Replace),
            Request::UpgradeNow => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.fail(Failure::Superseded);
                }
                self.want(Wish::Replace);
            }
            Request::Hold if self.policy.stop_first || self.policy.follow || self.policy.adopt.is_some() => {
                self.report(Report::CannotHold);
            }
            Request::Hold => self.want(Wish::Hold),
            Request::Commit | Request::Rollback => self.decide(request),
            Request::Stop => self.stop(now, None),
            Request::Interrupt { told } => {
                if std::mem::replace(&mut self.interrupted, true) {
                    self.kill_all(now);
                } else {
                    if told {
                        self.mark_told(now);
                    }
                    self.stop(now, None);
                }
            }
            Request::Kill => self.kill_all(now),
            Request::Hammer => {
                let leaves = |stage: &Stage| {
                    matches!(
                        stage,
                        Stage::Draining { .. } | Stage::Terminating { .. } | Stage::Remains { .. }
                    )
                };
                for id in self.ids(leaves) {
                    self.kill(id, now);
                }
            }
            Request::Forward(token) => {
                for id in self.ids(|stage| matches!(stage, Stage::Ready { .. })) {
                    self.actions.push(Action::Forward(id, token));
                }
            }
            Request::More => self.scale(self.target + 1),
            Request::Fewer => self.scale(self.target.saturating_sub(1)),
            Request::Scale(target) => self.scale(target),
            Request::Suspend => {
                let started = self.started();
                self.actions.extend(started.into_iter().map(Action::Suspend));
                self.actions.push(Action::SuspendSelf);
            }
            Request::Resume => {
                let started = self.started();
                self.actions.extend(started.into_iter().map(Action::Resume));
            }
        }
    }

    /// One that is under way goes on; the last word on what follows it counts.
    fn want(&mut self, wish: Wish) {
        self.pending = Some(wish);
        self.upgrade_asked = true;
    }

    /// What becomes of the upgrade that is on hold, or will be: nothing is waited
    /// for then.
    fn decide(&mut self, request: Request) {
        match self.upgrade.as_mut().filter(|upgrade| upgrade.hold != Hold::No) {
            None => self.report(Report::NothingHeld(request)),
            Some(upgrade) if request == Request::Commit => upgrade.hold = Hold::Waived,
            Some(upgrade) => {
                upgrade.fail(Failure::RolledBack);
                // What is on the disk has just been refused, and would go live at once.
                self.pending = None;
            }
        }
    }

    fn scale(&mut self, target: u32) {
        // Two that bind their own sockets would fight over the addresses.
        let most = if self.policy.follow || self.policy.adopt.is_some() { 1 } else { MOST_WORKERS };
        if (self.policy.least_workers..=most).contains(&target) {
            self.target = target;
            self.scaling = true;
            self.report(Report::Scaled(target));
        } else {
            self.report(Report::CannotScale(self.target));
        }
    }

    /// Everything is to leave; the first reason to end is the one that counts.
    pub(super) fn stop(&mut self, now: Time, ending: Option<Ending>) {
        if let Some(ending) = ending {
            self.ending.get_or_insert(ending);
        }
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.pending = None;
        self.probation = None;
        self.scaling = false;
        self.report(Report::Stopping);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.fail(Failure::Stopped);
        }
        self.end_upgrade(now);
        for id in self.ids(|_| true) {
            self.dismiss(id, now);
        }
    }

    fn kill_all(&mut self, now: Time) {
        self.stop(now, None);
        self.killing = true;
    }

    /// The terminal has asked every worker to stop; ours would be the second
    /// signal.
    fn mark_told(&mut self, now: Time) {
        for worker in self.workers.values_mut().filter(|worker| worker.runs() && !worker.asked) {
            worker.asked = true;
            worker.stage = Stage::Terminating {
                ask_at: None,
                kill_at: worker.stop_timeout(&self.policy).map(|timeout| now + timeout),
                since: now,
            };
        }
    }

    fn started(&self) -> Vec<WorkerId> {
        let started = self.workers.iter().filter(|(_, worker)| worker.has_started());
        started.map(|(&id, _)| id).collect()
    }
}

/// Whether the request is about workers that are to serve after it.
fn is_for_later(request: Request) -> bool {
    match request {
        Request::Upgrade | Request::UpgradeNow | Request::Hold | Request::Commit | Request::Rollback => true,
        Request::More | Request::Fewer | Request::Scale(_) | Request::Forward(_) => true,
        Request::Stop | Request::Interrupt { .. } | Request::Kill | Request::Hammer => false,
        Request::Suspend | Request::Resume => false,
    }
}
