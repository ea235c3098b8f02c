//! What every owner of the supervisor works with: the state machine, the
//! configuration, the clock, the processes of the workers, and what they are
//! launched from.
//!
//! Contract: an owner (see [`super`]) gets the context with each call and keeps
//! nothing of it. What it wants the core to know it puts into `events`, which the
//! loop feeds to the core in order, before anything that the threads send.

use super::clock::Clock;
use super::launcher::Launcher;
use crate::config::Config;
use crate::core::event::{Event, Generation, Time, WorkerId};
use crate::core::{Shown, ShownStage, Supervisor};
use crate::process::ProcessTable;
use std::collections::VecDeque;

/// The end of the supervisor: the exit status and the last line.
pub type Verdict = (u8, Option<String>);

/// The state that the owners share.
pub(super) struct Context {
    pub(super) core: Supervisor,
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) processes: ProcessTable,
    pub(super) launcher: Launcher,
    /// Events from actions and owners, for the core.
    pub(super) events: VecDeque<Event>,
}

impl Context {
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Queues an event for the core, behind those that wait already.
    pub(super) fn queue(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The stage of a worker, unless nothing is left of it.
    pub(super) fn stage(&self, id: WorkerId) -> Option<ShownStage> {
        self.core.workers().find(|shown| shown.worker == id).map(|shown| shown.stage)
    }

    /// Whether the worker serves or is starting.
    pub(super) fn is_wanted(&self, id: WorkerId) -> bool {
        matches!(self.stage(id), Some(ShownStage::Starting | ShownStage::Ready))
    }

    /// The workers of a stage.
    pub(super) fn in_stage(&self, stage: ShownStage) -> impl Iterator<Item = Shown> {
        self.core.workers().filter(move |shown| shown.stage == stage)
    }

    /// The workers of a generation, whatever their stage.
    pub(super) fn of_generation(&self, generation: Generation) -> impl Iterator<Item = Shown> {
        self.core.workers().filter(move |shown| shown.generation == generation)
    }
}
