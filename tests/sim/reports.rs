//! Checks of each report: whether the events and actions so far call for it.

use crate::model::{Hold, Model, ModelUpgrade, Verdict, ending, ensure};
use crate::probation::Waiting;
use crate::steering::Switch;
use crate::worker::WorkerRecord;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{
    AckKind, Action, Behind, Event, Failure, LaunchSource, Refusal, Report, Request, Slot, WorkerId,
};
use graceful_run::core::policy::{OnAckTimeout, Strength};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

impl Model {
    pub fn report(&mut self, report: Report) -> Verdict {
        let now = self.now;
        match report {
            Report::Started(id) => ensure!(self.in_step.event == Some(Event::Spawned(id)), "{report:?}"),
            Report::Ready(id, kind, after) => return self.ready(id, kind, after),
            Report::Serving(generation) => {
                ensure!(!self.served && !self.stopping && self.is_upgrade_idle(), "{report:?} out of place");
                ensure!(generation == self.serving, "{report:?}");
                ensure!(
                    self.workers.values().any(|record| record.stage == ShownStage::Ready),
                    "{report:?}, and no worker is ready"
                );
                self.served = true;
            }
            Report::UpgradeStarted { from, to } => {
                ensure!(self.upgrade.is_none(), "{report:?} within another");
                ensure!(from == self.serving, "{report:?}, but {} serves", self.serving);
                let ready = |slot: u32| {
                    self.workers.values().any(|record| {
                        record.slot.0 == slot && record.stage == ShownStage::Ready && record.exited.is_none()
                    })
                };
                let all = (0..self.slots.len() as u32).all(ready);
                ensure!(
                    self.served || !all,
                    "{report:?} before it was reported that the first generation serves"
                );
                ensure!(
                    !self.upgrade_must_wait(),
                    "{report:?} too soon for a worker that starts its own successor"
                );
                let (hold, canary) = self.hold_of_upgrade();
                self.new_generation(to)?;
                let allowed = !self.policy.pre_upgrade;
                if allowed {
                    self.workers.retain(|_, record| record.refused_at.is_none());
                } else {
                    self.in_step.pre_upgrade = Some(to);
                }
                let (started_slots, done) = (BTreeSet::new(), BTreeSet::new());
                self.upgrade = Some(ModelUpgrade {
                    from,
                    to,
                    since: now,
                    started_slots,
                    replaced_slots: done,
                    failure: None,
                    liveness_requested: false,
                    switch: Switch::Not,
                    predecessor_left: false,
                    allowed,
                    hold,
                    source: LaunchSource::Anew,
                    waiting: Waiting::Not,
                    is_rollback: false,
                    canary,
                });
            }
            Report::Drained(id, after) => return self.drain_ended(id, after, true),
            Report::NotDrained(id, after) => return self.drain_ended(id, after, false),
            Report::UpgradeKept(behind) => {
                let asked = matches!(
                    self.in_step.event,
                    Some(Event::Request(Request::Upgrade | Request::UpgradeNow | Request::Hold(_)))
                );
                ensure!(asked && self.pending, "{report:?} out of place");
                let expected = match (&self.upgrade, self.served) {
                    (Some(_), _) => Behind::Upgrade,
                    (None, false) => Behind::FirstStart,
                    (None, true) => Behind::Worker,
                };
                ensure!(behind == expected, "{report:?}, not behind {expected:?}");
            }
            Report::HoldPassed { .. } => return self.hold_passed(report),
            Report::Weighed(to, weight) => return self.weight_reported(to, weight, true),
            Report::NotWeighed(to, weight) => return self.weight_reported(to, weight, false),
            Report::CannotWeigh => {
                ensure!(std::mem::take(&mut self.in_step.canary.cannot_weigh), "{report:?} out of place")
            }
            Report::Held { from, to, took, lasts } => {
                ensure!(std::mem::take(&mut self.in_step.held), "{report:?} out of place");
                let upgrade = self.upgrade.as_ref().ok_or(format!("{report:?} without an upgrade"))?;
                ensure!(upgrade.canary.lasts == lasts, "{report:?} of {upgrade:?}");
                ensure!(
                    (upgrade.from, upgrade.to, upgrade.since + took) == (from, to, now),
                    "{report:?} of {upgrade:?}"
                );
            }
            Report::CannotHold => {
                ensure!(std::mem::take(&mut self.in_step.cannot_hold), "{report:?} out of place")
            }
            Report::NothingHeld(request) => {
                ensure!(self.in_step.nothing_held.take() == Some(request), "{report:?} out of place")
            }
            Report::UpgradeDone { from, to, took } => {
                let upgrade = self.upgrade.take().ok_or(format!("{report:?} without an upgrade"))?;
                ensure!(
                    (upgrade.from, upgrade.to, upgrade.since + took) == (from, to, now),
                    "{report:?} of {upgrade:?}"
                );
                ensure!(
                    upgrade.failure.is_none() && !upgrade.is_rollback,
                    "{report:?}, but {:?}",
                    upgrade.failure
                );
                ensure!(
                    upgrade.replaced_slots.len() == self.slots.len(),
                    "{report:?}, but only {:?}",
                    upgrade.replaced_slots
                );
                self.mixed = false;
                self.restart_probation(to);
                self.resize();
            }
            Report::UpgradeFailed {
                from,
                to,
                why,
                replaced,
                slots,
                took,
                predecessor_left,
                stopped_first,
                held,
            } => {
                self.supersede();
                let upgrade = self.upgrade.take().ok_or(format!("{report:?} without an upgrade"))?;
                ensure!(
                    (upgrade.from, upgrade.to, upgrade.since + took) == (from, to, now),
                    "{report:?} of {upgrade:?}"
                );
                ensure!(upgrade.failure == Some(why), "{report:?}, but {:?}", upgrade.failure);
                ensure!(upgrade.switch == Switch::Not, "{report:?}, and {to} is sent new connections");
                let back = upgrade.canary.apart.is_none() || upgrade.canary.given_back;
                ensure!(back, "{report:?}, and {to} gets a part of them");
                let counted =
                    (replaced as usize, slots as usize) == (upgrade.replaced_slots.len(), self.slots.len());
                ensure!(counted, "{report:?}, but {:?} of {}", upgrade.replaced_slots, self.slots.len());
                ensure!(held == (upgrade.hold == Hold::Held), "{report:?} of {upgrade:?}");
                ensure!(
                    !stopped_first || self.policy.stop_first && upgrade.allowed,
                    "{report:?} of {upgrade:?}"
                );
                self.mixed |= replaced > 0;
                ensure!(
                    predecessor_left == upgrade.predecessor_left,
                    "{report:?}, but the predecessor left: {}",
                    upgrade.predecessor_left
                );
                if predecessor_left && !self.stopping {
                    self.last_loss = Some(ending(why));
                    self.crash(Slot(0), why, Duration::ZERO);
                    self.leave_unasked(|record| record.generation != to);
                }
                self.restart_probation(to);
                self.undo(&upgrade);
            }
            Report::RollbackStarted { .. } => return self.rollback_started(report),
            Report::RolledBack { .. } => return self.rolled_back(report),
            Report::RollbackFailed { .. } => return self.rollback_failed(report),
            Report::Proven(generation) => return self.proven(generation),
            Report::Unseen { worker, after, timer } => return self.unseen(worker, after, timer),
            Report::HandedOver { worker, predecessor } => {
                let successor =
                    self.workers.get(&worker).is_some_and(|record| record.predecessor == Some(predecessor));
                ensure!(
                    successor && self.in_step.event == Some(Event::HandedOver(predecessor)),
                    "{report:?} out of place"
                );
            }
            Report::StopSent(id) => {
                ensure!(self.workers.get(&id).is_some_and(|record| record.stopped == Some(now)), "{report:?}")
            }
            Report::Killed(id, after) => {
                let record =
                    self.workers.get(&id).filter(|record| record.killed).ok_or(format!("{report:?}"))?;
                let stopped = record.stopped;
                let draining = self.stop_draining(id);
                let asked = stopped.or(draining).unwrap_or(now - after);
                ensure!(asked + after == now, "{report:?}, but it was asked at {asked:?}");
            }
            Report::Silent(id, after) => {
                let limit = self.policy.worker_watchdog.ok_or(format!("{report:?} without a watchdog"))?;
                let record = self.running(id, Action::Report(report))?;
                ensure!(
                    record.stage == ShownStage::Ready && !record.handed_over,
                    "{report:?}, which does not serve"
                );
                ensure!(
                    record.last_heartbeat + after == now && after >= limit,
                    "{report:?}: the last heartbeat was at {:?}",
                    record.last_heartbeat
                );
                record.surplus = true;
                record.draining = None;
                self.lost(id, Failure::Silent(id, after));
                if let Some(record) = self.workers.get_mut(&id) {
                    record.stage = ShownStage::Draining;
                }
            }
            Report::NoAck(id, after) => return self.no_ack(id, after),
            Report::Halted(id, by) => return self.halt_reported(id, by),
            Report::Resumed(id, by) => return self.resumed(id, by),
            Report::Continued(id, after) => {
                ensure!(self.in_step.continued.take() == Some((id, after)), "{report:?} out of place");
            }
            Report::StartsNone(id) => {
                let (last, record) = (self.in_step.not_started_by.take(), self.workers.get_mut(&id));
                let record = record.filter(|record| last == Some(id) && record.successor_failed);
                let record = record.ok_or(format!("{report:?} unasked"))?;
                ensure!(!std::mem::replace(&mut record.starts_none, true), "{report:?} twice");
            }
            Report::Gone { worker, stop_sent, ready, remains, .. } => {
                let record = self.workers.get(&worker).filter(|_| self.in_step.exited == Some(worker));
                let record = record.ok_or(format!("{report:?} unasked"))?;
                let stopped = record.stopped.is_some() || record.killed;
                ensure!((stop_sent, ready) == (stopped, record.ready.is_some()), "{report:?}");
                if !remains {
                    self.workers.remove(&worker);
                }
            }
            Report::NotStarted { worker, refusal, again } => return self.not_started(worker, refusal, again),
            Report::Restarting(slot, pause) => {
                let at = self.in_step.restarting.iter().position(|&restart| restart == (slot, pause));
                self.in_step
                    .restarting
                    .remove(at.ok_or(format!("{report:?}, not {:?}", self.in_step.restarting))?);
            }
            Report::Retired(slot) => {
                let at = self.in_step.retired.iter().position(|&retired| retired == slot);
                self.in_step.retired.remove(at.ok_or(format!("{report:?} unasked"))?);
            }
            Report::Scaled(target) => {
                ensure!(self.scale_wanted() == Some((target, true)), "{report:?}");
                self.target = target;
                self.scaling = true;
            }
            Report::ScaleDone(ready) => {
                ensure!(
                    self.scaling && self.in_step.scale_done.replace(ready).is_none(),
                    "{report:?} unasked"
                )
            }
            Report::CannotScale(target) => {
                let wanted = self.scale_wanted().is_some_and(|(_, possible)| !possible);
                ensure!(wanted && target == self.target, "{report:?}, and there are {}", self.target)
            }
            Report::Stopping => ensure!(std::mem::take(&mut self.in_step.stopping), "{report:?} unasked"),
            Report::Ignored(request) => {
                let asked = self.in_step.event == Some(Event::Request(request));
                ensure!(asked && self.stopping, "{report:?} out of place");
            }
        }
        Ok(())
    }

