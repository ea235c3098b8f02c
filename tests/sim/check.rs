//! Whether an action was called for.

use crate::book::{Book, Hold, Open, Place, SIGNAL_GRACE, Verdict, demand, ending};
use crate::life::Life;
use crate::probation::Waiting;
use crate::steer::Switch;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{
    AckKind, Action, Ending, Event, Failure, Generation, Reading, Refusal, Report, Request, Slot, WorkerId,
};
use graceful_run::core::policy::{OnAckTimeout, Strength};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

impl Book {
    pub fn check(&mut self, action: Action) -> Verdict {
        let now = self.now;
        match action {
            Action::Spawn { worker, generation, slot, reading } => {
                self.spawn(worker, generation, slot, reading)
            }
            Action::RequestHandover { worker, of, generation, slot } => {
                self.succeed(worker, of, generation, slot)
            }
            Action::TakeSuccessor { worker, of, generation, slot } => {
                self.adopt(worker, of, generation, slot)
            }
            Action::Probe(id) if self.lives.get(&id).is_some_and(Life::awaited) => Ok(()),
            Action::Probe(id) => {
                let listeners = self.policy.listeners;
                let life = self.running(id, action)?;
                let starts = life.stage == ShownStage::Starting;
                // How long the program takes to wait is of use once it serves as well.
                let unknown = listeners && life.stage == ShownStage::Ready && life.took.is_none();
                demand!(starts || unknown, "{action:?} of a worker of which all is known");
                Ok(())
            }
            Action::LookAlive => {
                let open = self.open.as_mut().ok_or("LookAlive without an upgrade")?;
                let again = std::mem::replace(&mut open.looked, true);
                demand!(!again && open.switch == Switch::Not, "LookAlive twice");
                Ok(())
            }
            Action::LookWaiting => self.may_look_waiting(),
            Action::Forget(generation) => self.may_forget(generation),
            Action::PreUpgrade(to) => {
                demand!(self.this.pre_upgrade.take() == Some(to), "{action:?} out of place");
                Ok(())
            }
            Action::Switch(to) => self.may_switch(to),
            Action::LookDrained(id) => self.may_look(id),
            Action::PreStop(id) => self.pre_stop(id),
            Action::Stop(id) => self.stop(id),
            Action::Kill(id) => self.kill(id),
            Action::DrainRemains(id) => {
                let just = self.this.remains.take() == Some(id);
                demand!(just, "{action:?}, of which nothing has just been left");
                demand!(self.may_finish(id), "{action:?}, which has no requests to finish");
                Ok(())
            }
            Action::StopRemains(id) => {
                let timeout = self.policy.stop_timeout;
                let (just, finishes, stopping) = (
                    self.this.remains.take_if(|left| *left == id).is_some(),
                    self.may_finish(id),
                    self.stopping,
                );
                let life = self.lives.get_mut(&id).ok_or(format!("{action:?}, of which nothing is left"))?;
                let exited = life.exited.ok_or(format!("{action:?}, which lives"))?;
                let had_time = timeout.is_some_and(|timeout| exited + timeout <= now);
                let due = if just { !finishes } else { had_time || stopping };
                demand!(due, "{action:?} too soon");
                demand!(life.remains_asked.replace(now).is_none(), "{action:?} twice");
                Ok(())
            }
            Action::KillRemains(id) => {
                let by_force = self.killing || self.this.hammer;
                let timeout = self.policy.stop_timeout;
                let life = self.lives.get_mut(&id).ok_or(format!("{action:?}, of which nothing is left"))?;
                demand!(life.exited.is_some(), "{action:?}, which lives");
                let asked = life.remains_asked;
                let due = asked.zip(timeout).is_some_and(|(asked, timeout)| asked + timeout <= now);
                demand!(by_force || due, "{action:?} too soon");
                demand!(!std::mem::replace(&mut life.remains_killed, true), "{action:?} twice");
                Ok(())
            }
            Action::Forward(id, token) => {
                demand!(
                    self.this.event == Some(Event::Request(Request::Forward(token))),
                    "{action:?} unasked"
                );
                let life = self.running(id, action)?;
                demand!(life.stage == ShownStage::Ready, "{action:?} to a worker that is not ready");
                Ok(())
            }
            Action::Suspend(id) | Action::Resume(id) => {
                let known = self.lives.get(&id).is_some_and(|life| life.started.is_some());
                demand!(known, "{action:?}, of which no process lives");
                Ok(())
            }
            Action::SuspendSelf => Ok(()),
            Action::Report(report) => self.report(report),
            Action::Exit(ending) => self.exit(ending),
        }
    }

