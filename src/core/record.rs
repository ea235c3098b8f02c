//! The first pass of a step: the fact of the event is recorded. What follows from it at
//! once is done by [`transition`](super::transition); everything else is decided when the
//! step settles.

use super::event::{AckKind, Event, Exit, Failure, Generation, Refusal, Report, Time, WorkerId};
use super::policy::{FIRST_DRAIN_CHECK, SUCCESSOR_PROBE, Strength, retry_window};
use super::state::Supervisor;
use super::upgrade::{Query, Upgrade};
use super::worker::{Stage, Worker};
use std::time::Duration;

impl Supervisor {
    pub(super) fn record(&mut self, now: Time, event: Event) {
        match event {
            Event::Request(request) => self.requested(request, now),
            Event::Spawned(worker) => self.spawned(worker, now),
            Event::SpawnFailed(worker, refusal) => self.spawn_failed(worker, refusal, now),
            Event::Ack(worker, kind) => self.acked(worker, kind, now),
            Event::Extend(worker, by) => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.extend(by, &self.policy, now);
                }
            }
            Event::Exited { worker, exit, remains } => self.exited(worker, exit, remains, now),
            Event::RemainsGone(worker) => {
                if self.workers.get(&worker).is_some_and(|w| matches!(w.stage, Stage::Remains { .. })) {
                    self.workers.remove(&worker);
                }
            }
            Event::HandedOver(worker) => self.handed_over(worker, now),
            Event::StaysMaster(worker) => {
                if let Some(worker) = self.workers.get_mut(&worker).filter(|_| self.policy.follow) {
                    worker.stays_master = worker.ready_since().is_some();
                }
            }
            Event::PreUpgraded(to, allowed) => self.pre_upgraded(to, allowed),
            Event::PreStopped(worker) => {
                if let Some(worker) = self.workers.get_mut(&worker)
                    && worker.pre_stop == Query::Sent
                {
                    worker.pre_stop = Query::Answered;
                    if let Stage::Draining { check_at, .. } = &mut worker.stage {
                        *check_at = Some(now + FIRST_DRAIN_CHECK);
                    }
                }
            }
            Event::Switched(to, done) => self.switched(to, done),
            Event::Weighed(to, weight, done) => self.weighed(to, weight, done),
            Event::Verified(worker, good) => self.verified(worker, good, now),
            Event::DrainChecked { worker, drained, pause } => self.drain_checked(worker, drained, pause, now),
            Event::Heartbeat(worker) => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.last_heartbeat = now;
                }
            }
            Event::Halted(worker, by) => self.halted(worker, by, now),
            Event::Continued(worker) => self.continued(worker, now),
            Event::CheckedAlive => {
                if let Some(upgrade) = &mut self.upgrade
                    && upgrade.liveness == Query::Sent
                {
                    upgrade.liveness = Query::Answered;
                }
            }
            Event::Waits(slot) => {
                if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.accepting == Query::Sent) {
                    self.accepting_slots.insert(slot);
                    self.known_strength = self.known_strength.max(Strength::Seen);
                }
            }
            Event::CheckedWaiting => {
                if let Some(upgrade) = &mut self.upgrade
                    && upgrade.accepting == Query::Sent
                {
                    upgrade.accepting = Query::Answered;
                }
            }
            Event::OwnSocket(worker) => self.has_own_socket(worker),
            Event::ListensElsewhere(worker) => self.listens_elsewhere(worker),
            Event::HasNoSockets(worker) => self.has_no_sockets(worker, now),
            Event::Tick => {}
        }
    }

    fn upgrade_to(&mut self, to: Generation) -> Option<&mut Upgrade> {
        self.upgrade.as_mut().filter(|upgrade| upgrade.to == to)
    }

    /// A replacement with a socket of its own would leave ours without anybody who accepts. In a
    /// rollback that is still better than what keeps crashing.
    fn has_own_socket(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.occupies_slot()) else { return };
        if self.is_replacement(worker)
            && let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.is_rollback)
        {
            upgrade.fail(Failure::OwnSocket(id));
        }
    }

    /// It may have mistaken its address: where the worker that it replaces waits on our listeners, it
    /// has to be seen doing so too.
    fn listens_elsewhere(&mut self, id: WorkerId) {
        let sees = self.policy.must_see_accepting();
        let Some(worker) = self.workers.get_mut(&id).filter(|_| sees) else { return };
        if matches!(worker.stage, Stage::Starting { .. }) {
            worker.must_accept |= self.accepting_slots.contains(&worker.slot);
        }
    }

    /// It need not listen to be ready. Where no ack is asked for, and no generation has sent one, its age
    /// is enough.
    fn has_no_sockets(&mut self, id: WorkerId, now: Time) {
        let readiness = &self.policy.readiness;
        let adopted = self.policy.adopt.is_some();
        let Some(worker) = self.workers.get_mut(&id).filter(|_| adopted) else { return };
        // One that is halted binds nothing either.
        let starts = matches!(worker.stage, Stage::Starting { .. }) && !worker.listening;
        if worker.halt.is_some() || !starts {
            return;
        }
        worker.listening = true;
        let aged = readiness.auto && worker.known_strength < Strength::Said;
        if let Some(kind) = worker.pending_ack.or(aged.then_some(AckKind::Timer)) {
            self.become_ready(id, kind, now);
        }
    }

    fn pre_upgraded(&mut self, to: Generation, allowed: bool) {
        let Some(upgrade) = self.upgrade_to(to) else { return };
        match allowed {
            _ if upgrade.allowed => {}
            true => upgrade.allowed = true,
            false => upgrade.fail(Failure::Refused),
        }
    }

    fn switched(&mut self, to: Generation, done: bool) {
        let Some(upgrade) = self.upgrade_to(to).filter(|upgrade| upgrade.switch == Query::Sent) else {
            return;
        };
        match done {
            true => upgrade.switch = Query::Answered,
            false => {
                // The old generation has kept the new connections: nothing is to be switched back.
                upgrade.switch = Query::Due;
                upgrade.fail(Failure::NotSwitched);
            }
        }
    }

    fn spawned(&mut self, id: WorkerId, now: Time) {
        let stopping = self.stopping;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Spawning { .. } => worker.start(&self.policy, now),
            Stage::Cancelled => {
                worker.start(&self.policy, now);
                worker.terminate(now, stopping);
            }
            Stage::Awaited { ack_by, probe } => {
                // It is looked at once more, even if a late step finds that its time has passed.
                let ack_by = ack_by.map(|at| at.max(now + SUCCESSOR_PROBE.0));
                worker.stage = Stage::Starting { ack_by, ready_at: None, probe: Some(probe) };
            }
            _ => return,
        }
        self.report(Report::Started(id));
    }

    fn spawn_failed(&mut self, id: WorkerId, refusal: Refusal, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        let wanted = match worker.stage {
            Stage::Spawning { retry_at: None } => true,
            Stage::Cancelled => false,
            _ => return,
        };
        let upgrading = self.served && self.is_replacement(worker);
        let window = retry_window(refusal, upgrading, !self.served);
        let again = wanted && now < worker.since + window;
        self.report(Report::NotStarted { worker: id, refusal, again });
        if again {
            self.schedule_respawn(id, now);
        } else {
            self.lost(id, Failure::NotStarted(id, refusal), now);
            self.workers.remove(&id);
        }
    }

    pub(super) fn acked(&mut self, id: WorkerId, kind: AckKind, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // What a successor does proves nothing about a start of ours.
        let ours = worker.predecessor.is_none();
        if ours {
            worker.strength = worker.strength.max(kind.strength());
        }
        // A program may send its ack before it has loaded. Where it can be seen whether it
        // waits on its listeners, an ack does not end its startup.
        let said = kind.strength() == Strength::Said && !self.policy.must_see_accepting();
        if ours && (said || kind.strength() == Strength::Seen) {
            worker.startup_time.get_or_insert(now.saturating_sub(worker.since));
            if let Stage::Ready { probe_at, .. } = &mut worker.stage {
                *probe_at = None;
            }
        }
        worker.sent_parent_term |= kind == AckKind::ParentTerm;
        let ready = match worker.stage {
            Stage::Starting { .. } => worker.apply_ack(kind, &self.policy, now),
            _ => None,
        };
        match ready {
            Some(kind) => self.become_ready(id, kind, now),
            None => self.learn(id),
        }
    }

    /// What a worker proves about the program counts once the worker serves: a generation
    /// whose upgrade failed proves nothing about the one that stayed.
    pub(super) fn learn(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        if matches!(worker.stage, Stage::Ready { .. }) && !self.is_replacement(worker) {
            self.known_strength = self.known_strength.max(worker.strength);
            // Half-way through an upgrade, an old worker proves nothing about the new program.
            if let Some(took) = worker.startup_time.filter(|_| worker.generation == self.serving) {
                let (generation, before) = self.startup_time;
                let before = if generation == worker.generation { before } else { Duration::ZERO };
                self.startup_time = (worker.generation, took.max(before));
            }
        }
    }

    fn drain_checked(&mut self, id: WorkerId, drained: bool, pause: Duration, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Stage::Draining { since, check_at: check_at @ None, .. } = &mut worker.stage else { return };
        let since = *since;
        *check_at = Some(now + pause);
        if drained {
            self.report(Report::Drained(id, now - since));
            self.terminate(id, now);
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Exit, remains: bool, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        if !worker.is_running() {
            return;
        }
        let (ready, stop_sent, age) = (worker.ack.is_some(), worker.stop_sent, now - worker.since);
        let leaves =
            matches!(worker.stage, Stage::Draining { .. } | Stage::Terminating { .. } | Stage::Killed);
        // Processes that it has started may still serve requests.
        let gracefully = stop_sent && ready && worker.stage != Stage::Killed && !self.stopping;
        // With --stop-first the next worker waits for them, and they get no time.
        let gracefully = gracefully && !self.policy.stop_first;
        let leaving = leaves || worker.handed_over;
        if self.policy.follow && leaving && !worker.handed_over {
            self.reparented_at = Some(now);
        }
        // Some programs exit after so many requests, to be started again.
        let on_probation = self.probation().is_some_and(|shown| shown.generation == worker.generation);
        self.exits_cleanly |= exit == Exit::Code(0) && ready && !leaving && !self.stopping && !on_probation;
        self.report(Report::Gone { worker: id, exit, age, stop_sent, ready, remains });
        if !leaving {
            self.exited_unasked(id, exit, ready, now);
        }
        match remains {
            true => self.leave_remains(id, gracefully, now),
            false => _ = self.workers.remove(&id),
        }
    }

    /// A worker that was to serve has exited. If a successor of it runs, it has handed over.
    fn exited_unasked(&mut self, id: WorkerId, exit: Exit, ready: bool, now: Time) {
        let successor = self.successor(id);
        match successor
            .map(|successor| (successor, self.workers.get(&successor).is_some_and(Worker::is_running)))
        {
            Some((successor, true)) => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.predecessor_left = true;
                }
                if let Some(successor) = self.workers.get_mut(&successor) {
                    successor.limit_takeover(now);
                }
            }
            Some((successor, false)) => {
                self.lost(successor, Failure::NoSuccessor { worker: id, exit }, now);
                self.workers.remove(&successor);
                self.lost(id, Failure::Exited { worker: id, exit, ready }, now);
            }
            None => self.lost(id, Failure::Exited { worker: id, exit, ready }, now),
        }
    }

    /// A worker leaves to a successor: to the one that an upgrade waits for, or to one that
    /// was not requested.
    fn handed_over(&mut self, id: WorkerId, now: Time) {
        let successor = self.successor(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let ready = matches!(worker.stage, Stage::Ready { .. });
        if !self.policy.follow || !ready || std::mem::replace(&mut worker.handed_over, true) {
            return;
        }
        match (successor, &mut self.upgrade) {
            (Some(_), Some(upgrade)) => upgrade.predecessor_left = true,
            _ => self.take_successor(id, now),
        }
    }
}
