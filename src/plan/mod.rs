//! What would be done with a command, without doing it: `graceful-run doctor -- COMMAND`, `--dry-run` and
//! `graceful-run profiles`.
//!
//! Contract: the command is not started, none of its sockets is bound, and nothing is written. What this
//! machine lacks is tried as `graceful-run doctor` tries it.

mod known;
mod outlook;
mod table;

use crate::cli::Cli;
use crate::config::{Config, Situation};
use crate::error::Error;
use crate::sys::inherited;
use outlook::Outlook;
use serde::Serialize;
use std::io::Write;

pub use known::{WORD, run as profiles};

/// Prints what would be done with the command of `cli`, as a table or as one JSON object. Returns our
/// exit status, and our last line on stderr. To be called while there is one thread, because it forks.
///
/// # Errors
/// What is wrong with the arguments.
pub fn show(cli: Cli, separated: bool, json: bool) -> Result<(u8, Option<String>), Error> {
    let situation = Situation::of(std::process::id());
    let handed = situation.sockets || !cli.bind.is_empty();
    let config = Config::new(cli, separated, situation, &inherited::ignored)?;
    let outlook = Outlook::of(config, handed);
    match json {
        true => print(&line(&outlook)),
        false => print(&outlook.table()),
    }
    Ok(match outlook.reasons.is_empty() {
        true => (0, None),
        false => (1, Some(format!("cannot be upgraded without losses here: {}", outlook.reasons.join("; ")))),
    })
}

/// A JSON object as one line.
fn line(object: &impl Serialize) -> String {
    serde_json::to_string(object).unwrap_or_default() + "\n"
}

fn print(text: &str) {
    // A reader that closes the pipe early (head(1)) is no error of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
