//! A worker that connected to its own address before it bound it, and ended because somebody answered:
//! us, who hold the address while nobody serves (`--adopt`).
//!
//! For the core it still starts: its process is replaced by another one, which finds the address free.
//! So an upgrade does not fail, and the pause after a crash does not grow, for what we have caused.

use super::event_loop::EventLoop;
use super::hooks::Start;
use super::readiness::end_check;
use crate::core::ShownStage;
use crate::core::event::{Event, LaunchSource, WorkerId};
use log::warn;

impl EventLoop {
    /// The process of a worker has ended, and nothing of it is left. True if it is started again.
    pub(super) fn is_started_again(&mut self, id: WorkerId) -> bool {
        let ctx = &mut self.ctx;
        let starts = ctx.in_stage(ShownStage::Starting).find(|shown| shown.worker == id);
        let (Some(shown), Some(adoption)) = (starts, &mut self.adoption) else { return false };
        let age = ctx.now().saturating_sub(shown.since);
        let Some(address) = adoption.take_looker(id, age) else { return false };
        let pid = ctx.processes.process(id).map_or(0, |process| process.pid.as_raw());
        warn!(
            generation = shown.generation.0, pid = pid;
            "{}: pid {pid} found {address} taken, as connections wait there or another worker serves: it is started again, and from now on a new worker that connects to its own address is refused there, as by a free port",
            shown.generation
        );
        end_check(id, ctx);
        self.workers.forget(id);
        let (generation, slot) = (shown.generation, shown.slot);
        self.spawn_now(&Start { worker: id, generation, slot, source: LaunchSource::AsBefore });
        // Then it has ended, as the core sees it.
        let failed = matches!(self.ctx.events.back(), Some(Event::SpawnFailed(worker, _)) if *worker == id);
        if failed {
            self.ctx.events.pop_back();
        }
        !failed
    }
}
