//! The supervisor as a pure state machine.
//!
//! [`Supervisor::step`] is told what happened and answers what is to be done;
//! [`Supervisor::deadline`] says when it wants to be asked again if nothing
//! happens. A step is three passes: *record* the fact, *expire* deadlines that
//! have passed, *settle* what the processes now call for. Settling looks at the whole
//! state and not at the event, so a fact that is told late or twice strands
//! nothing. Only `std` is used and nothing is read or written here; what a
//! supervisor knows can be carried over to another process, for which it derives
//! serde's traits, and those do no I/O either.

mod batch;
pub mod event;
mod loss;
pub mod policy;
mod probation;
mod record;
mod report;
mod request;
mod settle;
mod upgrade;
mod worker;

use event::{AckKind, Action, Ending, Event, Generation, Reading, Report, Slot, Time, WorkerId};
use policy::{Policy, Strength};
use probation::Probation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use upgrade::{Hold, Upgrade, Wish};
use worker::{Stage, Worker};

/// What people are told of a worker's stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShownStage {
    /// It has not become ready.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It was killed.
    Killed,
}

/// Where the supervisor as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// No generation has been ready yet.
    Starting,
    /// A generation serves.
    Running,
    /// A generation serves while another starts.
    Upgrading,
    /// A generation serves, and one worker of the next beside it, until the user
    /// has decided.
    Holding,
    /// Everything is to leave.
    Stopping,
}

/// A worker as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which one.
    pub worker: WorkerId,
    /// Its generation.
    pub generation: Generation,
    /// Its place.
    pub slot: Slot,
    /// Its stage.
    pub stage: ShownStage,
    /// When its program first ran; before that, when it was decided to start it.
    pub since: Time,
    /// What made it ready, if it has been.
    pub ack: Option<AckKind>,
}

/// What is kept of a slot while its workers come and go.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    /// The generation that its next worker belongs to.
    generation: Generation,
    /// Crashes in a row.
    crashes: u32,
    /// When it may be filled again.
    fill_at: Time,
    /// Where its next worker takes the program from.
    reading: Reading,
    /// The restart policy leaves it empty.
    retired: bool,
}

impl Place {
    /// A place that is free, for the next worker of `generation`.
    fn new(generation: Generation, now: Time) -> Self {
        Place { generation, crashes: 0, fill_at: now, reading: Reading::Anew, retired: false }
    }
}

/// The state machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Supervisor {
    /// Not carried over: another image has read the command line for itself.
    #[serde(skip)]
    policy: Policy,
    /// A generation has been ready as a whole.
    served: bool,
    stopping: bool,
    /// The generation that serves, or the first one that is to.
    serving: Generation,
    last_generation: Generation,
    last_worker: u32,
    workers: BTreeMap<WorkerId, Worker>,
    places: Vec<Place>,
    /// How many places there are to be once no upgrade is under way.
    target: u32,
    upgrade: Option<Upgrade>,
    /// A request to upgrade that has not been taken up.
    pending: Option<Wish>,
    /// One came in this step.
    upgrade_asked: bool,
    /// A request to scale that has not come true.
    scaling: bool,
    known: Strength,
    /// How long the program took of late from its start until it waited on its
    /// listeners, or said that it is ready, and in which generation.
    took: (Generation, Duration),
    /// Slots of which the worker was seen to wait on its listeners when the last upgrade
    /// began: so has whoever is started there from then on.
    waits: BTreeSet<Slot>,
    /// A worker of a generation that had proved itself has ended with status 0 by itself.
    ends_well: bool,
    /// The generation that went live of late, until it has proved itself.
    probation: Option<Probation>,
    /// Generations of which it is kept what they were started from.
    started: BTreeSet<Generation>,
    /// When a predecessor that we had asked to left its successor alone.
    alone_since: Option<Time>,
    interrupted: bool,
    /// Nobody is waited for any more.
    killing: bool,
    /// A kill was needed after the stop began.
    forced: bool,
    /// Why the stop began, if nobody asked for it.
    ending: Option<Ending>,
    /// How the last worker was lost: our own end if the restart policy lets no
    /// other follow it.
    last_loss: Option<Ending>,
    ended: bool,
    /// Empty between two steps.
    #[serde(skip)]
    actions: Vec<Action>,
}

