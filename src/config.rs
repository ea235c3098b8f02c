//! What the arguments mean together, checked; plain data. Nothing is bound,
//! started or written here, so every error is one of usage.

use crate::ack::Acks;
use crate::cli::{self, Cli};
use crate::core::event::AckKind;
use crate::core::policy::{OnAckTimeout, Policy, Readiness, Restart};
use crate::error::Error;
use crate::listener::Bind;
use crate::signals::{self, Table};
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// A program that gives no sign at all is taken for ready after this long.
const AUTO_TIMER: Duration = Duration::from_secs(2);
/// Looking into /proc is cheap: soon, then rarely.
const PROBE_LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The user's own check costs a process.
const PROBE_EXEC: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Longer durations are mistakes, and would overflow the clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Words that are, or will be, commands of ours.
const OUR_WORDS: [&str; 3] = ["ctl", "here", "doctor"];

/// Everything that `run` needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the core decides by.
    pub policy: Policy,
    /// The sockets to hold, in order.
    pub binds: Vec<Bind>,
    /// How a worker is started.
    pub worker: Worker,
    /// The ack channels that a worker is given.
    pub acks: Acks,
    /// What asks a worker to stop.
    pub stop_signal: Signal,
    /// What signals to us mean.
    pub signals: Table,
    /// Where our process id goes.
    pub pid_file: Option<PathBuf>,
}

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The directory, as it was written.
    pub chdir: Option<PathBuf>,
    /// Where its environment comes from.
    pub environment: Environment,
    /// As whom it runs.
    pub user: Option<String>,
    /// Its umask.
    pub umask: Option<u32>,
    /// Whether it can gain privileges by executing.
    pub no_new_privs: bool,
    /// Descriptors of ours that it is given.
    pub pass_fds: Vec<i32>,
    /// Whether it shares our process group.
    pub foreground_tty: bool,
    /// Whether the kernel sends it TERM when we die.
    pub dies_with_us: bool,
}

/// Where a worker's environment comes from, in the order of application.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Begin with nothing of ours.
    pub clear: bool,
    /// Variables of ours that are left out.
    pub drop: Vec<OsString>,
    /// Files of K=V lines.
    pub files: Vec<PathBuf>,
    /// Directories of one file a variable.
    pub dirs: Vec<PathBuf>,
    /// Variables from the command line.
    pub set: Vec<(OsString, OsString)>,
}

impl Config {
    /// Checks `cli`. `separated` says that COMMAND came after `--`; `ignored`
    /// says which signals we were started to ignore.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the argument.
    pub fn new(cli: Cli, separated: bool, ignored: impl Fn(i32) -> bool) -> Result<Config, Error> {
        let first = cli.command.first().map(OsString::as_os_str).unwrap_or_default();
        if !separated && OUR_WORDS.iter().any(|word| first == *word) {
            let word = first.to_string_lossy();
            if word == "here" {
                return Err(Error::Usage(
                    "'here' takes none of our options (write graceful-run here -- CMD; to run a program of that name, write '-- here')".into(),
                ));
            }
            return Err(Error::Usage(format!(
                "'{word}' is a word of our own, and not to be had in this version (to run a program of that name, write '-- {word}')"
            )));
        }
        if first.is_empty() {
            return Err(Error::Usage("COMMAND is empty".into()));
        }
        let binds = cli.bind.iter().map(|text| bind(text)).collect::<Result<Vec<Bind>, Error>>()?;
        let several = binds.iter().any(|bind| bind.options.reuseport) && cli.workers > 1;
        if several && cli.restart != cli::Restart::Always {
            return Err(Error::Usage(
                "reuseport with several workers needs --restart always: nobody would serve the queue of a slot that stays empty".into(),
            ));
        }
        if let Some(user) =
            cli.user.as_deref().filter(|user| user.starts_with(':') || user.ends_with(':') || user.is_empty())
        {
            return Err(invalid("--user", user, "not of the form USER or USER:GROUP"));
        }
        let bad = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
        if let Some(name) = cli.drop_env.iter().find(bad) {
            return Err(invalid("--drop-env", &name.to_string_lossy(), "not the name of a variable"));
        }
        let (acks, readiness) = readiness(&cli.ack)?;
        let environment = Environment {
            clear: cli.clear_env,
            drop: cli.drop_env,
            files: cli.env_file,
            dirs: cli.env_dir,
            set: cli.env.iter().map(|pair| variable(pair)).collect::<Result<_, Error>>()?,
        };
        Ok(Config {
            policy: Policy {
                workers: cli.workers,
                least_workers: 1,
                readiness,
                ack_timeout: timeout("--ack-timeout", &cli.ack_timeout)?,
                on_ack_timeout: cli.on_ack_timeout.map(|what| match what {
                    cli::OnAckTimeout::Abort => OnAckTimeout::Abort,
                    cli::OnAckTimeout::Proceed => OnAckTimeout::Proceed,
                }),
                soak: duration("--soak", &cli.soak)?,
                surge: surge(&cli.surge)?,
                stop_first: cli.stop_first,
                stop_timeout: timeout("--stop-timeout", &cli.stop_timeout)?,
                max_draining: cli.max_draining,
                restart: match cli.restart {
                    cli::Restart::Always => Restart::Always,
                    cli::Restart::OnFailure => Restart::OnFailure,
                    cli::Restart::Never => Restart::Never,
                },
                stable: duration("--stable", &cli.stable)?,
                retry_start: cli.retry_start,
            },
            binds,
            worker: Worker {
                command: cli.command,
                chdir: cli.chdir,
                environment,
                user: cli.user,
                umask: cli.umask.as_deref().map(umask).transpose()?,
                no_new_privs: cli.no_new_privs,
                pass_fds: cli.pass_fd,
                foreground_tty: cli.foreground_tty,
                dies_with_us: cli.on_death == cli::OnDeath::Term,
            },
            acks,
            stop_signal: signals::signal_by_name(&cli.stop_signal).ok_or_else(|| {
                invalid("--stop-signal", &cli.stop_signal, "no such signal (write TERM, QUIT, INT or USR1)")
            })?,
            signals: Table::new(&cli.on, ignored)?,
            pid_file: cli.pid_file,
        })
    }
}