    /// Those that a worker left behind which stopped as it was asked to may finish what
    /// they have, unless the next one waits for them to be gone.
    fn may_finish(&self, id: WorkerId) -> bool {
        let Some(life) = self.lives.get(&id) else { return false };
        life.ready.is_some()
            && life.stopped.is_some()
            && !life.killed
            && !self.stopping
            && !self.policy.stop_first
    }

    fn running(&mut self, id: WorkerId, action: Action) -> Result<&mut Life, String> {
        let life = self.lives.get_mut(&id).filter(|life| life.runs());
        life.ok_or(format!("{action:?}, of which no process lives"))
    }

    fn spawn(&mut self, id: WorkerId, generation: Generation, slot: Slot, reading: Reading) -> Verdict {
        let now = self.now;
        demand!(!self.stopping, "a start after the stop began");
        if let Some(life) = self.lives.get_mut(&id) {
            let refused = life.refused_at.take().ok_or("the same worker is started twice")?;
            demand!(refused + Duration::from_millis(50) <= now, "a second try without a pause");
            let same = (life.generation, life.slot, life.reading) == (generation, slot, reading);
            demand!(same, "a second try of something else");
            life.in_flight = true;
            return Ok(());
        }
        let kept = reading == Reading::Anew || self.kept.contains(&generation);
        demand!(kept, "{generation} is started as before, and it is not kept what that was");
        self.kept.insert(generation);
        if generation > self.last_generation {
            self.new_start(generation)?;
        }
        let place = self.places.get(slot.0 as usize).ok_or("a start in a slot that is not there")?.clone();
        let others: Vec<&Life> = self.lives.values().filter(|life| life.slot == slot).collect();
        demand!(!self.policy.stop_first || others.is_empty(), "the old worker has not left {slot:?}");
        let at_rest = self.is_at_rest();
        let fills = others.iter().any(|life| life.filled() && life.generation == generation);
        demand!(!fills, "a second worker of {generation} in {slot:?}");
        let serves = others.iter().any(|life| life.runs() && life.stage == ShownStage::Ready);
        demand!(!self.policy.follow || !serves, "a start where a worker is to start its successor");
        match &mut self.open {
            Some(open) if open.to == generation && !open.done.contains(&slot) => {
                demand!(open.failure.is_none(), "a replacement after the upgrade failed");
                demand!(!open.rests(), "a replacement while the upgrade rests");
                demand!(
                    open.hold == Hold::No || open.begun.is_empty(),
                    "a second replacement before the verdict"
                );
                demand!(open.begun.insert(slot), "a second replacement in {slot:?}");
                let wave = open.begun.difference(&open.done).count();
                demand!(
                    wave <= self.policy.surge.unwrap_or(u32::MAX) as usize,
                    "{wave} slots are replaced at once"
                );
                demand!(reading == open.reading, "a replacement that is started {reading:?}");
                let open = self.open.clone().ok_or("no upgrade")?;
                self.may_begin(&open)?;
            }
            open => {
                let begun = at_rest || open.as_ref().is_none_or(|open| open.done.contains(&slot));
                demand!(begun, "a restart in {slot:?} while its replacement is awaited");
                demand!(!at_rest || slot.0 < self.target, "{slot:?} is to be empty");
                let held = open.as_ref().map(|open| open.to).filter(|_| at_rest);
                let filled = others.iter().any(|life| life.filled() && Some(life.generation) != held);
                demand!(!filled, "{slot:?} is filled already");
                demand!(place.due <= now, "a restart before {:?}", place.due);
                demand!(!place.retired, "{slot:?} was left empty for good");
                demand!(place.generation == generation, "{slot:?} belongs to {}", place.generation);
                demand!(place.reading == reading, "{slot:?} starts {:?}", place.reading);
            }
        }
        let mut life = Life::new(id, generation, slot, reading, self.known, now);
        self.measure(&mut life);
        self.new_worker(life)
    }

