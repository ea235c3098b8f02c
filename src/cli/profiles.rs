//! The flags of `graceful-run profiles`. Their doc comments are its `--help`, and OPTIONS of its
//! man page.

use clap::{Parser, ValueHint};
use std::ffi::OsString;

/// Show what is known of servers
///
/// Without NAME: a list of the profiles, one a line. With NAME: what this profile does. With a COMMAND
/// behind `--`: the options and arguments that the profile stands for with this command, with -b and
/// without, and the command line that is the same without a profile. Nothing is started.
#[derive(Debug, Parser)]
#[command(
    name = "graceful-run profiles",
    bin_name = "graceful-run profiles",
    version,
    override_usage = "graceful-run profiles [--json] [NAME] [-- COMMAND [ARG]...]",
    after_help = STATUSES,
    after_long_help = STATUSES,
    max_term_width = 100
)]
pub struct Profiles {
    /// Print one JSON object on stdout, and nothing else
    #[arg(long)]
    pub json: bool,

    /// The profile [default with a COMMAND: the one that it is recognised by]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,

    /// The command that it is applied to
    #[arg(value_name = "COMMAND", last = true, value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

const STATUSES: &str = "\
Exit status: 0, or 2 for wrong usage, such as a NAME that there is not.
See graceful-run-profiles(1).";
