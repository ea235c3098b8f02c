//! What the same clients see of the same server where it is stopped and started.
//!
//! Contract: a control that loses nothing fails, as a load that shows no drop there
//! would show none elsewhere.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::driver::{CLIENTS, LIMIT};
use crate::load::Load;
use crate::server::{Prepared, Server, environment};

/// Restarts of each server.
pub const RESTARTS: u64 = 5;

/// Answers between two restarts.
const PROGRESS: u32 = 20;

/// Stops the server and starts it again, so many times; returns what clients saw.
pub fn stop_and_start(server: &Server, prepared: &Prepared, directory: &Path) -> Result<Load, String> {
    let mut started = Started::generation(1, prepared, directory);
    let mut load = Load::on(CLIENTS, &prepared.targets, server.protocol, std::process::id());
    for number in 1..=RESTARTS {
        load.await_replies(number, PROGRESS, LIMIT)?;
        started.end(server.stop);
        started = Started::generation(number + 1, prepared, directory);
    }
    load.await_replies(RESTARTS + 1, PROGRESS, LIMIT)?;
    load.finish()?;
    started.end(server.stop);
    Ok(load)
}

/// A server without a supervisor, and whatever it has started: a process group.
struct Started(Child);

impl Started {
    fn generation(number: u64, prepared: &Prepared, directory: &Path) -> Self {
        let log = File::options().create(true).append(true).open(directory.join("control.log"));
        let mut command = Command::new(&prepared.command[0]);
        environment(&mut command, directory);
        command
            .args(&prepared.command[1..])
            .current_dir(directory)
            .env("GRACEFUL_RUN_GENERATION", number.to_string())
            .env("GRACEFUL_RUN_PID", std::process::id().to_string())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log of our own"));
        Started(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// Asks it to leave, and waits until it has.
    fn end(mut self, stop: Signal) {
        kill(self.pid(), stop).expect("it is ours");
        let start = Instant::now();
        while self.0.try_wait().expect("it is ours").is_none() {
            assert!(start.elapsed() < LIMIT, "{} does not leave on {stop}", self.pid());
            thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Of most servers nothing is left by now.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
