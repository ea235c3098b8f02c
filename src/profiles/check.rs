//! How a server checks its own configuration.

use std::ffi::OsStr;

/// How a server checks its own configuration, and ends with another status than 0 if it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The command line of the server, with these words after it.
    Flags(&'static [&'static str]),
    /// Another program, with its words, which gets the file that the server's own option names, or
    /// else this one, or none. Where it is not installed, nothing is checked.
    Program(&'static [&'static str], &'static str, Option<&'static str>),
}

impl Check {
    /// The check of the server that `arguments` start, as a command for the shell; `quoted` is the
    /// text of the whole command line. `expanded`: it is one of the shell, which expands variables.
    pub(super) fn command(self, quoted: &str, arguments: &[String], expanded: bool) -> String {
        // Some print the configuration, or the one setting that they are asked for.
        match self {
            Check::Flags(flags) => format!("{quoted} {} >/dev/null", flags.join(" ")),
            Check::Program(words, option, default) => {
                let file = value(arguments, option).or(default);
                let file = match file {
                    Some(file) if expanded && file.contains('$') => format!("\"{file}\""),
                    file => file.map(|file| quote(OsStr::new(file))).unwrap_or_default(),
                };
                let program = words.first().copied().unwrap_or_default();
                let check = format!("exec {} {file}", words.join(" "));
                format!("command -v {program} >/dev/null || exit 0; {} >/dev/null", check.trim_end())
            }
        }
    }
}

/// The value of an option: the next word, or what follows `=`.
fn value<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|word| word == option).map(|at| at + 1);
    let joined = arguments.iter().find_map(|word| word.strip_prefix(option)?.strip_prefix('='));
    at.and_then(|at| arguments.get(at)).map(String::as_str).or(joined)
}

/// A word as the shell takes it.
pub fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
