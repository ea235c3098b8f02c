//! What acts on workers and on the upgrade: spawn, hand over, drain, terminate, kill,
//! commit, undo, stop.
//!
//! Contract: every action that starts a worker, signals one or moves new connections is
//! pushed here, together with the change of stage. The other files of the core record facts
//! and decide; they call these functions to act.

use super::event::{
    AckKind, Action, Ending, Failure, Generation, LaunchSource, Report, Slot, Time, WorkerId,
};
use super::policy::{FIRST_DRAIN_CHECK, SIGNAL_GRACE, SIGNALLED_BEFORE, SPAWN_PAUSE};
use super::state::{SlotState, Supervisor};
use super::upgrade::{Hold, Query, Upgrade};
use super::worker::{Stage, Worker};
use std::time::Duration;

/// A worker: its start.
impl Supervisor {
    fn next_worker(&mut self) -> WorkerId {
        self.last_worker += 1;
        WorkerId(self.last_worker)
    }

    pub(super) fn next_generation(&mut self) -> Generation {
        self.last_generation = Generation(self.last_generation.0 + 1);
        self.last_generation
    }

    /// Starts a worker in this slot.
    pub(super) fn spawn(&mut self, generation: Generation, slot: Slot, source: LaunchSource, now: Time) {
        let id = self.next_worker();
        let mut worker = Worker::new(generation, slot, source, self.known_strength, now);
        worker.predecessor_startup_time = self.startup_time.1;
        let state = self.slot_state(slot);
        worker.is_restart = state.generation == generation && state.crashes > 0;
        let sees = self.policy.readiness.auto && self.policy.must_see_accepting();
        worker.must_accept = sees && self.accepting_slots.contains(&slot);
        self.workers.insert(id, worker);
        self.kept_generations.insert(generation);
        self.actions.push(Action::Spawn { worker: id, generation, slot, source });
    }

    /// A start has failed, and is tried again after a pause.
    pub(super) fn schedule_respawn(&mut self, id: WorkerId, now: Time) {
        self.set_stage(id, Stage::Spawning { retry_at: Some(now + SPAWN_PAUSE) });
    }

    /// Tries a start again.
    pub(super) fn respawn(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stage = Stage::Spawning { retry_at: None };
        let (generation, slot, source) = (worker.generation, worker.slot, worker.source);
        self.actions.push(Action::Spawn { worker: id, generation, slot, source });
    }

    /// The worker `predecessor` is asked to start its own successor.
    pub(super) fn request_handover(
        &mut self,
        predecessor: WorkerId,
        generation: Generation,
        slot: Slot,
        now: Time,
    ) {
        let worker = self.next_worker();
        if let Some(predecessor) = self.workers.get_mut(&predecessor) {
            predecessor.stays_master = false;
        }
        self.workers.insert(worker, Worker::awaited(generation, slot, predecessor, &self.policy, now));
        self.kept_generations.insert(generation);
        self.actions.push(Action::RequestHandover { worker, predecessor, generation, slot });
        self.resume_to_leave(predecessor);
    }

    /// The worker `predecessor` has started a successor without being asked to. That one serves from
    /// now on as a generation of its own; but while an upgrade is under way that number is
    /// taken, and the successor belongs to the generation of its predecessor.
    pub(super) fn take_successor(&mut self, predecessor: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&predecessor) else { return };
        let (slot, mut generation) = (worker.slot, worker.generation);
        if let Some(upgrade) = &mut self.upgrade {
            // A successor of the replacement has to soak as well.
            upgrade.liveness = Query::Due;
        } else {
            generation = self.next_generation();
            self.serving = generation;
            if let Some(state) = self.slot_state_mut(slot) {
                *state = SlotState::new(generation, now);
            }
        }
        let worker = self.next_worker();
        self.workers.insert(worker, Worker::successor(generation, slot, predecessor, now));
        self.kept_generations.insert(generation);
        self.actions.push(Action::TakeSuccessor { worker, predecessor, generation, slot });
        self.report(Report::HandedOver { worker, predecessor });
        self.terminate(predecessor, now);
    }

    pub(super) fn become_ready(&mut self, id: WorkerId, kind: AckKind, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let after = now - worker.since;
        worker.become_ready(kind, &self.policy, now);
        self.report(Report::Ready(id, kind, after));
        self.learn(id);
    }
}

