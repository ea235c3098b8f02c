//! Checks whether a new binary can take over from us: it runs in a child and reads the state,
//! while everything goes on. [`handover`](super::handover) executes it then.

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

/// How long the new binary may take for the check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often execve(2) is retried for a binary that is being written to, and the pauses between.
const BUSY_TRIES: u32 = 4;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The descriptor of the state in the child.
const STATE_FD: i32 = 3;
/// How much of the child's output is read.
const LONGEST_OUTPUT: usize = 4096;

/// The replacement of ourselves, as far as it has got.
#[derive(Debug)]
pub(super) struct Reexec {
    /// The path of our binary, if it is known.
    pub(super) program: Option<PathBuf>,
    check: Option<Check>,
    /// The check has succeeded: this binary takes over next.
    due: Option<Successor>,
}

/// The child that checks whether it could take over.
#[derive(Debug)]
struct Check {
    pid: Pid,
    output: OwnedFd,
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
    /// Finds the path of our binary. Our name has to be resolved in the directory in which we were
    /// started.
    pub(super) fn new(surroundings: &InheritedContext) -> Reexec {
        let first = std::env::args_os().next().unwrap_or_default();
        let path = surroundings.environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value);
        Reexec::at(program::find(&first, &surroundings.directory, path))
    }

    /// With the known path of our binary.
    pub(super) fn at(program: Option<PathBuf>) -> Reexec {
        Reexec { program, check: None, due: None }
    }

    /// When the check is ended.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.check.as_ref().filter(|check| !check.late).map(|check| check.until)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.check.is_some() || self.due.is_some()
    }

    /// The path of the new binary.
    ///
    /// # Errors
    /// When it is not known.
    pub(super) fn program(&self) -> Result<&Path, String> {
        let none = || "where our binary lies cannot be found out".to_owned();
        self.program.as_deref().ok_or_else(none)
    }

    /// Starts the new binary as a child that only reads the state: its pid.
    ///
    /// # Errors
    /// Why it cannot be started.
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
        let (output, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        fcntl(&output, F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
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
            fds: vec![(theirs.as_raw_fd(), 1), (theirs.as_raw_fd(), 2), (state.as_raw_fd(), STATE_FD)],
            own_group: true,
            umask: None,
            identity: None,
            default_signals: Vec::new(),
            no_new_privs: false,
            death_signal: Some(Signal::SIGKILL as i32),
            filter: None,
            program_fd: None,
        };
        let child = retry_while_busy(|| child::spawn(&launch), |error| error.errno).map_err(|error| {
            let why = reason(&io::Error::from(error.errno));
            format!("cannot execute {}: {why}", path.display())
        })?;
        info!("pid {} is asked whether {} can take over", child.pid, path.display());
        let until = now + CHECK_TIMEOUT;
        self.check = Some(Check { pid: child.pid, output, digest, identity, until, late: false });
        Ok(child.pid)
    }

    /// A child has ended. If it was the check: whether the new binary can take over.
    pub(super) fn ended(&mut self, pid: Pid, exit: process::Exit) -> Option<Result<(), String>> {
        let check = self.check.take_if(|check| check.pid == pid)?;
        Some(
            check_result(&check, exit)
                .map(|version| self.due = Some(Successor { identity: check.identity, version })),
        )
    }

    /// Takes the new binary that is to be executed next.
    pub(super) fn take_due(&mut self) -> Option<Successor> {
        self.due.take()
    }

    /// Ends a check that takes too long, or any check if we are `stopping`.
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

/// The environment that we were started with, and the descriptor of the state.
pub(super) fn environment(surroundings: &InheritedContext, state: i32) -> Result<Vec<CString>, String> {
    let pair = |name: OsString, value: OsString| {
        c_string(OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
    };
    let value = reexec::variable_value(std::process::id(), state);
    // One that we were started with belongs to another process, and would come first.
    let ours = surroundings.environment.iter().filter(|(name, _)| name != reexec::VARIABLE).cloned();
    ours.chain([(reexec::VARIABLE.into(), value.into())]).map(|(name, value)| pair(name, value)).collect()
}

/// Retries on ETXTBSY, for a moment: the process that installed the binary may have forked
/// before it closed the file, and the child keeps it open until its own execve(2).
pub(super) fn retry_while_busy<T, E>(
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
fn check_result(check: &Check, exit: process::Exit) -> Result<String, String> {
    let mut output = vec![0; LONGEST_OUTPUT];
    let length = read(&check.output, &mut output).unwrap_or(0);
    let output = String::from_utf8_lossy(&output[..length]).into_owned();
    let last = output.lines().last().unwrap_or_default().trim_start_matches("graceful-run: ");
    let words = if last.is_empty() { String::new() } else { format!(": {last}") };
    match exit {
        _ if check.late => Err(format!("the new binary did not answer within {} s", CHECK_TIMEOUT.as_secs())),
        process::Exit::Code(0) => reexec::version(&output, &check.digest)
            .ok_or_else(|| format!("the new binary is no graceful-run that knows how{words}")),
        process::Exit::Code(code) => Err(format!("the new binary refused with status {code}{words}")),
        process::Exit::Signal(signal) => Err(format!("the new binary was ended by signal {signal}{words}")),
    }
}

pub(super) fn c_string(text: OsString) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| "there is a NUL byte in it".into())
}
