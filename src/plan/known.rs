//! `graceful-run profiles`: the list, what one of them does, and what it stands for with a command.

use super::table::{row, row_of};
use super::{line, print};
use crate::cli::Cli;
use crate::cli::profiles::Profiles;
use crate::config::{Applied, Config, Situation};
use crate::error::Error;
use crate::profiles::{self, Profile, Shown, ShownAddition, ShownWay, quote};
use clap::Parser;
use serde::Serialize;
use std::ffi::{OsStr, OsString};

/// The first argument that selects this command.
pub const WORD: &str = "profiles";

/// What stands for the address of -b, which decides nothing.
const ADDRESS: &str = "ADDRESS";

/// Fields are only ever added.
#[derive(Debug, Serialize)]
struct List {
    version: u32,
    profiles: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: &'static str,
    title: &'static str,
    tried: Option<&'static str>,
}

/// A profile with a command. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Standing {
    version: u32,
    name: &'static str,
    /// Whether the command is known as this server.
    recognised: bool,
    /// None: it is not known to take sockets.
    with_b: Option<Flags>,
    without_b: Flags,
}

/// What the profile stands for.
#[derive(Debug, Serialize)]
struct Flags {
    applied: String,
    options: Vec<String>,
    added: Vec<String>,
    /// Arguments that the user has to add to the script of a shell.
    to_add: Vec<String>,
    warnings: Vec<String>,
    command: Vec<String>,
    /// The command line that is the same without the profile.
    line: String,
}

/// Prints what is asked for.
///
/// # Errors
/// [`Error::Usage`] for a name that there is not, or a command that nothing is known of.
pub fn run(flags: &Profiles) -> Result<(), Error> {
    let text = match (flags.name.as_deref(), flags.command.is_empty()) {
        (None, true) => list(flags.json),
        (Some(name), true) => {
            let shown = profiles::named(name).map_err(Error::Usage)?.shown();
            if flags.json { line(&shown) } else { table(&shown) }
        }
        (name, false) => {
            let standing = standing(name, profile(name, &flags.command)?, &flags.command)?;
            if flags.json { line(&standing) } else { standing.table() }
        }
    };
    print(&text);
    Ok(())
}

fn profile(name: Option<&str>, command: &[OsString]) -> Result<&'static Profile, Error> {
    match name {
        Some(name) => profiles::named(name).map_err(Error::Usage),
        None => profiles::find(command).map(|found| found.profile).ok_or_else(|| {
            let word = command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
            Error::Usage(format!("'{word}' is known by no profile (graceful-run profiles lists them)"))
        }),
    }
}

fn list(json: bool) -> String {
    let tried = |version: &'static str| Some(version).filter(|version| !version.is_empty());
    let all = profiles::all().iter();
    let entries: Vec<Entry> = all
        .map(|profile| Entry { name: profile.name, title: profile.title, tried: tried(profile.version) })
        .collect();
    if json {
        return line(&List { version: 1, profiles: entries });
    }
    let width = |column: fn(&Entry) -> usize| entries.iter().map(column).max().unwrap_or_default();
    let name = width(|entry| entry.name.len());
    let version = width(|entry| entry.tried.unwrap_or("TRIED").len());
    let head = format!("{:name$}  {:version$}  TITLE\n", "NAME", "TRIED");
    let lines = entries.iter().map(|entry| {
        format!("{:name$}  {:version$}  {}\n", entry.name, entry.tried.unwrap_or("-"), entry.title)
    });
    head + &lines.collect::<String>()
}

