//! The first two passes of a step: write down what happened, then what time
//! has brought about. Nothing is started here.

use super::event::{AckKind, Action, Event, Exit, Failure, Generation, Refusal, Report, Time, WorkerId};
use super::policy::{FIRST_LOOK, OnAckTimeout, SPAWN_PAUSE, Strength};
use super::upgrade::Question;
use super::worker::{Stage, Worker, by_timer};
use super::{Place, Supervisor};
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
            Event::Swept(worker) => {
                if self.workers.get(&worker).is_some_and(|w| matches!(w.stage, Stage::Remains { .. })) {
                    self.workers.remove(&worker);
                }
            }
            Event::HandedOver(worker) => self.handed_over(worker, now),
            Event::PreUpgraded(to, allowed) => {
                if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.to == to) {
                    match allowed {
                        _ if upgrade.allowed => {}
                        true => upgrade.allowed = true,
                        false => upgrade.fail(Failure::Refused),
                    }
                }
            }
            Event::PreStopped(worker) => {
                if let Some(worker) = self.workers.get_mut(&worker)
                    && worker.pre_stop == Question::Asked
                {
                    worker.pre_stop = Question::Answered;
                }
            }
            Event::Switched(to, done) => {
                if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| upgrade.to == to)
                    && upgrade.switch == Question::Asked
                {
                    match done {
                        true => upgrade.switch = Question::Answered,
                        false => {
                            // All is as it was: there is nothing to switch back.
                            upgrade.switch = Question::Due;
                            upgrade.fail(Failure::NotSwitched);
                        }
                    }
                }
            }
            Event::DrainLook { worker, drained, pause } => self.drain_look(worker, drained, pause, now),
            Event::Heartbeat(worker) => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.heard = now;
                }
            }
            Event::LookedAlive => {
                if let Some(upgrade) = &mut self.upgrade
                    && upgrade.look == Question::Asked
                {
                    upgrade.look = Question::Answered;
                }
            }
            Event::Waits(slot) => {
                if self.upgrade.as_ref().is_some_and(|it| it.waiting == Question::Asked) {
                    self.waits.insert(slot);
                    self.known = self.known.max(Strength::Seen);
                }
            }
            Event::LookedWaiting => {
                if let Some(upgrade) = self.upgrade.as_mut().filter(|it| it.waiting == Question::Asked) {
                    upgrade.waiting = Question::Answered;
                }
            }
            Event::Tick => {}
        }
    }

    fn spawned(&mut self, id: WorkerId, now: Time) {
        let stopping = self.stopping;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Spawning { wanted, .. } => {
                worker.start(&self.policy, now);
                if !wanted {
                    worker.drain(now, stopping);
                }
            }
            Stage::Awaited { ack_by, probe } => {
                worker.stage = Stage::Starting { ack_by, ready_at: None, probe: Some(probe) };
            }
            _ => return,
        }
        self.report(Report::Started(id));
    }

    fn spawn_failed(&mut self, id: WorkerId, refusal: Refusal, now: Time) {
        let upgrading = self.served;
        let Some(worker) = self.workers.get(&id) else { return };
        let Stage::Spawning { retry_at: None, wanted } = worker.stage else { return };
        let patience = worker.patience(refusal, upgrading && self.replaces(worker), !self.served);
        let again = wanted && now < worker.since + patience;
        self.report(Report::NotStarted { worker: id, refusal, again });
        if again {
            self.set_stage(id, Stage::Spawning { retry_at: Some(now + SPAWN_PAUSE), wanted });
        } else {
            self.lost(id, Failure::NotStarted(id, refusal), now);
            self.workers.remove(&id);
        }
    }

    fn acked(&mut self, id: WorkerId, kind: AckKind, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // What a successor does says nothing about a start of ours.
        if worker.of.is_none() {
            worker.strength = worker.strength.max(kind.strength());
        }
        // Where it can be looked, a word may come before the program has loaded.
        let sign =
            kind.strength() == Strength::Seen || kind.strength() == Strength::Said && !self.policy.looks();
        if sign && worker.of.is_none() {
            worker.took.get_or_insert(now.saturating_sub(worker.since));
            if let Stage::Ready { look_at, .. } = &mut worker.stage {
                *look_at = None;
            }
        }
        worker.told_parent |= kind == AckKind::ParentTerm;
        match worker.stage {
            Stage::Starting { .. } => match worker.hear(kind, &self.policy, now) {
                Some(kind) => self.ready(id, kind, now),
                None => self.learn(id),
            },
            _ => self.learn(id),
        }
    }

    fn drain_look(&mut self, id: WorkerId, drained: bool, pause: Duration, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Stage::Draining { since, look_at: look_at @ None, .. } = &mut worker.stage else { return };
        let since = *since;
        *look_at = Some(now + pause);
        if drained {
            self.report(Report::Drained(id, now - since));
            self.dismiss(id, now);
        }
    }

    fn ready(&mut self, id: WorkerId, kind: AckKind, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let after = now - worker.since;
        worker.get_ready(kind, &self.policy, now);
        self.report(Report::Ready(id, kind, after));
        self.learn(id);
    }

    /// What a worker proves about the program is believed once it serves: a
    /// generation that was given up says nothing about the one that stayed.
    pub(super) fn learn(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        if matches!(worker.stage, Stage::Ready { .. }) && !self.replaces(worker) {
            self.known = self.known.max(worker.strength);
            // One that still serves half-way through says nothing of the program as it is now.
            if let Some(took) = worker.took.filter(|_| worker.generation == self.serving) {
                let (of, before) = self.took;
                let before = if of == worker.generation { before } else { Duration::ZERO };
                self.took = (worker.generation, took.max(before));
            }
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Exit, remains: bool, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        if !worker.runs() {
            return;
        }
        let (ready, asked, age) = (worker.ack.is_some(), worker.asked, now - worker.since);
        let leaves =
            matches!(worker.stage, Stage::Draining { .. } | Stage::Terminating { .. } | Stage::Killed);
        // Processes that it has started for requests may still be busy with them.
        let gracefully = asked && ready && worker.stage != Stage::Killed && !self.stopping;
        // Where the next one waits for the slot to be empty, they are not waited for.
        let gracefully = gracefully && !self.policy.stop_first;
        let leaving = leaves || worker.handed_over;
        if self.policy.follow && leaving && !worker.handed_over {
            self.alone_since = Some(now);
        }
        // Some programs end by themselves when they have done enough, and are started again.
        let on_probation = self.probation().is_some_and(|shown| shown.of == worker.generation);
        self.ends_well |= exit == Exit::Code(0) && ready && !leaving && !self.stopping && !on_probation;
        self.report(Report::Gone { worker: id, exit, age, asked, ready, remains });
        match self
            .successor(id)
            .map(|successor| (successor, self.workers.get(&successor).is_some_and(Worker::runs)))
        {
            _ if leaving => {}
            Some((successor, true)) => {
                if let Some(upgrade) = &mut self.upgrade {
                    upgrade.left = true;
                }
                if let Some(successor) = self.workers.get_mut(&successor) {
                    successor.hurry(now);
                }
            }
            Some((successor, false)) => {
                self.lost(successor, Failure::NoSuccessor { worker: id, exit }, now);
                self.workers.remove(&successor);
                self.lost(id, Failure::Exited { worker: id, exit, ready }, now);
            }
            None => self.lost(id, Failure::Exited { worker: id, exit, ready }, now),
        }
        if remains {
            let due = self.policy.stop_timeout.map(|timeout| now + timeout);
            self.set_stage(id, Stage::Remains { asked: !gracefully, due, killed: false });
            self.actions.push(match gracefully {
                true => Action::DrainRemains(id),
                false => Action::StopRemains(id),
            });
        } else {
            self.workers.remove(&id);
        }
    }

    /// A worker leaves to a successor. One that nobody has asked for serves from
    /// now on as a generation of its own; but while an upgrade is under way that
    /// number is taken, and it stands for the worker that it succeeds.
    fn handed_over(&mut self, id: WorkerId, now: Time) {
        let successor = self.successor(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let ready = matches!(worker.stage, Stage::Ready { .. });
        if !self.policy.follow || !ready || std::mem::replace(&mut worker.handed_over, true) {
            return;
        }
        if let (Some(_), Some(upgrade)) = (successor, &mut self.upgrade) {
            upgrade.left = true;
            return;
        }
        let (slot, mut generation) = (worker.slot, worker.generation);
        if let Some(upgrade) = &mut self.upgrade {
            // If it stands for the replacement, it has to soak as well.
            upgrade.look = Question::Due;
        } else {
            self.last_generation = Generation(self.last_generation.0 + 1);
            generation = self.last_generation;
            self.serving = generation;
            if let Some(place) = self.place_mut(slot) {
                *place = Place::new(generation, now);
            }
        }
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.workers.insert(worker, Worker::successor(generation, slot, id, now));
        self.started.insert(generation);
        self.actions.push(Action::TakeSuccessor { worker, of: id, generation, slot });
        self.report(Report::HandedOver { worker, of: id });
        self.dismiss(id, now);
    }

    pub(super) fn expire(&mut self, now: Time) {
        for id in self.ids(|_| true) {
            self.expire_worker(id, now);
        }
        self.end_probation(now);
    }

    fn expire_worker(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        match by_timer(worker, now) {
            // One that has to listen by itself does not serve before, and what it is
            // waited for goes on.
            Some(AckKind::Timer) if self.policy.adopt.is_some() => self.acked(id, AckKind::Timer, now),
            Some(kind) => return self.ready(id, kind, now),
            None => {}
        }
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.silent_at(&self.policy).is_some_and(|at| at <= now) {
            let after = now - worker.heard;
            self.report(Report::Silent(id, after));
            self.lost(id, Failure::Silent(id, after), now);
            return self.dismiss(id, now);
        }
        self.tell_unseen(id, now);
        let Some(worker) = self.workers.get(&id) else { return };
        match worker.stage {
            Stage::Starting { ack_by: Some(at), .. } if at <= now => {
                let (after, then) = (now - worker.since, worker.after_ack_timeout(&self.policy));
                self.report(Report::NoAck(id, after));
                match then {
                    OnAckTimeout::Proceed => self.ready(id, AckKind::Timeout, now),
                    OnAckTimeout::Abort => {
                        self.lost(id, Failure::NoAck(id, after), now);
                        self.dismiss(id, now);
                    }
                }
            }
            Stage::Starting { ack_by, ready_at, probe: Some((at, pause)) } if at <= now => {
                let next = (pause * 2).min(worker.longest_pause(&self.policy));
                self.set_stage(id, Stage::Starting { ack_by, ready_at, probe: Some((now + next, next)) });
                self.actions.push(Action::Probe(id));
            }
            Stage::Awaited { ack_by: Some(at), .. } if at <= now => {
                let after = now - worker.since;
                self.report(Report::NoAck(id, after));
                self.lost(id, Failure::NoAck(id, after), now);
                self.dismiss(id, now);
            }
            Stage::Awaited { ack_by, probe: (at, pause) } if at <= now => {
                let next = (pause * 2).min(worker.longest_pause(&self.policy));
                self.set_stage(id, Stage::Awaited { ack_by, probe: (now + next, next) });
                self.actions.push(Action::Probe(id));
            }
            Stage::Draining { since, until: Some(at), .. } if at <= now => {
                self.report(Report::NotDrained(id, now - since));
                self.dismiss(id, now);
            }
            Stage::Draining { since, until, look_at: Some(at) } if at <= now => {
                self.set_stage(id, Stage::Draining { since, until, look_at: None });
                self.actions.push(Action::LookDrained(id));
            }
            Stage::Terminating { ask_at: None, kill_at: Some(at), .. } if at <= now => self.kill(id, now),
            Stage::Ready { since, look_at: Some(at) } if at <= now => {
                let look_at = self.policy.wait_look(now - worker.since).map(|pause| now + pause);
                self.set_stage(id, Stage::Ready { since, look_at });
                self.actions.push(Action::Probe(id));
            }
            Stage::Remains { asked: false, due: Some(at), .. } if at <= now => self.stop_remains(id, now),
            Stage::Remains { due: Some(at), .. } if at <= now => self.kill(id, now),
            _ => {}
        }
    }

    fn tell_unseen(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Stage::Starting { ready_at, .. } = worker.stage else { return };
        if worker.unseen_at.take_if(|at| *at <= now).is_some() && !worker.listens {
            let (after, timer) = (now - worker.since, ready_at.map(|at| at - worker.since));
            self.report(Report::Unseen { worker: id, after, timer });
        }
    }

    /// What a worker has left behind has had the time to finish what it was doing.
    fn stop_remains(&mut self, id: WorkerId, now: Time) {
        let due = self.policy.stop_timeout.map(|timeout| now + timeout);
        self.set_stage(id, Stage::Remains { asked: true, due, killed: false });
        self.actions.push(Action::StopRemains(id));
    }

    /// The worker is to leave once it has served what it has.
    pub(super) fn empty(&mut self, id: WorkerId, now: Time) {
        let Some(adopt) = self.policy.adopt.filter(|adopt| adopt.steer) else { return self.dismiss(id, now) };
        match self.workers.get_mut(&id) {
            Some(worker) if matches!(worker.stage, Stage::Ready { .. }) => {
                let until = adopt.drain_timeout.map(|timeout| now + timeout);
                worker.stage = Stage::Draining { since: now, until, look_at: Some(now + FIRST_LOOK) };
            }
            _ => self.dismiss(id, now),
        }
    }

    /// The worker is to leave. One that does not run yet is given up.
    pub(super) fn dismiss(&mut self, id: WorkerId, now: Time) {
        let stopping = self.stopping;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Spawning { retry_at: Some(_), .. } | Stage::Awaited { .. } => {
                self.workers.remove(&id);
            }
            Stage::Ready { .. } if worker.handed_over => {
                let kill_at = self.policy.stop_timeout.map(|timeout| now + timeout);
                worker.stage = Stage::Terminating { ask_at: None, kill_at, since: now };
                worker.asked = true;
            }
            Stage::Spawning { retry_at: None, .. } => {
                worker.stage = Stage::Spawning { retry_at: None, wanted: false };
            }
            Stage::Remains { asked: false, .. } => self.stop_remains(id, now),
            _ => worker.drain(now, stopping),
        }
    }

    pub(super) fn kill(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Terminating { since, .. } | Stage::Draining { since, .. } => {
                worker.stage = Stage::Killed;
                worker.asked = true;
                self.forced |= self.stopping;
                self.actions.push(Action::Kill(id));
                self.report(Report::Killed(id, now - since));
            }
            Stage::Remains { killed: false, .. } => {
                worker.stage = Stage::Remains { asked: true, due: None, killed: true };
                self.actions.push(Action::KillRemains(id));
            }
            _ => {}
        }
    }

    pub(super) fn set_stage(&mut self, id: WorkerId, stage: Stage) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stage = stage;
        }
    }

    pub(super) fn ids(&self, which: impl Fn(&Stage) -> bool) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| which(&worker.stage)).map(|(&id, _)| id).collect()
    }
}
