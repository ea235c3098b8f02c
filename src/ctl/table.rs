//! A status as text for people.

use crate::config::{duration_text, weight_text};
use crate::control::protocol::{Canary, Status, Worker};
use crate::core::event::Weight;
use crate::logger::escape;
use std::collections::BTreeSet;
use std::time::Duration;

/// The status as lines: the instance, its last upgrade, its listeners and its workers.
pub fn render_status(status: &Status) -> String {
    let mut text = String::new();
    let name = status.name.as_deref().map_or(String::new(), |name| format!("{}: ", escape(name)));
    let up = format_millis(status.uptime_ms);
    text +=
        &format!("{name}{}, generation {}, pid {}, up {up}\n", status.phase, status.generation, status.pid);
    if status.waits {
        text += "workers get no signal from graceful-run: they have had one from whoever stops it (--on SIGNAL=wait)\n";
    }
    if let Some(last) = &status.last_upgrade {
        let why = last.reason.as_ref().map_or(String::new(), |reason| format!(": {}", escape(reason)));
        let ago = last.ago_ms.map_or(String::new(), |ago| format!(", {} ago", format_millis(ago)));
        let took = duration_text(Duration::from_millis(last.duration_ms));
        let (from, to, result) = (last.from, last.to, &last.result);
        text += &format!("last upgrade: {from} to {to} {result} after {took}{ago}{why}\n");
    }
    if let Some(probation) = &status.probation {
        let (generation, before, of) = (probation.generation, probation.before, probation.of);
        let lost: Vec<String> = probation.lost.iter().map(|file| escape(file)).collect();
        let outlook = match lost.is_empty() {
            true if probation.crashes >= of => format!("generation {before} is started again after the next"),
            true => format!("generation {before} is started again after {of} crashes"),
            false => format!(
                "generation {before} cannot be started again, as files have changed: {}",
                lost.join(", ")
            ),
        };
        text += &format!(
            "generation {generation} is on probation for another {} ({}; {outlook})\n",
            format_millis(probation.left_ms),
            format_count(probation.crashes, "crash", "crashes").unwrap_or_else(|| "no crash".into()),
        );
    }
    text += &status.canary.as_ref().map(render_canary).unwrap_or_default();
    if !status.lost.is_empty() {
        let files: Vec<String> = status.lost.iter().map(|file| escape(file)).collect();
        text += &format!("changed files, which a worker that is started again uses: {}\n", files.join(", "));
    }
    let mut more = Vec::new();
    let held = status.held.filter(|_| status.canary.is_none());
    more.extend(held.map(|held| format!("generation {held} is on hold")));
    more.extend(format_count(status.workers_wanted, "worker wanted", "workers wanted"));
    if status.pending_upgrade {
        more.push("another upgrade follows".to_owned());
    }
    more.extend(format_count(
        status.upgrades.saturating_sub(status.rolled_back),
        "upgrade succeeded",
        "upgrades succeeded",
    ));
    more.extend(format_count(status.failed_upgrades, "upgrade failed", "upgrades failed"));
    more.extend(format_count(status.crashes, "worker ended by itself", "workers ended by themselves"));
    if !more.is_empty() {
        text += &format!("{}\n", more.join(", "));
    }
    if !status.listeners.is_empty() {
        let rows = status.listeners.iter().map(|listener| {
            let queue = match (listener.queue, listener.backlog) {
                (Some(queue), Some(backlog)) => format!("{queue}/{backlog}"),
                (Some(queue), None) => queue.to_string(),
                _ => String::new(),
            };
            let fd = listener.fd.map_or(String::new(), |fd| fd.to_string());
            let outlook = listener.outlook.clone().unwrap_or_default();
            [listener.name.clone(), listener.address.clone(), listener.kind.clone(), fd, queue, outlook]
        });
        text += &render_table(["LISTENER", "ADDRESS", "KIND", "FD", "QUEUE", "OUTLOOK"], rows.collect());
    }
    if let Some(adopt) = &status.adopt {
        let rows = adopt.addresses.iter().map(|address| {
            [
                address.address.clone(),
                if address.shared { "share".into() } else { "steer".into() },
                distinct(address.serving.iter().map(|server| server.generation)),
                distinct(address.serving.iter().map(|server| server.slot)),
                address.sockets.to_string(),
                if address.others > 0 { address.others.to_string() } else { String::new() },
                address.queue.map_or(String::new(), |queue| queue.to_string()),
            ]
        });
        text += &render_table(
            ["ADDRESS", "ADOPTED", "GENERATION", "SLOTS", "SOCKETS", "OTHERS", "QUEUE"],
            rows.collect(),
        );
    }
    let rows = status.workers.iter().map(|worker| {
        [
            worker.slot.to_string(),
            worker.generation.to_string(),
            worker.pid.map_or(String::new(), |pid| pid.to_string()),
            worker.stage.clone(),
            format_millis(worker.age_ms),
            worker.ack.clone().unwrap_or_default(),
            worker.connections.map_or(String::new(), |count| count.to_string()),
            note(worker).unwrap_or_default(),
        ]
    });
    text += &render_table(
        ["SLOT", "GENERATION", "PID", "STAGE", "AGE", "ACK", "CONNECTIONS", "STATUS"],
        rows.collect(),
    );
    text
}

