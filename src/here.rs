//! `graceful-run here -- CMD`: gives CMD the sockets although it runs behind a shell.
//!
//! LISTEN_PID names the one process that may take the sockets: the worker that graceful-run has
//! started. A server behind a shell or `timeout` is another process. Contract: CMD is executed in
//! this process, with its environment and signals. Only LISTEN_PID and LISTEN_PIDFDID are changed,
//! to this process; and EINHORN_MASTER_PID and GUNICORN_PID, where they are set, to its parent,
//! because their readers compare them with it. What cannot work is refused before the execution.

use crate::error::{Error, reason};
use crate::launch::interpreter;
use crate::listener::options::digits;
use crate::sys::exec::exec_first;
use crate::sys::fd::duplicate;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The name of the subcommand.
pub const WORD: &str = "here";

/// Variables that hold the process id of the parent.
const PARENT_PID_VARIABLES: [&str; 2] = ["EINHORN_MASTER_PID", "GUNICORN_PID"];

const HELP: &str = "\
Take the sockets in a script that graceful-run runs

Usage: graceful-run here [--] CMD [ARG]...

LISTEN_PID names the process that the sockets are meant for: the one that
graceful-run started. Behind a shell, timeout or the like the server is another
one, and does not find them. This puts its own process id there and becomes CMD:

  #!/bin/sh
  ./migrate || exit 1
  exec timeout --foreground 1d graceful-run here -- ./server

It is for those who read LISTEN_FDS, and for the dialects einhorn and gunicorn;
in the others any process finds the sockets, and this is not needed.

Without exec the stop signal reaches the shell alone, and the server is asked to
stop once the shell has gone.

Exit status: that of CMD; 2 usage, 125 there are no sockets, 126 or 127 CMD
cannot be executed or is not found. See graceful-run(1).
";

/// Executes CMD. It returns only if that fails, with the exit status and a last line, or after
/// printing the help.
pub fn run(arguments: &[OsString]) -> (u8, Option<String>) {
    let command = match arguments {
        [first, ..] if first == "--help" || first == "-h" => {
            // A reader may close the pipe early.
            let _ = std::io::stdout().write_all(HELP.as_bytes());
            return (0, None);
        }
        [first, rest @ ..] if first == "--" => rest,
        [first, ..] if first.as_bytes().starts_with(b"-") => {
            let option = first.to_string_lossy();
            return usage(&format!("unexpected option '{option}' of here (write graceful-run here -- CMD)"));
        }
        all => all,
    };
    match command.first() {
        None => usage("CMD is missing (write graceful-run here -- CMD)"),
        Some(name) if name.is_empty() => usage("CMD is empty"),
        Some(name) => match check_sockets().and_then(|()| execute(name, command)) {
            Ok(failed) => failed,
            Err(error) => (error.status(), Some(error.to_string())),
        },
    }
}

fn usage(message: &str) -> (u8, Option<String>) {
    let error = Error::Usage(message.into());
    (error.status(), Some(error.to_string()))
}

/// Checks that the sockets of LISTEN_FDS are open in this process.
fn check_sockets() -> Result<(), Error> {
    let attempt = "take the sockets here";
    let Some(count) = std::env::var_os("LISTEN_FDS") else {
        let (why, advice) = match std::env::var_os("GRACEFUL_RUN_PID") {
            // In these dialects only the process id of the parent has to be changed.
            Some(_) if PARENT_PID_VARIABLES.iter().any(|name| std::env::var_os(name).is_some()) => {
                return Ok(());
            }
            Some(_) if std::env::var_os("GRACEFUL_RUN_LISTENERS").is_some_and(|list| !list.is_empty()) => (
                "the dialect hands over no LISTEN_FDS, and does not depend on the process",
                "leave 'graceful-run here' out, or add listen-fds to --export",
            ),
            Some(_) => ("LISTEN_FDS is not set", "give graceful-run a listener with -b"),
            None => (
                "not started by graceful-run",
                "LISTEN_FDS is not set: run it in the COMMAND of graceful-run -b",
            ),
        };
        return Err(refused(attempt.into(), why, advice));
    };
    let text = count.to_string_lossy();
    let number = digits(&text).and_then(|text| text.parse::<RawFd>().ok()).filter(|&n| n < 1 << 16);
    let Some(number) = number else {
        return Err(Error::cannot(attempt, format!("LISTEN_FDS={text:?} is not a number of descriptors")));
    };
    for fd in (crate::dialect::FIRST_FD..).take(number.unsigned_abs() as usize) {
        let is_socket = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
        let why = match duplicate(fd) {
            Ok(copy) => match fstat(&copy) {
                Ok(file) if is_socket(file.st_mode) => continue,
                _ => "it is not a socket".to_owned(),
            },
            Err(error) if error.raw_os_error() == Some(Errno::EBADF as i32) => "it is not open".to_owned(),
            Err(error) => reason(&error),
        };
        let advice = "somebody in between has closed it, as npm and node do with what they inherit: run node server.js itself";
        return Err(refused(format!("{attempt}: descriptor {fd} of LISTEN_FDS={text}"), &why, advice));
    }
    Ok(())
}

