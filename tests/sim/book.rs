//! An account of one world, kept from events and actions alone.
//!
//! What holds of the core, by the names that the list of properties gives them:
//!
//! | property | where |
//! | --- | --- |
//! | the promise; S1, S2 | `judge`: shown generations that start; `commit`, `stop`: every signal to a worker that served has its reason |
//! | S3 | `stop`, `kill`: one of each in a life, a kill only after the stop timeout or by force (that CONT follows TERM is the caller's) |
//! | S4, L7 | every action names a worker of which a process is known to live, and one that is to leave is asked at once or after the hush |
//! | S5 | stale events are compared with a tick by `world`; an ack makes ready whom it names, if it counts (`acked`) |
//! | S6 | `new_generation` |
//! | S7, L4 | no spawn while stopping; `world` sees to the end |
//! | S10 | `exit`: nobody left, and the ending that this account expects |
//! | S11 | each upgrade, held or not, ends with one verdict; the first generation is reported once, when it is ready; one `Stopping` (the words to the service manager are the caller's) |
//! | S12 | one flag, compared with `upgrade_pending` after each step |
//! | S13 | ticks that are lost or late; a tick right after a step changes nothing; no deadline in the past |
//! | S15 | `crash`, `judge`: pauses, and no pause before an upgrade |
//! | workers that bind their own sockets | `steer` |
//! | releases that die after they went live; what replacements have to be seen doing | `probation` |
//! | S16 | `world`: now and then it goes on with what was written down and read back |
//! | L1, L2, L3, L5 | `settled`, and one generation for each kept request |
//!
//! Not here because the core has none of it: S8 and S14 (listeners, descriptors),
//! S9 (control requests), L6 (logs and clients that block).

use crate::life::Life;
use crate::probation::{Probation, Waiting};
use crate::steer::Switch;
use graceful_run::core::event::{
    AckKind, Action, Ending, Event, Exit, Failure, Generation, Reading, Refusal, Report, Request, Slot, Time,
    WorkerId,
};
use graceful_run::core::policy::{OnAckTimeout, Policy, Restart, Strength};
use graceful_run::core::{ShownStage, Supervisor};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Fails the world unless this is so.
macro_rules! demand {
    ($holds:expr, $($wrong:tt)+) => {
        if !$holds {
            return Err(format!($($wrong)+));
        }
    };
}
pub(crate) use demand;

pub type Verdict = Result<(), String>;

/// Signals sooner than this after an ack end servers that are not yet ready for
/// them.
pub const SIGNAL_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct Place {
    pub generation: Generation,
    pub crashes: u32,
    /// It may be filled again.
    pub due: Time,
    /// It must be; later than `due` where the account cannot tell.
    pub latest: Time,
    pub reading: Reading,
    pub retired: bool,
}

impl Place {
    pub fn new(generation: Generation, now: Time) -> Self {
        Place { generation, crashes: 0, due: now, latest: now, reading: Reading::Anew, retired: false }
    }
}

#[derive(Debug, Clone)]
pub struct Open {
    pub from: Generation,
    pub to: Generation,
    pub since: Time,
    pub begun: BTreeSet<Slot>,
    pub done: BTreeSet<Slot>,
    pub failure: Option<Failure>,
    pub looked: bool,
    pub switch: Switch,
    /// The old worker has left to its successor.
    pub left: bool,
    /// The user has not said no before it began.
    pub allowed: bool,
    pub hold: Hold,
    pub reading: Reading,
    /// Whether those that serve were seen to wait.
    pub waiting: Waiting,
    /// It brings the generation before back.
    pub back: bool,
}

/// Whether an upgrade stops at its first worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    No,
    Wanted,
    /// It was, and the user has said to go on.
    Waived,
    Held,
}

impl Open {
    /// Everything but the upgrade goes on.
    pub fn rests(&self) -> bool {
        !self.allowed || self.hold == Hold::Held
    }
}

