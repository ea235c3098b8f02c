//! The values of flags that are one word of a few.

use clap::ValueEnum;

/// `--adopt`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Adopt {
    /// As `steer`, where no sockets are handed over and this machine allows it.
    Auto,
    /// Not at all.
    Never,
    /// Each generation has sockets of its own; new connections go to one generation.
    Steer,
    /// All generations share one socket, which replaces that of the worker.
    Share,
}

/// `--on-death`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnDeath {
    /// They go on serving.
    Keep,
    /// The kernel sends them TERM.
    Term,
}

/// `--on-ack-timeout`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnAckTimeout {
    /// It has failed.
    Abort,
    /// It counts as ready.
    Proceed,
}

/// `--restart`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Whatever its exit status is.
    Always,
    /// Unless it exits with status 0.
    OnFailure,
    /// Never; graceful-run exits with the status of the worker.
    Never,
}

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One sentence per line.
    Text,
    /// One JSON object per line.
    Json,
}
