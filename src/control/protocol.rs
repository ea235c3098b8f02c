//! What goes over the control socket: one JSON object a line, in both directions.
//!
//! Contract: fields are only ever added, and unknown ones are passed over, so that
//! any `ctl` can speak to any `graceful-run`; what is not understood is answered,
//! with what would have been.

use crate::config::signals;

pub use super::status::{Address, Adopted, LastUpgrade, Listener, Probation, Status, Worker};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// A request is at most this long, in bytes, without its newline.
pub const LONGEST_LINE: usize = 64 * 1024;

/// What can be asked for, as it is spelled.
pub const VERBS: [&str; 13] = [
    "status", "upgrade", "commit", "rollback", "scale", "stop", "signal", "hammer", "reexec", "events",
    "bind", "unbind", "metrics",
];

/// A request, with its words understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// What there is.
    Status,
    /// Replace the serving generation.
    Upgrade(How),
    /// What is on hold serves alone.
    Commit,
    /// What is on hold goes.
    Rollback,
    /// So many workers.
    Scale(u32),
    /// Stop the workers and end; `now`: kill them.
    Stop {
        /// Without waiting.
        now: bool,
    },
    /// Pass a signal, by number, on to ready workers.
    Signal(i32),
    /// Kill whatever drains.
    Hammer,
    /// Become the program that now lies at our path.
    Reexec,
    /// Tell everything that happens from now on.
    Events,
    /// Hold one more socket from the next upgrade on.
    Bind(String),
    /// Let go of a socket from the next upgrade on.
    Unbind(String),
    /// Numbers for a monitor.
    Metrics,
}

impl fmt::Display for Verb {
    /// As ctl has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verb::Status => f.write_str("status"),
            Verb::Upgrade(How::Plain) => f.write_str("upgrade"),
            Verb::Upgrade(How::Now) => f.write_str("upgrade --now"),
            Verb::Upgrade(How::Hold) => f.write_str("upgrade --hold"),
            Verb::Commit => f.write_str("commit"),
            Verb::Rollback => f.write_str("rollback"),
            Verb::Scale(workers) => write!(f, "scale {workers}"),
            Verb::Stop { now: false } => f.write_str("stop"),
            Verb::Stop { now: true } => f.write_str("stop --now"),
            Verb::Signal(signal) => write!(f, "signal {}", signals::name(*signal)),
            Verb::Hammer => f.write_str("hammer"),
            Verb::Reexec => f.write_str("reexec"),
            Verb::Events => f.write_str("events"),
            Verb::Bind(bind) => write!(f, "bind {bind}"),
            Verb::Unbind(name) => write!(f, "unbind {name}"),
            Verb::Metrics => f.write_str("metrics"),
        }
    }
}

/// The kinds of upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// After the one under way.
    Plain,
    /// Instead of the one under way.
    Now,
    /// Both generations serve until somebody decides.
    Hold,
}