fn bind(text: &OsStr) -> Result<Bind, Error> {
    let utf8 = text.to_str();
    utf8.ok_or_else(|| invalid("--bind", &text.to_string_lossy(), "it is not UTF-8"))?.parse()
}

fn invalid(option: &str, value: &str, why: &str) -> Error {
    Error::Usage(format!("invalid value '{value}' for '{option}': {why}"))
}

/// A length of time; a bare 0 needs no unit.
fn duration(option: &str, text: &str) -> Result<Duration, Error> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(invalid(option, text, "longer than ten years")),
        Err(error) => {
            let why = format!("{} (write 500ms, 30s, 5m or 1h30m)", error.to_string().to_lowercase());
            Err(invalid(option, text, &why))
        }
    }
}

/// A length of time of which 0 means for ever.
fn timeout(option: &str, text: &str) -> Result<Option<Duration>, Error> {
    Ok(Some(duration(option, text)?).filter(|duration| !duration.is_zero()))
}

fn surge(text: &str) -> Result<Option<u32>, Error> {
    match text.parse::<u32>() {
        Ok(slots) if slots > 0 => Ok(Some(slots)),
        _ if text == "all" => Ok(None),
        _ => Err(invalid("--surge", text, "not a number of slots from 1 on, nor 'all'")),
    }
}

fn umask(text: &str) -> Result<u32, Error> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 && text.starts_with(|c: char| c.is_ascii_digit()) => Ok(mask),
        _ => Err(invalid("--umask", text, "not an octal number from 0 to 777")),
    }
}

fn variable(pair: &OsStr) -> Result<(OsString, OsString), Error> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=').filter(|&at| at > 0);
    let at = at.ok_or_else(|| invalid("--env", &pair.to_string_lossy(), "not of the form K=V"))?;
    Ok((OsStr::from_bytes(&bytes[..at]).into(), OsStr::from_bytes(&bytes[at + 1..]).into()))
}