    /// A worker that serves is asked to start its successor, as the one replacement
    /// of its upgrade.
    fn succeed(&mut self, id: WorkerId, of: WorkerId, generation: Generation, slot: Slot) -> Verdict {
        let (now, timeout) = (self.now, self.policy.ack_timeout);
        demand!(self.policy.follow && !self.stopping, "a successor out of place");
        let old = self.running(of, Action::RequestHandover { worker: id, of, generation, slot })?;
        demand!(old.stage == ShownStage::Ready && !old.signalled(), "{of:?} does not serve");
        demand!(!old.succeeded, "{of:?} leaves, and is asked for another successor");
        demand!(old.slot == slot && old.generation < generation, "{id:?} cannot follow {of:?}");
        demand!(old.ready.is_some_and(|at| at + SIGNAL_GRACE <= now), "{of:?} is signalled too soon");
        let open = self.open.as_mut().filter(|open| open.to == generation && open.failure.is_none());
        let open = open.ok_or("a successor without an upgrade")?;
        demand!(!open.back, "a successor of what is to go back");
        self.kept.insert(generation);
        demand!(open.begun.insert(slot), "a second replacement in {slot:?}");
        let life = Life::new(id, generation, slot, Reading::Anew, Strength::Nothing, now);
        self.new_worker(Life { of: Some(of), ack_by: timeout.map(|timeout| now + timeout), ..life })
    }

    /// A successor that nobody has asked for serves from now on.
    fn adopt(&mut self, id: WorkerId, of: WorkerId, generation: Generation, slot: Slot) -> Verdict {
        let now = self.now;
        demand!(self.this.adopt.take() == Some(of), "{of:?} has not left to a successor");
        let old = self.running(of, Action::TakeSuccessor { worker: id, of, generation, slot })?;
        demand!(old.slot == slot, "{id:?} cannot follow {of:?}");
        let same = old.generation;
        if let Some(open) = &mut self.open {
            open.looked = false;
            demand!(generation == same, "{generation} comes between");
        } else {
            demand!(
                generation.0 == self.last_generation.0 + 1,
                "{generation} follows {}",
                self.last_generation
            );
            self.last_generation = generation;
            self.serving = generation;
            self.places[slot.0 as usize] = Place::new(generation, now);
        }
        self.leave_unasked(|life| life.id == of);
        self.kept.insert(generation);
        let life = Life::new(id, generation, slot, Reading::Anew, Strength::Nothing, now);
        let (of, started, ready) = (Some(of), Some(now), Some(now));
        self.new_worker(Life { of, started, ready, in_flight: false, stage: ShownStage::Ready, ..life })
    }

    /// The one stop signal of a life. Unless everything stops, a worker that was
    /// ready gets it because its replacement has just been found alive, or because
    /// nobody needs it any more.
    fn stop(&mut self, id: WorkerId) -> Verdict {
        let (now, told) = (self.now, self.policy.pre_stop);
        let life = self.running(id, Action::Stop(id))?;
        let told = told && life.ready.is_some();
        if !told {
            self.has_reason_to_go(id)?;
        } else {
            demand!(life.pre_stop == Some(true), "{id:?} is asked to stop before its hook has ended");
        }
        let life = self.running(id, Action::Stop(id))?;
        demand!(life.stopped.is_none() && !life.killed, "a second signal to {id:?}");
        demand!(!life.succeeded, "{id:?} leaves by itself, and is asked to");
        life.stopped = Some(now);
        Ok(())
    }

    /// The hook is called once, before the signal, of a worker that was ready.
    fn pre_stop(&mut self, id: WorkerId) -> Verdict {
        self.has_reason_to_go(id)?;
        let wanted = self.policy.pre_stop;
        let life = self.running(id, Action::PreStop(id))?;
        demand!(wanted && life.ready.is_some() && !life.signalled(), "a pre-stop hook for {id:?}");
        demand!(life.pre_stop.replace(false).is_none(), "a second pre-stop hook for {id:?}");
        Ok(())
    }

