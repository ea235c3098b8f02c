//! What is generated from the flags and checked in: the OPTIONS of the man page,
//! and the completions.
//!
//! Contract: each file is what `cli.rs` and `man/graceful-run.1.in` make today;
//! with `BLESS=1` (`just bless`) it is written instead of compared.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use graceful_run::cli::Cli;
use std::fs;
use std::path::{Path, PathBuf};

/// The line of the template that OPTIONS take the place of.
const PLACE: &str = ".\\\" OPTIONS\n";

#[test]
fn the_man_page_is_current() {
    let template = fs::read_to_string(file("man/graceful-run.1.in")).expect("the template is there");
    assert_eq!(template.matches(PLACE).count(), 1, "the template says once where OPTIONS go");
    check("man/graceful-run.1", &template.replace(PLACE, &options(Cli::command())));
}

#[test]
fn the_completions_are_current() {
    for (shell, path) in [
        (Shell::Bash, "completions/graceful-run.bash"),
        (Shell::Fish, "completions/graceful-run.fish"),
        (Shell::Zsh, "completions/_graceful-run"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "graceful-run", &mut script);
        check(path, &String::from_utf8(script).expect("completions are UTF-8"));
    }
}

/// The section in roff, its headings one level below OPTIONS and its `words` in
/// bold.
fn options(command: Command) -> String {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command).render_options_section(&mut roff).expect("a Vec takes it");
    let roff = String::from_utf8(roff).expect("roff is UTF-8");
    let start = roff.find(".SH OPTIONS").expect("the section has a heading");
    let mut section = String::new();
    for line in roff[start..].lines() {
        match line.strip_prefix(".SH ").filter(|heading| *heading != "OPTIONS") {
            Some(heading) => section.push_str(&format!(".SS {}", sentence(heading.trim_matches('"')))),
            None if line.is_empty() => section.push_str(".sp"),
            None => section.push_str(&bold(&plain_values(line))),
        }
        section.push('\n');
    }
    section
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
