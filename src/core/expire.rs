//! The second pass of a step: the deadlines that have passed.

use super::event::{AckKind, Action, Failure, Report, Time, WorkerId};
use super::policy::{HUNG, OnAckTimeout};
use super::state::Supervisor;
use super::worker::{Stage, Worker};

impl Supervisor {
    pub(super) fn expire(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            self.expire_worker(id, now);
        }
        if self.superseded_at().is_some_and(|at| at <= now)
            && let Some(upgrade) = &mut self.upgrade
        {
            upgrade.fail(Failure::Superseded);
        }
        self.end_probation(now);
    }

    /// When the upgrade under way gives way to the request that follows it: its successor hangs.
    pub(super) fn superseded_at(&self) -> Option<Time> {
        self.pending.filter(|_| self.policy.follow)?;
        // A rollback is not for what is on the disk by now.
        self.upgrade.as_ref().filter(|upgrade| !upgrade.is_rollback)?;
        let starts = |worker: &&Worker| {
            let starts = matches!(worker.stage, Stage::Awaited { .. } | Stage::Starting { .. });
            starts && self.is_replacement(worker)
        };
        self.workers.values().filter(starts).map(|worker| worker.since + HUNG).min()
    }

    fn expire_worker(&mut self, id: WorkerId, now: Time) {
        self.expire_halt(id, now);
        let Some(worker) = self.workers.get(&id) else { return };
        match worker.ack_by_timer(now) {
            // With --adopt the timer counts as an ack that waits for the listeners, and the
            // ack timeout goes on.
            Some(AckKind::Timer) if self.policy.adopt.is_some() => self.acked(id, AckKind::Timer, now),
            Some(kind) => return self.become_ready(id, kind, now),
            None => {}
        }
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.silent_at(&self.policy).is_some_and(|at| at <= now) {
            let after = now - worker.last_heartbeat;
            self.report(Report::Silent(id, after));
            self.lost(id, Failure::Silent(id, after), now);
            return self.terminate(id, now);
        }
        self.report_unseen(id, now);
        let Some(worker) = self.workers.get(&id) else { return };
        match worker.stage {
            Stage::Starting { ack_by: Some(at), .. } if at <= now => {
                let (after, then) = (now - worker.since, worker.after_ack_timeout(&self.policy));
                self.report(Report::NoAck(id, after));
                match then {
                    OnAckTimeout::Proceed => self.become_ready(id, AckKind::Timeout, now),
                    OnAckTimeout::Abort => self.fail_ack(id, now),
                }
            }
            Stage::Awaited { ack_by: Some(at), .. } if at <= now => {
                self.report(Report::NoAck(id, now - worker.since));
                self.note_no_successor(id);
                self.fail_ack(id, now);
            }
            Stage::Starting { probe: Some((at, _)), .. } | Stage::Awaited { probe: (at, _), .. }
                if at <= now && worker.halt.is_none() =>
            {
                self.probe(id, now);
            }
            Stage::Draining { since, until: Some(at), .. } if at <= now => {
                self.report(Report::NotDrained(id, now - since));
                self.terminate(id, now);
            }
            Stage::Draining { since, until, check_at: Some(at) } if at <= now => {
                self.set_stage(id, Stage::Draining { since, until, check_at: None });
                self.actions.push(Action::CheckDrained(id));
            }
            Stage::Terminating { signal_at: None, kill_at: Some(at), .. } if at <= now => self.kill(id, now),
            Stage::Ready { probe_at: Some(at), .. } if at <= now && worker.halt.is_none() => {
                self.probe(id, now);
            }
            Stage::Remains { stop_sent: false, due: Some(at), .. } if at <= now => self.stop_remains(id, now),
            Stage::Remains { due: Some(at), .. } if at <= now => self.kill(id, now),
            _ => {}
        }
    }

    /// The worker that was to start `id` has not. If an earlier successor of it has failed, it may
    /// never start another (endless).
    fn note_no_successor(&mut self, id: WorkerId) {
        let Some(predecessor) = self.workers.get(&id).and_then(|worker| worker.predecessor) else { return };
        let Some(worker) = self.workers.get_mut(&predecessor) else { return };
        if worker.successor_failed && !std::mem::replace(&mut worker.starts_none, true) {
            self.report(Report::StartsNone(predecessor));
        }
    }

    fn fail_ack(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        self.lost(id, Failure::NoAck(id, now - worker.since), now);
        self.terminate(id, now);
    }

    /// A probe is due, and the next one after a longer pause.
    fn probe(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let longest = worker.longest_probe_pause(&self.policy);
        let next = |pause: Time| (now + (pause * 2).min(longest), (pause * 2).min(longest));
        match &mut worker.stage {
            Stage::Starting { probe: Some(probe), .. } | Stage::Awaited { probe, .. } => {
                *probe = next(probe.1);
            }
            Stage::Ready { probe_at, .. } => {
                *probe_at = self.policy.wait_probe_pause(now - worker.since).map(|pause| now + pause);
            }
            _ => return,
        }
        self.actions.push(Action::Probe(id));
    }

    fn report_unseen(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Stage::Starting { ready_at, .. } = worker.stage else { return };
        if worker.halt.is_some() {
            return;
        }
        if worker.report_unseen_at.take_if(|at| *at <= now).is_some() && !worker.listening {
            let (after, timer) = (now - worker.since, ready_at.map(|at| at - worker.since));
            self.report(Report::Unseen { worker: id, after, timer });
        }
    }
}
