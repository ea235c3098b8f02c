//! Arguments, configuration, run, exit.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use graceful_run::cli::Cli;
use graceful_run::cli_ctl::Ctl;
use graceful_run::config::Config;
use graceful_run::control::client;
use graceful_run::error::Error;
use graceful_run::here;
use graceful_run::logger::{self, Flusher};
use graceful_run::sys::inherited;
use log::LevelFilter;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

fn main() -> ExitCode {
    inherited::block_all_signals();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == here::WORD) {
        let (status, line) = here::here(&arguments[2..]);
        return line.map_or(ExitCode::from(status), |line| last_line(None, status, &line));
    }
    if arguments.get(1).is_some_and(|word| word == client::WORD) {
        inherited::unblock_all();
        let (status, line) = match Ctl::try_parse_from(&arguments[1..]) {
            Ok(ctl) => client::run(&ctl),
            Err(error) => return refuse(&error, "graceful-run ctl --help"),
        };
        return line.map_or(ExitCode::from(status), |line| last_line(None, status, &line));
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, "graceful-run --help"),
    };
    let separated = is_separated(&arguments, &cli.command);
    if !separated && cli.command.first().is_some_and(|word| word == "help") {
        // A reader that has gone has read enough.
        let _ = Cli::command().print_long_help();
        return ExitCode::SUCCESS;
    }
    let flusher = match logger::start(level(&cli), cli.log_format) {
        Ok(flusher) => flusher,
        Err(error) => return last_line(None, 125, &Error::cannot("start the log", error).to_string()),
    };
    let result = Config::new(cli, separated, inherited::ignored).and_then(graceful_run::run::run);
    let (status, line) = result.unwrap_or_else(|error| (error.status(), Some(error.to_string())));
    match line {
        Some(line) => last_line(Some(&flusher), status, &line),
        None => {
            flusher.flush();
            ExitCode::from(status)
        }
    }
}

fn level(cli: &Cli) -> LevelFilter {
    match (cli.verbose, cli.quiet) {
        (0, 0) => LevelFilter::Info,
        (0, 1) => LevelFilter::Warn,
        (0, _) => LevelFilter::Error,
        (1, _) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// Whether `--` stands before COMMAND: then its first word is never one of ours.
fn is_separated(arguments: &[OsString], command: &[OsString]) -> bool {
    let before = arguments.len().checked_sub(command.len() + 1);
    before.and_then(|index| arguments.get(index)).is_some_and(|word| word == OsStr::new("--"))
}

/// clap's complaint in one line of ours, or the help that was asked for.
fn refuse(error: &clap::Error, help: &str) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone has read enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let (complaint, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let complaint = complaint.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    // "to pass X as a value" would have X be the command.
    let tips = rest.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tips = tips.filter(|tip| !tip.starts_with("to pass"));
    let help = format!("see {help}");
    let advice: Vec<&str> = tips.chain([help.as_str()]).collect();
    last_line(None, 2, &format!("{complaint} ({})", advice.join("; ")))
}

fn last_line(flusher: Option<&Flusher>, status: u8, line: &str) -> ExitCode {
    match flusher {
        Some(flusher) => flusher.last_line(line),
        None => logger::write_line(line),
    }
    ExitCode::from(status)
}