/// A worker: its end.
impl Supervisor {
    /// The worker is to stop once it has served the connections that it has, where they can
    /// be counted; elsewhere at once.
    pub(super) fn drain(&mut self, id: WorkerId, now: Time) {
        let Some(adopt) = self.policy.adopt.filter(|adopt| adopt.steer) else {
            return self.terminate(id, now);
        };
        self.resume_to_leave(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(ready_since) = worker.ready_since() else { return self.terminate(id, now) };
        let until = adopt.drain_timeout.map(|timeout| now + timeout);
        // A load balancer has to hear of it before, so the checks wait for the hook.
        let hook = self.policy.pre_stop && worker.pre_stop == Query::Due;
        let check_at = Some(now + FIRST_DRAIN_CHECK).filter(|_| !hook);
        let not_before = ready_since + SIGNAL_GRACE;
        worker.stage = Stage::Draining { since: now, until, check_at, not_before };
        if hook {
            worker.pre_stop = Query::Sent;
            self.actions.push(Action::PreStop(id));
        }
    }

    /// The worker is to stop. A start that is under way is cancelled, and one that is not is
    /// dropped.
    pub(super) fn terminate(&mut self, id: WorkerId, now: Time) {
        let stopping = self.stopping;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Spawning { retry_at: Some(_) } | Stage::Awaited { .. } => {
                self.workers.remove(&id);
            }
            Stage::Ready { .. } if worker.handed_over => {
                let kill_at = self.policy.stop_timeout.map(|timeout| now + timeout);
                worker.stage = Stage::Terminating { signal_at: None, kill_at, since: now };
                worker.stop_sent = true;
                self.resume_to_leave(id);
            }
            Stage::Spawning { retry_at: None } => worker.stage = Stage::Cancelled,
            Stage::Remains { stop_sent: false, .. } => self.stop_remains(id, now),
            _ => worker.terminate(now, stopping),
        }
    }

    /// Sends the stop signal that is due, after the pre-stop hook where there is one.
    pub(super) fn send_stop(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if self.policy.pre_stop && worker.ack.is_some() && worker.pre_stop != Query::Answered {
            if std::mem::replace(&mut worker.pre_stop, Query::Sent) == Query::Due {
                self.actions.push(Action::PreStop(id));
            }
            return;
        }
        let kill_at = worker.stop_timeout(&self.policy).map(|timeout| now + timeout);
        worker.stage = Stage::Terminating { signal_at: None, kill_at, since: now };
        worker.stop_sent = true;
        let (was_ready, halt) = (worker.ack.is_some(), worker.halt);
        self.actions.push(if was_ready { Action::Stop(id) } else { Action::StopUnready(id) });
        self.report(Report::StopSent(id));
        if let Some(halt) = halt {
            self.report(Report::Resumed(id, halt.by));
        }
    }

