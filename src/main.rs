//! From the arguments to the exit status: parse, configure, supervise, exit.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use graceful_run::cli::Cli;
use graceful_run::cli::ctl::Ctl;
use graceful_run::cli::doctor::{Doctor, DoctorOf};
use graceful_run::cli::profiles::Profiles;
use graceful_run::config::{Config, Situation};
use graceful_run::ctl;
use graceful_run::doctor;
use graceful_run::error::Error;
use graceful_run::here;
use graceful_run::logger;
use graceful_run::plan;
use graceful_run::reexec;
use graceful_run::reexec::fd_transfer::abandon;
use graceful_run::supervisor::{self, State};
use graceful_run::sys::inherited;
use log::LevelFilter;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::ExitCode;

const HELP: &str = "graceful-run --help";
const CTL_HELP: &str = "graceful-run ctl --help";
const DOCTOR_HELP: &str = "graceful-run doctor --help";
const DOCTOR_OF_HELP: &str = "graceful-run doctor --help; a COMMAND goes behind --";
const PROFILES_HELP: &str = "graceful-run profiles --help";

/// The exit status, and the last line that is printed before.
type Outcome = (u8, Option<String>);

fn main() -> ExitCode {
    inherited::block_all_signals();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1).and_then(|word| word.to_str()).unwrap_or_default() {
        here::WORD => exit(here::run(&arguments[2..])),
        ctl::WORD => run_ctl(&arguments[1..]),
        doctor::WORD => run_doctor(&arguments[1..]),
        plan::WORD => run_profiles(&arguments[1..]),
        _ => match reexec::check_arguments(&arguments) {
            Some(arguments) => check_takeover(&arguments),
            None => run(&arguments),
        },
    }
}

/// Prints the last line, if there is one, without a log.
fn exit((status, line): Outcome) -> ExitCode {
    if let Some(line) = line {
        logger::write_line(&line);
    }
    ExitCode::from(status)
}

fn run_ctl(arguments: &[OsString]) -> ExitCode {
    inherited::unblock_all_signals();
    match Ctl::try_parse_from(arguments) {
        Ok(cli) => exit(ctl::run(&cli)),
        Err(error) if is_missing_verb(&error) => {
            let verbs = Ctl::command();
            let verbs: Vec<&str> = verbs.get_subcommands().map(|verb| verb.get_name()).collect();
            let why = format!("a verb is missing: {} (see {CTL_HELP})", verbs.join(", "));
            if arguments.iter().any(|word| word == "--json") {
                ctl::print_usage_error(&why);
            }
            exit((2, Some(why)))
        }
        Err(error) => {
            let options = arguments.iter().take_while(|word| *word != "--");
            if error.use_stderr() && options.into_iter().any(|word| word == "--json") {
                ctl::print_usage_error(&complaint(&error, CTL_HELP));
            }
            refuse(&error, CTL_HELP)
        }
    }
}

fn is_missing_verb(error: &clap::Error) -> bool {
    let kinds = [ErrorKind::MissingSubcommand, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    kinds.contains(&error.kind())
}

fn run_doctor(arguments: &[OsString]) -> ExitCode {
    inherited::unblock_all_signals();
    let asked = arguments.iter().position(|word| word == "--");
    let is_help = |word: &OsString| word == "--help" || word == "-h";
    if asked.is_some_and(|at| !arguments[..at].iter().any(is_help)) {
        return match DoctorOf::try_parse_from(arguments) {
            Ok(DoctorOf { json, cli }) => show_plan(cli, true, json),
            Err(error) => refuse(&error, DOCTOR_HELP),
        };
    }
    match Doctor::try_parse_from(&arguments[..asked.unwrap_or(arguments.len())]) {
        Ok(cli) => exit(doctor::run(&cli)),
        Err(error) if error.kind() == ErrorKind::UnknownArgument => refuse(&error, DOCTOR_OF_HELP),
        Err(error) => refuse(&error, DOCTOR_HELP),
    }
}

fn run_profiles(arguments: &[OsString]) -> ExitCode {
    inherited::unblock_all_signals();
    match Profiles::try_parse_from(arguments) {
        Ok(cli) => exit(plan::profiles(&cli).map_or_else(failed, |()| (0, None))),
        Err(error) => refuse(&error, PROFILES_HELP),
    }
}

/// What would be done with COMMAND, which is not started.
fn show_plan(cli: Cli, separated: bool, json: bool) -> ExitCode {
    exit(plan::show(cli, separated, json).unwrap_or_else(failed))
}

fn failed(error: Error) -> Outcome {
    (error.status(), Some(error.to_string()))
}

/// Supervises COMMAND. A process that has executed itself again (`ctl reexec`) finds the state
/// that it had before; it cannot return an error then, and gives up instead.
fn run(arguments: &[OsString]) -> ExitCode {
    let state = inherited_state();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if state.is_some() => abandon(&complaint(&error, HELP)),
        Err(error) => return refuse(&error, HELP),
    };
    let separated = is_separated(arguments, &cli.command);
    if !separated && cli.command.first().is_some_and(|word| word == "help") {
        // A reader may close the pipe early.
        let _ = Cli::command().print_long_help();
        return ExitCode::SUCCESS;
    }
    if cli.dry_run && state.is_none() {
        inherited::unblock_all_signals();
        return show_plan(cli, separated, true);
    }
    let flusher = match logger::start(level(&cli), cli.log_format) {
        Ok(flusher) => flusher,
        Err(error) => return exit((125, Some(Error::cannot("start the log", error).to_string()))),
    };
    let outcome = configure_and_supervise(cli, separated, state);
    let (status, line) = outcome.unwrap_or_else(failed);
    match line {
        Some(line) => flusher.last_line(&line),
        None => flusher.flush(),
    }
    ExitCode::from(status)
}

