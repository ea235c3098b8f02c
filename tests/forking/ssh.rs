//! ssh(1) as a load: each login is a connection of its own, and is never tried twice.

use crate::common::{MARK, WATCHDOG};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between a failure and the next login.
const BREATH: Duration = Duration::from_millis(50);

/// What a login runs. The variable is set by the sshd that let it in.
const REMOTE: &str = "sleep 0.3; echo generation $GENERATION";

/// How to log in.
#[derive(Clone)]
pub struct Ssh {
    /// Of the client, with the host `it`.
    pub config: PathBuf,
    /// The scene that the client belongs to.
    pub mark: String,
}

impl Ssh {
    /// A client that runs this there. Its standard streams are ours.
    pub fn command(&self, remote: &str) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&self.config).args(["-T", "it", remote]).env(MARK, &self.mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// One login: the generation that answered, or what the client says.
    pub fn log_in(&self) -> Result<u32, String> {
        let output = self.command(REMOTE).output().map_err(|error| format!("cannot start ssh: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let generation = said.strip_prefix("generation ").and_then(|rest| rest.trim().parse().ok());
        let failure = || format!("{}: {said:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
        generation.filter(|_| output.status.success()).ok_or_else(failure)
    }
}

/// Clients that log in again and again.
pub struct Logins {
    finish: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    outcomes: Receiver<Result<u32, String>>,
    /// Logins that went well.
    pub ok: u64,
    /// What the clients of the others said.
    pub failures: Vec<String>,
}

impl Logins {
    /// Starts so many clients.
    pub fn of(clients: usize, ssh: &Ssh) -> Logins {
        let finish = Arc::new(AtomicBool::new(false));
        let (sender, outcomes) = channel();
        let client = |_| {
            let (ssh, sender, finish) = (ssh.clone(), sender.clone(), Arc::clone(&finish));
            thread::spawn(move || {
                while !finish.load(Ordering::SeqCst) {
                    let outcome = ssh.log_in();
                    let failed = outcome.is_err();
                    if sender.send(outcome).is_err() {
                        return;
                    }
                    if failed {
                        thread::park_timeout(BREATH);
                    }
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Logins { finish, clients, outcomes, ok: 0, failures: Vec::new() }
    }

    /// Waits until this generation has answered so often.
    pub fn await_replies(&mut self, by: u32, mut wanted: u32) {
        let deadline = Instant::now() + WATCHDOG;
        while wanted > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.outcomes.recv_timeout(left) {
                Ok(outcome) => wanted -= u32::from(self.enter(outcome) == Some(by)),
                Err(_) => panic!("generation {by} does not answer; failed: {:?}", self.failures),
            }
        }
    }

    /// Lets each client end its login, and counts the rest.
    pub fn finish(&mut self) {
        self.finish.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client");
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.enter(outcome);
        }
    }

    fn enter(&mut self, outcome: Result<u32, String>) -> Option<u32> {
        match outcome {
            Ok(generation) => {
                self.ok += 1;
                Some(generation)
            }
            Err(failure) => {
                self.failures.push(failure);
                None
            }
        }
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::SeqCst);
    }
}