    fn has_reason_to_go(&mut self, id: WorkerId) -> Verdict {
        let (now, stopping, stop_first) = (self.now, self.stopping, self.policy.stop_first);
        let (places, undone) = (self.places.len() as u32, self.this.undone);
        let shrinks = self.is_at_rest() && !self.replaces(id);
        let places = if shrinks { self.target } else { places };
        let committed = self.this.committed.clone();
        let makes_way = self.policy.follow && self.open.as_ref().is_some_and(|open| open.back);
        let to = self.serving;
        let life = self.running(id, Action::Stop(id))?;
        let Some(ready) = life.ready.filter(|_| !stopping) else { return Ok(()) };
        demand!(ready + SIGNAL_GRACE <= now, "{id:?} is asked to stop {:?} after its ack", now - ready);
        demand!(life.emptying.is_none(), "{id:?} is asked to stop before it has drained");
        let surplus = life.surplus || life.slot.0 >= places || undone == Some(life.generation);
        let replaced = committed.contains(&life.slot) && life.generation != to;
        // Nor is what keeps ending, where only one can have the addresses.
        demand!(
            surplus || replaced || stop_first || makes_way,
            "{id:?} serves, and nothing serves in its place"
        );
        Ok(())
    }

    fn kill(&mut self, id: WorkerId) -> Verdict {
        let (now, by_force) = (self.now, self.killing || self.this.hammer);
        let timeout = self.policy.stop_timeout;
        let crowded = self.too_many_drain();
        let life = self.running(id, Action::Kill(id))?;
        let by_force = by_force || crowded == Some(life.generation);
        let due = matches!((life.stopped, timeout), (Some(at), Some(timeout)) if at + timeout <= now);
        demand!(by_force || due, "{id:?} is killed before its time");
        demand!(!std::mem::replace(&mut life.killed, true), "{id:?} is killed twice");
        self.forced |= self.stopping;
        Ok(())
    }

    fn exit(&mut self, ending: Ending) -> Verdict {
        // Between two tries of a start there is no process to wait for.
        self.lives.retain(|_, life| !life.is_idea());
        demand!(self.lives.is_empty(), "the end, and there still are {:?}", self.lives.keys());
        demand!(self.open.is_none(), "the end, and no verdict on the upgrade");
        let expected = match (self.stopping, self.forced) {
            (true, true) => self.ending.unwrap_or(Ending::Killed),
            (true, false) => self.ending.unwrap_or(Ending::Stopped),
            (false, _) => self.last_loss.ok_or("an end that nobody asked for")?,
        };
        let all_retired = !self.places.is_empty() && self.places.iter().all(|place| place.retired);
        demand!(self.stopping || all_retired, "an end while there are slots to fill");
        demand!(ending == expected, "it ends with {ending:?}, not {expected:?}");
        self.ended = true;
        Ok(())
    }