/// A request as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// One of [`VERBS`].
    pub verb: String,
    /// Of `upgrade`: keep both generations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hold: bool,
    /// Of `upgrade`: supersede; of `stop`: kill.
    #[serde(default, skip_serializing_if = "is_false")]
    pub now: bool,
    /// Whether the result is the outcome, or that the request was taken.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub wait: bool,
    /// Whether events of kind `progress` are wanted meanwhile.
    #[serde(default, skip_serializing_if = "is_false")]
    pub progress: bool,
    /// Of `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Of `signal`: a name, with or without SIG, or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Of `bind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// Of `unbind`: the name of a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_true(flag: &bool) -> bool {
    *flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Request {
    /// A request for `verb` that waits for its outcome.
    pub fn new(verb: &str) -> Request {
        Request {
            version: VERSION,
            verb: verb.into(),
            hold: false,
            now: false,
            wait: true,
            progress: false,
            workers: None,
            signal: None,
            bind: None,
            name: None,
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what is known instead.
    pub fn read(line: &[u8]) -> Result<Request, String> {
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err("a request is a JSON object in one line".into());
        }
        // Of a later version nothing is known but that it has one.
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<u64>,
        }
        let not_json = |error: serde_json::Error| format!("the request is not understood: {error}");
        match serde_json::from_slice::<Versioned>(line).map_err(not_json)?.version {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(format!("version {version} is not known (known: {VERSION})")),
            None => return Err(format!("version is missing (known: {VERSION})")),
        }
        serde_json::from_slice(line).map_err(not_json)
    }

    /// What is asked for.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn verb(&self) -> Result<Verb, String> {
        let needed = |what: &str| format!("'{}' needs '{what}'", self.verb);
        Ok(match self.verb.as_str() {
            "status" => Verb::Status,
            "upgrade" => Verb::Upgrade(match (self.hold, self.now) {
                (true, true) => return Err("'hold' and 'now' exclude each other".into()),
                (true, false) => How::Hold,
                (false, true) => How::Now,
                (false, false) => How::Plain,
            }),
            "commit" => Verb::Commit,
            "rollback" => Verb::Rollback,
            "scale" => Verb::Scale(self.workers.ok_or_else(|| needed("workers"))?),
            "stop" => Verb::Stop { now: self.now },
            "signal" => {
                let name = self.signal.as_deref().ok_or_else(|| needed("signal"))?;
                let signal = signals::signal_by_name(name);
                Verb::Signal(signal.ok_or_else(|| format!("there is no signal '{name}'"))? as i32)
            }
            "hammer" => Verb::Hammer,
            "reexec" => Verb::Reexec,
            "events" => Verb::Events,
            "bind" => Verb::Bind(self.bind.clone().ok_or_else(|| needed("bind"))?),
            "unbind" => Verb::Unbind(self.name.clone().ok_or_else(|| needed("name"))?),
            "metrics" => Verb::Metrics,
            other => return Err(format!("verb '{other}' is not known (known: {})", VERBS.join(", "))),
        })
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not done, or undone.
    Failed,
    /// Another request took its place.
    Superseded,
    /// The client may not ask.
    Denied,
    /// The request is not understood.
    Invalid,
    /// A word of a later version.
    #[serde(other)]
    Other,
}

/// The last line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// How it ended.
    pub result: Outcome,
    /// Why, unless it is done; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was done, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// The generation that served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// The generation that was to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Of an upgrade that was undone, with `--surge`: slots that have been replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<u32>,
    /// And how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// Whether both generations serve until somebody decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
    /// Workers that are wanted, were signalled or were killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// The last lines of the failed worker's stderr, with `--capture-stderr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
    /// Of `bind`: the name that the listener got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of `bind`: where it is bound, as the kernel has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Of `metrics`: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// With what we exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u8>,
    /// Of `status`: a [`Status`], as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<RawValue>>,
}

impl Reply {
    /// A reply with nothing but its result.
    pub fn new(result: Outcome) -> Reply {
        Reply {
            version: VERSION,
            result,
            reason: None,
            done: None,
            from: None,
            to: None,
            duration_ms: None,
            replaced: None,
            of: None,
            held: None,
            workers: None,
            stderr: Vec::new(),
            name: None,
            address: None,
            metrics: None,
            exit_status: None,
            status: None,
        }
    }

    /// Done: `what`, in words.
    pub fn done(what: impl Into<String>) -> Reply {
        Reply { done: Some(what.into()), ..Reply::new(Outcome::Ok) }
    }

    /// Not done, and why.
    pub fn failed(reason: impl Into<String>) -> Reply {
        Reply::because(Outcome::Failed, reason)
    }

    /// A result that has a reason.
    pub fn because(result: Outcome, reason: impl Into<String>) -> Reply {
        Reply { reason: Some(reason.into()), ..Reply::new(result) }
    }
}

