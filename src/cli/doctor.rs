//! The flags of `graceful-run doctor`. Their doc comments are its `--help`, and
//! OPTIONS of its man page.

use super::Cli;
use clap::Parser;

/// Show what this machine or container allows, and what to change
///
/// Each check prints one line: its state, its name, what was found and, in brackets, what to
/// do. `ok`: nothing to do. `note`: it works, but there is something to know. `missing`: the
/// feature that the line names cannot be used. doctor changes nothing. The result depends on the
/// user and the container: run it as the same user and in the same container as graceful-run.
///
/// With a COMMAND behind `--`, doctor says what graceful-run would do with it here, with the same
/// OPTIONS: its profile, how it gets its sockets, what this machine lacks for that, and whether an
/// upgrade would lose requests. COMMAND is not started.
#[derive(Debug, Parser)]
#[command(
    name = "graceful-run doctor",
    bin_name = "graceful-run doctor",
    version,
    override_usage = "graceful-run doctor [--json] [[OPTIONS] -- COMMAND [ARG]...]",
    after_help = STATUSES,
    after_long_help = STATUSES,
    max_term_width = 100
)]
pub struct Doctor {
    /// Print one JSON object on stdout, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// The same with a COMMAND: the flags of graceful-run as well.
#[derive(Debug, Parser)]
#[command(name = "graceful-run doctor", bin_name = "graceful-run doctor", version)]
pub struct DoctorOf {
    /// Print one JSON object on stdout, and nothing else
    #[arg(long)]
    pub json: bool,

    /// What graceful-run is asked about.
    #[command(flatten)]
    pub cli: Cli,
}

const STATUSES: &str = "\
Exit status: 0 nothing is missing, or an upgrade of COMMAND would lose nothing; 1 something is
missing, or an upgrade would lose requests; 2 wrong usage.
See graceful-run-doctor(1).";
