//! What bad releases say of themselves: which requests they began to handle, and when they died.
//!
//! Contract: a release writes a request down before it does anything else about it, and its
//! own end before it ends. So a failed request that stands here was the release's own. The
//! log says when the process was gone: on a busy machine that takes its time.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// All that was written.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Requests, and the release that began to handle each.
    pub begun: BTreeMap<u64, u32>,
    /// In order.
    pub deaths: Vec<Death>,
}

/// A whole server that ended itself.
#[derive(Debug)]
pub struct Death {
    /// The release that it was of.
    pub release: u32,
    /// Just before.
    pub at: SystemTime,
    /// When the log said that it was gone.
    pub gone: SystemTime,
}

impl Ledger {
    /// Reads `rN begins REQUEST` and `rN dies PROCESS MILLISECONDS`.
    ///
    /// Several processes or threads of a server may see the moment come to die: the first
    /// of a process counts.
    pub fn read(text: &str, log: &[(SystemTime, String)]) -> Ledger {
        let mut ledger = Ledger::default();
        let mut dead = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number =
                |at: usize| -> u64 { words[at].parse().unwrap_or_else(|_| panic!("ledger: {line}")) };
            let release = release_number(words[0]).unwrap_or_else(|| panic!("ledger: {line}"));
            match words[1] {
                "begins" => drop(ledger.begun.insert(number(2), release)),
                "dies" if dead.contains(&(release, number(2))) => {}
                "dies" => {
                    dead.push((release, number(2)));
                    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(number(3));
                    let gone =
                        gone(log, number(2), at).unwrap_or_else(|| panic!("no end in the log: {line}"));
                    ledger.deaths.push(Death { release, at, gone });
                }
                _ => panic!("ledger: {line}"),
            }
        }
        ledger
    }
}

/// When the log first said that this process was gone; a process id may be used again.
fn gone(log: &[(SystemTime, String)], process: u64, from: SystemTime) -> Option<SystemTime> {
    let end = [format!(": pid {process} exited "), format!(": pid {process} was ended ")];
    let is_it = |line: &str| end.iter().any(|end| line.contains(end));
    log.iter().find(|(at, line)| *at >= from && is_it(line)).map(|(at, _)| *at)
}

/// `12` of `r12`.
pub fn release_number(name: &str) -> Option<u32> {
    name.strip_prefix('r')?.parse().ok()
}
