//! Processes that workers leave behind when they stop as they were asked to. A child may
//! finish its request; one that goes on accepting would serve the old release for ever, so
//! it is asked to stop.

use super::adopt::Adoption;
use super::context::Context;
use crate::core::event::{Event, Time, WorkerId};
use std::time::Duration;

/// The interval between two checks whether orphans accept: each reads all their descriptors.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Orphans {
    checked: Time,
}

impl Orphans {
    pub(super) fn new() -> Orphans {
        Orphans { checked: Time::ZERO }
    }

    /// Lets the orphans of a worker that has stopped finish, but not accept.
    pub(super) fn drain(&self, id: WorkerId, adoption: Option<&Adoption>, ctx: &mut Context) {
        ctx.processes.let_remains_finish(id);
        stop_accepting(id, adoption, ctx);
    }

    /// Checks the orphans of all workers.
    pub(super) fn check(&mut self, adoption: Option<&Adoption>, ctx: &mut Context) {
        let now = ctx.now();
        let due = now >= self.checked + PAUSE;
        for worker in ctx.processes.reaped_workers() {
            if !ctx.processes.has_remains(worker) {
                ctx.queue(Event::RemainsGone(worker));
                continue;
            }
            ctx.processes.end_new_orphans(worker);
            if due {
                self.checked = now;
                stop_accepting(worker, adoption, ctx);
            }
        }
    }
}

fn stop_accepting(id: WorkerId, adoption: Option<&Adoption>, ctx: &mut Context) {
    let streams = ctx.launcher.settings.listeners.iter().filter(|listener| listener.is_stream());
    let ports = streams.filter_map(|listener| Some(listener.exported().inet?.port())).collect();
    let bound = adoption.map(Adoption::inodes).unwrap_or_default();
    ctx.processes.stop_accepting(id, &ports, &bound);
}
