//! Results of more than one kind of request, in words.

use super::report;
use crate::control::protocol::Reply;
use crate::core::event::Generation;
use std::time::Duration;

impl Reply {
    pub(super) fn of(self, from: Generation, to: Generation, took: Duration) -> Reply {
        let duration_ms = Some(took.as_millis() as u64);
        Reply { from: Some(from.0), to: Some(to.0), duration_ms, ..self }
    }
}

/// The first start is done.
pub(super) fn first(generation: Generation) -> Reply {
    Reply { to: Some(generation.0), ..Reply::done(format!("{generation} serves")) }
}

pub(super) fn serves(from: Generation, to: Generation, took: Duration) -> Reply {
    Reply::done(format!("{to} serves after {}", report::duration_text(took))).of(from, to, took)
}

pub(super) fn count_of_workers(count: u32) -> String {
    if count == 1 { "1 worker".into() } else { format!("{count} workers") }
}