fn configure_and_supervise(cli: Cli, separated: bool, state: Option<State>) -> Result<Outcome, Error> {
    let left_out = state.as_ref().and_then(|state| state.profile_left_out);
    let situation = Situation { left_out, ..Situation::of(std::process::id()) };
    match (Config::new(cli, separated, situation, &inherited::ignored), state) {
        (Ok(config), state) => supervisor::run(config, state),
        (Err(error), None) => Err(error),
        (Err(error), Some(_)) => abandon(&error.to_string()),
    }
}

/// The state that this process had before it executed itself again.
fn inherited_state() -> Option<State> {
    let state =
        reexec::inherited_state()?.and_then(|text| State::decode(&text)).unwrap_or_else(|why| abandon(&why));
    inherited::restore(state.inherited);
    Some(state)
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

/// Whether `--` stands before COMMAND: then its first word is never a subcommand of ours.
fn is_separated(arguments: &[OsString], command: &[OsString]) -> bool {
    let before = arguments.len().checked_sub(command.len() + 1);
    before.and_then(|index| arguments.get(index)).is_some_and(|word| word == OsStr::new("--"))
}

/// Answers another graceful-run, which is about to execute this binary, whether that would
/// succeed with its state and arguments.
fn check_takeover(arguments: &[OsString]) -> ExitCode {
    let answer = reexec::check().and_then(|(text, answer)| {
        let state = State::decode(&text)?;
        let cli = Cli::try_parse_from(arguments).map_err(|error| complaint(&error, HELP))?;
        let separated = is_separated(arguments, &cli.command);
        let ignored = |signal| state.inherited.ignored(signal);
        let asks = Situation::of(std::os::unix::process::parent_id());
        let situation = Situation { left_out: state.profile_left_out, ..asks };
        Config::new(cli, separated, situation, &ignored).map_err(|error| error.to_string()).map(|_| answer)
    });
    let (status, line) = match answer {
        Ok(answer) => (ExitCode::SUCCESS, answer),
        Err(why) => (ExitCode::from(125), format!("graceful-run: {why}\n")),
    };
    // If the process that asked does not read, nobody needs the answer.
    let _ = std::io::stdout().write_all(line.as_bytes());
    status
}

/// Prints clap's complaint as one line of ours, or the help that was asked for.
fn refuse(error: &clap::Error, help: &str) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader may close the pipe early.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    exit((2, Some(complaint(error, help))))
}

/// clap's complaint in one line, with its tips and where the help is found.
fn complaint(error: &clap::Error, help: &str) -> String {
    let text = error.to_string();
    let (complaint, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let complaint = complaint.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    // The tip "to pass X as a value" would make X the command.
    let tips = rest.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tips = tips.filter(|tip| !tip.starts_with("to pass"));
    let help = format!("see {help}");
    let advice: Vec<&str> = tips.chain([help.as_str()]).collect();
    format!("{complaint} ({})", advice.join("; "))
}
