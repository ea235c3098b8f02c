//! What workers say.

use super::Run;
use crate::ack::Heard;
use crate::core::event::{Event, WorkerId};
use crate::core::policy::EXTEND_LIMIT;

impl Run {
    pub(super) fn hear(&mut self, id: WorkerId, heard: Heard) {
        match heard {
            Heard::Ready(kind) => self.soon.push_back(Event::Ack(id, kind)),
            Heard::Extend(by) => {
                let longest = self.config.policy.ack_timeout.map(|timeout| timeout * EXTEND_LIMIT);
                self.upward.prolong(longest.map(|longest| longest.min(by)));
                self.soon.push_back(Event::Extend(id, by));
            }
        }
    }
}
