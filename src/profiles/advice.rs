//! Advice about a command line that is known to be no server itself: it starts one behind a program that
//! keeps sockets or signals from it.
//!
//! Contract: only by evidence in the words of the command line, and in the text of a shell's script.

use super::hints::is_shell;
use super::recognise::{program_of, words_behind};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What is to be known of a command line, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// For people.
    pub text: String,
    /// The server does not get its sockets, or its stop signal: an upgrade loses requests.
    pub loses: bool,
}

/// Programs of Node.js that start another one. Node.js closes what it was handed when it starts one.
const NODE: [&str; 4] = ["npm", "npx", "pnpm", "yarn"];

/// Scripts of the shell longer than this are not read.
const LONGEST: u64 = 1 << 16;

/// The advice for this command line, if there is some. `directory` is where its relative paths begin;
/// `handed` says that it is given sockets.
pub fn advice(command: &[OsString], directory: &Path, handed: bool) -> Option<Advice> {
    let words: Vec<OsString> = words_behind(command).into_iter().map(Into::into).collect();
    behind(&words, directory, handed)
}

fn behind(words: &[OsString], directory: &Path, handed: bool) -> Option<Advice> {
    let at = program_of(words)?;
    let before = words.get(..=at)?.iter().map(|word| file_name(word));
    let runner = before.clone().find(|word| NODE.contains(word));
    if let Some(runner) = runner.filter(|_| handed) {
        return Some(node(runner, words));
    }
    let program = words.get(at)?;
    if before.clone().any(|word| word == "runuser") {
        return Some(runuser(handed));
    }
    if before.clone().any(|word| word == "setsid") {
        return Some(setsid());
    }
    let takes_them = words.iter().any(|word| word == "here");
    if handed && !takes_them && before.clone().any(|word| word == "uv" || word == "uvx") {
        return Some(uv(words));
    }
    if is_shell(program) {
        return shell(program, words.get(at + 1..)?, directory, handed);
    }
    let path = directory.join(program);
    let is_path = program.to_string_lossy().contains('/');
    let text = is_path.then(|| text(&path)).flatten().filter(|text| is_script(text))?;
    without_exec(file_name(program), &text, handed)
}

/// npm start, npx vite
fn node(runner: &str, words: &[OsString]) -> Advice {
    let rest = words.iter().skip_while(|word| file_name(word) != runner).skip(1);
    let mut rest = rest.map(|word| word.to_string_lossy()).filter(|word| !word.starts_with('-'));
    let verb = rest.next().unwrap_or_default();
    let instead = match (runner, &*verb) {
        ("npx", program) => format!("node_modules/.bin/{program}"),
        (_, "exec" | "dlx" | "x") => format!("node_modules/.bin/{}", rest.next().unwrap_or_default()),
        (_, "run" | "run-script") => {
            format!("the command of scripts.{} in package.json", rest.next().unwrap_or_default())
        }
        (_, script) => format!("the command of scripts.{script} in package.json (node server.js)"),
    };
    Advice {
        text: format!(
            "{runner} closes the sockets that it is handed before it starts the server: write {instead} in its place, or leave -b out"
        ),
        loses: true,
    }
}

/// `uv run`: the descriptors reach the server, and LISTEN_PID is not its process.
fn uv(words: &[OsString]) -> Advice {
    let by_number = words.iter().any(|word| word.to_string_lossy().contains("fd"));
    Advice {
        text: "uv stays in front of the server, and LISTEN_PID names uv: a server that compares it takes no socket (write graceful-run here -- behind uv run, or leave -b out)".into(),
        loses: !by_number,
    }
}

/// A worker leads its process group, and its leader can begin no session (setsid(2)): setsid(1) starts the
/// server as a child, and leaves it unless it is told to wait.
fn setsid() -> Advice {
    Advice {
        text: "setsid starts the server as a child: leave setsid out, each worker leads a process group of its own".into(),
        loses: true,
    }
}

/// runuser waits for the server that it has started. Two seconds after its stop signal it kills it.
fn runuser(handed: bool) -> Advice {
    Advice {
        text: "runuser stays in front of the server: LISTEN_PID names runuser, and 2 s after its stop signal it kills the server (write --user USER of graceful-run in its place)".into(),
        loses: handed,
    }
}

fn shell(program: &OsStr, arguments: &[OsString], directory: &Path, handed: bool) -> Option<Advice> {
    let shell = file_name(program);
    let word = arguments.first()?.to_str()?;
    if word.starts_with('-') {
        // These two execute the last command by themselves.
        let executes = ["bash", "zsh"].contains(&shell);
        let is_text = !word.starts_with("--") && word.contains('c') && !executes;
        return is_text.then(|| without_exec(shell, arguments.get(1)?.to_str()?, handed)).flatten();
    }
    without_exec(word, &text(&directory.join(word))?, handed)
}

/// A shell that waits for the server takes the stop signal in its place, and has the process id that
/// LISTEN_PID names.
fn without_exec(name: &str, script: &str, handed: bool) -> Option<Advice> {
    let executes = |line: &str| line.split([';', '&', '|', '(', '{']).any(|it| is_exec(it.trim_start()));
    let code = script.lines().filter(|line| !line.trim_start().starts_with('#'));
    // A handler passes the signal on, perhaps; `graceful-run here` takes the sockets.
    let prepares = |line: &str| ["trap ", " here "].iter().any(|word| line.contains(word));
    let is_prepared = code.clone().any(|line| executes(line) || prepares(line));
    (!is_prepared).then(|| Advice {
        text: format!(
            "{name} stays in front of the server, and takes its stop signal: write exec before the last command of the script"
        ),
        loses: handed,
    })
}

