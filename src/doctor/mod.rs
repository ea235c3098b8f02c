//! `graceful-run doctor`: what this machine and its container allow, and what to
//! change.
//!
//! Contract: every check gives a line, whatever it finds; nothing outlives a check and
//! nothing is changed. What a system call filter may kill is tried in a child. What can be tried is tried, as graceful-run would do it and
//! on a child or a socket of our own; the rest is read from `/proc` and the
//! environment. The exit status is 1 if a feature of ours is not available.

mod adopt;
mod check;
mod limits;
mod machine;
mod network;
mod surroundings;

use crate::cli::doctor::Doctor;
use crate::sys::inherited;
use check::State;
use machine::Machine;
use serde::Serialize;
use std::io::Write;

pub use check::Check;

/// The first argument that selects this command.
pub const WORD: &str = "doctor";

/// Fields are only ever added.
#[derive(Debug, Serialize)]
struct Report<'a> {
    version: u32,
    checks: &'a [Check],
}

/// Makes every check and prints the report on stdout. Returns our exit status, and our last
/// line on stderr. To be called while there is one thread, because it forks.
pub fn run(flags: &Doctor) -> (u8, Option<String>) {
    inherited::default_sigchld();
    let machine = Machine::new("/", std::env::vars_os().collect());
    let all = [adopt::checks, network::checks, limits::checks, surroundings::checks];
    let checks: Vec<Check> = all.into_iter().flat_map(|checks| checks(&machine)).collect();
    let text = match flags.json {
        true => serde_json::to_string(&Report { version: 1, checks: &checks }).unwrap_or_default() + "\n",
        false => checks.iter().map(|check| format!("{check}\n")).collect(),
    };
    // A reader that closes the pipe early (head(1)) is no error of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    verdict(&checks)
}

/// What is missing for these features, such as `--adopt`. As [`run`] in what it does.
pub fn missing_for(features: &[&str]) -> Vec<Check> {
    inherited::default_sigchld();
    let machine = Machine::new("/", std::env::vars_os().collect());
    let adopt = features.contains(&adopt::ADOPT).then(|| adopt::checks(&machine));
    let others = [network::checks, limits::checks, surroundings::checks];
    let checks = adopt.into_iter().flatten().chain(others.into_iter().flat_map(|checks| checks(&machine)));
    let is_used = |check: &Check| features.iter().any(|feature| check.used_by.contains(feature));
    checks.filter(|check| check.state == State::Missing && is_used(check)).collect()
}

fn verdict(checks: &[Check]) -> (u8, Option<String>) {
    let missing = checks.iter().filter(|check| check.state == State::Missing);
    let missing: Vec<String> = missing.map(|check| format!("{} for {}", check.name, check.used_by)).collect();
    match missing.is_empty() {
        true => (0, None),
        false => {
            (1, Some(format!("cannot do everything here: there is no {} (see above)", missing.join(", no "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check::Subject;
    use super::*;

    #[test]
    fn what_is_missing_is_the_verdict() {
        const ONE: &Subject = &Subject("one", "--adopt");
        const TWO: &Subject = &Subject("two", "--watch");
        assert_eq!(verdict(&[ONE.ok("x"), TWO.note("y", "z")]), (0, None));
        let (status, line) = verdict(&[ONE.missing("x", "z"), TWO.missing("y", "z")]);
        let expected =
            "cannot do everything here: there is no one for --adopt, no two for --watch (see above)";
        assert_eq!((status, line.as_deref()), (1, Some(expected)));
    }

    /// Nothing to read at all: every line is there all the same.
    #[test]
    fn a_machine_without_files_is_reported() {
        let nowhere = Machine::new("/nonexistent", Vec::new());
        let checks = [network::checks(&nowhere), limits::checks(&nowhere), surroundings::checks(&nowhere)];
        let missing = checks.iter().flatten().filter(|check| check.state == State::Missing);
        assert_eq!(missing.map(|check| check.name.as_ref()).collect::<Vec<_>>(), ["/proc"]);
    }
}
