//! What goes over the control socket: one JSON object a line, in both directions.
//!
//! Contract: fields are only ever added, and unknown ones are passed over, so that
//! any `ctl` can speak to any `graceful-run`; what is not understood is answered,
//! with what would have been.

pub use super::request::{LONGEST_LINE, Request, VERSION};
pub use super::status::{Address, Adopted, LastUpgrade, Listener, Probation, Status, Worker};
pub use crate::cli::ctl::Verb;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

    #[test]
    fn an_older_and_a_newer_reply_are_read() {
        let reply: Reply = serde_json::from_str(r#"{"version":9,"result":"postponed","new":[]}"#).unwrap();
        assert_eq!(reply.result, Outcome::Other);
        let status: Status = serde_json::from_str(r#"{"pid":7,"moon":"full","workers":[{}]}"#).unwrap();
        assert_eq!((status.pid, status.workers.len()), (7, 1));
    }
}