    fn report(&mut self, report: Report) -> Verdict {
        let now = self.now;
        match report {
            Report::Started(id) => demand!(self.this.event == Some(Event::Spawned(id)), "{report:?}"),
            Report::Ready(id, kind, after) => return self.ready(id, kind, after),
            Report::Serving(generation) => {
                demand!(!self.served && !self.stopping && self.is_at_rest(), "{report:?} out of place");
                demand!(generation == self.serving, "{report:?}");
                demand!(
                    self.lives.values().any(|life| life.stage == ShownStage::Ready),
                    "{report:?}, and nobody is ready"
                );
                self.served = true;
            }
            Report::UpgradeStarted { from, to } => {
                demand!(self.open.is_none(), "{report:?} within another");
                demand!(from == self.serving, "{report:?}, but {} serves", self.serving);
                let ready = |slot: u32| {
                    self.lives.values().any(|life| {
                        life.slot.0 == slot && life.stage == ShownStage::Ready && life.exited.is_none()
                    })
                };
                let all = (0..self.places.len() as u32).all(ready);
                demand!(self.served || !all, "{report:?} before it was said that the first serves");
                demand!(!self.is_held_up(), "{report:?} too soon for a worker that starts its own successor");
                let hold = if self.pending_hold { Hold::Wanted } else { Hold::No };
                self.new_generation(to)?;
                let allowed = !self.policy.pre_upgrade;
                if allowed {
                    self.lives.retain(|_, life| life.refused_at.is_none());
                } else {
                    self.this.pre_upgrade = Some(to);
                }
                let (begun, done) = (BTreeSet::new(), BTreeSet::new());
                self.open = Some(Open {
                    from,
                    to,
                    since: now,
                    begun,
                    done,
                    failure: None,
                    looked: false,
                    switch: Switch::Not,
                    left: false,
                    allowed,
                    hold,
                    reading: Reading::Anew,
                    waiting: Waiting::Not,
                    back: false,
                });
            }
            Report::Drained(id, after) => return self.emptied(id, after, true),
            Report::NotDrained(id, after) => return self.emptied(id, after, false),
            Report::UpgradeKept => {
                let asked = matches!(
                    self.this.event,
                    Some(Event::Request(Request::Upgrade | Request::UpgradeNow | Request::Hold))
                );
                demand!(asked && self.pending, "{report:?} out of place");
            }
            Report::Held { from, to, took } => {
                demand!(std::mem::take(&mut self.this.held), "{report:?} out of place");
                let open = self.open.as_ref().ok_or(format!("{report:?} without an upgrade"))?;
                demand!((open.from, open.to, open.since + took) == (from, to, now), "{report:?} of {open:?}");
            }
            Report::CannotHold => {
                demand!(std::mem::take(&mut self.this.cannot_hold), "{report:?} out of place")
            }
            Report::NothingHeld(request) => {
                demand!(self.this.nothing_held.take() == Some(request), "{report:?} out of place")
            }
            Report::UpgradeDone { from, to, took } => {
                let open = self.open.take().ok_or(format!("{report:?} without an upgrade"))?;
                demand!((open.from, open.to, open.since + took) == (from, to, now), "{report:?} of {open:?}");
                demand!(open.failure.is_none() && !open.back, "{report:?}, but {:?}", open.failure);
                demand!(open.done.len() == self.places.len(), "{report:?}, but only {:?}", open.done);
                self.mixed = false;
                self.has_gone_live(to);
                self.resize();
            }
            Report::UpgradeFailed { from, to, why, replaced, of, took, left, held } => {
                let open = self.open.take().ok_or(format!("{report:?} without an upgrade"))?;
                demand!((open.from, open.to, open.since + took) == (from, to, now), "{report:?} of {open:?}");
                demand!(open.failure == Some(why), "{report:?}, but {:?}", open.failure);
                demand!(open.switch == Switch::Not, "{report:?}, and {to} is sent new connections");
                let counted = (replaced as usize, of as usize) == (open.done.len(), self.places.len());
                demand!(counted, "{report:?}, but {:?} of {}", open.done, self.places.len());
                demand!(held == (open.hold == Hold::Held), "{report:?} of {open:?}");
                self.mixed |= replaced > 0;
                demand!(left == open.left, "{report:?}, but the old one left: {}", open.left);
                if left && !self.stopping {
                    self.last_loss = Some(ending(why));
                    self.crash(Slot(0), why, Duration::ZERO);
                    self.leave_unasked(|life| life.generation != to);
                }
                self.has_gone_live(to);
                self.undo(&open);
            }
            Report::RollbackStarted { .. } => return self.rollback_started(report),
            Report::RolledBack { .. } => return self.rolled_back(report),
            Report::RollbackFailed { .. } => return self.rollback_failed(report),
            Report::Proven(generation) => return self.proven(generation),
            Report::Unseen { worker, after, timer } => return self.unseen(worker, after, timer),
            Report::HandedOver { worker, of } => {
                let heir = self.lives.get(&worker).is_some_and(|life| life.of == Some(of));
                demand!(heir && self.this.event == Some(Event::HandedOver(of)), "{report:?} out of place");
            }
            Report::Asked(id) => {
                demand!(self.lives.get(&id).is_some_and(|life| life.stopped == Some(now)), "{report:?}")
            }
            Report::Killed(id, after) => {
                let life = self.lives.get(&id).filter(|life| life.killed).ok_or(format!("{report:?}"))?;
                let stopped = life.stopped;
                let emptied = self.no_longer_emptied(id);
                let asked = stopped.or(emptied).unwrap_or(now - after);
                demand!(asked + after == now, "{report:?}, but it was asked at {asked:?}");
            }
            Report::Silent(id, after) => {
                let limit = self.policy.worker_watchdog.ok_or(format!("{report:?}, and nobody listens"))?;
                let life = self.running(id, Action::Report(report))?;
                demand!(
                    life.stage == ShownStage::Ready && !life.succeeded,
                    "{report:?}, which does not serve"
                );
                demand!(life.heard + after == now && after >= limit, "{report:?}: heard at {:?}", life.heard);
                life.surplus = true;
                life.emptying = None;
                self.lost(id, Failure::Silent(id, after));
                if let Some(life) = self.lives.get_mut(&id) {
                    life.stage = ShownStage::Draining;
                }
            }
            Report::NoAck(id, after) => return self.no_ack(id, after),
            Report::Gone { worker, asked, ready, remains, .. } => {
                let life = self.lives.get(&worker).filter(|_| self.this.exited == Some(worker));
                let life = life.ok_or(format!("{report:?} unasked"))?;
                let stopped = life.stopped.is_some() || life.killed;
                demand!((asked, ready) == (stopped, life.ready.is_some()), "{report:?}");
                if !remains {
                    self.lives.remove(&worker);
                }
            }
            Report::NotStarted { worker, refusal, again } => return self.not_started(worker, refusal, again),
            Report::Restarting(slot, pause) => {
                let at = self.this.restarting.iter().position(|&restart| restart == (slot, pause));
                self.this.restarting.remove(at.ok_or(format!("{report:?}, not {:?}", self.this.restarting))?);
            }
            Report::Retired(slot) => {
                let at = self.this.retired.iter().position(|&retired| retired == slot);
                self.this.retired.remove(at.ok_or(format!("{report:?} unasked"))?);
            }
            Report::Scaled(target) => {
                demand!(self.scale_wanted() == Some((target, true)), "{report:?}");
                self.target = target;
                self.scaling = true;
            }
            Report::ScaleDone(ready) => {
                demand!(self.scaling && self.this.scale_done.replace(ready).is_none(), "{report:?} unasked")
            }
            Report::CannotScale(target) => {
                let wanted = self.scale_wanted().is_some_and(|(_, possible)| !possible);
                demand!(wanted && target == self.target, "{report:?}, and there are {}", self.target)
            }
            Report::Stopping => demand!(std::mem::take(&mut self.this.stopping), "{report:?} unasked"),
            Report::Ignored(request) => {
                let asked = self.this.event == Some(Event::Request(request));
                demand!(asked && self.stopping, "{report:?} out of place");
            }
        }
        Ok(())
    }

