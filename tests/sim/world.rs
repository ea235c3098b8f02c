//! A world around one supervisor: its processes, its requests and its clock.
//!
//! What a process does happens at one moment, and its event is delivered at a later one;
//! only [`Action::CheckAlive`] delivers all exits at once. The events of one worker come in
//! order: that it runs, its acks, that it ended, that nothing of it is left.

use crate::coverage::Coverage;
use crate::model::Model;
use crate::policies;
use crate::rng::Rng;
use crate::script::{Act, Remains, Script, refusal};
use crate::steering::Switch;
use crate::transitions::Snapshot;
use graceful_run::core::Supervisor;
use graceful_run::core::event::{
    AckKind, Action, Event, Exit, Generation, Refusal, Report, Request, Time, Token, WorkerId,
};
use graceful_run::core::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Every event and the actions for it.
#[derive(Default)]
pub struct Log {
    policy: String,
    steps: Vec<(Time, Event, Vec<Action>)>,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.policy)?;
        for (now, event, actions) in &self.steps {
            writeln!(f, "{:>8.3} {event:?}", now.as_secs_f64())?;
            actions.iter().try_for_each(|action| writeln!(f, "           -> {action:?}"))?;
        }
        Ok(())
    }
}

pub struct Process {
    pub script: Script,
    pub running: bool,
    pub dead: Option<Exit>,
    pub exit_delivered: bool,
    pub remains: bool,
    /// A signal has halted it; what it would have done since then.
    pub halted: Option<Vec<Act>>,
    /// Another worker has started it, or may have.
    pub successor: bool,
    /// How many drain checks there were.
    pub drain_checks: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Scheduled {
    Deliver(Event),
    /// An event that is delivered once more, and must have no effect.
    Redeliver(Event),
    Act(WorkerId, Act),
    Request(Request),
    /// A command that verifies the worker on hold has ended; it was the one of this number.
    Verified(u32, WorkerId, bool),
}

pub struct World<'a> {
    pub rng: Rng,
    pub now: Time,
    pub policy: Policy,
    pub supervisor: Supervisor,
    pub model: Model,
    pub processes: BTreeMap<WorkerId, Process>,
    pub queue: BTreeMap<(Time, u64), Scheduled>,
    pub queued: u64,
    /// How many of a hundred workers are bad ones.
    pub bad_percent: u64,
    /// Generations that become ready, serve and end, again and again.
    pub crash_looping: BTreeSet<Generation>,
    /// Good workers send no ack: the timer, or that they listen, makes them ready.
    pub silent: bool,
    /// No start succeeds in this time.
    pub outage: Option<(Refusal, Time, Time)>,
    /// The number of the last command that verifies a worker on hold. Earlier ones were ended.
    pub verify_run: u32,
    /// There are no more faults.
    pub faultless: bool,
    /// A deadline, and when its tick is delivered.
    pub late: (Time, Time),
    pub log: &'a mut Log,
    pub coverage: &'a mut Coverage,
}

/// More steps than any world needs.
pub const MAX_STEPS: u32 = 20_000;

impl<'a> World<'a> {
    pub fn new(seed: u64, log: &'a mut Log, coverage: &'a mut Coverage) -> Self {
        let mut rng = Rng::new(seed);
        let policy = policies::random(&mut rng);
        log.policy = format!("{policy:?}");
        let needs_no_ack = policy.readiness.timer.is_some() || policy.adopt.is_some();
        World {
            silent: policy.readiness.auto && needs_no_ack && rng.chance(40),
            bad_percent: rng.pick(&[10, 40, 80]),
            crash_looping: crash_looping(&mut rng),
            outage: rng.chance(15).then(|| {
                let from = rng.moment();
                (refusal(&mut rng), from, from + rng.moment() * rng.pick(&[1, 1, 30]))
            }),
            rng,
            now: Time::ZERO,
            supervisor: Supervisor::new(policy.clone()),
            model: Model::new(policy.clone()),
            policy,
            processes: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            verify_run: 0,
            faultless: false,
            late: (Time::MAX, Time::MAX),
            log,
            coverage,
        }
    }

    pub fn schedule(&mut self, at: Time, due: Scheduled) {
        self.queued += 1;
        self.queue.insert((at, self.queued), due);
    }

