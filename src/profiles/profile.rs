//! What is known of one server. The table of all is made at build time from `servers/NAME.toml`.
//!
//! An empty text or list means that nothing is known, or nothing is to be done.

use super::check::Check;
use crate::dialect::Dialect;

/// The profile of one server.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name, as `--profile` has it.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// The version that was tried.
    pub version: &'static str,
    /// How its command line is recognised.
    pub recognise: Recognise,
    /// What holds where it is given sockets; None: it takes none, as far as is known.
    pub bind: Option<Way>,
    /// What holds where it binds its own.
    pub bare: Option<Way>,
    /// Arguments that keep it in the foreground.
    pub add: &'static [Addition],
    /// Arguments that do harm.
    pub warn: &'static [Warning],
    /// As process 1 of a container: meanings of signals that stop its official image.
    pub on: &'static [(&'static str, &'static str)],
    /// How it is kept in the foreground, for people.
    pub foreground: &'static str,
    /// Whether it has sockets for certain, so that it is waited for.
    pub listens: bool,
    /// Whether it always binds its own sockets.
    pub own_socket: bool,
    /// Whether it starts only by its absolute path.
    pub absolute: bool,
    /// What belongs to one instance of it: a second one does not start beside it.
    pub only_one: &'static str,
    /// Two words, one after the other, by which it has nothing of that kind.
    pub apart: &'static [&'static str],
    /// How it checks its own configuration.
    pub check: Option<Check>,
    /// The dialects that it understands beside the one that the profile chooses.
    pub dialects: &'static [&'static str],
    /// Command lines that are known to work.
    pub lines: &'static [Line],
}

/// How a command line is recognised. A pattern is a whole word; `*` at its end stands for a version.
#[derive(Debug, PartialEq, Eq)]
pub struct Recognise {
    /// Names of programs.
    pub programs: &'static [&'static str],
    /// Modules of `python -m`.
    pub modules: &'static [&'static str],
    /// Scripts that an interpreter runs.
    pub scripts: &'static [&'static str],
    /// Files of `java -jar`.
    pub jars: &'static [&'static str],
    /// Any program may have these names: one that is not installed is not known by them.
    pub generic: bool,
    /// Words that have to follow; of those with `|` between them, one.
    pub first: &'static [&'static str],
    /// Words that have to be among its arguments.
    pub needs: &'static [&'static str],
    /// Words with which it is no server; `*` at an end stands for any text.
    pub never: &'static [&'static str],
}

impl Recognise {
    /// For what has no name of its own: a language.
    pub const NEVER: Recognise = Recognise {
        programs: &[],
        modules: &[],
        scripts: &[],
        jars: &[],
        generic: false,
        first: &[],
        needs: &[],
        never: &[],
    };
}

/// The options that a server needs in one way of getting its sockets.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// Whether its sockets are adopted.
    pub adopt: bool,
    /// `--follow`
    pub follow: &'static str,
    /// `--export`
    pub export: &'static [&'static str],
    /// `--ack`
    pub ack: &'static [&'static str],
    /// `--soak`
    pub soak: &'static str,
    /// An option of each BIND.
    pub listener: &'static str,
    /// `--stop-signal`
    pub stop_signal: &'static str,
    /// `--stop-timeout`
    pub stop_timeout: &'static str,
    /// `--stop-first`
    pub stop_first: bool,
    /// Variables that it is given if they are not set.
    pub environment: &'static [(&'static str, &'static str)],
    /// The same where the first BIND is a path, for which `{path}` stands; empty: as else.
    pub environment_unix: &'static [(&'static str, &'static str)],
    /// Arguments that are added.
    pub add: &'static [Addition],
}

/// Arguments that are added behind the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Addition {
    /// They.
    pub arguments: &'static [&'static str],
    /// Patterns: an argument that matches one keeps them out. `*` stands for any text, at both ends.
    pub unless: &'static [&'static str],
    /// The server works without them, and some versions or configurations refuse them.
    pub optional: bool,
    /// Not with `--follow` of the user's: with them it would not start its successor.
    pub not_followed: bool,
}