    /// The terminal, or whoever stops us, has sent the stop signal to every worker; a signal from
    /// us would be the second. A pre-stop hook can no longer come before it, but it is run. The signal
    /// may have ended a worker before it came to us: what was started in its place gets ours.
    pub(super) fn mark_signalled(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let came_later = worker.is_restart && now < worker.since + SIGNALLED_BEFORE;
            if !worker.is_running() || worker.stop_sent || came_later {
                continue;
            }
            if worker.ack.is_some() && self.policy.pre_stop && worker.pre_stop == Query::Due {
                worker.pre_stop = Query::Sent;
                self.actions.push(Action::PreStop(id));
            }
            worker.stop_sent = true;
            worker.stage = Stage::Terminating {
                signal_at: None,
                kill_at: worker.stop_timeout(&self.policy).map(|timeout| now + timeout),
                since: now,
            };
            self.resume_to_leave(id);
        }
    }

    pub(super) fn kill(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Terminating { since, .. } | Stage::Draining { since, .. } => {
                worker.stage = Stage::Killed;
                worker.stop_sent = true;
                self.kill_needed |= self.stopping;
                self.actions.push(Action::Kill(id));
                self.report(Report::Killed(id, now - since));
            }
            Stage::Remains { killed: false, .. } => {
                worker.stage = Stage::Remains { stop_sent: true, due: None, killed: true };
                self.actions.push(Action::KillRemains(id));
            }
            _ => {}
        }
    }

    /// The worker has exited and left processes behind. With `gracefully` they may finish
    /// the requests that they serve.
    pub(super) fn leave_remains(&mut self, id: WorkerId, gracefully: bool, now: Time) {
        let due = self.policy.stop_timeout.map(|timeout| now + timeout);
        self.set_stage(id, Stage::Remains { stop_sent: !gracefully, due, killed: false });
        self.actions.push(match gracefully {
            true => Action::DrainRemains(id),
            false => Action::StopRemains(id),
        });
    }

    /// The processes that an exited worker left behind have had the time to finish.
    pub(super) fn stop_remains(&mut self, id: WorkerId, now: Time) {
        let due = self.policy.stop_timeout.map(|timeout| now + timeout);
        self.set_stage(id, Stage::Remains { stop_sent: true, due, killed: false });
        self.actions.push(Action::StopRemains(id));
    }
}

/// The upgrade and the stop.
impl Supervisor {
    /// Holds the upgrade: both generations serve until the user has decided.
    pub(super) fn hold_upgrade(&mut self, now: Time) {
        self.keep_canary();
        let Some(upgrade) = &mut self.upgrade else { return };
        upgrade.hold = Hold::Held;
        upgrade.liveness = Query::Due;
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        // The files on the disk are those of the new generation, which is not trusted yet.
        for state in &mut self.slot_states {
            state.source = LaunchSource::AsBefore;
        }
        self.report(Report::Held { from, to, took });
    }