    pub fn next(&self) -> Option<Time> {
        let first = self.queue.keys().next().map(|(at, _)| *at);
        first.into_iter().chain(self.supervisor.deadline()).min().map(|at| at.max(self.now))
    }

    /// Performs the next scheduled item or tick.
    pub fn advance(&mut self) -> Result<(), String> {
        let queued = self.queue.keys().next().copied();
        let tick = self.tick_at();
        let at = queued.map(|(at, _)| at.max(self.now));
        let ticks = match (tick, at) {
            (Some(tick), Some(at)) => tick < at || tick == at && self.rng.chance(50),
            (tick, _) => tick.is_some(),
        };
        if ticks {
            self.now = tick.unwrap_or(self.now);
            return self.deliver(Event::Tick);
        }
        let Some(key) = queued else { return Ok(()) };
        self.now = self.now.max(key.0);
        let due = self.queue.remove(&key);
        due.map_or(Ok(()), |due| self.dispatch(due))
    }

    /// When the tick for the deadline is delivered; a lost tick is one that comes with a later
    /// event only.
    pub fn tick_at(&mut self) -> Option<Time> {
        let deadline = self.supervisor.deadline()?;
        if self.late.0 != deadline {
            let late = !self.faultless && self.rng.chance(7);
            if late {
                self.coverage.see("late tick");
            }
            let by = if late { self.rng.moment() } else { Duration::ZERO };
            self.late = (deadline, deadline + by);
        }
        Some(self.late.1.max(self.now))
    }

    pub fn dispatch(&mut self, due: Scheduled) -> Result<(), String> {
        match due {
            Scheduled::Request(request) => self.deliver(Event::Request(request)),
            Scheduled::Verified(run, ..) if run != self.verify_run => Ok(()),
            Scheduled::Verified(_, worker, good) => self.deliver(Event::Verified(worker, good)),
            Scheduled::Act(worker, act) => {
                self.perform_act(worker, act);
                Ok(())
            }
            // The answer for a batch could not be told from that for the batch before.
            Scheduled::Redeliver(Event::Switched(to, _)) if self.model.is_switching_to(to) => Ok(()),
            Scheduled::Redeliver(event) => self.deliver_stale(event),
            Scheduled::Deliver(event) => {
                if let Event::Exited { worker, .. } = event
                    && let Some(process) = self.processes.get_mut(&worker)
                    && std::mem::replace(&mut process.exit_delivered, true)
                {
                    return Ok(());
                }
                self.deliver(event)?;
                self.react(event);
                // An event that came too soon has no effect yet, but may have one later.
                let adopts = |action: &Action| matches!(action, Action::TakeSuccessor { .. });
                let news = match event {
                    // It listens on one address more.
                    Event::Request(_) | Event::Ack(_, AckKind::Listen) => false,
                    // It could be the answer to another request for the same weight.
                    Event::Weighed(..) => false,
                    Event::HandedOver(_) => {
                        self.log.steps.last().is_some_and(|step| step.2.iter().any(adopts))
                    }
                    _ => true,
                };
                if !self.faultless && self.rng.chance(6) && news {
                    self.deliver_stale(event)?;
                }
                if !self.faultless && self.rng.chance(3) {
                    self.deliver_stale(Event::Ack(WorkerId(9999), AckKind::Notify))?;
                    self.deliver_stale(Event::Switched(Generation(9999), true))?;
                }
                let can_be_stale = matches!(
                    event,
                    Event::Ack(..)
                        | Event::Exited { .. }
                        | Event::Spawned(_)
                        | Event::RemainsGone(_)
                        | Event::PreUpgraded(..)
                        | Event::PreStopped(_)
                        | Event::Switched(..)
                );
                if can_be_stale && news && !self.faultless && self.rng.chance(4) {
                    let at = self.now + self.rng.moment();
                    self.schedule(at, Scheduled::Redeliver(event));
                }
                Ok(())
            }
        }
    }

