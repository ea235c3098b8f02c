//! What workers leave behind when they stop as they were asked to. A child that finishes
//! a request may do so; one that goes on accepting would serve the old release for ever,
//! and is asked to stop.

use super::Run;
use crate::core::event::{Event, WorkerId};
use std::time::Duration;

/// The pause between two looks whether something that was left behind accepts: each costs
/// a walk through its descriptors.
const PAUSE: Duration = Duration::from_millis(500);

impl Run {
    /// A worker that has stopped as it was asked to has left something behind.
    pub(super) fn drain_remains(&mut self, id: WorkerId) {
        self.processes.drain_remains(id);
        self.stop_accepting(id);
    }

    fn stop_accepting(&mut self, id: WorkerId) {
        let streams = self.common.listeners.iter().filter(|listener| listener.is_stream());
        let ports = streams.filter_map(|listener| Some(listener.exported().inet?.port())).collect();
        let bound = self.adopted.as_ref().map(|adopted| adopted.adopt.inodes()).unwrap_or_default();
        self.processes.stop_accepting(id, &ports, &bound);
    }

    /// Looks at everything that was left behind.
    pub(super) fn look_at_remains(&mut self) {
        let now = self.clock.now();
        let looks = now >= self.remains_looked + PAUSE;
        for worker in self.processes.leftovers() {
            if !self.processes.remains(worker) {
                self.soon.push_back(Event::Swept(worker));
                continue;
            }
            self.processes.end_newcomers(worker);
            if looks {
                self.remains_looked = now;
                self.stop_accepting(worker);
            }
        }
    }
}
