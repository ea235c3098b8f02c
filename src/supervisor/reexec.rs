//! Whether a new binary can take over from us: it is asked in a child, while
//! everything goes on. [`handover`](super::handover) executes it then.

use crate::core::event::Time;
use crate::error::reason;
use crate::launch::InheritedContext;
use crate::reexec::{self, envelope, program};
use crate::sys::child::{self, Launch};
use crate::sys::process;
use log::info;
use nix::errno::Errno;
use nix::fcntl::{F_SETFL, OFlag, fcntl, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2, read};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long the new binary may take to say that it can take over.
const PATIENCE: Duration = Duration::from_secs(5);
/// A binary that is being written to is tried so often again, with such pauses.
const BUSY_TRIES: u32 = 4;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The descriptor of the state in the child.
const STATE_FD: i32 = 3;
/// How much of what it says is read.
const LONGEST_ANSWER: usize = 4096;

/// What is known of a replacement of ourselves.
#[derive(Debug)]
pub(super) struct Reexec {
    /// Where the binary lies; None where it cannot be found out.
    pub(super) program: Option<PathBuf>,
    check: Option<Check>,
    /// The check is done: this binary takes over next.
    due: Option<Successor>,
}

/// A child that is asked whether it could take over.
#[derive(Debug)]
struct Check {
    pid: Pid,
    said: OwnedFd,
    digest: envelope::Digest,
    identity: program::FileIdentity,
    until: Time,
    late: bool,
}

/// A binary that can take over.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) identity: program::FileIdentity,
    pub(super) version: String,
}

impl Reexec {
    /// Finds out where our binary lies, as long as its name leads to it from here.
    pub(super) fn new(surroundings: &InheritedContext) -> Reexec {
        let first = std::env::args_os().next().unwrap_or_default();
        let path = surroundings.environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value);
        Reexec::at(program::find(&first, &surroundings.directory, path))
    }

    /// Our binary lies there.
    pub(super) fn at(program: Option<PathBuf>) -> Reexec {
        Reexec { program, check: None, due: None }
    }

    /// When the check is given up.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.check.as_ref().filter(|check| !check.late).map(|check| check.until)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.check.is_some() || self.due.is_some()
    }

    /// Where the new binary is expected.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub(super) fn program(&self) -> Result<&Path, String> {
        let none = || "where our binary lies cannot be found out".to_owned();
        self.program.as_deref().ok_or_else(none)
    }

    /// Starts the new binary as a child that only reads the state: its pid.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(super) fn check(
        &mut self,
        state: &[u8],
        surroundings: &InheritedContext,
        now: Time,
    ) -> Result<Pid, String> {
        let path = self.program()?;
        let identity = program::read(path)?;
        let bytes = envelope::wrap(state);
        let (_, digest) = envelope::unwrap(&bytes)?;
        let state = envelope::seal(&bytes)?;
        let failed = |errno: Errno| format!("cannot ask {}: {}", path.display(), reason(&errno.into()));
        let (said, answer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        fcntl(&said, F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        let root = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut arguments = arguments()?;
        arguments.insert(1, c_string(reexec::CHECK.into())?);
        let launch = Launch {
            program: c_string(path.into())?,
            argv: arguments,
            env: environment(surroundings, STATE_FD)?,
            listen: false,
            watchdog: false,
            directory: open("/", root, Mode::empty()).map_err(failed)?,
            fds: vec![(answer.as_raw_fd(), 1), (answer.as_raw_fd(), 2), (state.as_raw_fd(), STATE_FD)],
            own_group: true,
            umask: None,
            identity: None,
            no_new_privs: false,
            death_signal: Some(Signal::SIGKILL as i32),
            filter: None,
            program_fd: None,
        };
        let child = unless_busy(|| child::spawn(&launch), |error| error.errno).map_err(|error| {
            let why = reason(&io::Error::from(error.errno));
            format!("cannot execute {}: {why}", path.display())
        })?;
        info!("pid {} is asked whether {} can take over", child.pid, path.display());
        let until = now + PATIENCE;
        self.check = Some(Check { pid: child.pid, said, digest, identity, until, late: false });
        Ok(child.pid)
    }

    /// A child has ended: if it was the one that was asked, whether the new binary can take over.
    pub(super) fn ended(&mut self, pid: Pid, exit: process::Exit) -> Option<Result<(), String>> {
        let check = self.check.take_if(|check| check.pid == pid)?;
        Some(
            judge(&check, exit)
                .map(|version| self.due = Some(Successor { identity: check.identity, version })),
        )
    }

    /// The new binary that is to be executed next, once.
    pub(super) fn take_due(&mut self) -> Option<Successor> {
        self.due.take()
    }

    /// Ends a check that takes too long, or that nobody waits for any more.
    pub(super) fn end_slow_check(&mut self, stopping: bool, now: Time) {
        if let Some(check) = self.check.as_mut().filter(|check| stopping || check.until <= now)
            && !std::mem::replace(&mut check.late, true)
        {
            let _ = process::signal_group(check.pid, Signal::SIGKILL as i32);
        }
    }
}

/// The arguments that we were started with.
pub(super) fn arguments() -> Result<Vec<CString>, String> {
    std::env::args_os().map(c_string).collect()
}

/// The environment that we were started with, and where the state is.
pub(super) fn environment(surroundings: &InheritedContext, state: i32) -> Result<Vec<CString>, String> {
    let pair = |name: OsString, value: OsString| {
        c_string(OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
    };
    let value = reexec::spell(std::process::id(), state);
    // One that we were started with is somebody else's, and would come first.
    let ours = surroundings.environment.iter().filter(|(name, _)| name != reexec::VARIABLE).cloned();
    ours.chain([(reexec::VARIABLE.into(), value.into())]).map(|(name, value)| pair(name, value)).collect()
}

/// Tries again, for a moment: whoever has just installed a binary may have forked
/// before it was closed, and a child holds it open until it executes something.
pub(super) fn unless_busy<T, E>(
    attempt: impl Fn() -> Result<T, E>,
    errno: impl Fn(&E) -> Errno,
) -> Result<T, E> {
    for _ in 0..BUSY_TRIES {
        match attempt() {
            Err(error) if errno(&error) == Errno::ETXTBSY => thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
    attempt()
}

/// The version of the new binary, if it can take over.
fn judge(check: &Check, exit: process::Exit) -> Result<String, String> {
    let mut said = vec![0; LONGEST_ANSWER];
    let length = read(&check.said, &mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    let last = said.lines().last().unwrap_or_default().trim_start_matches("graceful-run: ");
    let words = if last.is_empty() { String::new() } else { format!(": {last}") };
    match exit {
        _ if check.late => Err(format!("the new binary did not answer within {} s", PATIENCE.as_secs())),
        process::Exit::Code(0) => reexec::version(&said, &check.digest)
            .ok_or_else(|| format!("the new binary is no graceful-run that knows how{words}")),
        process::Exit::Code(code) => Err(format!("the new binary refused with status {code}{words}")),
        process::Exit::Signal(signal) => Err(format!("the new binary was ended by signal {signal}{words}")),
    }
}

pub(super) fn c_string(text: OsString) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| "there is a NUL byte in it".into())
}