fn table(shown: &Shown) -> String {
    let none = |words: &[&str]| if words.is_empty() { "any".into() } else { words.join(", ") };
    let warnings = shown.warnings.iter().map(|it| {
        let unless = if it.unless.is_empty() {
            String::new()
        } else {
            format!(" (not with {})", it.unless.join(", "))
        };
        format!("{}{unless}: {}", none(it.words), it.text)
    });
    let meanings = shown.as_process_1.iter().map(|(signal, meaning)| format!("{signal}: {meaning}"));
    let lines = shown.lines.iter().map(|it| {
        let caveat = if it.caveat.is_empty() { String::new() } else { format!("\n  {}", it.caveat) };
        format!("{}:\n  {}{caveat}", it.title, it.command)
    });
    let never = if shown.never.is_empty() { Vec::new() } else { vec![shown.never.join(" ")] };
    let recognised = match shown.recognised.is_empty() {
        true => "by no name: what it runs is a program of your own".into(),
        false => {
            let installed = if shown.only_installed { " (if installed)" } else { "" };
            shown.recognised.join(", ") + installed
        }
    };
    let with_b = match &shown.with_b {
        Some(way) if way.options.is_empty() && way.adds.is_empty() => "as the lines below show".into(),
        Some(way) => options(way),
        None => "takes no socket, as far as is known: leave -b out".into(),
    };
    let bare = &shown.without_b;
    let without_b = format!("{}: {}", bare.way, options(bare));
    let mut adds = adds(bare);
    adds.extend(
        shown
            .with_b
            .iter()
            .flat_map(self::adds)
            .filter(|add| !adds.contains(add))
            .map(|add| add + "; with -b")
            .collect::<Vec<_>>(),
    );
    [
        row("name", shown.name),
        row("title", shown.title),
        row_of("tried with", &shown.tried.map(String::from).into_iter().collect::<Vec<_>>()),
        row("recognised", &recognised),
        row_of("not with", &never),
        row("with -b", &with_b),
        row("without -b", without_b.trim_end_matches(": nothing")),
        row_of("adds", &adds),
        row_of("warns of", &warnings.collect::<Vec<_>>()),
        row_of("as process 1", &meanings.collect::<Vec<_>>()),
        row_of("in the foreground", &shown.foreground.map(String::from).into_iter().collect::<Vec<_>>()),
        row_of("only one has", &shown.only_one.map(String::from).into_iter().collect::<Vec<_>>()),
        row_of("checks itself by", &shown.check.clone().into_iter().collect::<Vec<_>>()),
        row_of("known to work", &lines.collect::<Vec<_>>()),
    ]
    .concat()
}

fn options(way: &ShownWay) -> String {
    if way.options.is_empty() { "nothing".into() } else { way.options.join(" ") }
}

fn adds(way: &ShownWay) -> Vec<String> {
    let add = |it: &ShownAddition| {
        let words: Vec<String> = it.arguments.iter().map(|word| quote(OsStr::new(word))).collect();
        let optional = if it.optional { "; left out if the server refuses it" } else { "" };
        format!("{}, not with {}{optional}", words.join(" "), it.unless.join(" "))
    };
    way.adds.iter().map(add).collect()
}

/// `named`: the profile that `--profile` would name.
fn standing(named: Option<&str>, profile: &'static Profile, command: &[OsString]) -> Result<Standing, Error> {
    Ok(Standing {
        version: 1,
        name: profile.name,
        recognised: profiles::find(command).is_some_and(|found| found.profile == profile),
        with_b: profile.takes_sockets().then(|| flags(named, command, true)).transpose()?,
        without_b: flags(named, command, false)?,
    })
}

fn flags(named: Option<&str>, command: &[OsString], bind: bool) -> Result<Flags, Error> {
    let forced = named.map(|name| ["--profile", name]);
    let own = ["graceful-run"].into_iter().chain(forced.into_iter().flatten());
    let bound = ["-b", "127.0.0.1:0"];
    let words = own.chain(bound.into_iter().filter(|_| bind)).chain(["--"]).map(OsString::from);
    let cli = Cli::try_parse_from(words.chain(command.iter().cloned()));
    let cli = cli.map_err(|error| Error::Usage(error.to_string()))?;
    let config = Config::new(cli, true, Situation::default(), &|_| false)?;
    let command = &config.worker.command;
    let applied = config.applied.as_ref();
    let options = applied.map(|applied| applied.options.clone()).unwrap_or_default();
    let on_bind = options.iter().filter_map(|option| option.strip_prefix("-b …")).collect::<String>();
    let address = bind.then(|| format!("-b {ADDRESS}{on_bind}"));
    let quoted = options.iter().filter(|option| !option.starts_with("-b ")).map(|option| {
        match option.split_once(' ') {
            Some((option, value)) => format!("{option} {}", quote(OsStr::new(value))),
            None => option.clone(),
        }
    });
    let words = command.iter().map(|word| quote(word));
    let own = ["graceful-run --profile none".to_owned()].into_iter().chain(address).chain(quoted);
    let line = own.chain(["--".into()]).chain(words).collect::<Vec<_>>().join(" ");
    Ok(Flags {
        applied: applied.map(Applied::line).unwrap_or_default(),
        added: applied.map(|applied| applied.added.clone()).unwrap_or_default(),
        to_add: applied.map(|applied| applied.to_add.clone()).unwrap_or_default(),
        warnings: applied.map(|applied| applied.warnings.clone()).unwrap_or_default(),
        command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        options,
        line,
    })
}

impl Standing {
    fn table(&self) -> String {
        let way = |name: &str, flags: &Flags| {
            row(name, &format!("{}\n{}", flags.applied, flags.line)) + &row_of("  warning", &flags.warnings)
        };
        let with_b = match &self.with_b {
            Some(flags) => way("with -b", flags),
            None => row("with -b", "takes no socket, as far as is known: leave -b out"),
        };
        with_b + &way("without -b", &self.without_b)
    }
}
