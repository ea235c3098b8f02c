//! One running graceful-run, seen as its users see it: a pid, signals, a log.
//!
//! Contract: every wait is for a line of the log or for the end of it, with a
//! limit after which the test fails and the log's last lines are shown. A wrapper
//! that a failing test leaves behind is stopped, with its workers, when it is
//! dropped.

#[path = "surroundings.rs"]
pub mod surroundings;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use surroundings::surround;

/// How many lines of the log a failure shows.
const SHOWN: usize = 40;

/// What became of an upgrade, as the log says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The new generation serves.
    Upgraded,
    /// The upgrade was undone; the line says why.
    Refused(String),
}

/// A running wrapper.
pub struct Wrapper {
    child: Child,
    log: Receiver<(SystemTime, String)>,
    /// The log so far as it was heeded, and when each line came.
    pub heard: Vec<(SystemTime, String)>,
    suspicious: Vec<String>,
    ended: bool,
}

impl Wrapper {
    /// Starts the wrapper with these arguments.
    pub fn start(directory: &Path, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(binary());
        configure(&mut command);
        Self::of(command, directory)
    }

    /// Starts the wrapper by a command of which it comes.
    pub fn of(mut command: Command, directory: &Path) -> Self {
        heed_hangup();
        surround(&mut command, directory);
        command
            .current_dir(directory)
            .env("PWD", directory)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let (lines, log) = channel();
        std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while matches!(stderr.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                // Nobody listening means that the test is over.
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if lines.send((SystemTime::now(), text)).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Wrapper { child, log, heard: Vec::new(), suspicious: Vec::new(), ended: false }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32);
        kill(pid, signal).unwrap_or_else(|error| panic!("cannot send {signal} to {pid}: {error}"));
    }

    /// Waits until the first generation serves.
    pub fn await_first_ready(&mut self, limit: Duration) -> Result<(), String> {
        self.await_line("the first generation to be ready", limit, serves)
    }

    /// Waits until the upgrade under way has ended.
    pub fn await_verdict(&mut self, limit: Duration) -> Result<Verdict, String> {
        self.await_line("the end of the upgrade", limit, verdict)
    }

    /// Waits until `look` finds what it wants in a line of the log.
    pub fn await_line<T>(
        &mut self,
        what: &str,
        limit: Duration,
        look: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = look(&line.1);
                    self.remember(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("waited {limit:?} for {what}; the log ends:\n{}", self.tail()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the log ended before {what}; it ends:\n{}", self.tail()));
                }
            }
        }
    }

    /// Asks it to stop and waits for its end and for the end of everything that
    /// held its log.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        self.signal(Signal::SIGTERM);
        self.await_end(limit)
    }

    /// Waits for its end and for the end of everything that held its log.
    pub fn await_end(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.remember(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!(
                        "{limit:?} after TERM the wrapper or a process of its own still holds the log, \
                         which ends:\n{}",
                        self.tail()
                    ));
                }
            }
        }
        let status = self.child.wait().map_err(|error| format!("cannot wait for the wrapper: {error}"))?;
        self.ended = true;
        Ok(status)
    }

    /// Lines that no run may log: panics and our own word for "cannot happen".
    pub fn suspicious(&self) -> &[String] {
        &self.suspicious
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Waits until it has no more than these open files, as what its log tells of leaves.
    #[allow(dead_code, reason = "not every test that has this file counts descriptors")]
    pub fn await_descriptors(&mut self, most: usize, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while self.descriptors() > most {
            match self.log.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => self.remember(line),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => {
                    return Err(format!("the wrapper has {} open files, not {most}", self.descriptors()));
                }
            }
        }
        Ok(())
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let unseen = self.heard.len().saturating_sub(SHOWN);
        self.heard[unseen..].iter().map(|(_, line)| format!("    {line}\n")).collect()
    }

    fn remember(&mut self, line: (SystemTime, String)) {
        if line.1.contains("panicked") || line.1.contains("BUG") {
            self.suspicious.push(line.1.clone());
        }
        self.heard.push(line);
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The second one kills the workers at once, so that no failed test
        // leaves a process behind. Two INTs might arrive as one.
        self.signal(Signal::SIGINT);
        self.signal(Signal::SIGQUIT);
        if self.await_end(Duration::from_secs(10)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The wrapper's executable. `GRACEFUL_RUN_BINARY` names another build to test, such
/// as one that was broken on purpose.
pub fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_graceful-run");
    std::env::var_os("GRACEFUL_RUN_BINARY").map_or(PathBuf::from(built), PathBuf::from)
}

/// Lets what we start receive HUP, even where we run under nohup(1): an ignored
/// signal stays ignored across execve(2), a handled one goes back to its default.
fn heed_hangup() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let unread = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, unread).expect("HUP can be handled");
    });
}

/// The text of a line that graceful-run wrote; a worker's lines are not heeded.
/// Half a line of a worker may stand before it: they share the log.
fn own(line: &str) -> Option<&str> {
    Some(line.split_once("graceful-run: ")?.1)
}

/// Does this line say that the first generation serves?
fn serves(line: &str) -> Option<()> {
    own(line)?.ends_with(": serving").then_some(())
}

/// Does this line end an upgrade, and how?
fn verdict(line: &str) -> Option<Verdict> {
    let text = own(line)?;
    if text.starts_with("upgrade to generation ") && text.contains(" failed: ") {
        return Some(Verdict::Refused(text.to_owned()));
    }
    text.contains(": serves after ").then_some(Verdict::Upgraded)
}

/// Processes whose working directory is `directory` or below, or that were told of
/// this supervisor: whatever was started there and is still alive. Each hides from
/// one of the two if it goes elsewhere or writes over its environment.
pub fn left_in(directory: &Path, supervisor: u32) -> Vec<String> {
    let told = format!("GRACEFUL_RUN_PID={supervisor}");
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u32>().ok());
    let read = |pid: u32, what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    pids.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
            || read(*pid, "environ").split(|byte| *byte == 0).any(|entry| entry == told.as_bytes())
    })
    .map(|pid| format!("{pid} {}", String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ")))
    .collect()
}

/// An exit status in words.
pub fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status:?}"),
    }
}
