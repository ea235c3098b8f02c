//! Reports that the log has made already: what comes again and again is told once.
//!
//! Contract: a request that is kept is told once for each upgrade that follows. Clients of `ctl` get every report.

use super::context::Context;
use crate::core::event::{Generation, Report};

#[derive(Default)]
pub(super) struct Repeats {
    /// It was told that an upgrade follows, while this generation served.
    kept: Option<Generation>,
}

impl Repeats {
    /// Whether the log has said already what this report says.
    pub(super) fn has_told(&mut self, report: &Report, ctx: &Context) -> bool {
        match *report {
            Report::UpgradeKept(_) => {
                let serving = Some(ctx.core.generation());
                std::mem::replace(&mut self.kept, serving) == serving
            }
            Report::UpgradeStarted { .. } | Report::UpgradeFailed { .. } => {
                self.kept = None;
                false
            }
            _ => false,
        }
    }
}