/// The worker on hold: until when, its part of the connections, and what --verify has found.
fn render_canary(canary: &Canary) -> String {
    let until = match canary.left_ms {
        Some(left) => format!("for another {}", format_millis(left)),
        None => "until ctl commit or ctl rollback".into(),
    };
    let pid = canary.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
    let weight = canary.weight_percent.and_then(|percent| Weight::new(percent.0));
    let weight = weight
        .map_or(String::new(), |weight| format!(", gets {} of the new connections", weight_text(weight)));
    let verify = canary.verify.as_ref().map_or(String::new(), |verify| {
        let ago = verify.ago_ms.map_or(String::new(), |ago| format!(", last {} ago", format_millis(ago)));
        let found = match format_count(verify.passed, "time", "times") {
            Some(times) => format!("has found it good {times}{ago}"),
            None => "has not found it good yet".into(),
        };
        let now = if verify.running { ", and runs" } else { "" };
        format!("; --verify {found}{now}")
    });
    format!("generation {} is on hold {until}: its first worker{pid}{weight}{verify}\n", canary.generation)
}

/// What is to be known of a worker beside its stage.
fn note(worker: &Worker) -> Option<String> {
    let soak = worker
        .startup_soak_ms
        .map(|left| format!("replaces in {}, as its predecessor took long to start", format_millis(left)));
    let stopped = worker.stopped.as_ref().map(|by| format!("stopped: {by}"));
    stopped.or_else(|| worker.drain.clone()).or(soak).or_else(|| worker.status.clone())
}

/// Numbers in their order, those that follow each other as a range: `0-3,5`.
fn distinct(numbers: impl Iterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers.collect::<BTreeSet<u32>>() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = ranges.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

fn format_count(number: u32, one: &str, many: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {many}")),
    }
}

/// A table with a head. A column that is empty in every row is left out.
fn render_table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    // A worker can put any bytes into its status.
    let rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| escape(&cell))).collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::from("\n");
    let shown: Vec<(usize, usize)> = (0..N)
        .filter(|&column| widest(column) > 0)
        .map(|column| (column, widest(column).max(head[column].len())))
        .collect();
    for row in std::iter::once(head.map(String::from)).chain(rows.iter().cloned()) {
        let cells: Vec<String> =
            shown.iter().map(|&(column, width)| format!("{:width$}", row[column])).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Milliseconds below one second, whole seconds from there on.
fn format_millis(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        _ => humantime::format_duration(Duration::from_secs(ms / 1000)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{Address, Adopted, LastUpgrade, Listener, Server};

    #[test]
    fn unknown_values_and_empty_columns_are_left_out() {
        let status = Status {
            pid: 71,
            name: Some("web".into()),
            phase: "running".into(),
            generation: 3,
            uptime_ms: 81_234,
            listeners: vec![Listener {
                name: "http".into(),
                address: "[::]:5001".into(),
                kind: "tcp".into(),
                fd: Some(3),
                outlook: Some("closed by the next upgrade".into()),
                ..Listener::default()
            }],
            workers: vec![Worker {
                pid: Some(90),
                generation: 3,
                stage: "ready".into(),
                age_ms: 21,
                ack: Some("notify".into()),
                status: Some("fine\x1b[31m\u{202e}".into()),
                ..Worker::default()
            }],
            last_upgrade: Some(LastUpgrade {
                from: 2,
                to: 3,
                result: "ok".into(),
                ago_ms: Some(65_000),
                ..LastUpgrade::default()
            }),
            crashes: 2,
            held: Some(4),
            workers_wanted: 1,
            upgrades: 3,
            adopt: Some(Adopted {
                mode: "steer".into(),
                addresses: vec![Address {
                    address: "0.0.0.0:80".into(),
                    generation: Some(3),
                    serving: [0, 1, 2, 4].map(|slot| Server { slot, generation: 3, pid: Some(90) }).into(),
                    sockets: 4,
                    queue: Some(0),
                    ..Address::default()
                }],
            }),
            ..Status::default()
        };
        let expected = "\
web: running, generation 3, pid 71, up 1m 21s
last upgrade: 2 to 3 ok after 0 ms, 1m 5s ago
generation 4 is on hold, 1 worker wanted, 3 upgrades succeeded, 2 workers ended by themselves

LISTENER  ADDRESS    KIND  FD  OUTLOOK
http      [::]:5001  tcp   3   closed by the next upgrade

ADDRESS     ADOPTED  GENERATION  SLOTS  SOCKETS  QUEUE
0.0.0.0:80  steer    3           0-2,4  4        0

SLOT  GENERATION  PID  STAGE  AGE    ACK     STATUS
0     3           90   ready  21 ms  notify  fine\\u{1b}[31m\\u{202e}
";
        assert_eq!(render_status(&status), expected);
    }
}
