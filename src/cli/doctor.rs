//! The flags of `graceful-run doctor`. Their doc comments are its `--help`.

use clap::Parser;

/// Say what this machine or container allows, and what to change
///
/// A line each: its state, what it is, what was found, and in brackets what to do.
/// `ok`: as it should be. `note`: it works, and there is something to know. `missing`:
/// something that is named there cannot be had. Nothing is changed; as whom and where
/// it is run makes a difference, so run it as graceful-run itself will be.
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
Exit status: 0 everything is there, 1 something is missing, 2 usage. See graceful-run(1).";
