//! How a request goes on, for whoever waits in front of a terminal or reads a log.

use super::table::length;
use crate::logger::escape;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// What is shown while a result is waited for. A line that draws over itself is all
/// that is needed, so no crate of progress bars is: each has threads and a size of
/// its own.
pub(super) struct Progress {
    /// On a terminal: one line, drawn over and over.
    pub(super) drawn: bool,
    /// Elsewhere: a line for what happens.
    told: bool,
    /// Something is on the line.
    shown: bool,
}

impl Progress {
    pub(super) fn new(json: bool) -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { drawn: terminal && !json, told: !terminal && !json, shown: false }
    }

    pub(super) fn event(&mut self, text: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(text) else { return };
        if self.drawn
            && let Some(line) = progress_line(&event)
        {
            self.write(&format!("\r\x1b[K{line}"));
            self.shown = true;
        } else if self.told
            && let Some(line) = words(&event)
        {
            self.write(&format!("{}\n", escape(&line)));
        }
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // A reader that has gone changes nothing.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

fn number(event: &Value, field: &str) -> u64 {
    event.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// `generation 3: 2/8 ready, 1 draining, 14 connections`
fn progress_line(event: &Value) -> Option<String> {
    if event.get("event")? != "progress" {
        return None;
    }
    let count = |field: &str| number(event, field);
    let mut line = format!("generation {}: {}/{} ready", count("generation"), count("ready"), count("of"));
    if count("draining") > 0 {
        line += &format!(", {} draining", count("draining"));
    }
    if let Some(connections) = event.get("connections").and_then(Value::as_u64) {
        line += &format!(", {connections} connections");
    }
    Some(line)
}

/// What is worth a line of those who wait.
fn words(event: &Value) -> Option<String> {
    let count = |field: &str| number(event, field);
    let worker = || format!("generation {}: pid {}", count("generation"), count("pid"));
    Some(match event.get("event")?.as_str()? {
        "upgrade-started" => {
            format!("upgrade to generation {} begins, generation {} serves", count("to"), count("from"))
        }
        "upgrade-kept" => "one is under way: another follows it".into(),
        "started" => format!("{} started", worker()),
        "ready" => format!("{} ready after {}", worker(), length(count("after_ms"))),
        "no-ack" => format!("{} not ready after {}", worker(), length(count("after_ms"))),
        "gone" => format!("{} {}", worker(), event.get("how")?.as_str()?),
        "killed" => format!("{} killed", worker()),
        "stopping" => "stopping".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn progress_has_no_more_than_is_known() {
        let event = json!({"event": "progress", "generation": 3, "ready": 2, "of": 8, "draining": 1, "connections": 14});
        assert_eq!(progress_line(&event).unwrap(), "generation 3: 2/8 ready, 1 draining, 14 connections");
        let event = json!({"event": "progress", "generation": 3, "ready": 8, "of": 8, "connections": null});
        assert_eq!(progress_line(&event).unwrap(), "generation 3: 8/8 ready");
        assert_eq!(progress_line(&json!({"event": "ready"})), None);
    }
}