fn is_exec(command: &str) -> bool {
    // Behind a keyword of the shell: `then exec server`.
    let words = ["then ", "else ", "do "];
    let command = words.iter().find_map(|word| command.strip_prefix(word)).unwrap_or(command);
    command.starts_with("exec ")
}

fn is_script(text: &str) -> bool {
    let line = text.lines().next().and_then(|line| line.strip_prefix("#!")).unwrap_or_default();
    line.split_whitespace().any(|word| is_shell(OsStr::new(word)))
}

fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    let is_short = file.metadata().is_ok_and(|file| file.is_file() && file.len() <= LONGEST);
    is_short.then(|| file.take(LONGEST).read_to_string(&mut text).ok())?.map(|_| text)
}

fn file_name(word: &OsStr) -> &str {
    Path::new(word).file_name().and_then(OsStr::to_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &[&str], handed: bool) -> Option<Advice> {
        let words: Vec<OsString> = line.iter().map(OsString::from).collect();
        advice(&words, Path::new("/nonexistent"), handed)
    }

    #[test]
    fn what_closes_sockets_is_told_with_what_to_write() {
        for (line, instead) in [
            (&["npm", "start"][..], "scripts.start in package.json (node server.js)"),
            (&["env", "A=b", "npm", "run", "web"], "scripts.web in package.json"),
            (&["npx", "--yes", "vite"], "write node_modules/.bin/vite "),
            (&["npm", "exec", "--", "vite"], "write node_modules/.bin/vite "),
            (&["yarn", "start"], "scripts.start"),
            (&["pnpm", "start"], "scripts.start"),
            (&["sh", "-c", "cd web && exec npm start"], "scripts.start"),
        ] {
            let advice = of(line, true).unwrap_or_else(|| panic!("{line:?}"));
            assert!(advice.loses && advice.text.contains(instead), "{line:?}: {}", advice.text);
            assert_eq!(of(line, false), None, "adopted: {line:?}");
        }
    }

    #[test]
    fn a_shell_that_waits_is_told_of() {
        for line in [&["sh", "-c", "nginx -p ."][..], &["dash", "-ec", "migrate; nginx"]] {
            assert!(of(line, true).is_some_and(|advice| advice.loses), "{line:?}");
            assert!(of(line, false).is_some_and(|advice| !advice.loses), "{line:?}");
        }
        for line in [
            &["sh", "-c", "exec nginx"][..],
            &["sh", "-c", "migrate; exec nginx"],
            &["sh", "-c", "if true; then exec nginx; fi"],
            &["sh", "-c", "trap 'kill $!' TERM; nginx & wait"],
            &["sh", "-c", "migrate; graceful-run here -- nginx"],
            &["bash", "-c", "nginx"],
            &["sh", "run.sh"],
            &["nginx"],
            &["npm"],
            &["bundle", "exec", "puma"],
            &["node", "npm.js"],
            &[],
        ] {
            assert_eq!(of(line, false), None, "{line:?}");
        }
    }

    #[test]
    fn uv_hands_on_by_number_only() {
        assert!(of(&["uv", "run", "gunicorn", "wsgi"], true).is_some_and(|advice| advice.loses));
        let by_number = ["uv", "run", "uvicorn", "--fd", "3", "a:b"];
        assert!(of(&by_number, true).is_some_and(|advice| !advice.loses));
        assert_eq!(of(&by_number, false), None);
        assert_eq!(of(&["uv", "run", "graceful-run", "here", "--", "gunicorn", "wsgi"], true), None);
    }

    #[test]
    fn setsid_leaves_the_server() {
        for line in [&["setsid", "nginx"][..], &["setsid", "--fork", "--wait", "nginx"]] {
            assert!(of(line, false).is_some_and(|advice| advice.loses), "{line:?}");
        }
    }

    #[test]
    fn runuser_kills_the_server_early() {
        let line = ["runuser", "-u", "nobody", "--", "nginx"];
        for handed in [true, false] {
            let advice = of(&line, handed).expect("an advice");
            assert!(advice.text.contains("write --user USER"), "{}", advice.text);
            assert_eq!(advice.loses, handed);
        }
        assert_eq!(of(&["setpriv", "--reuid=33", "nginx"], true), None);
    }

    #[test]
    fn the_file_of_a_script_is_read() {
        let scene = tempfile::tempdir().unwrap();
        for (text, told) in [
            ("#!/bin/sh\n# exec is not here\nserver\n", true),
            ("#!/bin/sh\ncd /srv\n  exec \"$@\"\n", false),
            ("#!/usr/bin/env python3\nserve()\n", false),
        ] {
            std::fs::write(scene.path().join("run"), text).unwrap();
            let words = ["./run"].map(OsString::from);
            assert_eq!(advice(&words, scene.path(), true).is_some(), told, "{text}");
        }
        let words = ["sh", "run"].map(OsString::from);
        std::fs::write(scene.path().join("run"), "server\n").unwrap();
        assert!(advice(&words, scene.path(), true).is_some_and(|advice| advice.text.starts_with("run ")));
    }
}
