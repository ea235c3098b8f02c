//! The requests of a worker on einhorn's control socket: one a line, as JSON or
//! the YAML of einhorn's Ruby client, in which `%` and newlines are escaped.

use serde_json::Value;

/// The longest line that is read, in bytes; an ack has some fifty.
pub const LONGEST: usize = 4096;

/// The process that a request reports as ready; None for any other request.
pub fn acked(line: &[u8]) -> Option<i32> {
    let line = std::str::from_utf8(line).ok()?;
    let text = line.replace("%0A", "\n").replace("%25", "%");
    let (command, pid) = json(&text).or_else(|| yaml(&text))?;
    (command == "worker:ack").then_some(pid)
}

fn json(text: &str) -> Option<(String, i32)> {
    let Value::Object(request) = serde_json::from_str(text).ok()? else { return None };
    let pid = i32::try_from(request.get("pid")?.as_i64()?).ok()?;
    Some((request.get("command")?.as_str()?.to_owned(), pid))
}

/// A block mapping of scalars: all that the client ever writes. A key may be a
/// Ruby symbol.
fn yaml(text: &str) -> Option<(String, i32)> {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let line = line.trim_start_matches(':');
            let value = line.strip_prefix(key)?.strip_prefix(':')?;
            Some(value.trim().trim_matches(['"', '\'']))
        })
    };
    Some((value("command")?.to_owned(), value("pid")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        for line in [
            r#"{"command":"worker:ack","pid":71}"#,
            r#"{ "pid" : 71, "command": "worker:ack", "extra": [1] }"#,
            "---%0Acommand: worker:ack%0Apid: 71%0A",
            "--- %0A:command: worker:ack%0A:pid: 71%0A",
            "---%0Acommand: \"worker:ack\"%0Apid: '71'",
        ] {
            assert_eq!(acked(line.as_bytes()), Some(71), "{line}");
        }
    }

    #[test]
    fn everything_else_acks_nothing() {
        for line in [
            "",
            "{}",
            "[1]",
            "71",
            r#"{"command":"worker:ping","pid":71,"request_id":"x"}"#,
            r#"{"command":"worker:ack"}"#,
            r#"{"command":"worker:ack","pid":"71"}"#,
            r#"{"command":"worker:ack","pid":99999999999}"#,
            r#"{"command":["worker:ack"],"pid":71}"#,
            "---%0Acommand: worker:ack%0Apid: many",
            "command: worker:ackpid: 71",
        ] {
            assert_eq!(acked(line.as_bytes()), None, "{line}");
        }
        assert_eq!(acked(b"\xff"), None);
        assert_eq!(acked("[".repeat(LONGEST).as_bytes()), None);
    }
}
