//! The result of one check, and its line in the report.

use crate::sys::probe::{self, Silence};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// The state of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and there is something to know; or it could not be checked.
    Note,
    /// A feature that needs it is not available.
    Missing,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What it is.
    pub name: Cow<'static, str>,
    /// Its state.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<Cow<'static, str>>,
    /// The feature of ours that uses it.
    #[serde(rename = "for")]
    pub used_by: Cow<'static, str>,
}

/// The subject of a check: its name, and the feature of ours that uses it.
#[derive(Debug)]
pub struct Subject(pub &'static str, pub &'static str);

impl Subject {
    /// It is as it should be.
    pub fn ok(&self, found: impl Into<String>) -> Check {
        self.check(State::Ok, found.into(), None)
    }

    /// There is something to know, and something that can be done.
    pub fn note(&self, found: impl Into<String>, advice: &'static str) -> Check {
        self.check(State::Note, found.into(), Some(advice))
    }

    /// The feature that uses it is not available until something is done.
    pub fn missing(&self, found: impl Into<String>, advice: &'static str) -> Check {
        self.check(State::Missing, found.into(), Some(advice))
    }

    fn check(&self, state: State, found: String, advice: Option<&'static str>) -> Check {
        Check { name: self.0.into(), state, found, advice: advice.map(Cow::from), used_by: self.1.into() }
    }
}

/// What to do where a filter kills the process that makes a call.
const FILTER: &str = "SystemCallFilter= of our unit, or what else filters, has to allow it";

impl Subject {
    /// Makes the check in a child, because a system call filter may kill whoever makes a call. Where
    /// there can be no child it is made here.
    pub fn isolated(&self, check: impl Fn() -> Check) -> Check {
        self.isolated_with(FILTER, check)
    }

    /// The same, with the advice for a filter that kills.
    pub fn isolated_with(&self, filter: &'static str, check: impl Fn() -> Check) -> Check {
        let answer = probe::in_child(|| serde_json::to_vec(&check()).unwrap_or_default());
        match answer.map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(check)) => check,
            Err(Silence::NoChild(_)) => check(),
            Err(Silence::Filtered) => self.filtered(filter),
            Ok(Err(_)) | Err(Silence::Ended) => {
                self.missing("what tried it did not end well, or not in time", "look at what else watches us")
            }
        }
    }

    /// What tried it was killed by a filter.
    pub fn filtered(&self, advice: &'static str) -> Check {
        self.missing("a system call filter kills who tries it (signal SYS)", advice)
    }
}

/// A line without its end: state, name, what was found, who lacks it, what to do.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Missing => "missing",
        };
        write!(f, "{state:<8} {}: {}", self.name, self.found)?;
        if self.state == State::Missing {
            write!(f, "; {} cannot be had", self.used_by)?;
        }
        match &self.advice {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_lacks_what_is_missing_and_what_to_do() {
        const INOTIFY: &Subject = &Subject("inotify", "--watch");
        let line = |check: Check| check.to_string();
        assert_eq!(line(INOTIFY.ok("128 instances")), "ok       inotify: 128 instances");
        assert_eq!(line(INOTIFY.note("few", "raise it")), "note     inotify: few (raise it)");
        let missing = INOTIFY.missing("none", "raise it");
        assert_eq!(missing.to_string(), "missing  inotify: none; --watch cannot be had (raise it)");
        let json = serde_json::to_value(&missing).unwrap();
        let all = ["inotify", "missing", "none", "raise it", "--watch"];
        assert_eq!(["name", "state", "found", "advice", "for"].map(|key| json[key].as_str().unwrap()), all);
        assert!(serde_json::to_value(INOTIFY.ok("")).unwrap()["advice"].is_null());
    }
}