    /// How the processes react to an event that was just delivered.
    pub fn react(&mut self, event: Event) {
        match event {
            Event::Spawned(worker) => {
                let Some(process) = self.processes.get_mut(&worker) else { return };
                process.running = true;
                for (after, act) in process.script.acts.clone() {
                    self.schedule(self.now + after, Scheduled::Act(worker, act));
                }
                self.schedule_heartbeat(worker);
            }
            Event::Exited { worker, remains: true, .. } => {
                if let Some(Remains::Go(after)) =
                    self.processes.get(&worker).map(|process| process.script.remains)
                {
                    self.schedule(self.now + after, Scheduled::Deliver(Event::RemainsGone(worker)));
                }
            }
            Event::RemainsGone(worker) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.remains = false;
                }
            }
            _ => {}
        }
    }

    pub fn perform_act(&mut self, worker: WorkerId, act: Act) {
        let lag = if !self.faultless && self.rng.chance(15) {
            self.rng.ms(&[50, 100, 500])
        } else {
            Duration::ZERO
        };
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if !process.running || process.dead.is_some() {
            return;
        }
        let killed = matches!(act, Act::Exit(Exit::Signal(9)));
        match &mut process.halted {
            // That it binds nothing is seen from outside.
            Some(waiting) if !killed && !matches!(act, Act::Halt | Act::Continue | Act::NoSockets) => {
                return waiting.push(act);
            }
            _ => {}
        }
        let event = match act {
            Act::Halt if self.faultless || process.halted.is_some() => return,
            Act::Halt => {
                process.halted = Some(Vec::new());
                return self.schedule(self.now, Scheduled::Deliver(Event::Halted(worker, Token(19))));
            }
            Act::Continue => {
                let Some(waiting) = process.halted.take() else { return };
                self.schedule(self.now, Scheduled::Deliver(Event::Continued(worker)));
                for act in waiting {
                    self.schedule(self.now, Scheduled::Act(worker, act));
                }
                return;
            }
            Act::Ack(kind) => Event::Ack(worker, kind),
            Act::Extend(by) => Event::Extend(worker, by),
            Act::OwnSocket => Event::OwnSocket(worker),
            Act::ListenElsewhere => Event::ListensElsewhere(worker),
            Act::NoSockets => Event::HasNoSockets(worker),
            Act::Heartbeat => {
                self.schedule_heartbeat(worker);
                Event::Heartbeat(worker)
            }
            Act::Exit(exit) => {
                process.dead = Some(exit);
                process.remains = process.script.remains != Remains::Nothing;
                Event::Exited { worker, exit, remains: process.remains }
            }
            Act::HandOver => {
                let leaves = self.now + self.rng.moment();
                self.schedule(leaves, Scheduled::Act(worker, Act::Exit(Exit::Code(0))));
                Event::HandedOver(worker)
            }
        };
        self.schedule(self.now + lag, Scheduled::Deliver(event));
    }

    /// Schedules the next heartbeat, after half of the watchdog's limit.
    pub fn schedule_heartbeat(&mut self, worker: WorkerId) {
        let beats = self.processes.get(&worker).is_some_and(|process| process.script.sends_heartbeats);
        if let Some(limit) = self.policy.worker_watchdog.filter(|_| beats) {
            self.schedule(self.now + limit / 2, Scheduled::Act(worker, Act::Heartbeat));
        }
    }

    /// Replaces the supervisor by a copy that was serialized and restored.
    pub fn carry_over(&mut self) -> Result<(), String> {
        self.coverage.see("carried over");
        let wrong = |error: serde_json::Error| format!("it cannot be carried over: {error}");
        let text = serde_json::to_string(&self.supervisor).map_err(wrong)?;
        let copy: Supervisor = serde_json::from_str(&text).map_err(wrong)?;
        if serde_json::to_string(&copy).map_err(wrong)? != text {
            return Err(format!("it is another after it was carried over: {text}"));
        }
        self.supervisor = copy.with_policy(self.policy.clone());
        self.verify_run += 1;
        self.model.carried_over();
        Ok(())
    }

    pub fn deliver(&mut self, event: Event) -> Result<(), String> {
        if self.rng.chance(5) {
            self.carry_over()?;
        }
        let again = self.rng.chance(10).then(|| self.supervisor.clone());
        self.log.steps.push((self.now, event, Vec::new()));
        let actions = self.step(event);
        if let Some(last) = self.log.steps.last_mut() {
            last.2.clone_from(&actions);
        }
        self.coverage.step(event, &actions);
        self.see_draining(event, &actions);
        if self.log.steps.len() > MAX_STEPS as usize {
            return Err(format!("not quiescent after {MAX_STEPS} steps"));
        }
        self.model.step(self.now, event, &actions, &self.supervisor)?;
        // A tick at the same moment as a step has no effect.
        if again.is_some() {
            let mut copy = self.supervisor.clone();
            let more = copy.step(self.now, Event::Tick);
            if !more.is_empty() || copy.deadline() != self.supervisor.deadline() {
                return Err(format!("a tick right after the step did more: {more:?}"));
            }
        }
        for action in actions {
            self.perform(action);
        }
        Ok(())
    }

    /// Steps the supervisor, and counts the transitions that this step shows.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        let before = Snapshot::of(&self.supervisor);
        let actions = self.supervisor.step(self.now, event);
        for transition in before.transitions(&self.supervisor) {
            self.coverage.transitions.see(transition);
        }
        actions
    }

    /// Counts what happens to draining workers.
    pub fn see_draining(&mut self, event: Event, actions: &[Action]) {
        let record = |id: &WorkerId| self.model.workers.get(id);
        let draining = |id: &WorkerId| record(id).is_some_and(|record| record.draining.is_some());
        let mut seen = Vec::new();
        let upgrade = self.model.upgrade.as_ref();
        let switching = upgrade.is_some_and(|upgrade| upgrade.switch == Switch::Requested);
        match event {
            Event::Exited { .. } if switching => seen.push("died in a switch"),
            Event::Exited { worker, .. } if draining(&worker) => seen.push("draining: exited"),
            Event::Ack(worker, AckKind::Listen)
                if record(&worker).is_some_and(|record| record.listening_ready_at.is_some()) =>
            {
                seen.push("listens at another address");
            }
            _ => {}
        }
        for action in actions {
            match action {
                Action::Switch(to)
                    if upgrade.is_some_and(|it| it.to == *to && !it.replaced_slots.is_empty()) =>
                {
                    seen.push("switched, batch by batch");
                }
                Action::Switch(to)
                    if upgrade.is_some_and(|it| it.to != *to && it.canary.weight.is_some()) =>
                {
                    seen.push("switched back from a hold");
                }
                Action::Switch(_) if upgrade.is_some_and(|it| it.canary.weight.is_some()) => {
                    seen.push("switched after a hold");
                }
                Action::Report(Report::Drained(id, _))
                    if record(id).is_some_and(|record| record.slot.0 >= self.model.target) =>
                {
                    seen.push("drained, and not wanted");
                }
                Action::Kill(worker) if draining(worker) => seen.push("draining: killed"),
                Action::Report(Report::Drained(..)) if self.policy.adopt.is_none() => {
                    seen.push("drained without --adopt");
                }
                Action::StopUnready(_) => seen.push("stopped before it was ready"),
                Action::Stop(worker) if draining(worker) && matches!(event, Event::Request(_)) => {
                    seen.push("draining: stopped with everything");
                }
                _ => {}
            }
        }
        seen.into_iter().for_each(|what| self.coverage.see(what));
    }

    /// Delivers an event that is doubled, late or of an unknown worker: it has the effect of a tick.
    pub fn deliver_stale(&mut self, event: Event) -> Result<(), String> {
        self.coverage.see("stale event");
        let wanted = self.supervisor.clone().step(self.now, Event::Tick);
        let got = self.supervisor.clone().step(self.now, event);
        if wanted != got {
            return Err(format!(
                "{event:?} was delivered again at {:?} and did {got:?}, a tick does {wanted:?}",
                self.now
            ));
        }
        self.log.steps.push((self.now, event, got));
        let actions = self.step(event);
        self.model.step(self.now, Event::Tick, &actions, &self.supervisor)?;
        for action in actions {
            self.perform(action);
        }
        Ok(())
    }
}

/// The generations that crash again and again: few, and in few worlds.
fn crash_looping(rng: &mut Rng) -> BTreeSet<Generation> {
    let few = if rng.chance(30) { 40 } else { 0 };
    (2..8).map(Generation).filter(|_| rng.chance(few)).collect()
}
