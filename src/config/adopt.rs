//! `--adopt`: when it holds, the options that it cannot be combined with, and its policy.

use super::applied::Applied;
use super::value::{duration, timeout};
use crate::cli::{self, Cli};
use crate::core::policy;
use crate::error::Error;
use std::collections::BTreeSet;
use std::time::Duration;

/// How the sockets that a worker binds itself are adopted.
#[derive(Debug, Clone)]
pub struct Adopt {
    /// All generations share one socket; otherwise each has its own.
    pub share: bool,
    /// The ports that are adopted; empty: all.
    pub ports: BTreeSet<u16>,
    /// Unix sockets are adopted too.
    pub paths: bool,
    /// A connection that has been idle for this long, after the server was the last to send,
    /// counts as drained.
    pub idle: Duration,
    /// A new worker has to wait for connections where the one that serves does. Not where the user
    /// has said what makes a worker ready.
    pub must_wait: bool,
    /// Nobody has asked for it: where it cannot be had, the command runs without.
    pub auto: bool,
    /// A worker that binds nothing is ready after a time: it may be one without sockets.
    pub may_bind_nothing: bool,
}

/// The configuration, and the policy of the core. `sockets`: we were started with some; `applied`: the
/// command is a known server.
///
/// # Errors
/// [`Error::Usage`], naming what it cannot go with.
pub(super) fn adopt(
    cli: &Cli,
    sockets: bool,
    applied: Option<&Applied>,
) -> Result<Option<(Adopt, policy::Adopt)>, Error> {
    let handed = sockets || !cli.bind.is_empty() || !cli.export.is_empty();
    // Who waits to see a worker on its listeners has some of ours in mind.
    let seen = cli.ack.iter().any(|ack| ack.split(',').any(|kind| kind == "accepting"));
    let alone = !handed && !seen && cli.follow.is_none();
    let auto = matches!(cli.adopt, None | Some(cli::Adopt::Auto));
    let share = cli.adopt == Some(cli::Adopt::Share);
    if cli.adopt == Some(cli::Adopt::Never) || auto && !alone {
        if !cli.port.is_empty() {
            return Err(Error::Usage(
                "--port needs sockets that are adopted (leave -b out, or say --adopt)".into(),
            ));
        }
        return Ok(None);
    }
    let against = [
        (
            !share && !cli.bind.is_empty(),
            "--bind",
            "the program binds its own sockets (write --adopt=share to have it bind ours)",
        ),
        (!cli.export.is_empty(), "--export", "no socket is handed over"),
        (cli.follow.is_some(), "--follow", "we start every worker ourselves"),
    ];
    if let Some((_, option, why)) = against.iter().find(|(given, ..)| *given) {
        return Err(Error::Usage(format!("--adopt cannot go with {option}: {why}")));
    }
    if let Some(word) = cli.command.first().filter(|word| *word == "share" || *word == "steer") {
        let word = word.display();
        return Err(Error::Usage(format!("cannot run '{word}' with --adopt: write --adopt={word}")));
    }
    let adopt = Adopt {
        share,
        ports: cli.port.iter().copied().collect(),
        paths: cli.port.is_empty(),
        idle: duration("--idle", &cli.idle)?,
        must_wait: cli.ack.iter().all(|ack| ack == "auto"),
        auto,
        may_bind_nothing: auto && !applied.is_some_and(Applied::listens),
    };
    let soak = cli.soak.as_deref().map(|soak| duration("--soak", soak)).transpose()?;
    let policy = policy::Adopt {
        steer: !share,
        soak: soak.unwrap_or_default(),
        drain_timeout: timeout("--drain-timeout", &cli.drain_timeout)?,
    };
    Ok(Some((adopt, policy)))
}