/// One line, with its newline. Never fails for the types above.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(line: &[u8]) -> String {
        match Request::read(line) {
            Err(why) => why,
            Ok(request) => request.verb().unwrap_err(),
        }
    }

    #[test]
    fn a_request_has_defaults_and_room_for_more() {
        let line = br#"{"verb":"upgrade","version":1,"colour":{"deep":[1,2]},"now":true}"#;
        let request = Request::read(line).unwrap();
        assert_eq!(request, Request { now: true, ..Request::new("upgrade") });
        assert_eq!(request.verb(), Ok(Verb::Upgrade(How::Now)));
        assert_eq!(line_of(&Request::new("status")), r#"{"version":1,"verb":"status"}"#);
    }

    #[test]
    fn what_is_not_understood_names_what_is() {
        for (line, words) in [
            (&b"hello"[..], "a JSON object in one line"),
            (b"", "a JSON object"),
            (b"[1,\"status\"]", "a JSON object"),
            (b"{\"version\":1", "not understood: EOF"),
            (b"{\"version\":1} {}", "not understood: trailing"),
            (b"{\"verb\":\"status\"}", "version is missing (known: 1)"),
            (b"{\"version\":2,\"verb\":7}", "version 2 is not known (known: 1)"),
            (b"{\"version\":1}", "missing field `verb`"),
            (b"{\"version\":1,\"verb\":\"dance\"}", "(known: status, upgrade, "),
            (b"{\"version\":1,\"verb\":\"scale\"}", "'scale' needs 'workers'"),
            (b"{\"version\":1,\"verb\":\"scale\",\"workers\":-1}", "not understood: invalid value"),
            (b"{\"version\":1,\"verb\":\"signal\",\"signal\":\"X\"}", "there is no signal 'X'"),
            (b"{\"version\":1,\"verb\":\"upgrade\",\"hold\":true,\"now\":true}", "exclude each other"),
            (b"{\"version\":1,\"verb\":\"st\0atus\"}", "not understood: control character"),
            (b"{\"version\":1,\"verb\":\"\xff\"}", "not understood: invalid unicode"),
        ] {
            let why = refused(line);
            assert!(why.contains(words), "{}: {why}", String::from_utf8_lossy(line));
        }
        let bomb = format!("{{\"version\":1,\"verb\":{}", "[".repeat(60_000));
        assert!(refused(bomb.as_bytes()).contains("not understood"));
        let bomb = format!("{{\"version\":1,\"verb\":\"status\",\"more\":{}", "{\"a\":".repeat(10_000));
        assert!(refused(bomb.as_bytes()).contains("not understood"));
    }

    #[test]
    fn every_verb_that_is_named_is_known() {
        for name in VERBS {
            let all = Request {
                workers: Some(1),
                signal: Some("USR1".into()),
                bind: Some(":1".into()),
                name: Some("a".into()),
                ..Request::new(name)
            };
            assert!(all.verb().is_ok(), "{name}");
        }
    }

    #[test]
    fn an_older_and_a_newer_reply_are_read() {
        let reply: Reply = serde_json::from_str(r#"{"version":9,"result":"postponed","new":[]}"#).unwrap();
        assert_eq!(reply.result, Outcome::Other);
        let status: Status = serde_json::from_str(r#"{"pid":7,"moon":"full","workers":[{}]}"#).unwrap();
        assert_eq!((status.pid, status.workers.len()), (7, 1));
    }

    fn line_of(value: &impl Serialize) -> String {
        String::from_utf8(line(value)).unwrap().trim_end().into()
    }

    proptest! {
        #[test]
        fn no_line_is_a_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::read(&bytes).and_then(|request| request.verb());
        }

        #[test]
        fn what_is_written_is_read(hold: bool, wait: bool, workers: Option<u32>, name: Option<String>) {
            let request = Request { hold, wait, workers, name, ..Request::new("scale") };
            let line = line(&request);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(Request::read(&line).unwrap(), request);
        }
    }
}