    /// How many workers the present request asks for, and whether there can be as
    /// many.
    fn scale_wanted(&self) -> Option<(u32, bool)> {
        let wanted = match self.this.event? {
            Event::Request(Request::More) => self.target + 1,
            Event::Request(Request::Fewer) => self.target - 1,
            Event::Request(Request::Scale(target)) => target,
            _ => return None,
        };
        let most = if self.policy.follow || self.policy.adopt.is_some() { 1 } else { 1000 };
        Some((wanted, wanted >= self.policy.least_workers && wanted <= most))
    }

    /// Ready is who sent an ack that counts, who has lived for long enough, or
    /// whom the user would not wait for any longer.
    fn ready(&mut self, id: WorkerId, kind: AckKind, after: Duration) -> Verdict {
        let now = self.now;
        let timer = self.policy.readiness.timer;
        let named = self.policy.readiness.kinds.contains(&AckKind::Timer);
        self.may_be_ready(id, kind)?;
        let at = self.this.ready.iter().position(|&ready| ready == (id, kind));
        let life = self.running(id, Action::Report(Report::Ready(id, kind, after)))?;
        let started = life.counted_from().unwrap_or(now);
        demand!(life.ready.is_none() && life.stage == ShownStage::Starting, "{id:?} is ready a second time");
        demand!(started + after == now, "{id:?} is ready after {after:?}");
        if kind == AckKind::Timer {
            let waited = timer.is_some_and(|timer| started + timer <= now);
            demand!(waited, "{id:?} is ready by a timer that has not passed");
            demand!(
                (named || life.known == Strength::Nothing) && life.of.is_none(),
                "{id:?} is ready by a timer, and can do better"
            );
        }
        life.ready = Some(now);
        life.heard = now;
        life.ack = Some(kind);
        life.stage = ShownStage::Ready;
        if kind != AckKind::Timer {
            self.this.ready.remove(at.ok_or(format!("{id:?} is ready by {kind:?}, which nobody sent"))?);
        }
        self.learn(id);
        Ok(())
    }