    /// The first worker of the upgrade, which gets new connections by now, goes on to, beside the old
    /// ones. Those that follow get theirs by another switch.
    pub(super) fn keep_canary(&mut self) {
        let canary = self.workers.iter().find(|(_, worker)| self.is_replacement(worker)).map(|(&id, _)| id);
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.switch != Query::Due) {
            upgrade.switch = Query::Due;
            upgrade.canary = canary;
        }
    }

    /// The batch is committed: its workers serve, and those that they replace may stop.
    pub(super) fn commit(&mut self, now: Time) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let (to, is_rollback) = (upgrade.to, upgrade.is_rollback);
        let batch = std::mem::take(&mut upgrade.batch);
        upgrade.replaced.extend(&batch);
        // The next batch is switched to once it has soaked.
        upgrade.switch = Query::Due;
        upgrade.canary = None;
        self.serving = to;
        self.begin_probation(now);
        // After a rollback the files on the disk are those of the generation that crashed.
        let source = if is_rollback { LaunchSource::AsBefore } else { LaunchSource::Anew };
        for slot in batch {
            if let Some(state) = self.slot_state_mut(slot) {
                *state = SlotState { source, ..SlotState::new(to, now) };
            }
            for id in self.occupants(|worker| worker.slot == slot && worker.generation == to) {
                self.learn(id);
            }
            for id in self.occupants(|worker| worker.slot == slot && worker.generation != to) {
                match self.successor(id) {
                    Some(successor) if self.is_kept_as_master(id) => self.keep_master(id, successor),
                    _ => self.drain(id, now),
                }
            }
        }
    }

    fn is_kept_as_master(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| worker.stays_master && !worker.handed_over)
    }

    /// The process of `predecessor` stays, as that of its successor.
    fn keep_master(&mut self, predecessor: WorkerId, worker: WorkerId) {
        self.workers.remove(&predecessor);
        self.actions.push(Action::KeepMaster { worker, predecessor });
    }

    /// The upgrade is over: every slot is replaced, or it has failed and is undone.
    pub(super) fn end_upgrade(&mut self, now: Time) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        self.restart_probation(to, now);
        match upgrade.failure {
            Some(failure) => self.undo(&upgrade, failure, now),
            None if upgrade.is_rollback => self.rollback_done(from, to, took),
            None => self.report(Report::UpgradeDone { from, to, took }),
        }
    }

    /// Undoes what the upgrade has not committed.
    fn undo(&mut self, upgrade: &Upgrade, why: Failure, now: Time) {
        let (from, to, took) = (upgrade.from, upgrade.to, now - upgrade.since);
        let (replaced, slots) = (upgrade.replaced.len() as u32, self.slot_states.len() as u32);
        let (predecessor_left, held) = (upgrade.predecessor_left, upgrade.hold == Hold::Held);
        let serves =
            |slot: Slot| self.in_slot(slot).any(|(_, old)| old.generation != to && old.occupies_slot());
        let stopped_first = self.policy.stop_first && !upgrade.batch.iter().all(|&slot| serves(slot));
        let was_switched = upgrade.switch != Query::Due || upgrade.canary.is_some();
        if was_switched {
            self.actions.push(Action::Switch(from));
        }
        self.report(match upgrade.is_rollback {
            true => Report::RollbackFailed { from, to, why },
            false => Report::UpgradeFailed {
                from,
                to,
                why,
                replaced,
                slots,
                took,
                predecessor_left,
                stopped_first,
                held,
            },
        });
        if self.stopping {
            return;
        }
        if predecessor_left {
            self.last_loss = Some(why.ending());
            for &slot in &upgrade.batch {
                self.schedule_restart(slot, why, Duration::ZERO, now);
                for id in self.occupants(|worker| worker.slot == slot && worker.generation != to) {
                    self.terminate(id, now);
                }
            }
        }
        for &slot in &upgrade.batch {
            for id in self.occupants(|worker| worker.slot == slot && worker.generation == to) {
                self.note_failed_successor(id);
                match was_switched {
                    true => self.drain(id, now),
                    false => self.terminate(id, now),
                }
            }
        }
        // With --stop-first the slots of the batch are empty, and are filled at once; but a
        // generation that keeps crashing has its pauses.
        let stop_first = self.policy.stop_first && !upgrade.is_rollback;
        for slot in self.slots().filter(|slot| !upgrade.replaced.contains(slot)) {
            if let Some(state) = self.slot_state_mut(slot) {
                // The files on the disk have just failed: what is started again is what was
                // started before.
                state.source = LaunchSource::AsBefore;
                if stop_first && upgrade.batch.contains(&slot) {
                    state.fill_at = now;
                }
            }
        }
    }

    /// A successor fails. What started it serves on.
    pub(super) fn note_failed_successor(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.has_started()) else { return };
        let predecessor = worker.predecessor;
        if let Some(predecessor) = predecessor.and_then(|id| self.workers.get_mut(&id)) {
            predecessor.successor_failed = true;
        }
    }

    /// New connections are to go to the replacements.
    pub(super) fn request_switch(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        if std::mem::replace(&mut upgrade.switch, Query::Sent) == Query::Due {
            self.actions.push(Action::Switch(upgrade.to));
        }
    }

    /// Every worker is to stop, and then the supervisor ends. The first ending counts.
    pub(super) fn begin_stop(&mut self, now: Time, ending: Option<Ending>) {
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
            self.terminate(id, now);
        }
    }
}
