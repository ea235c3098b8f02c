//! The protocol of the control socket: one JSON object a line, in both directions.
//!
//! Contract: fields are only ever added, and unknown ones are ignored. So any version of `ctl`
//! can talk to any version of `graceful-run`. The reply to a request that is not understood
//! names what the server knows.

pub use super::request::{LONGEST_LINE, Request, VERSION};
pub use super::status::{
    Address, Adopted, Canary, LastUpgrade, Listener, Percent, Probation, Server, Status, Verified, Worker,
};
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
    /// The client is not permitted to send requests.
    Denied,
    /// The request is not understood.
    Invalid,
    /// An outcome of a later version.
    #[serde(other)]
    Other,
}

/// The reply to a request: the last line that is sent for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// How the request ended.
    pub result: Outcome,
    /// Why it was not done, for people.
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
    /// Of an upgrade that was undone, with `--surge`: how many slots stay replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<u32>,
    /// How many slots there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// Whether both generations serve until `commit` or `rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
    /// How many workers are wanted, were signalled or were killed.
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
    /// Our exit status.
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

    /// A reply of success: `what` was done.
    pub fn done(what: impl Into<String>) -> Reply {
        Reply { done: Some(what.into()), ..Reply::new(Outcome::Ok) }
    }

    /// A reply of failure, with its reason.
    pub fn failed(reason: impl Into<String>) -> Reply {
        Reply::because(Outcome::Failed, reason)
    }

    /// A reply with this result and a reason.
    pub fn because(result: Outcome, reason: impl Into<String>) -> Reply {
        Reply { reason: Some(reason.into()), ..Reply::new(result) }
    }
}

/// The value as a line, with its newline. This never fails for the types above.
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