/// What has come up in the present step.
#[derive(Default)]
pub struct This {
    pub event: Option<Event>,
    pub hammer: bool,
    /// On their way out when the hammer fell.
    pub hammered: BTreeSet<WorkerId>,
    pub committed: BTreeSet<Slot>,
    pub undone: Option<Generation>,
    pub exited: Option<WorkerId>,
    pub remains: Option<WorkerId>,
    pub refused: Option<(WorkerId, Refusal)>,
    pub ready: Vec<(WorkerId, AckKind)>,
    pub restarting: Vec<(Slot, Duration)>,
    pub retired: Vec<Slot>,
    pub stopping: bool,
    /// Left to a successor that nobody has asked for.
    pub adopt: Option<WorkerId>,
    /// An upgrade that has begun, and that the user is to be asked about.
    pub pre_upgrade: Option<Generation>,
    pub held: bool,
    pub cannot_hold: bool,
    pub nothing_held: Option<Request>,
    pub scale_done: Option<u32>,
    /// Seen to have nothing left to serve.
    pub drained: Option<WorkerId>,
    /// A probation that another has followed.
    pub past: Option<Probation>,
    /// Generations that cannot be started again as they were.
    pub forgotten: BTreeSet<Generation>,
}

pub struct Book {
    pub policy: Policy,
    pub now: Time,
    pub lives: BTreeMap<WorkerId, Life>,
    last_worker: u32,
    pub last_generation: Generation,
    pub serving: Generation,
    pub served: bool,
    pub stopping: bool,
    pub interrupted: bool,
    pub killing: bool,
    pub forced: bool,
    pub pending: bool,
    /// What is kept is to be held.
    pub pending_hold: bool,
    pub scaling: bool,
    pub known: Strength,
    /// How long the program took of late to give a sign of its own, and in which
    /// generation.
    pub took: (Generation, Duration),
    pub probation: Option<Probation>,
    /// Slots of which the worker was seen to wait.
    pub waits: BTreeSet<Slot>,
    /// A worker that had proved itself has ended with status 0.
    pub ends_well: bool,
    /// Generations of which it is kept what they were started from.
    pub kept: BTreeSet<Generation>,
    pub places: Vec<Place>,
    pub target: u32,
    pub open: Option<Open>,
    /// An upgrade failed half-way: two generations serve, by the user's wish.
    pub mixed: bool,
    pub ending: Option<Ending>,
    pub last_loss: Option<Ending>,
    pub ended: bool,
    pub this: This,
}

impl Book {
    pub fn new(policy: Policy) -> Self {
        let target = policy.workers;
        Book {
            policy,
            now: Time::ZERO,
            lives: BTreeMap::new(),
            last_worker: 0,
            last_generation: Generation(1),
            serving: Generation(1),
            served: false,
            stopping: false,
            interrupted: false,
            killing: false,
            forced: false,
            pending: false,
            pending_hold: false,
            scaling: false,
            known: Strength::Nothing,
            took: (Generation(1), Duration::ZERO),
            probation: None,
            waits: BTreeSet::new(),
            ends_well: false,
            kept: BTreeSet::new(),
            places: vec![Place::new(Generation(1), Time::ZERO); target as usize],
            target,
            open: None,
            mixed: false,
            ending: None,
            last_loss: None,
            ended: false,
            this: This::default(),
        }
    }

    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn step(&mut self, now: Time, event: Event, actions: &[Action], supervisor: &Supervisor) -> Verdict {
        self.now = now;
        self.this = This { event: Some(event), ..This::default() };
        let stops = actions.iter().any(|action| match action {
            Action::Report(Report::Stopping) => true,
            Action::Report(Report::Silent(id, _)) => self.replaces(*id),
            _ => false,
        });
        self.take(event, stops)?;
        for &action in actions {
            demand!(!self.ended, "{action:?} after the end");
            // What happened, and what time has brought about, come first, and by the
            // number of slots before it.
            let told = match action {
                Action::Report(report) => !matches!(report, Report::UpgradeStarted { .. }),
                Action::Kill(_) | Action::KillRemains(_) | Action::Probe(_) => true,
                _ => false,
            };
            if !told {
                self.resize();
            }
            self.check(action)?;
        }
        self.resize();
        self.judge(supervisor)
    }

