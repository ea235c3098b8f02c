//! Results that more than one kind of waiter has, in words.

use crate::control::protocol::{LastUpgrade, Reply};
use crate::core::event::{Failure, Generation};
use crate::launch::capture::Capture;
use crate::supervisor::report;
use std::time::Duration;

impl Reply {
    pub(super) fn of(self, from: Generation, to: Generation, took: Duration) -> Reply {
        let duration_ms = Some(took.as_millis() as u64);
        Reply { from: Some(from.0), to: Some(to.0), duration_ms, ..self }
    }
}

/// It was the first start.
pub(super) fn first(generation: Generation) -> Reply {
    Reply { to: Some(generation.0), ..Reply::done(format!("{generation} serves")) }
}

pub(super) fn serves(from: Generation, to: Generation, took: Duration) -> Reply {
    Reply::done(format!("{to} serves after {}", report::length(took))).of(from, to, took)
}

pub(super) fn last(
    from: Generation,
    to: Generation,
    took: Duration,
    result: &str,
    reason: Option<String>,
) -> LastUpgrade {
    let duration_ms = took.as_millis() as u64;
    let (from, to, result) = (from.0, to.0, result.into());
    LastUpgrade { from, to, result, reason, duration_ms, ..LastUpgrade::default() }
}

/// What the worker that made an upgrade fail wrote last.
pub(super) fn last_lines(capture: Option<&Capture>, why: Failure) -> Vec<String> {
    match (capture, why.worker()) {
        (Some(capture), Some(worker)) => capture.last_lines(worker),
        _ => Vec::new(),
    }
}

pub(super) fn workers(count: u32) -> String {
    if count == 1 { "1 worker".into() } else { format!("{count} workers") }
}
