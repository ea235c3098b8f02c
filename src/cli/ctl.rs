//! The flags of `graceful-run ctl`. Their doc comments are its `--help`, and
//! OPTIONS and VERBS of its man page.

use clap::{Args, Parser, Subcommand};
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
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show generation, workers, listeners and the last upgrade
    Status {
        /// Show it again every second, until graceful-run ends
        #[arg(long)]
        watch: bool,
    },
    /// Replace the serving generation; done when the new one serves
    ///
    /// If an upgrade is already under way, this one follows it, and the outcome is that of
    /// this one.
    Upgrade {
        /// Start only one worker of the new generation; both generations serve until `commit` or `rollback`
        #[arg(long, conflicts_with = "now")]
        hold: bool,
        /// Supersede (undo) an upgrade that is under way or on hold, instead of following it
        #[arg(long)]
        now: bool,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Complete the upgrade that is on hold: the new generation serves alone
    Commit(Waiting),
    /// Undo the upgrade that is on hold
    Rollback(Waiting),
    /// Change the number of workers to N; done when they are ready
    Scale {
        /// The new number.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        workers: u32,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stop the workers and graceful-run; done when everything has ended
    ///
    /// It also exits with 0 if workers had to be killed. The field exit_status in --json is the
    /// exit status of graceful-run.
    Stop {
        /// Kill the workers
        #[arg(long)]
        now: bool,
        /// Whether ctl waits for the outcome.
        #[command(flatten)]
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
        listener: String,
    },
    /// Print the status as metrics in the text format of Prometheus
    Metrics,
}

/// Of verbs that take time.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Do not wait for the outcome
    #[arg(long)]
    pub no_wait: bool,
}

const STATUSES: &str = "\
Exit status: 0 done, 1 failed or undone, 2 wrong usage, 3 no such graceful-run is running, 4 not
permitted, 124 not finished within --timeout, 125 ctl itself failed. See graceful-run-ctl(1).";
