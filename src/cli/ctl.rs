//! The flags of `graceful-run ctl`, and its verbs.
//!
//! Contract: [`Verb`] is the only list of verbs. clap derives the command line from it
//! (the doc comments are `--help`, the completions and CONTROL of the man page); serde
//! derives the members of a request on the control socket. A member that is skipped by
//! serde concerns the client alone.

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Not;
use std::path::PathBuf;

/// Talk to a running graceful-run
///
/// Every verb waits for its outcome and exits with it: a deploy script that goes on
/// after `upgrade` knows that the new generation serves. Without --name and --socket
/// it is the one in GRACEFUL_RUN_CONTROL (a worker's own), else the only one that
/// runs.
#[derive(Debug, Parser)]
#[command(
    name = "graceful-run ctl",
    bin_name = "graceful-run ctl",
    version,
    after_help = STATUSES,
    after_long_help = STATUSES,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub struct Ctl {
    /// The one that was started with this --name
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "socket")]
    pub name: Option<String>,

    /// The one whose control socket is here
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// Print one JSON object on stdout, and nothing else
    #[arg(long, global = true)]
    pub json: bool,

    /// Wait for the outcome no longer than this: exit 124, and what was begun goes on [default: 0, for ever]
    #[arg(long, value_name = "DUR", global = true)]
    pub timeout: Option<String>,

    /// What is asked for.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Show generation, workers, listeners and the last upgrade
    Status {
        /// Show it anew each second, until it ends
        #[arg(long)]
        #[serde(skip)]
        watch: bool,
    },
    /// Replace the serving generation; done when the new one serves
    ///
    /// While one is under way it comes after that, and its outcome is that of the next.
    Upgrade {
        /// Keep both generations until `commit` or `rollback`: one worker of the new one serves beside the old
        #[arg(long, conflicts_with = "now")]
        #[serde(default, skip_serializing_if = "Not::not")]
        hold: bool,
        /// Supersede the one that is under way or on hold, instead of coming after it
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Not::not")]
        now: bool,
        /// Whether its outcome is waited for.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Let the generation that is on hold serve alone
    Commit(#[serde(skip)] Waiting),
    /// Undo the upgrade that is on hold
    Rollback(#[serde(skip)] Waiting),
    /// Have so many workers; done when they are ready
    Scale {
        /// How many.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        workers: u32,
        /// Whether its outcome is waited for.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Stop the workers, and end; done when everything is gone
    ///
    /// Also where workers had to be killed: what graceful-run exits with is exit_status
    /// in --json.
    Stop {
        /// Kill them
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Not::not")]
        now: bool,
        /// Whether its outcome is waited for.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Pass a signal on to ready workers, whatever it does to them
    Signal {
        /// Its name or number.
        #[arg(value_name = "SIG")]
        signal: String,
    },
    /// Kill whatever is still draining
    Hammer,
    /// Print what happens from now on, a JSON object a line
    Events,
    /// Replace graceful-run itself by the binary at its path; done when that has taken over
    ///
    /// The process stays the same, with its workers, sockets and clients. One that shows
    /// no sign of being able to take over is refused, and nothing has happened.
    Reexec,
    /// Hold one more socket, handed over from the next upgrade on
    ///
    /// Whatever is wrong with it is told at once. If the upgrade is undone it waits for
    /// the one after it. Not with `reuseport`, `fd://` or a host name.
    Bind {
        /// As in `-b`.
        #[arg(value_name = "BIND")]
        bind: String,
    },
    /// Let go of a socket once the next upgrade has succeeded
    Unbind {
        /// Its name, as in `ctl status`.
        #[arg(value_name = "NAME")]
        #[serde(rename = "name")]
        listener: String,
    },
    /// Print the status as numbers for a monitor, in the text format of Prometheus
    Metrics,
}

/// Of verbs that take their time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Waiting {
    /// Do not wait for the outcome
    #[arg(long)]
    pub no_wait: bool,
}

impl Verb {
    /// Whether the outcome is waited for: not with `--no-wait`.
    pub fn waits(&self) -> bool {
        match self {
            Verb::Upgrade { waiting, .. }
            | Verb::Commit(waiting)
            | Verb::Rollback(waiting)
            | Verb::Scale { waiting, .. }
            | Verb::Stop { waiting, .. } => !waiting.no_wait,
            _ => true,
        }
    }
}

impl fmt::Display for Verb {
    /// The verb with its arguments, as a user types them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verb::Status { .. } => f.write_str("status"),
            Verb::Upgrade { hold: true, .. } => f.write_str("upgrade --hold"),
            Verb::Upgrade { now: true, .. } => f.write_str("upgrade --now"),
            Verb::Upgrade { .. } => f.write_str("upgrade"),
            Verb::Commit(_) => f.write_str("commit"),
            Verb::Rollback(_) => f.write_str("rollback"),
            Verb::Scale { workers, .. } => write!(f, "scale {workers}"),
            Verb::Stop { now: true, .. } => f.write_str("stop --now"),
            Verb::Stop { .. } => f.write_str("stop"),
            Verb::Signal { signal } => write!(f, "signal {signal}"),
            Verb::Hammer => f.write_str("hammer"),
            Verb::Events => f.write_str("events"),
            Verb::Reexec => f.write_str("reexec"),
            Verb::Bind { bind } => write!(f, "bind {bind}"),
            Verb::Unbind { listener } => write!(f, "unbind {listener}"),
            Verb::Metrics => f.write_str("metrics"),
        }
    }
}

const STATUSES: &str = "\
Exit status: 0 done, 1 failed or undone, 2 usage, 3 nothing is running there, 4 not permitted,
124 still under way when --timeout ran out, 125 a failure of ctl's own. See graceful-run(1).";
