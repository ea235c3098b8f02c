//! What people are promised to find in the man page, the README and `--help`.
//!
//! Contract: every flag, signal, ack kind and exit status is named where a
//! reader looks for it, and `--help` fits a screen of 100 columns.

use clap::{Command, CommandFactory};
use graceful_run::cli::Cli;
use graceful_run::cli::ctl::Ctl;
use graceful_run::config::signals::{self, DEFAULTS};
use graceful_run::error::Error;
use std::fs;
use std::path::Path;
use std::process;

/// The kinds that `--ack` takes; `every_ack_kind_is_explained` holds the list to
/// the message that names them.
const ACK_KINDS: [&str; 9] =
    ["auto", "notify", "fd", "fd:N", "einhorn", "parent-term", "accepting", "exec:CMD", "timer:DUR"];

#[test]
fn every_flag_is_in_the_man_page() {
    let page = man_page();
    let mut command = Cli::command();
    command.build();
    for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
        let long = argument.get_long().expect("every option has a long form");
        assert!(section(&page, "OPTIONS").contains(&format!("--{long}")), "--{long}");
        assert!(argument.get_help().is_some(), "--{long} is explained");
    }
}

#[test]
fn every_signal_is_in_the_tables() {
    let page = man_page();
    let readme = readme();
    for (signal, _) in DEFAULTS {
        let name = signals::name(signal as i32);
        assert!(has_word(section(&page, "SIGNALS"), &name), "{name} in the man page");
        assert!(has_word(section(&readme, "## Signals"), &name), "{name} in the README");
    }
}

#[test]
fn every_ack_kind_is_explained() {
    let cli = <Cli as clap::Parser>::try_parse_from(["graceful-run", "--ack", "no-such", "x"]);
    let refused = graceful_run::config::Config::new(cli.expect("clap takes any word"), false, |_| false);
    let message = refused.expect_err("there is no such kind").to_string();
    let (_, list) = message.split_once("(write ").expect("the message lists the kinds");
    let list = list.trim_end_matches(')').replace(" or ", ", ");
    assert_eq!(list.split(", ").collect::<Vec<_>>(), ACK_KINDS);

    let page = man_page();
    let readme = readme();
    for kind in ACK_KINDS {
        let name = kind.split(':').next().unwrap_or(kind);
        assert!(has_word(section(&page, "READINESS"), name), "{kind} in the man page");
        assert!(section(&readme, "## Readiness").contains(&format!("`{kind}`")), "{kind} in the README");
    }
}

#[test]
fn every_dialect_is_explained() {
    let page = man_page();
    let readme = readme();
    let help = help();
    for dialect in graceful_run::dialect::Dialect::ALL {
        let name = dialect.name();
        assert!(has_word(section(&page, "DIALECTS"), name), "{name} in the man page");
        assert!(section(&readme, "## Dialects").contains(&format!("`{name}`")), "{name} in the README");
        assert!(help.contains(&format!("`{name}`")), "{name} in --help");
    }
}

#[test]
fn every_exit_status_is_explained() {
    let held = Error::Held { name: String::new(), pid: None };
    let own = [Error::Usage(String::new()), held, Error::Failed(String::new())].map(|error| error.status());
    assert_eq!(own, [2, 100, 125]);
    let page = man_page();
    let readme = readme();
    let help = help();
    for status in ["0", "2", "100", "124", "125", "126", "127", "128+n", "137"] {
        assert!(has_word(section(&page, "EXIT STATUS"), status), "{status} in the man page");
        assert!(has_word(section(&readme, "## Exit status"), status), "{status} in the README");
        assert!(has_word(&help, status), "{status} in --help");
    }
}

#[test]
fn every_verb_of_ctl_is_explained() {
    let page = man_page();
    let readme = readme();
    let command = Ctl::command();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        assert!(section(&page, "CONTROL").contains(&format!("\n{name}")), "{name} in the man page");
        assert!(section(&readme, "## ctl").contains(&format!("`{name}")), "{name} in the README");
    }
    for status in ["0", "1", "2", "3", "4", "124"] {
        assert!(has_word(section(&page, "CONTROL"), status), "{status} in the man page");
        assert!(has_word(section(&readme, "## ctl"), status), "{status} in the README");
    }
}

#[test]
fn the_doctor_is_explained() {
    let (page, readme) = (man_page(), readme());
    for word in ["ok", "note", "missing", "--json", "0", "1"] {
        assert!(has_word(section(&page, "DOCTOR"), word), "{word} in the man page");
        assert!(has_word(section(&readme, "## doctor"), word), "{word} in the README");
    }
    assert!(help().contains("graceful-run doctor"), "--help names it");
}

#[test]
fn the_man_page_has_its_sections_in_order() {
    let page = man_page();
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "BIND",
        "DIALECTS",
        "READINESS",
        "UPGRADE",
        "STOPPING",
        "SIGNALS",
        "ENVIRONMENT",
        "SERVICE MANAGERS",
        "HERE",
        "CONTROL",
        "DOCTOR",
        "EXIT STATUS",
        "FILES",
        "EXAMPLES",
        "NOTES",
        "SEE ALSO",
    ];
    assert_eq!(headings, expected);
}

#[test]
fn variables_that_a_worker_is_given_are_in_the_man_page() {
    let page = man_page();
    for name in [
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "READY_FD",
        "GRACEFUL_RUN_GENERATION",
        "GRACEFUL_RUN_SLOT",
        "GRACEFUL_RUN_PID",
        "GRACEFUL_RUN_LISTENERS",
        "GRACEFUL_RUN_CONTROL",
    ] {
        assert!(has_word(section(&page, "ENVIRONMENT"), name), "{name}");
    }
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(man_page().contains(&format!("graceful-run {version}")), "the man page");
    assert!(read("CHANGELOG.md").contains(&format!("## [{version}]")), "the changelog");
}

#[test]
fn help_fits_and_has_groups_and_examples() {
    let help = help();
    for line in help.lines() {
        assert!(line.chars().count() <= 100, "wider than 100 columns: {line}");
    }
    for heading in ["Sockets:", "Readiness:", "Upgrade:", "Stopping:", "Signals:", "Service:", "Examples:"] {
        assert!(help.lines().any(|line| line == heading), "{heading}");
    }
    let options = ["help", "version"];
    let ungrouped = |command: Command| {
        let loose = command.get_arguments().filter(|argument| argument.get_help_heading().is_none());
        loose.filter(|argument| !argument.is_positional()).map(|a| a.get_id().to_string()).collect::<Vec<_>>()
    };
    let mut command = Cli::command();
    command.build();
    assert_eq!(ungrouped(command), options);
}

/// What the program itself prints.
fn help() -> String {
    let output = process::Command::new(env!("CARGO_BIN_EXE_graceful-run"))
        .arg("--help")
        .env("COLUMNS", "200")
        .output()
        .expect("the program runs");
    assert!(output.status.success() && output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("--help is UTF-8")
}

/// With its hyphens spelled plainly.
fn man_page() -> String {
    read("man/graceful-run.1").replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")
}

fn readme() -> String {
    read("README.md")
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// From a heading to the next of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let mark = if heading.starts_with('#') { "\n## " } else { "\n.SH " };
    let title = heading.trim_start_matches("## ");
    let start = text.find(&format!("{mark}{title}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &text[start + 1..];
    rest.find(mark).map_or(rest, |end| &rest[..end])
}

fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '+';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}
