//! The flags of `graceful-run doctor`. Their doc comments are its `--help`, and
//! OPTIONS of its man page.

use clap::Parser;

/// Show what this machine or container allows, and what to change
///
/// Each check prints one line: its state, its name, what was found and, in brackets, what to
/// do. `ok`: nothing to do. `note`: it works, but there is something to know. `missing`: the
/// feature that the line names cannot be used. doctor changes nothing. The result depends on the
/// user and the container: run it as the same user and in the same container as graceful-run.
#[derive(Debug, Parser)]
#[command(
    name = "graceful-run doctor",
    bin_name = "graceful-run doctor",
    version,
    after_help = STATUSES,
    after_long_help = STATUSES,
    max_term_width = 100
)]
pub struct Doctor {
    /// Print one JSON object on stdout, and nothing else
    #[arg(long)]
    pub json: bool,
}

const STATUSES: &str = "\
Exit status: 0 nothing is missing, 1 something is missing, 2 wrong usage.
See graceful-run-doctor(1).";