/// `exec:` takes the rest of its value, commas included, because a command may
/// well contain some.
fn readiness(values: &[String]) -> Result<(Acks, Readiness), Error> {
    let mut acks = Acks::default();
    let mut readiness = Readiness { auto: false, kinds: Vec::new(), timer: None, probe: None };
    for value in values {
        let mut rest = Some(value.as_str());
        while let Some(text) = rest {
            let (kind, after) = match text.starts_with("exec:") {
                true => (text, None),
                false => text.split_once(',').map_or((text, None), |(kind, after)| (kind, Some(after))),
            };
            ack_kind(kind, value, &mut acks, &mut readiness)?;
            rest = after;
        }
    }
    if readiness.auto {
        acks.notify = true;
        acks.fd = true;
        acks.accepting = true;
        readiness.timer.get_or_insert(AUTO_TIMER);
    }
    readiness.probe = match (&acks.exec, acks.accepting) {
        (Some(_), _) => Some(PROBE_EXEC),
        (None, true) => Some(PROBE_LOOK),
        (None, false) => None,
    };
    Ok((acks, readiness))
}

fn ack_kind(kind: &str, value: &str, acks: &mut Acks, readiness: &mut Readiness) -> Result<(), Error> {
    let bad = |why: &str| invalid("--ack", value, why);
    let (name, argument) = kind.split_once(':').map_or((kind, None), |(name, rest)| (name, Some(rest)));
    let kind = match (name, argument) {
        ("auto", None) => {
            readiness.auto = true;
            return Ok(());
        }
        ("notify", None) => {
            acks.notify = true;
            AckKind::Notify
        }
        ("fd", None) => {
            acks.fd = true;
            AckKind::Fd
        }
        ("fd", Some(number)) => {
            let number = number.parse().ok().filter(|number| (3..1 << 16).contains(number));
            acks.fd = true;
            acks.fd_number = Some(number.ok_or_else(|| bad("fd:N takes a descriptor from 3 to 65535"))?);
            AckKind::Fd
        }
        ("accepting", None) => {
            acks.accepting = true;
            AckKind::Accepting
        }
        ("exec", Some(command)) if !command.is_empty() => {
            acks.exec = Some(command.into());
            AckKind::Exec
        }
        ("timer", Some(length)) => {
            readiness.timer = Some(duration("--ack timer", length)?);
            AckKind::Timer
        }
        _ => {
            return Err(bad(&format!(
                "no such kind as '{kind}' (write auto, notify, fd, fd:N, accepting, exec:CMD or timer:DUR)"
            )));
        }
    };
    readiness.kinds.push(kind);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn refused(arguments: &[&str]) -> String {
        let words = ["graceful-run"].iter().chain(arguments).chain(&["--", "server"]);
        let error = Config::new(Cli::parse_from(words), true, |_| false).unwrap_err();
        assert_eq!(error.status(), 2);
        error.to_string()
    }

    #[test]
    fn a_slot_that_can_stay_empty_has_no_socket_of_its_own() {
        let some = ["-b", ":1,reuseport", "-n", "2", "--restart", "on-failure"];
        assert!(refused(&some).contains("needs --restart always"));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (option, value) in
            [("--user", ""), ("--user", "nobody:"), ("--drop-env", ""), ("--drop-env", "A=B")]
        {
            assert!(refused(&[option, value]).contains(&format!("'{value}' for '{option}'")));
        }
    }

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(duration("--soak", "1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("--stop-timeout", "0"), Ok(None));
        for wrong in ["", "5x", "-1s", "1e20", "5", "99999999999y", "s"] {
            let error = duration("--soak", wrong).unwrap_err();
            assert_eq!(error.status(), 2, "{wrong}");
            assert!(error.to_string().contains(&format!("'{wrong}' for '--soak'")), "{error}");
        }
    }

    #[test]
    fn a_check_keeps_its_commas() {
        let (acks, readiness) = readiness(&["notify,exec:test a,b".into()]).unwrap();
        assert_eq!(acks.exec.as_deref(), Some("test a,b"));
        assert_eq!(readiness.kinds, [AckKind::Notify, AckKind::Exec]);
        assert_eq!(readiness.probe, Some(PROBE_EXEC));
    }

    #[test]
    fn auto_watches_every_channel() {
        let (acks, readiness) = readiness(&["auto".into()]).unwrap();
        assert!(acks.notify && acks.fd && acks.accepting && readiness.kinds.is_empty());
        assert_eq!(readiness.timer, Some(AUTO_TIMER));
    }

    #[test]
    fn bad_kinds_are_named() {
        for wrong in ["", "notify,", "ready", "fd:2", "fd:x", "exec:", "timer", "timer:x", "notify:1"] {
            assert_eq!(super::readiness(&[wrong.into()]).unwrap_err().status(), 2, "{wrong}");
        }
    }
}
