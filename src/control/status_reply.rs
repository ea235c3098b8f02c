//! The replies that are made from a status: the loop hands it over with a [`Snapshot`], and
//! the client's thread completes it with what it reads from the kernel.

use super::metrics;
use super::protocol::{self, Outcome, Reply, Status};
use super::socket_stats::{self, Snapshot};
use serde_json::value::to_raw_value;

/// The reply to `status`.
pub(super) fn status_reply((mut status, snapshot): (Status, Snapshot)) -> Reply {
    socket_stats::complete(&mut status, &snapshot);
    Reply { status: to_raw_value(&status).ok(), ..Reply::new(Outcome::Ok) }
}

/// The reply to `metrics`.
pub(super) fn metrics_reply((mut status, snapshot): (Status, Snapshot)) -> Reply {
    socket_stats::complete(&mut status, &snapshot);
    Reply { metrics: Some(metrics::render(&status)), ..Reply::new(Outcome::Ok) }
}

/// An event of kind `progress`: the status in numbers.
pub(super) fn progress_event((mut status, snapshot): (Status, Snapshot)) -> serde_json::Value {
    socket_stats::complete(&mut status, &snapshot);
    let newest = status.workers.iter().map(|worker| worker.generation).max().unwrap_or(status.generation);
    let count = |stages: &[&str], generation: Option<u32>| {
        let is = |worker: &&protocol::Worker| {
            stages.contains(&worker.stage.as_str()) && generation.is_none_or(|it| it == worker.generation)
        };
        status.workers.iter().filter(is).count()
    };
    let connections: Vec<u32> = status.workers.iter().filter_map(|worker| worker.connections).collect();
    serde_json::json!({
        "event": "progress",
        "phase": status.phase,
        "generation": newest,
        "ready": count(&["ready"], Some(newest)),
        "of": count(&["starting", "ready", "stopped"], Some(newest)),
        "draining": count(&["draining", "killed"], None),
        "connections": (!connections.is_empty()).then(|| connections.iter().sum::<u32>()),
    })
}
