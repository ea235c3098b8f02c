//! Listeners that are added and taken away while workers serve.

use super::Run;
use crate::core::event::Report;

impl Run {
    /// What waited for an upgrade follows its fate.
    pub(super) fn change_listeners(&mut self, report: &Report) {
        match *report {
            Report::UpgradeStarted { to, .. } => self.common.listeners.begin(to.0),
            Report::UpgradeFailed { to, replaced: 0, .. } => self.common.listeners.undo(to.0),
            Report::UpgradeDone { to, .. } => {
                for place in self.common.listeners.close_for(to.0) {
                    self.guard.remove(place);
                }
            }
            _ => {}
        }
    }
}