    /// How many workers the present request asks for, and whether that is possible.
    pub fn scale_wanted(&self) -> Option<(u32, bool)> {
        let wanted = match self.in_step.event? {
            Event::Request(Request::More) => self.target + 1,
            Event::Request(Request::Fewer) => self.target - 1,
            Event::Request(Request::Scale(target)) => target,
            _ => return None,
        };
        let most = if self.policy.follow { 1 } else { 1000 };
        Some((wanted, wanted >= self.policy.least_workers && wanted <= most))
    }

    /// A worker is ready by an ack that counts, by the timer, or by the ack timeout if the
    /// policy says so.
    pub fn ready(&mut self, id: WorkerId, kind: AckKind, after: Duration) -> Verdict {
        let now = self.now;
        let timer = self.policy.readiness.timer;
        let named = self.policy.readiness.kinds.contains(&AckKind::Timer);
        // What has no sockets is ready by its age: the event says that it is old enough.
        let aged = self.in_step.ready.contains(&(id, AckKind::Timer));
        self.may_be_ready(id, kind)?;
        let at = self.in_step.ready.iter().position(|&ready| ready == (id, kind));
        let record = self.running(id, Action::Report(Report::Ready(id, kind, after)))?;
        let started = record.counted_from().unwrap_or(now);
        ensure!(
            record.ready.is_none() && record.stage == ShownStage::Starting,
            "{id:?} is ready a second time"
        );
        ensure!(started + after == now, "{id:?} is ready after {after:?}");
        if kind == AckKind::Timer && !aged {
            let from = record.timer_from.filter(|_| record.halt.is_none());
            let waited = timer.zip(from).is_some_and(|(timer, from)| from + timer <= now);
            // It passed before the worker was halted, and waits for the listeners.
            let waited = waited || record.pending_ack == Some(AckKind::Timer);
            ensure!(waited, "{id:?} is ready by a timer that has not passed");
            ensure!(
                (named || record.known == Strength::Nothing) && record.predecessor.is_none(),
                "{id:?} is ready by a timer, and a better ack is known"
            );
        }
        record.ready = Some(now);
        record.last_heartbeat = now;
        record.ack = Some(kind);
        record.stage = ShownStage::Ready;
        if kind != AckKind::Timer {
            self.in_step.ready.remove(at.ok_or(format!("{id:?} is ready by {kind:?}, which nobody sent"))?);
        }
        self.learn(id);
        Ok(())
    }

