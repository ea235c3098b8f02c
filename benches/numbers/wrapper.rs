//! Processes that are measured, and that are gone when the measurement is over.

use crate::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const BINARY: &str = env!("CARGO_BIN_EXE_graceful-run");
/// How long anything may take before we give up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process whose stdout says when its program, or what it wraps, first acts.
pub struct Process {
    child: Child,
    stdout: PipeReader,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Result<Process> {
        let (stdout, end) = std::io::pipe()?;
        let child = quiet(command).stdout(end).spawn()?;
        // The command keeps a copy of the write end, which would hide the end of the file.
        command.stdout(Stdio::null());
        Ok(Process { child, stdout })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for one byte of TINY.
    pub fn first_act(&mut self) -> Result<()> {
        wait_to_read(&self.stdout)?;
        Ok(self.stdout.read_exact(&mut [0])?)
    }

    /// The next line that it writes to stdout, as a number.
    pub fn number(&mut self) -> Result<f64> {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != [b'\n'] {
            wait_to_read(&self.stdout)?;
            self.stdout.read_exact(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8(line)?.trim().parse()?)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// The lines of its stderr, which must have been asked for.
    pub fn lines(&mut self) -> Result<Lines> {
        let stderr = self.child.stderr.take().ok_or("stderr is not a pipe")?;
        let (send, lines) = channel();
        // It ends with the last process that holds the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
                // Nobody listens any more, but the writers must not be held up.
                let _ = send.send(line);
            }
        });
        Ok(Lines(lines))
    }
}

impl Drop for Process {
    /// TERM is all that graceful-run needs to take its workers along.
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

pub struct Lines(Receiver<String>);

impl Lines {
    /// Waits for a line that contains `text`.
    pub fn wait_for(&self, text: &str) -> Result<String> {
        loop {
            let line = self.0.recv_timeout(PATIENCE).map_err(|error| format!("'{text}': {error}"))?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }
}

/// graceful-run with `options`, about to run this program in `role`.
pub fn wrapped(options: &[&str], role: &str) -> Result<Command> {
    let mut command = Command::new(BINARY);
    command.args(options).arg("--").arg(std::env::current_exe()?).arg(role);
    Ok(command)
}

/// This program in `role`, with nothing around it.
pub fn bare(role: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

/// The same surroundings for all, whatever we were started from.
fn quiet(command: &mut Command) -> &mut Command {
    for name in
        ["NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"))
}

fn wait_to_read(end: &PipeReader) -> Result<()> {
    let limit: PollTimeout = PATIENCE.try_into()?;
    match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], limit)? {
        0 => Err("the program has not acted".into()),
        _ => Ok(()),
    }
}