impl Addition {
    /// Whether these arguments of the server leave room for it.
    pub fn is_needed(&self, arguments: &[String]) -> bool {
        !arguments.iter().any(|word| self.unless.iter().any(|pattern| matches(pattern, word)))
    }

    /// Whether it gives the server one socket by its number. Others find all that they are given.
    pub fn names_one_descriptor(&self) -> bool {
        self.arguments.iter().any(|word| word.ends_with(|c: char| c.is_ascii_digit()))
    }
}

/// A word that does harm.
#[derive(Debug, PartialEq, Eq)]
pub struct Warning {
    /// Patterns of arguments; empty: any command line. One with a blank is of arguments that follow one
    /// another.
    pub words: &'static [&'static str],
    /// The same of arguments with which it does none.
    pub unless: &'static [&'static str],
    /// What happens, and what to write instead.
    pub text: &'static str,
}

impl Warning {
    /// How the text of a warning begins where the server leaves us: it cannot be upgraded then.
    pub const BACKGROUND: &'static str = "it goes into the background";

    /// Whether it holds for these arguments.
    pub fn applies(&self, arguments: &[String]) -> bool {
        let has = |patterns: &[&str]| {
            patterns.iter().any(|pattern| {
                let pattern: Vec<&str> = pattern.split(' ').collect();
                let is_it = |words: &[String]| words.iter().zip(&pattern).all(|(word, it)| matches(it, word));
                arguments.windows(pattern.len()).any(is_it)
            })
        };
        (self.words.is_empty() || has(self.words)) && !has(self.unless)
    }
}

/// A command line that is known to work: what follows `graceful-run`.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// For people.
    pub title: &'static str,
    /// It.
    pub command: &'static str,
    /// The server itself loses requests when it is asked to stop.
    pub loses: bool,
    /// What to know about it.
    pub caveat: &'static str,
}

impl Profile {
    /// The dialects that it understands, the best first; empty: not known.
    pub fn dialects(&self) -> Vec<Dialect> {
        let words = self.bind.iter().flat_map(|bind| bind.export).chain(self.dialects);
        words.filter_map(|word| Dialect::by_name(word)).collect()
    }

    /// Whether one of these texts gives each generation its own of what there can be one of: the
    /// arguments, and the files that they name.
    pub fn is_apart(&self, arguments: &[String], files: &[String]) -> bool {
        // What a shell expands to something else in each process.
        let own = |text: &String| ["$$", "mktemp"].iter().any(|word| text.contains(word));
        let texts = || arguments.iter().chain(files);
        if arguments.iter().any(own) || texts().any(|text| text.contains("GRACEFUL_RUN_GENERATION")) {
            return true;
        }
        let uncommented =
            files.iter().flat_map(|text| text.lines()).filter(|line| !line.trim_start().starts_with('#'));
        let lines = arguments.iter().map(String::as_str).chain(uncommented);
        // An empty argument is a word.
        let split = |line: &'_ str| -> Vec<String> {
            let words = if line.is_empty() { vec![line] } else { line.split_whitespace().collect() };
            let parts = words.into_iter().flat_map(|word| word.split('='));
            parts.map(|part| part.trim_matches(['\'', '"']).into()).collect()
        };
        let words: Vec<String> = lines.flat_map(split).collect();
        !self.apart.is_empty() && words.windows(self.apart.len()).any(|pair| pair == self.apart)
    }

    /// How it gets its sockets, if it is given none of its dialects: none that it could take.
    pub fn socket_hint(&self, given: &[Dialect]) -> Option<String> {
        if self.own_socket {
            return Some(format!("{} binds its own sockets: leave -b out", self.name));
        }
        let dialects = self.dialects();
        let best = dialects.first()?;
        let takes = dialects.iter().any(|dialect| given.contains(dialect));
        (!takes).then(|| format!("{} takes its sockets by --export {}", self.name, best.name()))
    }
}

/// Whether `word` is `pattern`, in which `*` at an end stands for any text.
pub(super) fn matches(pattern: &str, word: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => word.contains(pattern.trim_matches('*')),
        (Some(end), None) => word.ends_with(end),
        (None, Some(start)) => word.starts_with(start),
        (None, None) => word == pattern,
    }
}
