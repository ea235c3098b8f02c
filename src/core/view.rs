//! The supervisor and its workers, as observers see them. Nothing is changed here.

use super::event::{AckKind, Generation, Slot, Time, Token, Weight, WorkerId};
use super::state::Supervisor;
use super::upgrade::Hold;
use super::worker::Stage;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The stage of a worker as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShownStage {
    /// It has not become ready.
    Starting,
    /// It serves.
    Ready,
    /// It finishes its requests.
    Draining,
    /// It was killed.
    Killed,
}

/// The exact stage of a worker, as in the table at the head of [`core`](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// Its program does not run yet.
    Spawning,
    /// It is not needed any more, and a start of it is under way.
    Cancelled,
    /// Its predecessor was asked to start it, and no process of it is known.
    Awaited,
    /// It runs and is not ready.
    Starting,
    /// It is ready.
    Ready,
    /// It gets no new connections, and serves those that it has.
    Draining,
    /// It has been asked to stop, or is about to be.
    Terminating,
    /// It was killed and is not yet reaped.
    Killed,
    /// It has exited, and processes that it started live on.
    Remains,
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Spawning { .. } => StageName::Spawning,
            Stage::Cancelled => StageName::Cancelled,
            Stage::Awaited { .. } => StageName::Awaited,
            Stage::Starting { .. } => StageName::Starting,
            Stage::Ready { .. } => StageName::Ready,
            Stage::Draining { .. } => StageName::Draining,
            Stage::Terminating { .. } => StageName::Terminating,
            Stage::Killed => StageName::Killed,
            Stage::Remains { .. } => StageName::Remains,
        }
    }
}

impl From<Stage> for ShownStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Spawning { .. } | Stage::Awaited { .. } | Stage::Starting { .. } => ShownStage::Starting,
            Stage::Ready { .. } => ShownStage::Ready,
            Stage::Cancelled => ShownStage::Draining,
            Stage::Draining { .. } | Stage::Terminating { .. } | Stage::Remains { .. } => {
                ShownStage::Draining
            }
            Stage::Killed => ShownStage::Killed,
        }
    }
}

/// The phase of the supervisor as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Every worker is to stop.
    Stopping,
}

/// A worker as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which one.
    pub worker: WorkerId,
    /// Its generation.
    pub generation: Generation,
    /// Its slot.
    pub slot: Slot,
    /// Its stage.
    pub stage: ShownStage,
    /// When its program first ran; before that, when it was decided to start it.
    pub since: Time,
    /// The ack that made it ready, if it has been ready.
    pub ack: Option<AckKind>,
    /// The signal that has halted it; 0 where that is not known.
    pub halted: Option<Token>,
}

/// A probation, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownProbation {
    /// The generation that has to prove itself.
    pub generation: Generation,
    /// The one that is started again if it does not.
    pub before: Generation,
    /// How often a worker of it has ended by itself.
    pub crashes: u32,
    /// When it ends, if nothing more happens.
    pub until: Time,
}

/// The first worker of an upgrade that is held, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownCanary {
    /// Which one; None in the moment between its end and the end of the upgrade.
    pub worker: Option<WorkerId>,
    /// Its generation.
    pub generation: Generation,
    /// When the upgrade goes on, if nothing happens; None: on request.
    pub until: Option<Time>,
    /// The part of the new connections that it gets; None where that cannot be set.
    pub weight: Option<Weight>,
    /// The user's command that verifies it, if there is one.
    pub verify: Option<ShownVerify>,
}

/// The user's command that verifies a worker on hold, as an observer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownVerify {
    /// Whether one runs.
    pub runs: bool,
    /// How many have found the worker good.
    pub passed: u32,
    /// When the last of them has ended.
    pub last: Option<Time>,
}

impl Supervisor {
    /// The phase of the supervisor.
    pub fn phase(&self) -> Phase {
        match (self.stopping, self.served, &self.upgrade) {
            (true, _, _) => Phase::Stopping,
            (_, _, Some(upgrade)) if upgrade.hold == Hold::Held => Phase::Holding,
            (_, false, _) => Phase::Starting,
            (_, true, Some(_)) => Phase::Upgrading,
            (_, true, None) => Phase::Running,
        }
    }

    /// Whether this worker has sent an ack that does not count yet, because it is not seen to listen.
    pub fn has_pending_ack(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| worker.pending_ack.is_some())
    }

    /// Whether a generation has ever served.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// The generation that serves, or the first one while it starts.
    pub fn generation(&self) -> Generation {
        self.serving
    }

    /// How long the program took last from its start until it waited for connections on its
    /// listeners, or said that it is ready.
    pub fn startup_time(&self) -> Duration {
        self.startup_time.1
    }

    /// Until when a replacement that is ready must live because the generation that serves took
    /// that long to start; None: its soak ends earlier by other rules.
    pub fn startup_soak(&self, id: WorkerId) -> Option<Time> {
        let upgrade = self.upgrade.as_ref()?;
        let worker = self.workers.get(&id).filter(|worker| self.is_replacement(worker))?;
        let since = worker.ready_since()?;
        let (generation, took) = self.startup_time;
        let took = if generation == upgrade.to { Duration::ZERO } else { took };
        let until = worker.soaked_at(since, took, &self.policy);
        (until > since + self.policy.soak(worker.ack)).then_some(until)
    }

    /// Whether a request to upgrade waits for the present upgrade to end.
    pub fn has_pending_upgrade(&self) -> bool {
        self.pending.is_some()
    }

    /// The generation that each slot's next worker belongs to, unless an upgrade
    /// replaces it: the one that serves there.
    pub fn serving_generations(&self) -> impl Iterator<Item = (Slot, Generation)> {
        self.slots().map(|slot| (slot, self.slot_state(slot).generation))
    }

    /// The generation that has gone live recently and has not proved itself.
    pub fn probation(&self) -> Option<ShownProbation> {
        let probation = self.probation.as_ref()?;
        Some(ShownProbation {
            generation: probation.generation,
            before: probation.before,
            crashes: probation.crashes,
            until: probation.until,
        })
    }

    /// Every worker, until no process of it is left.
    pub fn workers(&self) -> impl Iterator<Item = Shown> {
        self.workers.iter().map(|(&id, worker)| Shown {
            worker: id,
            generation: worker.generation,
            slot: worker.slot,
            since: worker.since,
            ack: worker.ack,
            halted: worker.halt.filter(|_| worker.is_running()).map(|halt| halt.by),
            stage: worker.stage.into(),
        })
    }

    /// The exact stage of every worker.
    pub fn stages(&self) -> impl Iterator<Item = (WorkerId, StageName)> {
        self.workers.iter().map(|(&id, worker)| (id, worker.stage.into()))
    }
}
