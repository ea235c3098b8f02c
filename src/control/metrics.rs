//! A status as metrics in the text format of Prometheus, version 0.0.4.
//!
//! The labels of a worker are its generation, slot and stage, not its pid: so a series
//! continues when a worker is restarted.

use super::status::{Canary, Percent, Status};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Phases that a status can name.
const PHASES: [&str; 5] = ["starting", "running", "upgrading", "holding", "stopping"];
/// Stages that a worker can have.
const STAGES: [&str; 5] = ["starting", "ready", "stopped", "draining", "killed"];
/// Results that an upgrade can have.
const RESULTS: [&str; 4] = ["ok", "failed", "superseded", "rolled back"];

/// Renders every metric, with its help and type.
pub fn render(status: &Status) -> String {
    let mut text = Text(String::new());
    let name = status.name.as_deref().unwrap_or_default();
    let pid = status.pid.to_string();
    text.head("info", "gauge", "This graceful-run; always 1.");
    let version = env!("CARGO_PKG_VERSION");
    text.sample("info", &[("version", version), ("name", name), ("pid", &pid)], 1.0);
    text.head("uptime_seconds", "gauge", "Time since it was started.");
    text.sample("uptime_seconds", &[], seconds(status.uptime_ms));
    text.head("phase", "gauge", "1 for the phase that it is in.");
    text.one_of("phase", "phase", &PHASES, &status.phase);
    text.head("generation", "gauge", "The generation that serves.");
    text.sample("generation", &[], status.generation.into());
    text.head("pending_upgrade", "gauge", "1 if another upgrade follows the one under way.");
    text.sample("pending_upgrade", &[], u8::from(status.pending_upgrade).into());
    if let Some(held) = status.held {
        text.head("held_generation", "gauge", "The generation that is on hold.");
        text.sample("held_generation", &[], held.into());
    }
    if let Some(canary) = &status.canary {
        text.canary(canary);
    }
    text.head("workers_wanted", "gauge", "How many workers there are to be.");
    text.sample("workers_wanted", &[], status.workers_wanted.into());
    text.head(
        "upgrades_total",
        "counter",
        "Upgrades that succeeded, even if probation has rolled them back since.",
    );
    text.sample("upgrades_total", &[], status.upgrades.into());
    text.head(
        "failed_upgrades_total",
        "counter",
        "Upgrades that failed, or were undone by ctl rollback or by probation.",
    );
    text.sample("failed_upgrades_total", &[], status.failed_upgrades.into());
    text.head(
        "crashes_total",
        "counter",
        "Workers that ended by themselves, or were replaced by the watchdog.",
    );
    text.sample("crashes_total", &[], status.crashes.into());
    if let Some(last) = &status.last_upgrade {
        text.head("last_upgrade_result", "gauge", "1 for the result of the last upgrade.");
        text.one_of("last_upgrade_result", "result", &RESULTS, &last.result);
        text.head("last_upgrade_seconds", "gauge", "How long the last upgrade took.");
        text.sample("last_upgrade_seconds", &[], seconds(last.duration_ms));
        if let Some(ago) = last.ago_ms {
            text.head("last_upgrade_ago_seconds", "gauge", "Time since the last upgrade ended.");
            text.sample("last_upgrade_ago_seconds", &[], seconds(ago));
        }
    }
    text.head("workers", "gauge", "Workers by the stage of their life.");
    for stage in STAGES {
        let count = status.workers.iter().filter(|worker| worker.stage == stage).count();
        text.sample("workers", &[("stage", stage)], count as f64);
    }
    text.workers(status);
    text.listeners(status);
    text.0
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP graceful_run_{name} {help}\n# TYPE graceful_run_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "graceful_run_{name}{labels} {value}");
    }

    fn one_of(&mut self, name: &str, label: &str, all: &[&str], is: &str) {
        for &one in all {
            self.sample(name, &[(label, one)], u8::from(one == is).into());
        }
    }

    /// Workers of the same generation, slot and stage are one series: two failed replacements of
    /// one slot may drain at the same time.
    fn workers(&mut self, status: &Status) {
        let mut series: BTreeMap<(u32, u32, &str), (u64, Option<u32>)> = BTreeMap::new();
        for worker in &status.workers {
            let one = series.entry((worker.generation, worker.slot, &worker.stage)).or_default();
            one.0 = one.0.max(worker.age_ms);
            if let Some(connections) = worker.connections {
                one.1 = Some(one.1.unwrap_or(0).saturating_add(connections));
            }
        }
        let mut ages = Text(String::new());
        let mut connections = Text(String::new());
        for ((generation, slot, stage), (age, held)) in series {
            let (generation, slot) = (generation.to_string(), slot.to_string());
            let labels = [("generation", generation.as_str()), ("slot", &slot), ("stage", stage)];
            ages.sample("worker_age_seconds", &labels, seconds(age));
            if let Some(held) = held {
                connections.sample("worker_connections", &labels, held.into());
            }
        }
        self.head("worker_age_seconds", "gauge", "Time since the worker's program first ran.");
        self.0 += &ages.0;
        self.head("worker_connections", "gauge", "Connections that the worker holds.");
        self.0 += &connections.0;
    }

    fn canary(&mut self, canary: &Canary) {
        if let Some(Percent(hundredths)) = canary.weight_percent {
            self.head(
                "canary_weight_ratio",
                "gauge",
                "The part of the new connections that the worker on hold gets, from 0 to 1.",
            );
            self.sample("canary_weight_ratio", &[], f64::from(hundredths) / 10_000.0);
        }
        if let Some(left) = canary.left_ms {
            self.head("canary_left_seconds", "gauge", "Time until the upgrade on hold goes on.");
            self.sample("canary_left_seconds", &[], seconds(left));
        }
        if let Some(verify) = &canary.verify {
            self.head("canary_verified", "gauge", "How often --verify has found the worker on hold good.");
            self.sample("canary_verified", &[], verify.passed.into());
        }
    }

    fn listeners(&mut self, status: &Status) {
        let mut queues = Text(String::new());
        let mut backlogs = Text(String::new());
        for listener in &status.listeners {
            let labels = [
                ("listener", listener.name.as_str()),
                ("address", &listener.address),
                ("kind", &listener.kind),
            ];
            if let Some(queue) = listener.queue {
                queues.sample("listener_queue", &labels, queue.into());
            }
            if let Some(backlog) = listener.backlog {
                backlogs.sample("listener_backlog", &labels, backlog.into());
            }
        }
        for address in status.adopt.iter().flat_map(|adopt| &adopt.addresses) {
            if let Some(queue) = address.queue {
                let labels = [("listener", ""), ("address", address.address.as_str()), ("kind", "adopted")];
                queues.sample("listener_queue", &labels, queue.into());
            }
        }
        self.head("listener_queue", "gauge", "Connections that wait to be accepted.");
        self.0 += &queues.0;
        self.head("listener_backlog", "gauge", "Connections that may wait to be accepted.");
        self.0 += &backlogs.0;
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{LastUpgrade, Listener, Worker};
    use std::collections::BTreeSet;

    #[test]
    fn every_sample_follows_its_head_and_no_series_is_there_twice() {
        let worker = |slot, stage: &str, connections| Worker {
            generation: 3,
            slot,
            stage: stage.into(),
            age_ms: 1500,
            connections,
            ..Worker::default()
        };
        let workers = vec![
            worker(0, "ready", Some(14)),
            worker(1, "ready", None),
            worker(0, "draining", Some(1)),
            worker(0, "draining", Some(2)),
        ];
        let status = Status {
            phase: "running".into(),
            name: Some("a \"b\"\\\n".into()),
            listeners: vec![Listener { name: "http".into(), queue: Some(3), ..Listener::default() }],
            workers,
            last_upgrade: Some(LastUpgrade {
                result: "failed".into(),
                ago_ms: Some(1500),
                ..LastUpgrade::default()
            }),
            crashes: 7,
            held: Some(4),
            workers_wanted: 2,
            ..Status::default()
        };
        let text = render(&status);
        let mut head = "";
        let mut series = BTreeSet::new();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                head = typed.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert_eq!(name.split('{').next(), Some(head), "{line}");
                assert!(series.insert(name.to_owned()), "twice: {line}");
            }
        }
        for line in [
            "graceful_run_phase{phase=\"running\"} 1",
            "graceful_run_workers{stage=\"ready\"} 2",
            "graceful_run_worker_connections{generation=\"3\",slot=\"0\",stage=\"ready\"} 14",
            "graceful_run_worker_connections{generation=\"3\",slot=\"0\",stage=\"draining\"} 3",
            "graceful_run_worker_age_seconds{generation=\"3\",slot=\"1\",stage=\"ready\"} 1.5",
            "graceful_run_listener_queue{listener=\"http\",address=\"\",kind=\"\"} 3",
            "graceful_run_crashes_total 7",
            "graceful_run_held_generation 4",
            "graceful_run_workers_wanted 2",
            "graceful_run_upgrades_total 0",
            "graceful_run_last_upgrade_ago_seconds 1.5",
            "graceful_run_last_upgrade_result{result=\"failed\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is missing in:\n{text}");
        }
        assert!(!render(&Status::default()).contains("held_generation"));
        assert!(text.contains(r#"name="a \"b\"\\\n","#), "{text}");
    }
}
