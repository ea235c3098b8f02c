//! Requests: each is recorded, or answered at once if it is about the present state.

use super::event::{Action, Failure, Report, Request, Time};
use super::policy::MOST_WORKERS;
use super::state::Supervisor;
use super::upgrade::{Hold, UpgradeKind};
use super::worker::Stage;

impl Supervisor {
    pub(super) fn requested(&mut self, request: Request, now: Time) {
        match request {
            request if self.stopping && needs_future_workers(request) => {
                self.report(Report::Ignored(request));
            }
            Request::Upgrade => self.request_upgrade(UpgradeKind::Replace),
            Request::UpgradeNow => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.fail(Failure::Superseded);
                }
                self.request_upgrade(UpgradeKind::Replace);
            }
            Request::Hold(_) if !self.policy.can_hold() => self.report(Report::CannotHold),
            Request::Hold(Some(_)) if !self.policy.weighs => self.report(Report::CannotWeigh),
            Request::Hold(weight) => {
                self.request_upgrade(UpgradeKind::Hold);
                self.pending_weight = weight;
            }
            Request::Weigh(weight) => self.request_weight(weight),
            Request::Commit | Request::Rollback => self.decide_hold(request),
            Request::Stop => self.begin_stop(now, None),
            Request::StopSignalled => {
                self.mark_signalled(now);
                self.begin_stop(now, None);
            }
            Request::Interrupt { workers_signalled } => {
                if std::mem::replace(&mut self.interrupted, true) {
                    self.kill_all(now);
                } else {
                    if workers_signalled {
                        self.mark_signalled(now);
                    }
                    self.begin_stop(now, None);
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
                self.forget_halts(now);
                let workers = self.with_process();
                self.actions.extend(workers.into_iter().map(Action::Suspend));
                self.actions.push(Action::SuspendSelf);
            }
            Request::Resume => {
                let workers = self.with_process();
                self.actions.extend(workers.into_iter().map(Action::Resume));
            }
        }
    }

    /// An upgrade that is under way goes on; of the requests that follow it, the last counts.
    fn request_upgrade(&mut self, kind: UpgradeKind) {
        self.pending = Some(kind);
        self.upgrade_requested = true;
    }

    /// Commits or rolls back the upgrade that is on hold, or will be.
    fn decide_hold(&mut self, request: Request) {
        match self.upgrade.as_mut().filter(|upgrade| upgrade.hold != Hold::No) {
            None => self.report(Report::NothingHeld(request)),
            Some(upgrade) if request == Request::Commit => upgrade.end_hold(),
            Some(upgrade) => {
                upgrade.fail(Failure::RolledBack);
                // A kept request would start the files that have just been refused.
                self.pending = None;
            }
        }
    }

    fn scale(&mut self, target: u32) {
        // The program starts its successor itself, which takes its place.
        let most = if self.policy.follow { 1 } else { MOST_WORKERS };
        if (self.policy.least_workers..=most).contains(&target) {
            self.target = target;
            self.scaling = true;
            self.report(Report::Scaled(target));
        } else {
            self.report(Report::CannotScale(self.target));
        }
    }

    fn kill_all(&mut self, now: Time) {
        self.begin_stop(now, None);
        self.killing = true;
    }
}

/// Whether the request is about workers that are to serve after it.
fn needs_future_workers(request: Request) -> bool {
    match request {
        Request::Upgrade | Request::UpgradeNow | Request::Hold(_) => true,
        Request::Commit | Request::Rollback | Request::Weigh(_) => true,
        Request::More | Request::Fewer | Request::Scale(_) | Request::Forward(_) => true,
        Request::Stop | Request::StopSignalled | Request::Interrupt { .. } => false,
        Request::Kill | Request::Hammer => false,
        Request::Suspend | Request::Resume => false,
    }
}
