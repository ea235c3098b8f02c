//! When the shared sockets are looked at. A look costs a few system calls a
//! listener, and many workers that start, become ready or end together are one
//! occasion: one look before the first start, one when nothing more is waiting.

use super::Run;
use crate::core::event::Time;
use crate::listener::repair::Look;
use std::time::Duration;

/// A look is not put off for longer, however much there is to do.
const LONGEST: Duration = Duration::from_millis(50);

/// Looks that have been put off.
#[derive(Debug, Default)]
pub(super) struct Looks {
    due: Option<(Look, Time)>,
    /// One was taken before a start, and nothing has been waited for since.
    started: bool,
}

impl Run {
    /// With `reuseport` each worker has a socket of its own, which only it can harm.
    pub(super) fn look(&mut self, look: Look) {
        if self.common.listeners.iter().any(|listener| listener.reuseport()) {
            return self.look_now(look);
        }
        if look.starting {
            if !std::mem::replace(&mut self.looks.started, true) {
                self.look_now(look);
            }
            return;
        }
        let since = match self.looks.due.take() {
            Some((other, since)) if other.generation == look.generation => since,
            Some((other, _)) => {
                self.look_now(other);
                self.clock.now()
            }
            None => self.clock.now(),
        };
        self.looks.due = Some((look, since));
    }

    /// Takes the look that was put off, once there is nothing else to do.
    pub(super) fn look_if_due(&mut self, idle: bool) {
        self.looks.started = false;
        let now = self.clock.now();
        if let Some((look, _)) = self.looks.due.take_if(|(_, since)| idle || now > *since + LONGEST) {
            self.look_now(look);
        }
    }

    fn look_now(&mut self, look: Look) {
        if !self.processes.stopping {
            self.repair.look(&mut self.common.listeners, look);
        }
    }
}