    fn take(&mut self, event: Event, stops: bool) -> Verdict {
        let now = self.now;
        match event {
            Event::Request(request) => self.requested(request),
            Event::Spawned(id) => {
                let ack_by = self.lives.get(&id).and_then(|life| self.ack_by(life));
                if let Some(life) = self.lives.get_mut(&id).filter(|life| life.in_flight) {
                    life.in_flight = false;
                    life.started = Some(now);
                    if life.of.is_none() {
                        life.ack_by = ack_by;
                    }
                }
            }
            Event::SpawnFailed(id, refusal) => {
                if let Some(life) = self.lives.get_mut(&id).filter(|life| life.in_flight) {
                    life.in_flight = false;
                    self.this.refused = Some((id, refusal));
                }
            }
            Event::Ack(id, kind) => self.acked(id, kind),
            Event::Extend(id, by) => {
                let timeout = self.policy.ack_timeout.unwrap_or_default();
                if let Some(life) = self.lives.get_mut(&id)
                    && life.stage == ShownStage::Starting
                    && life.started.is_some()
                    && let (Some(started), Some(ack_by)) = (life.counted_from(), life.ack_by)
                {
                    life.ack_by = Some(ack_by.max((now + by).min(started + timeout * 10)));
                }
            }
            Event::Exited { worker, exit, remains } => {
                let Some(life) = self.lives.get_mut(&worker).filter(|life| life.runs()) else {
                    return Ok(());
                };
                let (filled, ready) = (life.filled(), life.ready.is_some());
                life.exited = Some(now);
                let unasked = filled && !life.succeeded && ready;
                let generation = life.generation;
                let trial = self.probation.as_ref().is_some_and(|probation| probation.of == generation);
                self.ends_well |= unasked && exit == Exit::Code(0) && !trial && !self.stopping;
                self.this.exited = Some(worker);
                self.this.remains = remains.then_some(worker);
                if filled {
                    self.left_or_lost(worker, exit, ready);
                }
            }
            Event::HandedOver(id) => self.succeeded(id),
            Event::Swept(id) => {
                if self.lives.get(&id).is_some_and(|life| life.exited.is_some()) {
                    self.lives.remove(&id);
                }
            }
            Event::PreUpgraded(to, allowed) => {
                let asked = |open: &&mut Open| open.to == to && !open.allowed;
                if let Some(open) = self.open.as_mut().filter(asked) {
                    match allowed {
                        true => {
                            open.allowed = true;
                            self.lives.retain(|_, life| life.refused_at.is_none());
                        }
                        false => open.failure = open.failure.or(Some(Failure::Refused)),
                    }
                }
            }
            Event::PreStopped(id) => {
                if let Some(life) = self.lives.get_mut(&id)
                    && let Some(ended) = &mut life.pre_stop
                {
                    *ended = true;
                }
            }
            Event::Heartbeat(id) => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.heard = now;
                }
            }
            Event::LookedAlive if self.open.as_ref().is_some_and(|open| open.looked) && !stops => {
                return self.looked_alive();
            }
            Event::Switched(to, done) => return self.switched(to, done, stops),
            Event::DrainLook { worker, drained, pause } => self.drain_look(worker, drained, pause),
            Event::Waits(slot) => self.waits(slot),
            Event::LookedWaiting => self.looked_waiting(),
            Event::LookedAlive | Event::Tick => {}
        }
        Ok(())
    }

    /// A worker that ends while a successor of it runs has left to that one.
    fn left_or_lost(&mut self, worker: WorkerId, exit: Exit, ready: bool) {
        match self.heir(worker).map(|heir| (heir.id, heir.awaited())) {
            _ if self.lives.get(&worker).is_some_and(|life| life.succeeded) => return,
            Some((heir, false)) => {
                if let Some(open) = &mut self.open {
                    open.left = true;
                }
                // Nobody serves while it gets ready: it has a second.
                let until = self.now + Duration::from_secs(1);
                if let Some(heir) =
                    self.lives.get_mut(&heir).filter(|heir| heir.stage == ShownStage::Starting)
                {
                    heir.ack_by = Some(heir.ack_by.map_or(until, |at| at.min(until)));
                }
                return;
            }
            Some((heir, true)) => {
                self.lost(heir, Failure::NoSuccessor { worker, exit });
                self.lives.remove(&heir);
            }
            None => {}
        }
        self.lost(worker, Failure::Exited { worker, exit, ready });
    }

    fn succeeded(&mut self, id: WorkerId) {
        let heir = self.heir(id).is_some();
        let ready = |life: &&mut Life| life.runs() && life.stage == ShownStage::Ready;
        let Some(life) = self.lives.get_mut(&id).filter(ready).filter(|_| self.policy.follow) else { return };
        if std::mem::replace(&mut life.succeeded, true) {
            return;
        }
        match &mut self.open {
            Some(open) if heir => open.left = true,
            _ => self.this.adopt = Some(id).filter(|_| !self.stopping),
        }
    }

    /// The successor of a worker, unless it has been given up.
    pub fn heir(&self, id: WorkerId) -> Option<&Life> {
        self.lives.values().find(|life| life.of == Some(id) && life.filled())
    }

    /// Another upgrade has to wait: a worker that is to start its own successor is
    /// not ready, is leaving, or has a predecessor that was sent away.
    pub fn is_held_up(&self) -> bool {
        let starts = |life: &Life| life.filled() && (life.stage == ShownStage::Starting || life.succeeded);
        let serves = self.lives.values().any(|life| life.runs() && life.stage == ShownStage::Ready);
        let leaves = |life: &Life| life.runs() && !life.filled() && !life.succeeded;
        let returns = |life: &Life| {
            life.filled() && life.stage == ShownStage::Starting && life.started.is_some() && life.runs()
        };
        if self.policy.adopt.is_some() && self.lives.values().any(returns) {
            return true;
        }
        self.policy.follow && self.lives.values().any(|life| starts(life) || serves && leaves(life))
    }

    /// Those that leave by themselves are not asked to.
    pub fn leave_unasked(&mut self, which: impl Fn(&Life) -> bool) {
        let now = self.now;
        let ready = |life: &&mut Life| life.succeeded && life.runs() && life.stage == ShownStage::Ready;
        for life in self.lives.values_mut().filter(ready).filter(|life| which(life)) {
            life.stopped.get_or_insert(now);
            life.stage = ShownStage::Draining;
        }
    }

    fn requested(&mut self, request: Request) {
        match request {
            Request::Upgrade | Request::UpgradeNow | Request::Hold | Request::Commit | Request::Rollback
                if self.stopping => {}
            Request::Upgrade => self.want(false),
            Request::UpgradeNow => {
                if let Some(open) = &mut self.open {
                    open.failure.get_or_insert(Failure::Superseded);
                }
                self.want(false);
            }
            Request::Hold if self.policy.stop_first || self.policy.follow || self.policy.adopt.is_some() => {
                self.this.cannot_hold = true;
            }
            Request::Hold => self.want(true),
            Request::Commit | Request::Rollback => {
                match self.open.as_mut().filter(|open| open.hold != Hold::No) {
                    None => self.this.nothing_held = Some(request),
                    Some(open) if request == Request::Rollback => {
                        open.failure.get_or_insert(Failure::RolledBack);
                        self.pending = false;
                    }
                    Some(open) => {
                        if open.hold == Hold::Held {
                            self.lives.retain(|_, life| life.refused_at.is_none());
                        }
                        open.hold = Hold::Waived;
                    }
                }
            }
            Request::Stop => self.stop_begins(None),
            Request::Interrupt { told } => {
                if std::mem::replace(&mut self.interrupted, true) {
                    self.killing = true;
                } else if told {
                    let now = self.now;
                    for life in self.lives.values_mut().filter(|life| life.runs() && !life.killed) {
                        life.stopped.get_or_insert(now);
                    }
                }
                self.stop_begins(None);
            }
            Request::Kill => {
                self.killing = true;
                self.stop_begins(None);
            }
            Request::Hammer => {
                let leaves = |life: &&Life| life.stage == ShownStage::Draining && life.started.is_some();
                let left = self.lives.values().filter(leaves).filter(|life| !life.remains_killed);
                self.this.hammered = left.map(|life| life.id).collect();
                self.this.hammer = true;
            }
            _ => {}
        }
    }

    fn want(&mut self, hold: bool) {
        self.pending = true;
        self.pending_hold = hold;
    }

    fn stop_begins(&mut self, ending: Option<Ending>) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        self.ending = ending;
        self.this.stopping = true;
        self.pending = false;
        self.probation = None;
        self.scaling = false;
        self.leave_unasked(|_| true);
        self.lives.values_mut().for_each(|life| life.emptying = None);
        if let Some(open) = &mut self.open {
            open.failure.get_or_insert(Failure::Stopped);
        }
    }

    fn acked(&mut self, id: WorkerId, kind: AckKind) {
        let Some(life) = self.lives.get_mut(&id).filter(|life| life.runs()) else { return };
        if life.of.is_none() {
            life.strength = life.strength.max(strength(kind));
            let looks = self.policy.readiness.auto && self.policy.listeners;
            if strength(kind) == Strength::Seen || strength(kind) == Strength::Said && !looks {
                life.took = life.took.or(life.started.map(|started| self.now - started));
            }
        }
        let (stage, known, heir) = (life.stage, life.known, life.of.is_some());
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
        let counts = match heir {
            true => seen,
            false => readiness.kinds.contains(&kind) || readiness.auto && by_itself,
        };
        let (now, adopts) = (self.now, self.policy.adopt.is_some());
        let named = readiness.kinds.contains(&kind);
        let Some(life) = self.lives.get_mut(&id).filter(|_| stage == ShownStage::Starting) else { return };
        let ready =
            if adopts { life.hear(kind, counts, now) } else { life.hear_waiting(kind, counts, named) };
        self.this.ready.extend(ready.map(|kind| (id, kind)));
    }

    /// The oldest generation that drains, if more of them do than may.
    pub fn too_many_drain(&self) -> Option<Generation> {
        let leaves = |life: &Life| life.stopped.is_some() || life.emptying.is_some();
        let drains = |life: &&Life| life.runs() && leaves(life) && !life.killed;
        let generations: BTreeSet<Generation> =
            self.lives.values().filter(drains).map(|life| life.generation).collect();
        let crowded = !self.stopping && generations.len() > self.policy.max_draining as usize;
        generations.first().copied().filter(|_| crowded)
    }

    /// A worker that serves has shown what its program can do.
    pub fn learn(&mut self, id: WorkerId) {
        if !self.replaces(id)
            && let Some(life) = self.lives.get(&id)
        {
            self.known = self.known.max(life.strength);
            if let Some(took) = life.took.filter(|_| life.generation == self.serving) {
                let before = if self.took.0 == life.generation { self.took.1 } else { Duration::ZERO };
                self.took = (life.generation, took.max(before));
            }
        }
    }

    /// The present upgrade waits for this worker.
    pub fn replaces(&self, id: WorkerId) -> bool {
        match (&self.open, self.lives.get(&id)) {
            (Some(open), Some(life)) => life.generation == open.to && !open.done.contains(&life.slot),
            _ => false,
        }
    }

    /// A worker that filled its slot does so no longer.
    pub fn lost(&mut self, id: WorkerId, failure: Failure) {
        let Some(life) = self.lives.get(&id) else { return };
        let (slot, ready, generation) = (life.slot, life.ready.is_some(), life.generation);
        let age = self.now - life.started.unwrap_or(life.decided);
        if self.stopping {
            return;
        }
        if self.replaces(id) {
            if let Some(open) = &mut self.open {
                open.failure.get_or_insert(failure);
            }
            return;
        }
        let ending = ending(failure);
        if !self.served && !ready && !self.policy.retry_start {
            return self.stop_begins(Some(ending));
        }
        self.last_loss = Some(ending);
        self.count_crash(id, generation, failure);
        self.crash(slot, failure, age);
    }

    pub fn crash(&mut self, slot: Slot, failure: Failure, age: Duration) {
        let clean = matches!(failure, Failure::Exited { exit: Exit::Code(0), .. });
        let (restart, stable, upgrading) = (self.policy.restart, self.policy.stable, !self.is_at_rest());
        let goes_back = self.goes_back();
        let Some(place) = self.places.get_mut(slot.0 as usize) else { return };
        if restart == Restart::Never || restart == Restart::OnFailure && clean {
            place.retired = true;
            self.this.retired.push(slot);
            return;
        }
        if age >= stable {
            place.crashes = 0;
        }
        // 0.1 s, doubled for each crash before this one, and never over 30 s.
        let pause = (0..place.crashes).fold(100, |pause, _| (pause * 2).min(30_000));
        let pause = Duration::from_millis(pause);
        place.crashes += 1;
        place.due = self.now + pause;
        place.latest = place.due;
        // One that the same step takes away is not announced.
        if !upgrading && slot.0 < self.target && !goes_back {
            self.this.restarting.push((slot, pause));
        }
    }

    /// Nothing is being replaced at this moment.
    pub fn is_at_rest(&self) -> bool {
        self.open.as_ref().is_none_or(Open::rests)
    }

    /// The replacements that have begun now serve, or are held; each must be alive,
    /// and have been ready for the soak.
    pub fn commit(&mut self) -> Verdict {
        let Some(open) = &mut self.open else { return Ok(()) };
        let wave: BTreeSet<Slot> = open.begun.difference(&open.done).copied().collect();
        let (from, to, back) = (open.from, open.to, open.back);
        self.prove(&wave, to)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.looked = false;
        let whole = wave.len() == self.places.len();
        match std::mem::replace(&mut open.hold, Hold::No) {
            Hold::Wanted => {
                open.hold = Hold::Held;
                self.this.held = true;
                self.places.iter_mut().for_each(|place| place.reading = Reading::AsBefore);
                return Ok(());
            }
            Hold::Waived => {
                open.reading = Reading::AsBefore;
                if self.policy.surge.is_none() && !whole {
                    return Ok(());
                }
            }
            Hold::Held => return Err("a last look at what rests".into()),
            Hold::No => {}
        }
        open.done.extend(&wave);
        demand!(
            self.policy.surge.is_some() || whole || back,
            "only {wave:?} were begun when the upgrade was carried out"
        );
        self.serving = to;
        if !back {
            self.go_on_probation(from, to);
        }
        for &slot in &wave {
            let mut serves = self.lives.values().filter(|life| life.slot == slot && life.generation == to);
            if let Some(id) =
                serves.find(|life| life.runs() && life.stage == ShownStage::Ready).map(|life| life.id)
            {
                let reading = if back { Reading::AsBefore } else { Reading::Anew };
                self.places[slot.0 as usize] = Place { reading, ..Place::new(to, self.now) };
                self.learn(id);
            }
        }
        self.leave_unasked(|life| life.generation != to);
        self.empty(&wave, to);
        self.this.committed = wave;
        Ok(())
    }

    pub fn prove(&self, wave: &BTreeSet<Slot>, to: Generation) -> Verdict {
        for &slot in wave {
            let mut ready = self.lives.values().filter(|life| life.slot == slot && life.generation == to);
            let Some(life) = ready.find(|life| life.runs() && life.stage == ShownStage::Ready) else {
                return Err(format!("no replacement is ready and alive in {slot:?}"));
            };
            // A successor is given the time to send its predecessor away.
            // One that has only lived, for 2 s, may still be trying to bind for 2.5 s.
            let named = self.policy.readiness.kinds.contains(&AckKind::Timer);
            let least = match (life.of.is_some(), life.ack == Some(AckKind::Timer) && !named) {
                (true, _) => SIGNAL_GRACE,
                (false, true) => Duration::from_millis(1500),
                (false, false) => Duration::ZERO,
            };
            let soak = match self.policy.adopt {
                Some(adopt) if life.ack == Some(AckKind::Listen) => adopt.soak,
                _ => self.policy.soak.max(least),
            };
            let soaked = life.ready.is_some_and(|ready| ready + soak <= self.now) && self.has_lived(life, to);
            demand!(soaked, "{:?} has not soaked", life.id);
        }
        Ok(())
    }

    /// A generation that was not there before: one for every request that is kept.
    pub fn new_generation(&mut self, to: Generation) -> Verdict {
        demand!(to.0 == self.last_generation.0 + 1, "{to} follows {}", self.last_generation);
        demand!(self.pending, "{to} starts and nobody asked for it");
        demand!(!self.stopping, "{to} starts after the stop");
        self.last_generation = to;
        self.pending = false;
        Ok(())
    }

    /// A request before anything serves, when everything waits to be restarted:
    /// the next workers are simply those of a new generation.
    pub fn new_start(&mut self, to: Generation) -> Verdict {
        demand!(!self.served && self.open.is_none(), "{to} starts without an upgrade");
        self.new_generation(to)?;
        self.serving = to;
        self.probation = None;
        let now = self.now;
        self.places.iter_mut().for_each(|place| *place = Place::new(to, now));
        Ok(())
    }

    /// The number of places follows the number asked for, unless an upgrade moves.
    /// The place of a worker that is held stays.
    pub fn resize(&mut self) {
        if self.is_at_rest() {
            let held = self.open.iter().flat_map(|open| &open.begun).map(|slot| slot.0 + 1).max();
            let mut new = Place::new(self.serving, self.now);
            if self.places.iter().any(|place| place.reading == Reading::AsBefore) {
                new.reading = Reading::AsBefore;
            }
            self.places.resize(self.target.max(held.unwrap_or(0)) as usize, new);
        }
    }

    pub fn new_worker(&mut self, life: Life) -> Verdict {
        demand!(life.id.0 == self.last_worker + 1, "{:?} follows {}", life.id, self.last_worker);
        self.last_worker = life.id.0;
        self.lives.insert(life.id, life);
        Ok(())
    }

    pub fn after_ack_timeout(&self, known: Strength) -> OnAckTimeout {
        match self.policy.on_ack_timeout {
            Some(wanted) => wanted,
            None if self.policy.readiness.kinds.is_empty() && known == Strength::Nothing => {
                OnAckTimeout::Proceed
            }
            None => OnAckTimeout::Abort,
        }
    }
}

/// How a failure ends everything, if it does.
pub fn ending(failure: Failure) -> Ending {
    match failure {
        Failure::Exited { worker, exit, .. } | Failure::NoSuccessor { worker, exit } => {
            Ending::Worker(worker, exit)
        }
        Failure::NoAck(worker, after) => Ending::NoAck(worker, after),
        Failure::NotStarted(worker, refusal) => Ending::NotStarted(worker, refusal),
        Failure::Silent(worker, after) => Ending::Silent(worker, after),
        Failure::Crashes(worker, _) => Ending::Worker(worker, Exit::Unseen),
        Failure::Stopped | Failure::Superseded | Failure::RolledBack => Ending::Stopped,
        Failure::Refused | Failure::NotSwitched => Ending::Stopped,
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
