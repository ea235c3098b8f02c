//! Programs that execute another one: which there are, and where the other one stands in their words.
//!
//! Contract: an option that is not known here ends the search, because its value could be taken for the
//! program.

use super::profile::matches;
use std::ffi::OsStr;
use std::path::Path;

/// A program that executes what follows.
struct Launcher {
    name: &'static str,
    /// Patterns of options without a value, or with it in the same word.
    plain: &'static [&'static str],
    /// Options with a value in the next word.
    valued: &'static [&'static str],
    /// Patterns of options of which there has to be one; empty: none has to. Otherwise what follows is
    /// something else than a program.
    asks: &'static [&'static str],
    /// The word that has to follow, or none.
    verb: &'static str,
    /// The number of words before the program.
    before: usize,
}

const fn launcher(name: &'static str) -> Launcher {
    Launcher { name, plain: &[], valued: &[], asks: &[], verb: "", before: 0 }
}

const LAUNCHERS: &[Launcher] = &[
    Launcher {
        plain: &["--keep-file-descriptors", "--gemfile=*"],
        valued: &["--gemfile"],
        verb: "exec",
        ..launcher("bundle")
    },
    launcher("bunx"),
    launcher("catatonit"),
    Launcher {
        plain: &["-u*", "-U*", "-e*", "-m*", "-d*", "-o*", "-p*", "-c*", "-v", "-P", "-0", "-1", "-2"],
        valued: &["-u", "-U", "-e", "-m", "-d", "-o", "-p", "-c"],
        ..launcher("chpst")
    },
    Launcher { plain: &["-f", "-r", "-o", "-b", "-i"], before: 1, ..launcher("chrt") },
    launcher("docker-entrypoint.sh"),
    launcher("docker-php-entrypoint"),
    Launcher {
        plain: &["-c", "--single-child", "-v", "--verbose"],
        valued: &["-r", "--rewrite"],
        ..launcher("dumb-init")
    },
    Launcher { plain: &["-i", "-u*", "--unset=*"], valued: &["-u", "-C", "--chdir"], ..launcher("env") },
    Launcher { before: 1, ..launcher("gosu") },
    Launcher { verb: "run", ..launcher("hatch") },
    Launcher { plain: &["-c*", "-n*", "-t"], valued: &["-c", "-n"], ..launcher("ionice") },
    Launcher { plain: &["-n*", "-1*", "--adjustment=*"], valued: &["-n"], ..launcher("nice") },
    launcher("nohup"),
    Launcher { plain: &["--yes", "-y", "--no"], verb: "exec", ..launcher("npm") },
    Launcher { plain: &["--yes", "-y", "--no", "--no-install"], ..launcher("npx") },
    Launcher { verb: "run", ..launcher("pdm") },
    Launcher { verb: "run", ..launcher("pipenv") },
    Launcher { verb: "exec", ..launcher("pnpm") },
    Launcher { verb: "run", ..launcher("poetry") },
    // Without -u it starts the shell of a user.
    Launcher {
        plain: &["-u*", "--user=*", "-g*", "--group=*", "-G*", "--supp-group=*"],
        valued: &["-u", "--user", "-g", "--group", "-G", "--supp-group"],
        asks: &["-u*", "--user", "--user=*"],
        ..launcher("runuser")
    },
    Launcher { verb: "run", ..launcher("rye") },
    Launcher { before: 1, ..launcher("s6-setuidgid") },
    Launcher {
        plain: &[
            "--nnp",
            "--no-new-privs",
            "--ruid=*",
            "--euid=*",
            "--reuid=*",
            "--rgid=*",
            "--egid=*",
            "--regid=*",
            "--groups=*",
            "--clear-groups",
            "--keep-groups",
            "--init-groups",
            "--inh-caps=*",
            "--ambient-caps=*",
            "--bounding-set=*",
            "--pdeathsig=*",
            "--reset-env",
        ],
        valued: &[
            "--ruid",
            "--euid",
            "--reuid",
            "--rgid",
            "--egid",
            "--regid",
            "--groups",
            "--inh-caps",
            "--ambient-caps",
            "--bounding-set",
            "--pdeathsig",
        ],
        ..launcher("setpriv")
    },
    Launcher { plain: &["-c", "-w", "-f", "--ctty", "--wait", "--fork"], ..launcher("setsid") },
    Launcher { before: 1, ..launcher("setuidgid") },
    Launcher { plain: &["-i*", "-o*", "-e*"], valued: &["-i", "-o", "-e"], ..launcher("stdbuf") },
    Launcher { before: 1, ..launcher("su-exec") },
    Launcher { plain: &["-s", "-v*", "-w", "-g"], valued: &["-p", "-e"], ..launcher("tini") },
    Launcher {
        plain: &["--frozen", "--locked", "--no-sync", "--no-dev", "--isolated"],
        valued: &["--with", "--group", "--extra", "--python", "-p"],
        verb: "run",
        ..launcher("uv")
    },
    launcher("uvx"),
    Launcher { verb: "exec", ..launcher("yarn") },
];

/// Where the program stands, behind those that only execute it.
pub(super) fn program_at(words: &[String]) -> Option<usize> {
    let mut at = 0;
    loop {
        let word = Path::new(words.get(at)?).file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Some(launcher) = LAUNCHERS.iter().find(|launcher| launcher.name == word) else { return Some(at) };
        let mut next = behind_options(words, at + 1, launcher)?;
        if !launcher.verb.is_empty() {
            if words.get(next).is_none_or(|word| word != launcher.verb) {
                return Some(at);
            }
            next = behind_options(words, next + 1, launcher)?;
        }
        let has = |pattern: &&str| words[at + 1..next].iter().any(|word| matches(pattern, word));
        if !launcher.asks.is_empty() && !launcher.asks.iter().any(has) {
            return Some(at);
        }
        next += launcher.before;
        while word == "env" && words.get(next).is_some_and(|word| word.contains('=')) {
            next += 1;
        }
        at = next;
    }
}

/// Behind the options from `at` on; None where one is not known.
fn behind_options(words: &[String], mut at: usize, launcher: &Launcher) -> Option<usize> {
    while let Some(word) = words.get(at).filter(|word| word.starts_with('-') && word.len() > 1) {
        if word == "--" {
            return Some(at + 1);
        }
        at += match (launcher.valued.contains(&word.as_str()), launcher.plain) {
            (true, _) => 2,
            (false, plain) if plain.iter().any(|pattern| matches(pattern, word)) => 1,
            _ => return None,
        };
    }
    (at < words.len()).then_some(at)
}
