//! Arguments, configuration, run, exit.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use graceful_run::cli::Cli;
use graceful_run::cli::ctl::Ctl;
use graceful_run::cli::doctor::Doctor;
use graceful_run::config::Config;
use graceful_run::ctl;
use graceful_run::doctor;
use graceful_run::error::Error;
use graceful_run::here;
use graceful_run::logger::{self, Flusher};
use graceful_run::reexec;
use graceful_run::reexec::fd_transfer::give_up;
use graceful_run::supervisor::State;
use graceful_run::sys::inherited;
use log::LevelFilter;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::ExitCode;

const HELP: &str = "graceful-run --help";
const CTL_HELP: &str = "graceful-run ctl --help";
const DOCTOR_HELP: &str = "graceful-run doctor --help";

fn main() -> ExitCode {
    inherited::block_all_signals();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == here::WORD) {
        let (status, line) = here::here(&arguments[2..]);
        return line.map_or(ExitCode::from(status), |line| last_line(None, status, &line));
    }
    if arguments.get(1).is_some_and(|word| word == ctl::WORD) {
        inherited::unblock_all();
        let (status, line) = match Ctl::try_parse_from(&arguments[1..]) {
            Ok(wishes) => ctl::run(&wishes),
            Err(error) => {
                let options = arguments.iter().take_while(|word| *word != "--");
                if error.use_stderr() && options.into_iter().any(|word| word == "--json") {
                    ctl::mistake(&complaint(&error, CTL_HELP));
                }
                return refuse(&error, CTL_HELP);
            }
        };
        return line.map_or(ExitCode::from(status), |line| last_line(None, status, &line));
    }
    if arguments.get(1).is_some_and(|word| word == doctor::WORD) {
        inherited::unblock_all();
        let (status, line) = match Doctor::try_parse_from(&arguments[1..]) {
            Ok(wishes) => doctor::doctor(&wishes),
            Err(error) => return refuse(&error, DOCTOR_HELP),
        };
        return line.map_or(ExitCode::from(status), |line| last_line(None, status, &line));
    }
    if let Some(arguments) = reexec::asked(&arguments) {
        return answer(&arguments);
    }
    let left = reexec::arrived().map(|read| read.and_then(|text| State::decode(&text)));
    let left = left.map(|read| read.unwrap_or_else(|why| give_up(&why)));
    if let Some(state) = &left {
        inherited::restore(state.given);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if left.is_some() => give_up(&complaint(&error, HELP)),
        Err(error) => return refuse(&error, HELP),
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
    let config = Config::new(cli, separated, inherited::ignored);
    let result = match (config, left) {
        (Ok(config), left) => graceful_run::supervisor::run(config, left),
        (Err(error), None) => Err(error),
        (Err(error), Some(_)) => give_up(&error.to_string()),
    };
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

/// Says, to ourselves in another process, whether we could take over there.
fn answer(arguments: &[OsString]) -> ExitCode {
    let answer = reexec::check().and_then(|(text, answer)| {
        let state = State::decode(&text)?;
        let cli = Cli::try_parse_from(arguments).map_err(|error| complaint(&error, HELP))?;
        let separated = is_separated(arguments, &cli.command);
        let ignored = |signal| state.given.ignored(signal);
        Config::new(cli, separated, ignored).map_err(|error| error.to_string()).map(|_| answer)
    });
    let (status, line) = match answer {
        Ok(answer) => (ExitCode::SUCCESS, answer),
        Err(why) => (ExitCode::from(125), format!("graceful-run: {why}\n")),
    };
    // Whoever asked and does not listen has its answer in that.
    let _ = std::io::stdout().write_all(line.as_bytes());
    status
}

/// clap's complaint in one line of ours, or the help that was asked for.
fn refuse(error: &clap::Error, help: &str) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that has gone has read enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    last_line(None, 2, &complaint(error, help))
}

fn complaint(error: &clap::Error, help: &str) -> String {
    let text = error.to_string();
    let (complaint, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let complaint = complaint.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    // "to pass X as a value" would have X be the command.
    let tips = rest.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tips = tips.filter(|tip| !tip.starts_with("to pass"));
    let help = format!("see {help}");
    let advice: Vec<&str> = tips.chain([help.as_str()]).collect();
    format!("{complaint} ({})", advice.join("; "))
}

fn last_line(flusher: Option<&Flusher>, status: u8, line: &str) -> ExitCode {
    match flusher {
        Some(flusher) => flusher.last_line(line),
        None => logger::write_line(line),
    }
    ExitCode::from(status)
}
