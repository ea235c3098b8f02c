//! The flags of `graceful-run ctl`, and its verbs.
//!
//! Contract: [`Verb`] is the only list of verbs. clap derives the command line from it
//! (the doc comments are `--help`, the completions and OPTIONS and VERBS of its man page); serde
//! derives the members of a request on the control socket. A member that is skipped by
//! serde concerns the client alone.

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Not;
use std::path::PathBuf;

/// Show or control a running graceful-run
///
/// Every verb waits for its outcome and exits with a status that tells it: if `upgrade` exits
/// with 0, the new generation serves. Without --name and --socket, ctl uses the
/// socket in GRACEFUL_RUN_CONTROL, which workers find in their environment, or else
/// the only graceful-run that is running.
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
    /// Connect to the instance that was started with this --name
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "socket")]
    pub name: Option<String>,

    /// Connect to the instance with this control socket
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// Print one JSON object on stdout, and nothing else
    #[arg(long, global = true)]
    pub json: bool,

    /// How long to wait for the outcome; then exit with 124, while the action goes on
    /// [default: 0, no limit]
    #[arg(long, value_name = "DUR", global = true)]
    pub timeout: Option<String>,

    /// The action.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The actions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Show generation, workers, listeners and the last upgrade
    Status {
        /// Show it again every second, until graceful-run ends
        #[arg(long)]
        #[serde(skip)]
        watch: bool,
    },
    /// Replace the serving generation; done when the new one serves
    ///
    /// If an upgrade is already under way, this one follows it, and the outcome is that of
    /// this one. While an upgrade is on hold, this one is refused, unless --now is given.
    Upgrade {
        /// Start only one worker of the new generation; both generations serve until `commit` or `rollback`
        ///
        /// With =PCT% that worker gets this part of the new connections, if each -b has `,reuseport`.
        #[arg(long, value_name = "PCT%", num_args = 0..=1, require_equals = true, default_missing_value = "",
              conflicts_with = "now")]
        #[serde(default, with = "hold", skip_serializing_if = "Option::is_none")]
        hold: Option<String>,
        /// Supersede (undo) an upgrade that is under way or on hold, instead of following it
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Not::not")]
        now: bool,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Complete the upgrade that is on hold: the new generation serves alone
    Commit(#[serde(skip)] Waiting),
    /// Undo the upgrade that is on hold
    Rollback(#[serde(skip)] Waiting),
    /// Change the part of the new connections that the worker on hold gets
    Weight {
        /// From 0 to 100, also with a % and up to two decimals.
        #[arg(value_name = "PCT")]
        percent: String,
    },
    /// Change the number of workers to N; done when they are ready
    Scale {
        /// The new number.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        workers: u32,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Stop the workers and graceful-run; done when everything has ended
    ///
    /// It also exits with 0 if workers had to be killed. The field exit_status in --json is the
    /// exit status of graceful-run.
    Stop {
        /// Kill the workers
        #[arg(long)]
        #[serde(default, skip_serializing_if = "Not::not")]
        now: bool,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
        #[serde(skip)]
        waiting: Waiting,
    },
    /// Send a signal to the ready workers, whatever it does to them
    Signal {
        /// Its name or number.
        #[arg(value_name = "SIG")]
        signal: String,
    },
    /// Kill the workers that still drain
    Hammer,
    /// Print what happens from now on, one JSON object per line
    Events,
    /// Replace graceful-run itself by the binary at its path; done when the new one has taken over
    ///
    /// The process stays the same, and so do its workers, sockets and clients. A binary that fails
    /// a test run before that is refused, and nothing changes.
    Reexec,
    /// Bind one more socket; workers get it from the next upgrade on
    ///
    /// A wrong address is reported at once. If the next upgrade is undone, the socket waits for
    /// the one after it. Not with `reuseport`, `fd://` or a host name.
    Bind {
        /// As in `-b`.
        #[arg(value_name = "BIND")]
        bind: String,
    },
    /// Close a socket once the next upgrade has succeeded
    Unbind {
        /// Its name, as in `ctl status`.
        #[arg(value_name = "NAME")]
        #[serde(rename = "name")]
        listener: String,
    },
    /// Print the status as metrics in the text format of Prometheus
    Metrics,
}

/// Whether a word is the name of a verb.
pub fn is_verb(word: &str) -> bool {
    Ctl::command().get_subcommands().any(|verb| verb.get_name() == word)
}

/// Of verbs that take time.
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
            Verb::Upgrade { hold: Some(percent), .. } if !percent.is_empty() => {
                write!(f, "upgrade --hold={percent}")
            }
            Verb::Upgrade { hold: Some(_), .. } => f.write_str("upgrade --hold"),
            Verb::Upgrade { now: true, .. } => f.write_str("upgrade --now"),
            Verb::Upgrade { .. } => f.write_str("upgrade"),
            Verb::Commit(_) => f.write_str("commit"),
            Verb::Rollback(_) => f.write_str("rollback"),
            Verb::Weight { percent } => write!(f, "weight {percent}"),
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

/// `hold` in a request: `true`, or the percent as they were typed.
mod hold {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Hold {
        Plain(bool),
        At(String),
    }

    #[allow(clippy::ref_option, reason = "serde passes references")]
    pub fn serialize<S: Serializer>(hold: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        match hold {
            Some(percent) if !percent.is_empty() => Hold::At(percent.clone()),
            hold => Hold::Plain(hold.is_some()),
        }
        .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        Ok(match Hold::deserialize(deserializer)? {
            Hold::Plain(hold) => hold.then(String::new),
            Hold::At(percent) => Some(percent),
        })
    }
}

const STATUSES: &str = "\
Exit status: 0 done, 1 failed or undone, 2 wrong usage, 3 no such graceful-run is running, 4 not
permitted, 124 not finished within --timeout, 125 ctl itself failed. See graceful-run-ctl(1).";
