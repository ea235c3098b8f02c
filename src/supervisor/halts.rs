//! Workers of which a process is halted (SIGSTOP, SIGTTIN, a debugger).
//!
//! Contract: the kernel tells us when a child of ours is halted or continued. Of the processes
//! below it, and of a successor that another worker has started, it tells us nothing: they are
//! looked at whenever a worker is probed, and before a replacement is to serve. While one is halted
//! it is looked at again. Others are not polled.

use super::context::Context;
use crate::core::ShownStage;
use crate::core::event::{Event, Time, Token, WorkerId};
use crate::sys::tree::Halt;
use std::time::Duration;

/// The pause between two looks at a halted replacement.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Halts {
    /// The next look, while a replacement is halted.
    again: Option<Time>,
}

impl Halts {
    pub(super) fn new() -> Halts {
        Halts { again: None }
    }

    /// Looks at every worker of the generation that is to serve.
    pub(super) fn look(&mut self, ctx: &mut Context) {
        self.again = None;
        let newest = ctx.core.workers().map(|shown| shown.generation).max();
        let replacements = ctx.core.workers().filter(|shown| Some(shown.generation) == newest);
        for id in replacements.map(|shown| shown.worker).collect::<Vec<_>>() {
            self.look_at(id, ctx);
        }
    }

    /// Looks at one.
    pub(super) fn look_at(&mut self, id: WorkerId, ctx: &mut Context) {
        let shown = ctx.core.workers().find(|shown| shown.worker == id);
        let by = match shown.map(|shown| shown.stage) {
            // Its times would begin anew whenever strace(1) continues it.
            Some(ShownStage::Starting) => Halt::Signal,
            Some(ShownStage::Ready) => Halt::Any,
            _ => return,
        };
        let known = shown.and_then(|shown| shown.halted);
        let halted = ctx.processes.halted_process(id, by);
        let Some(entry) = ctx.processes.get_mut(id) else { return };
        let own = entry.process.as_ref().map(|process| process.pid);
        entry.halted = halted.filter(|_| halted != own);
        if halted.is_some() {
            self.again = Some(ctx.now() + PAUSE);
            // /proc does not show the signal.
            ctx.queue(Event::Halted(id, Token(0)));
        } else if known.is_some() {
            ctx.queue(Event::Continued(id));
        }
    }

    /// Looks again, if that is due.
    pub(super) fn look_again(&mut self, ctx: &mut Context) {
        if self.again.is_some_and(|at| at <= ctx.now()) {
            self.look(ctx);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.again
    }
}