    fn no_ack(&mut self, id: WorkerId, after: Duration) -> Verdict {
        let now = self.now;
        let awaited = self.lives.get(&id).is_some_and(Life::awaited);
        let life = self.lives.get_mut(&id).filter(|life| awaited || life.runs());
        let life = life.ok_or(format!("{id:?} is not there to be waited for"))?;
        demand!(life.stage == ShownStage::Starting, "{id:?} was not waited for");
        demand!(life.ack_by.is_some_and(|at| at <= now), "{id:?} is given up before its time");
        let (known, heir) = (life.known, life.of.is_some());
        let then = match heir {
            true if awaited => OnAckTimeout::Abort,
            true => self.policy.on_ack_timeout.unwrap_or(OnAckTimeout::Abort),
            false => self.after_ack_timeout(known),
        };
        match then {
            OnAckTimeout::Proceed => self.this.ready.push((id, AckKind::Timeout)),
            OnAckTimeout::Abort => {
                self.lost(id, Failure::NoAck(id, after));
                if let Some(life) = self.lives.get_mut(&id) {
                    life.stage = ShownStage::Draining;
                }
            }
        }
        Ok(())
    }

    fn not_started(&mut self, id: WorkerId, refusal: Refusal, again: bool) -> Verdict {
        demand!(self.this.refused.take() == Some((id, refusal)), "{id:?} was not refused");
        let life = self.lives.get(&id).ok_or("a refusal of nobody")?;
        let window = match refusal {
            Refusal::Busy => SECOND * 2,
            Refusal::NotFound if self.served && self.replaces(id) => SECOND / 2,
            Refusal::Exhausted if !self.served => SECOND * 5,
            _ => Duration::ZERO,
        };
        let filled = life.filled();
        let expected = filled && self.now < life.decided + window;
        demand!(again == expected, "{id:?} is tried again: {again}");
        if again {
            let now = self.now;
            self.lives.entry(id).and_modify(|life| life.refused_at = Some(now));
            return Ok(());
        }
        if filled {
            self.lost(id, Failure::NotStarted(id, refusal));
        }
        self.lives.remove(&id);
        Ok(())
    }

    /// The old generation stays, and what was new goes.
    pub fn undo(&mut self, open: &Open) {
        self.this.undone = Some(open.to);
        let (now, stop_first) = (self.now, self.policy.stop_first);
        // Between two tries of a start there is no process that has to leave.
        self.lives.retain(|_, life| !life.is_idea() || life.generation != open.to);
        let undone =
            |life: &&mut Life| life.generation == open.to && !open.done.contains(&life.slot) && life.filled();
        for life in self.lives.values_mut().filter(undone) {
            life.surplus = true;
            life.stage = ShownStage::Draining;
        }
        for (slot, place) in self.places.iter_mut().enumerate() {
            if !open.done.contains(&Slot(slot as u32)) && !self.stopping {
                place.reading = Reading::AsBefore;
                // Which of them had already been asked to leave is not told.
                if stop_first && open.allowed && !open.back {
                    place.due = place.due.min(now);
                    place.latest = if self.policy.surge.is_some() { place.latest } else { place.due };
                }
            }
        }
        self.resize();
    }
}
