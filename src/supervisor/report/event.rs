//! Reports for programs: one JSON object for each event.
//!
//! Contract: `event` is its name, `time_ms` its time (milliseconds of the Unix epoch).
//! Fields and events are only ever added.

use super::reason::undo_reason;
use super::words::{WorkerName, behind_text, exit_text, ms, request_name};
use crate::ack::kind;
use crate::config::Config;
use crate::config::signals;
use crate::core::event::{Failure, Report, Token, Weight, WorkerId};
use crate::process::ProcessTable;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The event of a report.
pub fn event(report: &Report, processes: &ProcessTable, config: &Config) -> Value {
    let (name, fields) = describe(report, processes, config);
    named(name, fields)
}

/// An event of this name.
pub fn named(name: &str, fields: Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event = Map::new();
    event.insert("event".into(), name.into());
    event.insert("time_ms".into(), ms(now).into());
    if let Value::Object(fields) = fields {
        event.extend(fields);
    }
    Value::Object(event)
}

fn describe(report: &Report, processes: &ProcessTable, config: &Config) -> (&'static str, Value) {
    let of = |id: WorkerId| worker(id, processes);
    let with = |id: WorkerId, more: Value| {
        let mut fields = of(id);
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        fields
    };
    match *report {
        Report::Started(id) => ("started", of(id)),
        Report::Ready(id, kind, after) => {
            ("ready", with(id, json!({"ack": kind::name(kind), "after_ms": ms(after)})))
        }
        Report::Serving(generation) => ("serving", json!({"generation": generation.0})),
        Report::UpgradeStarted { from, to } => ("upgrade-started", json!({"from": from.0, "to": to.0})),
        Report::UpgradeKept(behind) => ("upgrade-kept", json!({"behind": behind_text(behind)})),
        Report::Held { from, to, took, lasts } => {
            ("held", json!({"from": from.0, "to": to.0, "duration_ms": ms(took), "lasts_ms": lasts.map(ms)}))
        }
        Report::HoldPassed { to, after, verified } => {
            ("hold-passed", json!({"to": to.0, "after_ms": ms(after), "verified": verified}))
        }
        Report::Weighed(to, weight) => ("weighed", json!({"to": to.0, "weight_percent": percent(weight)})),
        Report::NotWeighed(to, weight) => {
            ("not-weighed", json!({"to": to.0, "weight_percent": percent(weight)}))
        }
        Report::CannotWeigh => ("cannot-weigh", json!({})),
        Report::CannotHold => ("cannot-hold", json!({})),
        Report::NothingHeld(request) => ("nothing-held", json!({"request": request_name(request)})),
        Report::UpgradeDone { from, to, took } => {
            ("upgrade-done", json!({"from": from.0, "to": to.0, "duration_ms": ms(took)}))
        }
        Report::UpgradeFailed { from, to, why, replaced, slots, took, .. } => (
            "upgrade-failed",
            json!({
                "from": from.0,
                "to": to.0,
                "result": result_of(why),
                "reason": undo_reason(report, processes, config),
                "replaced": replaced,
                "of": slots,
                "duration_ms": ms(took),
            }),
        ),
        Report::RollbackStarted { from, to, crashes, .. } => (
            "rollback-started",
            json!({"from": from.0, "to": to.0, "crashes": crashes, "reason": super::reason::rollback_reason(report, processes)}),
        ),
        Report::RolledBack { from, to, took } => {
            ("rolled-back", json!({"from": from.0, "to": to.0, "duration_ms": ms(took)}))
        }
        Report::RollbackFailed { from, to, .. } => (
            "rollback-failed",
            json!({"from": from.0, "to": to.0, "reason": super::reason::rollback_failure(report, processes)}),
        ),
        Report::Proven(generation) => ("proven", json!({"generation": generation.0})),
        Report::HandedOver { worker, predecessor } => {
            ("took-over", with(worker, json!({"of": of(predecessor)["pid"]})))
        }
        Report::Drained(id, after) => ("drained", with(id, json!({"after_ms": ms(after)}))),
        Report::NotDrained(id, after) => {
            let left = processes.get(id).and_then(|entry| entry.remaining.as_deref());
            ("not-drained", with(id, json!({"after_ms": ms(after), "left": left})))
        }
        Report::StopSent(id) => ("asked", of(id)),
        Report::Unseen { worker, after, timer } => {
            ("unseen", with(worker, json!({"after_ms": ms(after), "timer_ms": timer.map(ms)})))
        }
        Report::NoAck(id, after) => ("no-ack", with(id, json!({"after_ms": ms(after)}))),
        Report::StartsNone(id) => ("starts-no-successor", of(id)),
        Report::Silent(id, after) => ("silent", with(id, json!({"after_ms": ms(after)}))),
        Report::Halted(id, by) => ("halted", with(id, json!({"signal": halt_signal(by)}))),
        Report::Continued(id, after) => ("continued", with(id, json!({"after_ms": ms(after)}))),
        Report::Resumed(id, by) => ("resumed", with(id, json!({"signal": halt_signal(by)}))),
        Report::Killed(id, after) => ("killed", with(id, json!({"after_ms": ms(after)}))),
        Report::Gone { worker, exit, age, stop_sent, ready, remains } => (
            "gone",
            with(
                worker,
                json!({"how": exit_text(exit), "age_ms": ms(age), "asked": stop_sent, "ready": ready, "remains": remains}),
            ),
        ),
        Report::NotStarted { worker, again, .. } => {
            ("not-started", with(worker, json!({"reason": processes.start_error(worker), "again": again})))
        }
        Report::Restarting(slot, pause) => ("restarting", json!({"slot": slot.0, "pause_ms": ms(pause)})),
        Report::Retired(slot) => ("retired", json!({"slot": slot.0})),
        Report::Scaled(workers) => ("scaled", json!({"workers": workers})),
        Report::ScaleDone(workers) => ("scale-done", json!({"workers": workers})),
        Report::CannotScale(workers) => ("cannot-scale", json!({"workers": workers})),
        Report::Stopping => ("stopping", json!({})),
        Report::Ignored(request) => ("ignored", json!({"request": request_name(request)})),
    }
}

/// `failed`, or `superseded` by another upgrade.
pub fn result_of(why: Failure) -> &'static str {
    if why == Failure::Superseded { "superseded" } else { "failed" }
}

fn percent(weight: Weight) -> f64 {
    f64::from(weight.parts()) / 100.0
}

/// The name of the signal that has halted a worker, where it is known.
fn halt_signal(by: Token) -> Option<String> {
    (by.0 > 0).then(|| signals::name(by.0))
}

fn worker(id: WorkerId, processes: &ProcessTable) -> Value {
    let WorkerName { generation, pid, .. } = WorkerName::new(id, processes);
    let slot = processes.get(id).map(|entry| entry.slot.0);
    // A worker without a process has no pid.
    json!({"generation": generation.0, "slot": slot, "pid": (pid > 0).then_some(pid)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_name_and_a_time() {
        let event = named("stopping", json!({"more": 1}));
        assert_eq!((&event["event"], &event["more"]), (&json!("stopping"), &json!(1)));
        assert!(event["time_ms"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000));
    }
}
