//! Workers that a signal has halted (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU): the process exists, and
//! does nothing until it is continued.
//!
//! Contract: a halted worker is not ready by having lived, and no worker is asked to stop for a
//! replacement that is halted. A replacement that stays halted has failed. One that serves is
//! reported, and stays: whoever has halted it may continue it. It is continued by us when it has to
//! leave, since it could neither serve what it has nor act on its stop signal.

use super::event::{Action, Failure, Report, Time, Token, WorkerId};
use super::policy::{HALT_GRACE, LISTEN_GRACE, Policy};
use super::state::Supervisor;
use super::upgrade::Query;
use super::worker::{Halt, Stage, Worker};

/// Where it is not known which signal has halted a worker.
const UNKNOWN: Token = Token(0);

impl Supervisor {
    pub(super) fn halted(&mut self, id: WorkerId, by: Token, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.is_running() && worker.stage != Stage::Killed {
            let halt = worker.halt.get_or_insert(Halt { since: now, by, reported: false });
            if halt.by == UNKNOWN {
                halt.by = by;
            }
        }
    }

    pub(super) fn continued(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(halt) = worker.halt else { return };
        worker.resume(&self.policy, now);
        if halt.reported && worker.occupies_slot() {
            self.report(Report::Continued(id, now - halt.since));
        }
        // Whether it is alive has to be seen again, at the end of its new soak; unless it gets new
        // connections already.
        if self.workers.get(&id).is_some_and(|worker| worker.occupies_slot() && self.is_replacement(worker))
            && let Some(upgrade) = &mut self.upgrade
            && upgrade.switch == Query::Due
        {
            upgrade.liveness = Query::Due;
        }
    }

    /// Every worker is halted and continued together with us: that is no news of it.
    pub(super) fn forget_halts(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            if let Some(halt) = self.workers.get_mut(&id).and_then(|worker| worker.halt.as_mut()) {
                halt.reported = false;
                self.continued(id, now);
            }
        }
    }

    /// Reports a worker that has been halted for too long; a replacement has failed.
    pub(super) fn expire_halt(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.halt_due_at().is_none_or(|at| at > now) {
            return;
        }
        let Some(halt) = &mut worker.halt else { return };
        halt.reported = true;
        let by = halt.by;
        self.report(Report::Halted(id, by));
        if self.workers.get(&id).is_some_and(|worker| self.is_replacement(worker)) {
            self.lost(id, Failure::Halted(id, by), now);
        }
    }

    /// A halted worker that has to leave is continued.
    pub(super) fn resume_to_leave(&mut self, id: WorkerId) {
        if let Some(halt) = self.workers.get(&id).and_then(|worker| worker.halt) {
            self.actions.push(Action::Resume(id));
            self.report(Report::Resumed(id, halt.by));
        }
    }
}

impl Worker {
    /// When a signal has halted it for so long that this is reported.
    pub fn halt_due_at(&self) -> Option<Time> {
        let runs = self.is_running() && self.stage != Stage::Killed;
        self.halt.filter(|halt| runs && !halt.reported).map(|halt| halt.since + HALT_GRACE)
    }

    /// It has been continued: the time for which it has to live begins anew.
    pub fn resume(&mut self, policy: &Policy, now: Time) {
        self.halt = None;
        self.continued_at = now;
        self.listening_ready_at = self.listening_ready_at.map(|_| now + LISTEN_GRACE);
        let timer = policy.readiness.timer(self.known_strength);
        if let Stage::Starting { ready_at: Some(at), .. } = &mut self.stage {
            *at = timer.map_or(*at, |timer| now + timer);
        }
    }
}
