//! The state of the supervisor, and how it is searched. Nothing is decided here.

use super::event::{Action, Ending, Generation, LaunchSource, Report, Slot, Time, Weight, WorkerId};
use super::policy::{Policy, Strength};
use super::probation::Probation;
use super::upgrade::{Upgrade, UpgradeKind};
use super::worker::{Stage, Worker};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is kept of a slot while its workers come and go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SlotState {
    /// The generation that its next worker belongs to.
    pub generation: Generation,
    /// Crashes in a row.
    pub crashes: u32,
    /// When it may be filled again.
    pub fill_at: Time,
    /// Where its next worker takes the program from.
    pub source: LaunchSource,
    /// The restart policy leaves it empty.
    pub retired: bool,
}

impl SlotState {
    /// An empty slot, for the next worker of `generation`.
    pub fn new(generation: Generation, now: Time) -> Self {
        SlotState { generation, crashes: 0, fill_at: now, source: LaunchSource::Anew, retired: false }
    }
}

/// The state machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Supervisor {
    /// Not carried over: the next image reads the command line itself.
    #[serde(skip)]
    pub(super) policy: Policy,
    /// A generation has been ready as a whole.
    pub(super) served: bool,
    pub(super) stopping: bool,
    /// The generation that serves, or the first one while it starts.
    pub(super) serving: Generation,
    pub(super) last_generation: Generation,
    pub(super) last_worker: u32,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) slot_states: Vec<SlotState>,
    /// How many slots there are to be once no upgrade is under way.
    pub(super) target: u32,
    pub(super) upgrade: Option<Upgrade>,
    /// A request to upgrade that has not begun.
    pub(super) pending: Option<UpgradeKind>,
    /// The part of the new connections that it is to get while it is held, if one was named.
    #[serde(default)]
    pub(super) pending_weight: Option<Weight>,
    /// Such a request came in this step.
    pub(super) upgrade_requested: bool,
    /// A request to scale that has not been fulfilled.
    pub(super) scaling: bool,
    /// What the acks of serving workers have proved about the program.
    pub(super) known_strength: Strength,
    /// How long the program took last from its start until it waited for connections on its
    /// listeners, or said that it is ready, and in which generation.
    pub(super) startup_time: (Generation, Duration),
    /// Slots of which the worker was seen waiting for connections when the last upgrade
    /// began: so must every worker be that is started there from then on.
    pub(super) accepting_slots: BTreeSet<Slot>,
    /// A worker of a generation that had proved itself has ended with status 0 by itself.
    pub(super) exits_cleanly: bool,
    /// The generation that went live last, until it has proved itself.
    pub(super) probation: Option<Probation>,
    /// Generations whose program, directory and environment the caller keeps, so that
    /// their workers can be started again.
    pub(super) kept_generations: BTreeSet<Generation>,
    /// When a worker that had been asked to stop left its successor without a parent.
    pub(super) reparented_at: Option<Time>,
    /// An interrupt has been requested; the second one kills.
    pub(super) interrupted: bool,
    /// Every worker is killed as soon as it can be.
    pub(super) killing: bool,
    /// A kill was needed after the stop began.
    pub(super) kill_needed: bool,
    /// Why the stop began, if it was not requested.
    pub(super) ending: Option<Ending>,
    /// How the last worker was lost: our own ending if the restart policy replaces none.
    pub(super) last_loss: Option<Ending>,
    pub(super) ended: bool,
    /// Empty between two steps.
    #[serde(skip)]
    pub(super) actions: Vec<Action>,
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
            slot_states: Vec::new(),
            target,
            upgrade: None,
            pending: None,
            pending_weight: None,
            upgrade_requested: false,
            scaling: false,
            known_strength: Strength::Nothing,
            startup_time: (Generation(1), Duration::ZERO),
            accepting_slots: BTreeSet::new(),
            exits_cleanly: false,
            probation: None,
            kept_generations: BTreeSet::new(),
            reparented_at: None,
            interrupted: false,
            killing: false,
            kill_needed: false,
            ending: None,
            last_loss: None,
            ended: false,
            actions: Vec::new(),
        }
    }

    /// A supervisor that was carried over, with the policy of the new image.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        if let Some(canary) = self.upgrade.as_mut().and_then(|upgrade| upgrade.canary.as_mut()) {
            canary.carry_over(policy.verify.is_some());
        }
        Supervisor { policy, ..self }
    }

    pub(super) fn slot_state(&self, slot: Slot) -> &SlotState {
        &self.slot_states[slot.0 as usize]
    }

    pub(super) fn slot_state_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.slot_states.get_mut(slot.0 as usize)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.slot_states.len() as u32).map(Slot)
    }

    /// The slots of the workers that `which` selects.
    pub(super) fn slots_where(&self, which: impl Fn(&Worker) -> bool) -> BTreeSet<Slot> {
        self.workers.values().filter(|worker| which(worker)).map(|worker| worker.slot).collect()
    }

    pub(super) fn in_slot(&self, slot: Slot) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().filter(move |(_, worker)| worker.slot == slot).map(|(&id, worker)| (id, worker))
    }

    /// The workers whose stage `which` selects.
    pub(super) fn ids(&self, which: impl Fn(&Stage) -> bool) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| which(&worker.stage)).map(|(&id, _)| id).collect()
    }

    /// The workers that occupy their slots, among those that `which` selects.
    pub(super) fn occupants(&self, which: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        let occupants = self.workers.iter().filter(|(_, worker)| worker.occupies_slot() && which(worker));
        occupants.map(|(&id, _)| id).collect()
    }

    /// The workers whose program has run.
    pub(super) fn with_process(&self) -> Vec<WorkerId> {
        let started = self.workers.iter().filter(|(_, worker)| worker.has_started());
        started.map(|(&id, _)| id).collect()
    }

    /// The successor that the worker has started or was asked to start, unless the upgrade
    /// has stopped waiting for it.
    pub(super) fn successor(&self, id: WorkerId) -> Option<WorkerId> {
        let successor = |worker: &Worker| worker.predecessor == Some(id) && worker.occupies_slot();
        self.workers.iter().find(|(_, worker)| successor(worker)).map(|(&id, _)| id)
    }

    /// Whether the worker is a replacement that the present upgrade waits for.
    pub(super) fn is_replacement(&self, worker: &Worker) -> bool {
        self.upgrade
            .as_ref()
            .is_some_and(|upgrade| worker.generation == upgrade.to && upgrade.batch.contains(&worker.slot))
    }

    /// Whether no upgrade is under way, or the one that is waits for the hook or the user.
    pub(super) fn is_upgrade_idle(&self) -> bool {
        self.upgrade.as_ref().is_none_or(Upgrade::is_paused)
    }

    pub(super) fn set_stage(&mut self, id: WorkerId, stage: Stage) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stage = stage;
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}
