//! What a reader must find in the man pages, in `docs/` and in `--help`.
//!
//! Contract: every flag, signal, ack kind, dialect, verb and exit status is
//! explained in the man page and in the document that is about it, and `--help`
//! fits a screen of 100 columns.

mod common;

use clap::{Command, CommandFactory};
use common::Scene;
use graceful_run::cli::Cli;
use graceful_run::cli::ctl::Ctl;
use graceful_run::cli::doctor::Doctor;
use graceful_run::config::signals::{self, DEFAULTS};
use graceful_run::config::{Config, Situation};
use graceful_run::error::Error;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// The kinds that `--ack` takes; `every_ack_kind_is_explained` holds the list to
/// the message that names them.
const ACK_KINDS: [&str; 9] =
    ["auto", "notify", "fd", "fd:N", "einhorn", "parent-term", "accepting", "exec:CMD", "timer:DUR"];

#[test]
fn every_flag_is_in_its_man_page() {
    for (mut command, page) in
        [(Cli::command(), man_page()), (Ctl::command(), ctl_page()), (Doctor::command(), doctor_page())]
    {
        command.build();
        let options = section(&page, "OPTIONS");
        for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
            let long = argument.get_long().expect("every option has a long form");
            assert!(options.contains(&format!("--{long}")), "{}: --{long}", command.get_name());
            assert!(argument.get_help().is_some(), "{}: --{long} is explained", command.get_name());
        }
    }
}

#[test]
fn every_signal_is_in_the_tables() {
    let page = man_page();
    let guide = guide();
    for (signal, _) in DEFAULTS {
        let name = signals::name(signal as i32);
        assert!(has_word(section(&page, "SIGNALS"), &name), "{name} in the man page");
        assert!(has_word(&guide, &name), "{name} in the guide");
    }
}

#[test]
fn every_ack_kind_is_explained() {
    let cli = <Cli as clap::Parser>::try_parse_from(["graceful-run", "--ack", "no-such", "x"]);
    let refused = Config::new(cli.expect("clap takes any word"), false, Situation::default(), &|_| false);
    let message = refused.expect_err("there is no such kind").to_string();
    let (_, list) = message.split_once("(write ").expect("the message lists the kinds");
    let list = list.trim_end_matches(')').replace(" or ", ", ");
    assert_eq!(list.split(", ").collect::<Vec<_>>(), ACK_KINDS);

    let page = man_page();
    let guide = guide();
    for kind in ACK_KINDS {
        let name = kind.split(':').next().unwrap_or(kind);
        assert!(has_word(section(&page, "READINESS"), name), "{kind} in the man page");
        assert!(guide.contains(&format!("`{kind}`")), "{kind} in the guide");
    }
}

#[test]
fn every_dialect_is_explained() {
    let page = man_page();
    let conventions = read("docs/conventions.md");
    let help = help();
    for dialect in graceful_run::dialect::Dialect::ALL {
        let name = dialect.name();
        assert!(has_word(section(&page, "DIALECTS"), name), "{name} in the man page");
        assert!(conventions.contains(&format!("`{name}`")), "{name} in the conventions");
        assert!(help.contains(&format!("`{name}`")), "{name} in --help");
    }
}

#[test]
fn every_exit_status_is_explained() {
    let held = Error::NameTaken { name: String::new(), pid: None };
    let own = [Error::Usage(String::new()), held, Error::Failed(String::new())].map(|error| error.status());
    assert_eq!(own, [2, 100, 125]);
    let page = man_page();
    let guide = guide();
    let help = help();
    for status in ["0", "2", "100", "124", "125", "126", "127", "128+n", "137"] {
        assert!(has_word(section(&page, "EXIT STATUS"), status), "{status} in the man page");
        assert!(has_word(&guide, status), "{status} in the guide");
        assert!(has_word(&help, status), "{status} in --help");
    }
}

#[test]
fn every_verb_of_ctl_is_explained() {
    let page = ctl_page();
    let document = read("docs/ctl.md");
    let command = Ctl::command();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        assert!(section(&page, "VERBS").contains(&format!("\n{name}")), "{name} in the man page");
        assert!(document.contains(&format!("`{name}")), "{name} in docs/ctl.md");
    }
    for status in ["0", "1", "2", "3", "4", "124"] {
        assert!(has_word(section(&page, "EXIT STATUS"), status), "{status} in the man page");
        assert!(has_word(&document, status), "{status} in docs/ctl.md");
    }
}

#[test]
fn the_doctor_is_explained() {
    let page = doctor_page();
    let document = read("docs/doctor.md");
    for state in ["ok", "note", "missing"] {
        assert!(has_word(section(&page, "DESCRIPTION"), state), "{state} in the man page");
        assert!(has_word(&document, state), "{state} in docs/doctor.md");
    }
    for status in ["0", "1", "2"] {
        assert!(has_word(section(&page, "EXIT STATUS"), status), "{status} in the man page");
    }
    for word in ["--json", "0", "1"] {
        assert!(has_word(&document, word), "{word} in docs/doctor.md");
    }
    assert!(help().contains("graceful-run doctor"), "--help names it");
}

#[test]
fn the_man_pages_have_their_sections_in_order() {
    let headings = |page: &str| -> Vec<String> {
        page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(str::to_owned).collect()
    };
    let main = [
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
        "EXIT STATUS",
        "FILES",
        "EXAMPLES",
        "NOTES",
        "SEE ALSO",
    ];
    assert_eq!(headings(&man_page()), main);
    let ctl = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "VERBS",
        "STATUS",
        "REPLACING GRACEFUL-RUN ITSELF",
        "CONTROL SOCKET",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ];
    assert_eq!(headings(&ctl_page()), ctl);
    let doctor = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"];
    assert_eq!(headings(&doctor_page()), doctor);
    assert_eq!(headings(&profiles_page()), doctor);
}

#[test]
fn the_man_pages_refer_to_each_other() {
    let pages = [
        ("graceful-run", man_page()),
        ("graceful-run-ctl", ctl_page()),
        ("graceful-run-doctor", doctor_page()),
        ("graceful-run-profiles", profiles_page()),
    ];
    for (name, page) in &pages {
        for (other, _) in pages.iter().filter(|(other, _)| other != name) {
            let reference = format!(".BR {other} (1)");
            assert!(section(page, "SEE ALSO").contains(&reference), "{name} refers to {other}");
        }
    }
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
    for page in [man_page(), ctl_page(), doctor_page(), profiles_page()] {
        let title = page.lines().find(|line| line.starts_with(".TH ")).expect("a page has a title");
        assert!(title.contains(&format!("\"graceful-run {version}\"")), "{title}");
    }
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
    let scene = Scene::new();
    let mut command = scene.command();
    let output = command.arg("--help").env("COLUMNS", "200").stdout(Stdio::piped()).output();
    let output = output.expect("the program runs");
    assert!(output.status.success() && output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("--help is UTF-8")
}

fn man_page() -> String {
    plain("man/graceful-run.1")
}

fn ctl_page() -> String {
    plain("man/graceful-run-ctl.1")
}

fn doctor_page() -> String {
    plain("man/graceful-run-doctor.1")
}

fn profiles_page() -> String {
    plain("man/graceful-run-profiles.1")
}

/// A man page without changes of the font, and with plain hyphens.
fn plain(path: &str) -> String {
    read(path).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")
}

fn guide() -> String {
    read("docs/guide.md")
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The section of a man page with this heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("\n.SH {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &page[start + 1..];
    rest.find("\n.SH ").map_or(rest, |end| &rest[..end])
}

fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '+';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}