fn refused(attempt: String, why: &str, advice: &str) -> Error {
    Error::Cannot { attempt, why: why.into(), advice: Some(advice.into()) }
}

/// Returns only if CMD could not be executed.
fn execute(name: &OsStr, command: &[OsString]) -> Result<(u8, Option<String>), Error> {
    let c_string =
        |bytes: Vec<u8>| CString::new(bytes).map_err(|error| Error::cannot("pass an argument on", error));
    let candidates = candidates(name, std::env::var_os("PATH"));
    let programs: Vec<CString> =
        candidates.into_iter().map(OsString::into_vec).map(c_string).collect::<Result<_, _>>()?;
    let argv: Vec<CString> =
        command.iter().map(|word| c_string(word.as_bytes().to_vec())).collect::<Result<_, _>>()?;
    let env = environment(std::env::vars_os(), Pid::parent());
    let env: Vec<CString> = env.into_iter().map(c_string).collect::<Result<_, _>>()?;
    let errno = exec_first(&programs, &argv, &env);
    let shown = name.to_string_lossy();
    Ok(match errno {
        Errno::ENOENT | Errno::ENOTDIR if !name.as_bytes().contains(&b'/') => {
            (127, Some(format!("cannot find '{shown}' in PATH (give its path)")))
        }
        Errno::ENOENT if Path::new(name).exists() => {
            (127, Some(format!("cannot execute {shown}: {}", interpreter::missing(Path::new(name)))))
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            (127, Some(format!("cannot find {shown}: {}", reason(&errno.into()))))
        }
        _ => (126, Some(format!("cannot execute {shown}: {}", reason(&errno.into())))),
    })
}

/// The paths that execvp(3) would try.
fn candidates(name: &OsStr, path: Option<OsString>) -> Vec<OsString> {
    if name.as_bytes().contains(&b'/') {
        return vec![name.to_owned()];
    }
    let path = path.unwrap_or_else(|| crate::launch::DEFAULT_PATH.into());
    std::env::split_paths(&path).map(|directory| directory.join(name).into_os_string()).collect()
}

/// The environment of CMD: without the two variables that hold its process id, which are added at
/// the execution, and with the process id of its parent in [`PARENT_PID_VARIABLES`].
fn environment(ours: impl Iterator<Item = (OsString, OsString)>, parent: Pid) -> Vec<Vec<u8>> {
    let kept = ours.filter(|(key, _)| key != "LISTEN_PID" && key != "LISTEN_PIDFDID");
    let pair = |(key, value): (OsString, OsString)| {
        let value = match PARENT_PID_VARIABLES.iter().any(|name| key == *name) {
            true => parent.to_string().into(),
            false => value,
        };
        [key.as_bytes(), b"=", value.as_bytes()].concat()
    };
    kept.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_process_ids_change() {
        let ours = [
            ("A", "x=y"),
            ("LISTEN_PID", "1"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_PIDFDID", "7"),
            ("EINHORN_MASTER_PID", "1"),
            ("GUNICORN_PID", "1"),
            ("GOAGAIN_PPID", "1"),
        ];
        let ours = ours.map(|(key, value)| (key.into(), value.into()));
        let env = environment(ours.into_iter(), Pid::from_raw(42));
        let expected =
            ["A=x=y", "LISTEN_FDS=2", "EINHORN_MASTER_PID=42", "GUNICORN_PID=42", "GOAGAIN_PPID=1"];
        assert_eq!(env, expected.map(str::as_bytes));
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_not() {
        let path = || Some("/a:/b:".into());
        assert_eq!(candidates(OsStr::new("x"), path()), ["/a/x", "/b/x", "x"]);
        assert_eq!(candidates(OsStr::new("./x"), path()), ["./x"]);
    }
}
