//! The progress of a request, on a terminal or in a log.

use crate::config::duration_text;
use crate::logger::escape;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Shows what happens while ctl waits for a result. One line that is redrawn needs no crate
/// of progress bars: those have threads, and make the program bigger.
pub(super) struct Progress {
    /// On a terminal: one line, which is redrawn.
    pub(super) redraws: bool,
    /// Elsewhere: one line for each event.
    logs: bool,
    /// Whether the redrawn line has text on it.
    dirty: bool,
}

impl Progress {
    pub(super) fn new(json: bool) -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { redraws: terminal && !json, logs: !terminal && !json, dirty: false }
    }

    pub(super) fn event(&mut self, text: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(text) else { return };
        if self.redraws
            && let Some(line) = progress_line(&event)
        {
            self.write(&format!("\r\x1b[K{line}"));
            self.dirty = true;
        } else if self.logs
            && let Some(line) = log_line(&event)
        {
            self.write(&format!("{}\n", escape(&line)));
        }
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        // It is no error if nobody reads stderr.
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

/// The event as a line of a log; None if it is not worth one.
fn log_line(event: &Value) -> Option<String> {
    let count = |field: &str| number(event, field);
    let after = || duration_text(Duration::from_millis(count("after_ms")));
    let worker = || format!("generation {}: pid {}", count("generation"), count("pid"));
    Some(match event.get("event")?.as_str()? {
        "upgrade-started" => {
            format!("upgrade to generation {} begins, generation {} serves", count("to"), count("from"))
        }
        "upgrade-kept" => event.get("behind")?.as_str()?.into(),
        "started" => format!("{} started", worker()),
        "ready" => format!("{} ready after {}", worker(), after()),
        "no-ack" => format!("{} not ready after {}", worker(), after()),
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
    fn progress_leaves_out_what_is_not_known() {
        let event = json!({"event": "progress", "generation": 3, "ready": 2, "of": 8, "draining": 1, "connections": 14});
        assert_eq!(progress_line(&event).unwrap(), "generation 3: 2/8 ready, 1 draining, 14 connections");
        let event = json!({"event": "progress", "generation": 3, "ready": 8, "of": 8, "connections": null});
        assert_eq!(progress_line(&event).unwrap(), "generation 3: 8/8 ready");
        assert_eq!(progress_line(&json!({"event": "ready"})), None);
    }

    #[test]
    fn a_duration_is_that_of_the_log() {
        let event = json!({"event": "ready", "generation": 3, "pid": 7, "after_ms": 4771});
        assert_eq!(log_line(&event).unwrap(), "generation 3: pid 7 ready after 4771 ms");
    }
}
