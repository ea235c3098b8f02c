//! The model's first part of a step: the fact of the event.

use crate::model::{Hold, Model, ModelUpgrade, Verdict};
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Ending, Event, Exit, Failure, Request, WorkerId};
use graceful_run::core::policy::Strength;
use std::time::Duration;

impl Model {
    pub fn apply_event(&mut self, event: Event, stops: bool) -> Verdict {
        let now = self.now;
        match event {
            Event::Request(Request::Suspend) => return self.forget_halts(),
            Event::Request(request) => self.requested(request),
            Event::Spawned(id) => {
                let ack_by = self.workers.get(&id).and_then(|record| self.ack_by(record));
                if let Some(record) = self.workers.get_mut(&id).filter(|record| record.in_flight) {
                    record.in_flight = false;
                    record.started = Some(now);
                    record.timer_from = Some(now);
                    record.ack_by = match record.predecessor {
                        None => ack_by,
                        Some(_) => record.ack_by.map(|at| at.max(now + Duration::from_millis(10))),
                    };
                }
            }
            Event::SpawnFailed(id, refusal) => {
                if let Some(record) = self.workers.get_mut(&id).filter(|record| record.in_flight) {
                    record.in_flight = false;
                    self.in_step.refused = Some((id, refusal));
                }
            }
            Event::Ack(id, kind) => self.acked(id, kind),
            Event::Extend(id, by) => {
                let timeout = self.policy.ack_timeout.unwrap_or_default();
                if let Some(record) = self.workers.get_mut(&id)
                    && record.stage == ShownStage::Starting
                    && record.started.is_some()
                    && let (Some(started), Some(ack_by)) = (record.counted_from(), record.ack_by)
                {
                    record.ack_by = Some(ack_by.max((now + by).min(started + timeout * 10)));
                }
            }
            Event::Exited { worker, exit, remains } => {
                let Some(record) = self.workers.get_mut(&worker).filter(|record| record.runs()) else {
                    return Ok(());
                };
                let (filled, ready) = (record.occupied_slot(), record.ready.is_some());
                record.exited = Some(now);
                let unasked = filled && !record.handed_over && ready;
                let generation = record.generation;
                let trial =
                    self.probation.as_ref().is_some_and(|probation| probation.generation == generation);
                self.exits_cleanly |= unasked && exit == Exit::Code(0) && !trial && !self.stopping;
                self.in_step.exited = Some(worker);
                self.in_step.remains = remains.then_some(worker);
                if filled {
                    self.left_or_lost(worker, exit, ready);
                }
            }
            Event::HandedOver(id) => self.handed_over(id),
            Event::StaysMaster(id) => {
                let follow = self.policy.follow;
                if let Some(record) = self.workers.get_mut(&id).filter(|record| follow && record.runs()) {
                    record.stays_master = record.stage == ShownStage::Ready;
                }
            }
            Event::RemainsGone(id) => {
                if self.workers.get(&id).is_some_and(|record| record.exited.is_some()) {
                    self.workers.remove(&id);
                }
            }
            Event::PreUpgraded(to, allowed) => {
                let asked = |upgrade: &&mut ModelUpgrade| upgrade.to == to && !upgrade.allowed;
                if let Some(upgrade) = self.upgrade.as_mut().filter(asked) {
                    match allowed {
                        true => {
                            upgrade.allowed = true;
                            self.workers.retain(|_, record| record.refused_at.is_none());
                        }
                        false => upgrade.failure = upgrade.failure.or(Some(Failure::Refused)),
                    }
                }
            }
            Event::PreStopped(id) => {
                if let Some(record) = self.workers.get_mut(&id)
                    && let Some(ended) = &mut record.pre_stop
                {
                    let first = !std::mem::replace(ended, true);
                    if let Some(draining) = record.draining.as_mut().filter(|_| first) {
                        draining.begin_checks(now);
                    }
                }
            }
            Event::Heartbeat(id) => {
                if let Some(record) = self.workers.get_mut(&id) {
                    record.last_heartbeat = now;
                }
            }
            Event::CheckedAlive
                if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.liveness_requested) && !stops =>
            {
                return self.alive_checked();
            }
            Event::Switched(to, done) => return self.switched(to, done, stops),
            Event::Weighed(to, weight, done) => self.weight_answered(to, weight, done),
            Event::Verified(id, good) => self.verified(id, good),
            Event::DrainChecked { worker, drained, pause } => self.drain_checked(worker, drained, pause),
            Event::Waits(slot) => self.waits(slot),
            Event::CheckedWaiting => self.waiting_checked(),
            Event::OwnSocket(id) => self.own_socket(id),
            Event::ListensElsewhere(id) => self.listens_elsewhere(id),
            Event::HasNoSockets(id) => self.has_no_sockets(id),
            Event::Halted(id, by) => self.halted(id, by),
            Event::Continued(id) => return self.continued(id),
            Event::CheckedAlive | Event::Tick => {}
        }
        Ok(())
    }

    /// A replacement with a socket of its own is refused, unless it is a rollback.
    fn own_socket(&mut self, id: WorkerId) {
        let occupies = self.workers.get(&id).is_some_and(WorkerRecord::occupied_slot);
        if occupies
            && self.replaces(id)
            && let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| !upgrade.is_rollback)
        {
            upgrade.failure.get_or_insert(Failure::OwnSocket(id));
        }
    }

    /// A worker that ends while its successor runs has handed over; otherwise it is lost.
    pub fn left_or_lost(&mut self, worker: WorkerId, exit: Exit, ready: bool) {
        match self.successor(worker).map(|successor| (successor.id, successor.awaited())) {
            _ if self.workers.get(&worker).is_some_and(|record| record.handed_over) => return,
            Some((successor, false)) => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.predecessor_left = true;
                }
                // Nothing serves until it is ready: it has one second.
                let until = self.now + Duration::from_secs(1);
                if let Some(successor) = self
                    .workers
                    .get_mut(&successor)
                    .filter(|successor| successor.stage == ShownStage::Starting)
                {
                    successor.ack_by = Some(successor.ack_by.map_or(until, |at| at.min(until)));
                }
                return;
            }
            Some((successor, true)) => {
                self.lost(successor, Failure::NoSuccessor { worker, exit });
                self.workers.remove(&successor);
            }
            None => {}
        }
        self.lost(worker, Failure::Exited { worker, exit, ready });
    }

    pub fn handed_over(&mut self, id: WorkerId) {
        let successor = self.successor(id).is_some();
        let ready = |record: &&mut WorkerRecord| record.runs() && record.stage == ShownStage::Ready;
        let Some(record) = self.workers.get_mut(&id).filter(ready).filter(|_| self.policy.follow) else {
            return;
        };
        if std::mem::replace(&mut record.handed_over, true) {
            return;
        }
        match &mut self.upgrade {
            Some(upgrade) if successor => upgrade.predecessor_left = true,
            _ => self.in_step.handed_over = Some(id).filter(|_| !self.stopping),
        }
    }

    /// The successor of a worker, unless it has been given up.
    pub fn successor(&self, id: WorkerId) -> Option<&WorkerRecord> {
        self.workers.values().find(|record| record.predecessor == Some(id) && record.occupied_slot())
    }

    /// Whether another upgrade has to wait: a worker that is to start its own successor is not
    /// ready, is handing over, or has a predecessor that was asked to stop.
    pub fn upgrade_must_wait(&self) -> bool {
        let starts = |record: &WorkerRecord| {
            record.occupied_slot() && (record.stage == ShownStage::Starting || record.handed_over)
        };
        let serves = self.workers.values().any(|record| record.runs() && record.stage == ShownStage::Ready);
        let leaves = |record: &WorkerRecord| record.runs() && !record.occupied_slot() && !record.handed_over;
        let hung = |record: &WorkerRecord| leaves(record) && record.ready.is_none();
        let returns = |record: &WorkerRecord| {
            record.occupied_slot()
                && record.stage == ShownStage::Starting
                && record.started.is_some()
                && record.runs()
                // One that is no longer wanted has just been asked to stop.
                && (record.slot.0 < self.target || !self.is_upgrade_idle())
        };
        if self.policy.adopt.is_some() && self.workers.values().any(returns) {
            return true;
        }
        let waits = |record: &WorkerRecord| starts(record) || hung(record) || serves && leaves(record);
        self.policy.follow && self.workers.values().any(waits)
    }

    /// Marks workers that have handed over as stopped: they get no stop signal.
    pub fn leave_unasked(&mut self, which: impl Fn(&WorkerRecord) -> bool) {
        let now = self.now;
        let ready = |record: &&mut WorkerRecord| {
            record.handed_over && record.runs() && record.stage == ShownStage::Ready
        };
        for record in self.workers.values_mut().filter(ready).filter(|record| which(record)) {
            record.stopped.get_or_insert(now);
            record.stage = ShownStage::Draining;
        }
    }

    pub fn requested(&mut self, request: Request) {
        match request {
            Request::Upgrade | Request::UpgradeNow | Request::Hold(_) if self.stopping => {}
            Request::Commit | Request::Rollback | Request::Weigh(_) if self.stopping => {}
            Request::Upgrade => self.request_upgrade(false),
            Request::UpgradeNow => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.failure.get_or_insert(Failure::Superseded);
                }
                self.request_upgrade(false);
            }
            Request::Hold(weight) => self.hold_requested(weight),
            Request::Weigh(weight) => self.weight_requested(weight),
            Request::Commit | Request::Rollback => {
                match self.upgrade.as_mut().filter(|upgrade| upgrade.hold != Hold::No) {
                    None => self.in_step.nothing_held = Some(request),
                    Some(upgrade) if request == Request::Rollback => {
                        upgrade.failure.get_or_insert(Failure::RolledBack);
                        self.pending = false;
                    }
                    Some(upgrade) => {
                        if upgrade.hold == Hold::Held {
                            self.workers.retain(|_, record| record.refused_at.is_none());
                        }
                        upgrade.hold = Hold::Committed;
                        upgrade.canary.held = None;
                    }
                }
            }
            Request::Stop => self.begin_stop(None),
            Request::StopSignalled => {
                self.mark_signalled();
                self.begin_stop(None);
            }
            Request::Interrupt { workers_signalled } => {
                if std::mem::replace(&mut self.interrupted, true) {
                    self.killing = true;
                } else if workers_signalled {
                    self.mark_signalled();
                }
                self.begin_stop(None);
            }
            Request::Kill => {
                self.killing = true;
                self.begin_stop(None);
            }
            Request::Hammer => {
                let leaves =
                    |record: &&WorkerRecord| record.stage == ShownStage::Draining && record.started.is_some();
                let left = self.workers.values().filter(leaves).filter(|record| !record.remains_killed);
                self.in_step.hammered = left.map(|record| record.id).collect();
                self.in_step.hammer = true;
            }
            _ => {}
        }
    }

    pub fn request_upgrade(&mut self, hold: bool) {
        self.pending = true;
        self.pending_hold = hold;
    }

    /// Somebody else has signalled every worker that runs, but for those that were started, within
    /// the last five seconds, in the place of others that had ended. Those that were not asked to
    /// stop before have their pre-stop hooks in this step.
    fn mark_signalled(&mut self) {
        let now = self.now;
        let is_new = |record: &WorkerRecord| {
            let five_seconds_later = record.started.map(|started| started + Duration::from_secs(5));
            record.is_restart && five_seconds_later.is_some_and(|end| now < end)
        };
        let signalled = |record: &&mut WorkerRecord| record.runs() && !record.killed && !is_new(record);
        for record in self.workers.values_mut().filter(signalled) {
            if record.stopped.replace(record.stopped.unwrap_or(now)).is_none() {
                self.in_step.signalled.insert(record.id);
            }
        }
    }

    pub fn begin_stop(&mut self, ending: Option<Ending>) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.ending = ending;
        self.in_step.stopping = true;
        self.pending = false;
        self.probation = None;
        self.scaling = false;
        self.leave_unasked(|_| true);
        self.workers.values_mut().for_each(|record| record.draining = None);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.failure.get_or_insert(Failure::Stopped);
        }
    }

    pub fn acked(&mut self, id: WorkerId, kind: AckKind) {
        let must_see = self.must_see_accepting();
        let Some(record) = self.workers.get_mut(&id).filter(|record| record.runs()) else { return };
        if record.predecessor.is_none() {
            record.strength = record.strength.max(strength(kind));
            if strength(kind) == Strength::Seen || strength(kind) == Strength::Said && !must_see {
                record.startup_time =
                    record.startup_time.or(record.started.map(|started| self.now - started));
            }
        }
        let (stage, known, successor) = (record.stage, record.known, record.predecessor.is_some());
        if stage == ShownStage::Ready {
            self.learn(id);
        }
        let readiness = &self.policy.readiness;
        let by_itself = match kind {
            AckKind::Notify | AckKind::Fd => true,
            AckKind::Accepting | AckKind::Listen => known != Strength::Said,
            _ => false,
        };
        let seen = matches!(kind, AckKind::Accepting | AckKind::Takeover);
        let counts = match successor {
            true => seen,
            false => readiness.kinds.contains(&kind) || readiness.auto && by_itself,
        };
        let (now, adopts) = (self.now, self.policy.adopt.is_some());
        let alone = readiness.kinds.contains(&kind) && kind.strength() < Strength::Said;
        let Some(record) = self.workers.get_mut(&id).filter(|_| stage == ShownStage::Starting) else {
            return;
        };
        let ready = if adopts {
            record.apply_ack(kind, counts, now)
        } else {
            record.apply_ack_until_accepting(kind, counts, alone)
        };
        self.in_step.ready.extend(ready.map(|kind| (id, kind)));
    }
}

/// What an ack proves.
fn strength(kind: AckKind) -> Strength {
    match kind {
        AckKind::Notify | AckKind::Fd => Strength::Said,
        AckKind::Accepting | AckKind::Listen => Strength::Seen,
        AckKind::Exec | AckKind::Timer | AckKind::Takeover | AckKind::Timeout => Strength::Nothing,
        other => unreachable!("no world sends {other:?}"),
    }
}
