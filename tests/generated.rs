//! Generated files that are checked in: the man pages, the completions and the tables of
//! docs/servers.md.
//!
//! Contract: each file is what the flags (`src/cli/`), the templates (`man/*.1.in`) and the
//! profiles of servers (`src/profiles/servers`) make today; with `BLESS=1` (`just bless`) it
//! is written instead of compared.

#[allow(dead_code)] // tests of the command lines need the rest
#[path = "common/profiles.rs"]
mod profiles;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use graceful_run::cli::Cli;
use graceful_run::cli::ctl::Ctl;
use graceful_run::cli::doctor::{Doctor, DoctorOf};
use graceful_run::cli::profiles::Profiles;
use std::fs;
use std::path::{Path, PathBuf};

use profiles::{Line, Profile};

/// The line of a template that the OPTIONS section replaces.
const OPTIONS: &str = ".\\\" OPTIONS\n";

/// The line of the template of ctl that the entries of its verbs replace.
const VERBS: &str = ".\\\" VERBS\n";

#[test]
fn the_man_pages_are_current() {
    generate("graceful-run.1", &[(OPTIONS, options(Cli::command()))]);
    let ctl = [(OPTIONS, options(Ctl::command())), (VERBS, verbs(&Ctl::command()))];
    generate("graceful-run-ctl.1", &ctl);
    generate("graceful-run-doctor.1", &[(OPTIONS, options(Doctor::command()))]);
    generate("graceful-run-profiles.1", &[(OPTIONS, options(Profiles::command()))]);
}

#[test]
fn the_completions_are_current() {
    for (shell, path) in [
        (Shell::Bash, "completions/graceful-run.bash"),
        (Shell::Fish, "completions/graceful-run.fish"),
        (Shell::Zsh, "completions/_graceful-run"),
    ] {
        let mut script = Vec::new();
        let words = [
            Ctl::command().name("ctl"),
            with_profiles(DoctorOf::command(), "profile", &["none"])
                .name("doctor")
                .about(Doctor::command().get_about().cloned().unwrap_or_default()),
            with_profiles(Profiles::command(), "name", &[]).name("profiles"),
        ];
        let mut command = with_profiles(Cli::command(), "profile", &["none"]).subcommands(words);
        clap_complete::generate(shell, &mut command, "graceful-run", &mut script);
        let mut script = String::from_utf8(script).expect("completions are UTF-8");
        if shell == Shell::Bash {
            let start = "_graceful__run() {\n";
            assert_eq!(script.matches(start).count(), 1, "the function has its beginning once");
            script = script.replace(start, &format!("{start}{BEHIND_DASHES}"));
            // It takes the hyphen in our name for the end of a command in one place, and not in the other.
            script = script.replace("graceful__subcmd__run", "graceful__run");
        }
        if shell == Shell::Fish {
            // It leaves arguments without a dash out.
            let names: Vec<String> = profiles::all().into_iter().map(|profile| profile.name).collect();
            script += &format!(
                "complete -c graceful-run -n \"__fish_graceful_run_using_subcommand profiles\" -a \"{}\"\n",
                names.join(" ")
            );
        }
        check(path, &script);
    }
}

/// Bash: behind `--` a command begins. bash-completion knows the arguments of many.
const BEHIND_DASHES: &str = r#"    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${COMP_WORDS[at]} == -- ]] || continue
        if declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
        elif [[ $((at + 1)) -eq ${COMP_CWORD} ]]; then
            COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
        else
            COMPREPLY=()
        fi
        return 0
    done
"#;

