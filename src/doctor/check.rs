//! The result of one check, and its line in the report.

use serde::Serialize;
use std::fmt;

/// The state of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// Its state.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<&'static str>,
    /// The feature of ours that uses it.
    #[serde(rename = "for")]
    pub used_by: &'static str,
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
        Check { name: self.0, state, found, advice, used_by: self.1 }
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