    pub fn no_ack(&mut self, id: WorkerId, after: Duration) -> Verdict {
        let now = self.now;
        let awaited = self.workers.get(&id).is_some_and(WorkerRecord::awaited);
        let record = self.workers.get_mut(&id).filter(|record| awaited || record.runs());
        let record = record.ok_or(format!("{id:?} is not there to be waited for"))?;
        ensure!(record.stage == ShownStage::Starting, "{id:?} was not waited for");
        ensure!(record.ack_by.is_some_and(|at| at <= now), "{id:?} is given up before its time");
        let (known, predecessor) = (record.known, record.predecessor);
        let successor = predecessor.is_some();
        let halted = record.halt.is_some();
        let then = match successor {
            _ if halted => OnAckTimeout::Abort,
            true if awaited => OnAckTimeout::Abort,
            true => self.policy.on_ack_timeout.unwrap_or(OnAckTimeout::Abort),
            false => self.after_ack_timeout(known),
        };
        match then {
            OnAckTimeout::Proceed => self.in_step.ready.push((id, AckKind::Timeout)),
            OnAckTimeout::Abort => {
                let predecessor = predecessor.filter(|_| awaited);
                let said = |id: &WorkerId| {
                    self.workers.get(id).is_some_and(|it| it.successor_failed && !it.starts_none)
                };
                self.in_step.not_started_by = predecessor.filter(said);
                self.lost(id, Failure::NoAck(id, after));
                if let Some(record) = self.workers.get_mut(&id) {
                    record.stage = ShownStage::Draining;
                }
            }
        }
        Ok(())
    }

    pub fn not_started(&mut self, id: WorkerId, refusal: Refusal, again: bool) -> Verdict {
        ensure!(self.in_step.refused.take() == Some((id, refusal)), "{id:?} was not refused");
        let record = self.workers.get(&id).ok_or("a refusal of nobody")?;
        let window = match refusal {
            Refusal::Busy => SECOND * 2,
            Refusal::NotFound if self.served && self.replaces(id) => SECOND / 2,
            Refusal::Exhausted if !self.served => SECOND * 5,
            _ => Duration::ZERO,
        };
        let filled = record.occupied_slot();
        let expected = filled && self.now < record.decided + window;
        ensure!(again == expected, "{id:?} is tried again: {again}");
        if again {
            let now = self.now;
            self.workers.entry(id).and_modify(|record| record.refused_at = Some(now));
            return Ok(());
        }
        if filled {
            self.lost(id, Failure::NotStarted(id, refusal));
        }
        self.workers.remove(&id);
        Ok(())
    }
}