/// What bash completes, in its own words.
#[test]
fn bash_completes_profiles_and_commands() {
    for (line, word, there) in [
        ("profiles", "ngin", true),
        ("profiles", "no-such", false),
        ("ctl", "upgra", true),
        ("doctor", "--stop-fir", true),
        ("doctor -b :8080 --", "env", true),
        ("profiles nginx --", "env", true),
        ("--", "env", true),
        ("-- env", "ngin", false),
    ] {
        let script = r#"shopt -u progcomp; source completions/graceful-run.bash
            COMP_WORDS=(graceful-run $1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _graceful__run graceful-run "$2" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\n' "${COMPREPLY[@]}""#;
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", script, "bash", line, word]).current_dir(file(""));
        let output = bash.output().expect("bash");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let found = said.lines().any(|reply| !reply.is_empty() && reply.starts_with(word));
        assert_eq!(
            found,
            there,
            "graceful-run {line} {word}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// The values of an argument are the names of profiles, and `more`.
fn with_profiles(command: Command, argument: &str, more: &[&'static str]) -> Command {
    let all = profiles::all().into_iter().map(|profile| -> &'static str { profile.name.leak() });
    let names: Vec<&'static str> = all.chain(more.iter().copied()).collect();
    command.mut_arg(argument, |it| it.value_parser(names))
}

/// The page is prose, in which a comment says where the table of a section stands.
#[test]
fn the_tables_of_servers_are_current() {
    const PAGE: &str = "docs/servers.md";
    let page = fs::read_to_string(file(PAGE)).expect("the page is there");
    let all = profiles::all();
    let mut current = String::new();
    let mut sections = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        current += &format!("{line}\n");
        if let Some(section) = line.strip_prefix(SERVERS).and_then(|rest| rest.strip_suffix(" -->")) {
            current += &servers_of(section, &all);
            // What stood there before.
            assert!(lines.by_ref().any(|line| line == SERVERS_END), "{PAGE}: {section} has no {SERVERS_END}");
            current += &format!("{SERVERS_END}\n");
            sections.push(section);
        }
    }
    for Profile { name, section, .. } in &all {
        assert!(sections.contains(&section.as_str()), "{PAGE} has no table for {section:?}, that of {name}");
    }
    check(PAGE, &current);
}

const SERVERS: &str = "<!-- servers: ";
const SERVERS_END: &str = "<!-- servers end -->";

/// The table of a section, and the servers that have no line in it.
fn servers_of(section: &str, all: &[Profile]) -> String {
    let here = || all.iter().filter(|profile| profile.section == section);
    let mut text = String::new();
    let mut rows =
        here().flat_map(|profile| profile.lines.iter().map(move |line| row(profile, line))).peekable();
    if rows.peek().is_some() {
        text += "\n| server | command line | may drop | tested | caveat |\n| --- | --- | --- | --- | --- |\n";
        text.extend(rows);
    }
    let without: Vec<String> = here()
        .filter(|profile| profile.lines.is_empty())
        .map(|profile| format!("`{}`", profile.name))
        .collect();
    if !without.is_empty() {
        text += &format!("\nProfiles without a command line: {}.\n", without.join(", "));
    }
    text + "\n"
}

fn row(profile: &Profile, line: &Line) -> String {
    let title = if line.title.is_empty() { &profile.title } else { &line.title };
    let version = if *title == profile.title { format!(" {}", profile.version) } else { String::new() };
    let drops = if line.loses == 0 { "–".into() } else { line.loses.to_string() };
    let tested = if line.tested { "yes" } else { "no" };
    let command = line.command.replace('|', "\\|");
    let caveat = line.caveat.replace('|', "\\|");
    format!(
        "| {} | `graceful-run {command}` | {drops} | {tested} | {caveat} |\n",
        (title.clone() + &version).trim_end()
    )
}

/// The page from its template, in which each line is replaced by the text beside it.
fn generate(page: &str, replacements: &[(&str, String)]) {
    let template = fs::read_to_string(file(&format!("man/{page}.in"))).expect("the template is there");
    let mut text = template;
    for (line, replacement) in replacements {
        assert_eq!(text.matches(line).count(), 1, "the template of {page} has this line once: {line}");
        text = text.replace(line, replacement);
    }
    check(&format!("man/{page}"), &text);
}

/// The OPTIONS section in roff: the other headings are one level below it, and
/// `words` are bold.
fn options(command: Command) -> String {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command).render_options_section(&mut roff).expect("a Vec takes it");
    let roff = String::from_utf8(roff).expect("roff is UTF-8");
    let start = roff.find(".SH OPTIONS").expect("the section has a heading");
    let mut section = String::new();
    // A line break next to a vertical space has no effect, and lint tools complain.
    for line in roff[start..].lines().filter(|line| *line != ".br") {
        match line.strip_prefix(".SH ").filter(|heading| *heading != "OPTIONS") {
            Some(heading) => section.push_str(&format!(".SS {}", sentence(heading.trim_matches('"')))),
            None if line.is_empty() => section.push_str(".sp"),
            None => section.push_str(&bold(&plain_values(line))),
        }
        section.push('\n');
    }
    section
}

/// An entry for each verb of `graceful-run ctl` that its help shows.
fn verbs(command: &Command) -> String {
    let mut section = String::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let mut spelling = format!("\\fB{}\\fR", verb.get_name());
        let mut about =
            verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
        for argument in verb.get_arguments() {
            match argument.get_long() {
                Some(_) => {
                    spelling += &format!(" [{}]", spelled(argument));
                    about += &format!("\n\n{}: {}.", spelled(argument), help_of(argument));
                }
                None => spelling += &format!(" {}", value_of(argument)),
            }
        }
        section += &entry(&spelling, &about);
    }
    section
}

fn entry(spelling: &str, about: &str) -> String {
    let paragraphs: Vec<String> = about
        .split("\n\n")
        .map(|paragraph| bold(&paragraph.replace('-', "\\-").replace("\\\\-", "\\-")))
        .collect();
    format!(".TP\n{}\n{}\n", spelling, paragraphs.join("\n.sp\n"))
}

fn help_of(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string);
    help.unwrap_or_default()
}

fn spelled(argument: &Arg) -> String {
    let long = argument.get_long().unwrap_or_default().replace('-', "\\-");
    let value =
        if argument.get_action().takes_values() { format!(" {}", value_of(argument)) } else { String::new() };
    format!("\\fB\\-\\-{long}\\fR{value}")
}

fn value_of(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    format!("\\fI{}\\fR", names.first().map_or("VALUE", |name| name.as_str()))
}

fn sentence(heading: &str) -> String {
    let (first, rest) = heading.split_at(1);
    first.to_uppercase() + &rest.to_lowercase()
}

/// A value's name is told from a literal by its type, so it needs no brackets.
fn plain_values(line: &str) -> String {
    let opened = line.replace("\\fI<", "\\fI").replace("<\\fI", "\\fI");
    opened.replace(">\\fR", "\\fR").replace("\\fR>", "\\fR")
}

fn bold(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    assert!(parts.len() % 2 == 1, "a backtick has no partner: {line}");
    let mark = |(index, part): (usize, &&str)| match index % 2 {
        0 => (*part).to_string(),
        _ => format!("\\fB{part}\\fR"),
    };
    parts.iter().enumerate().map(mark).collect()
}

fn check(path: &str, current: &str) {
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        fs::write(file(path), current).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let there = fs::read_to_string(file(path)).unwrap_or_default();
    let differs = there.lines().zip(current.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| there.lines().count().min(current.lines().count())) + 1;
    assert!(there == current, "{path} is not current from line {line} on: just bless");
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