impl Supervisor {
    /// A supervisor of no workers; the first step starts the first generation.
    pub fn new(policy: Policy) -> Self {
        let target = policy.workers;
        Supervisor {
            policy,
            served: false,
            stopping: false,
            serving: Generation(1),
            last_generation: Generation(1),
            last_worker: 0,
            workers: BTreeMap::new(),
            places: Vec::new(),
            target,
            upgrade: None,
            pending: None,
            upgrade_asked: false,
            scaling: false,
            known: Strength::Nothing,
            took: (Generation(1), Duration::ZERO),
            waits: BTreeSet::new(),
            ends_well: false,
            probation: None,
            started: BTreeSet::new(),
            alone_since: None,
            interrupted: false,
            killing: false,
            forced: false,
            ending: None,
            last_loss: None,
            ended: false,
            actions: Vec::new(),
        }
    }

    /// One that was carried over, with what the user decides by now.
    pub fn with_policy(self, policy: Policy) -> Self {
        Supervisor { policy, ..self }
    }

    /// What follows from `event` at `now`, in order. `now` never goes back.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.record(now, event);
        self.expire(now);
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// When to call `step` with `Tick` if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let workers = self.workers.values().filter_map(Worker::deadline);
        let fills = self.fillable().map(|slot| self.place(slot).fill_at);
        let silent = self.workers.values().filter_map(|worker| worker.silent_at(&self.policy));
        workers
            .chain(silent)
            .chain(fills)
            .chain(self.soaked_at())
            .chain(self.handover_at())
            .chain(self.proven_at())
            .min()
    }

    /// Where the supervisor is.
    pub fn phase(&self) -> Phase {
        match (self.stopping, self.served, &self.upgrade) {
            (true, _, _) => Phase::Stopping,
            (_, _, Some(upgrade)) if upgrade.hold == Hold::Held => Phase::Holding,
            (_, false, _) => Phase::Starting,
            (_, true, Some(_)) => Phase::Upgrading,
            (_, true, None) => Phase::Running,
        }
    }

    /// Whether a generation has ever served.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// The generation that serves, or the first one while it starts.
    pub fn generation(&self) -> Generation {
        self.serving
    }

    /// How long the program took of late from its start until it waited on its listeners,
    /// or said that it is ready.
    pub fn took(&self) -> Duration {
        self.took.1
    }

    /// Whether a request to upgrade waits for the present one to end.
    pub fn upgrade_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The generation that each slot's next worker belongs to, unless an upgrade
    /// replaces it: the one that serves there.
    pub fn settled(&self) -> impl Iterator<Item = (Slot, Generation)> {
        self.slots().map(|slot| (slot, self.place(slot).generation))
    }

    /// Every worker of which a process lives.
    pub fn workers(&self) -> impl Iterator<Item = Shown> {
        self.workers.iter().map(|(&id, worker)| Shown {
            worker: id,
            generation: worker.generation,
            slot: worker.slot,
            since: worker.since,
            ack: worker.ack,
            stage: match worker.stage {
                Stage::Spawning { wanted: false, .. } => ShownStage::Draining,
                Stage::Spawning { .. } | Stage::Awaited { .. } | Stage::Starting { .. } => {
                    ShownStage::Starting
                }
                Stage::Ready { .. } => ShownStage::Ready,
                Stage::Draining { .. } | Stage::Terminating { .. } | Stage::Remains { .. } => {
                    ShownStage::Draining
                }
                Stage::Killed => ShownStage::Killed,
            },
        })
    }

    fn place(&self, slot: Slot) -> &Place {
        &self.places[slot.0 as usize]
    }

    fn place_mut(&mut self, slot: Slot) -> Option<&mut Place> {
        self.places.get_mut(slot.0 as usize)
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.places.len() as u32).map(Slot)
    }

    fn in_slot(&self, slot: Slot) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().filter(move |(_, worker)| worker.slot == slot).map(|(&id, worker)| (id, worker))
    }

    /// Whether the worker is a replacement that the present upgrade waits for.
    fn replaces(&self, worker: &Worker) -> bool {
        self.upgrade
            .as_ref()
            .is_some_and(|upgrade| worker.generation == upgrade.to && upgrade.batch.contains(&worker.slot))
    }

    /// Nothing is being replaced at this moment.
    fn is_at_rest(&self) -> bool {
        self.upgrade.as_ref().is_none_or(Upgrade::rests)
    }

    /// The successor that the worker has started or is to start, unless that was
    /// given up.
    fn successor(&self, id: WorkerId) -> Option<WorkerId> {
        let successor = |worker: &Worker| worker.of == Some(id) && worker.fills();
        self.workers.iter().find(|(_, worker)| successor(worker)).map(|(&id, _)| id)
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}
