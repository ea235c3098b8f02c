//! An upgrade that is held: the part of the new connections that its first worker gets, through
//! sockets of its own, and what `ctl status` says of it.
//!
//! Contract: the sockets are made before the worker starts, and closed when nothing of the worker
//! that had them is left. What the kernel refuses is noted as the reason before the core hears of it.

use super::context::Context;
use super::event_loop::EventLoop;
use crate::control::protocol::{Canary, Percent, Verified};
use crate::core::event::{Event, Generation, Refusal, Slot, Weight, WorkerId};
use crate::launch::Refused;
use log::warn;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pause between two checks whether connections wait for a worker that has to leave.
const QUEUE_CHECK: Duration = Duration::from_millis(5);

impl EventLoop {
    /// Gives the generation on hold this part of the new connections. The result is queued before
    /// everything else that has happened meanwhile.
    pub(super) fn weigh(&mut self, to: Generation, weight: Weight) {
        let ctx = &mut self.ctx;
        let done = ctx.launcher.settings.listeners.weigh(to.0, weight.parts());
        let done = noted(done, ctx);
        ctx.events.push_front(Event::Weighed(to, weight, done));
    }
}

/// Makes the sockets of a worker at which the upgrade will be held.
///
/// # Errors
/// [`Refused`], naming the listener.
pub(super) fn open_sockets(
    id: WorkerId,
    generation: Generation,
    slot: Slot,
    ctx: &mut Context,
) -> Result<(), Refused> {
    if !ctx.core.is_apart(id) {
        return Ok(());
    }
    let opened = ctx.launcher.settings.listeners.open_apart(generation.0, slot.0);
    opened.map_err(|message| Refused { refusal: Refusal::Other, message })
}

/// New connections go to this generation: it was held, and the upgrade goes on, or one that was held
/// is undone. True if that is done.
pub(super) fn switch(to: Generation, ctx: &mut Context) -> bool {
    let serving = ctx.core.generation();
    let before: BTreeMap<u32, u32> =
        ctx.core.serving_generations().map(|(slot, generation)| (slot.0, generation.0)).collect();
    let listeners = &mut ctx.launcher.settings.listeners;
    let done = match to == serving {
        // Nobody waits for the answer: the upgrade has failed already.
        true => listeners.switch_back(to.0).inspect_err(|why| warn!("{why}")),
        false => listeners.switch(to.0, |slot| before.get(&slot).copied().unwrap_or(serving.0)),
    };
    noted(done, ctx)
}

fn noted(done: Result<(), String>, ctx: &mut Context) -> bool {
    match done {
        Ok(()) => true,
        Err(why) => {
            ctx.processes.set_upgrade_refusal(why);
            false
        }
    }
}

/// Whether the worker has accepted every connection that waited at sockets of its own.
pub(super) fn check_queue(id: WorkerId, ctx: &mut Context) {
    let waiting = ctx
        .processes
        .get(id)
        .map(|entry| (entry.generation.0, entry.slot.0))
        .map(|(generation, slot)| ctx.launcher.settings.listeners.waiting_apart(generation, slot));
    let drained = waiting.unwrap_or(0) == 0;
    ctx.queue(Event::DrainChecked { worker: id, drained, pause: QUEUE_CHECK });
}

/// Closes the sockets of workers of which nothing is left.
pub(super) fn close_sockets(ctx: &mut Context) {
    if ctx.launcher.settings.listeners.has_apart() {
        let left: BTreeSet<(u32, u32)> =
            ctx.core.workers().map(|shown| (shown.generation.0, shown.slot.0)).collect();
        ctx.launcher.settings.listeners.close_apart(|generation, slot| left.contains(&(generation, slot)));
    }
}

/// The worker on hold, as `ctl status` shows it.
pub(super) fn canary(ctx: &Context) -> Option<Canary> {
    let shown = ctx.core.canary()?;
    let now = ctx.now();
    let entry = shown.worker.and_then(|worker| ctx.processes.get(worker));
    Some(Canary {
        generation: shown.generation.0,
        slot: entry.map(|entry| entry.slot.0),
        pid: entry.and_then(|entry| entry.process.as_ref()).map(|process| process.pid.as_raw()),
        left_ms: shown.until.map(|until| until.saturating_sub(now).as_millis() as u64),
        weight_percent: shown.weight.map(|weight| Percent(weight.parts())),
        verify: shown.verify.map(|verify| Verified {
            running: verify.runs,
            passed: verify.passed,
            ago_ms: verify.last.map(|last| now.saturating_sub(last).as_millis() as u64),
        }),
    })
}
