//! Clients that ask all the time and never retry, in the network namespace of a container.

use crate::client::{Connection, Failure, Target};
use crate::common::until;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How many clients there are; half of them ask for what takes a while.
const CLIENTS: usize = 8;
/// What the two halves ask the example worker for: 50 requests a second in all.
const PATHS: [&str; 2] = ["/sleep?duration=300ms", "/sleep?duration=100ms"];

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failed: Mutex<BTreeMap<&'static str, usize>>,
    ends: AtomicBool,
}

/// The clients, until they are told to end.
pub struct Clients {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them, in the network namespace of the process `pid`. They ask an example worker.
    pub fn start(pid: i32, address: &str) -> Clients {
        Clients::start_with(pid, address, PATHS)
    }

    /// The same, with what each half asks for.
    pub fn start_with(pid: i32, address: &str, paths: [&'static str; 2]) -> Clients {
        let counts = Arc::new(Counts::default());
        let target = Target::Tcp(address.parse::<SocketAddr>().expect("an address"));
        let threads = (0..CLIENTS).map(|number| {
            let (counts, target) = (Arc::clone(&counts), target.clone());
            let namespace = File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
            std::thread::spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
                let path = paths[number % paths.len()];
                while !counts.ends.load(Ordering::Relaxed) {
                    match ask(&target, path) {
                        Ok(()) => drop(counts.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(failure) => {
                            *counts.failed.lock().unwrap().entry(failure.name()).or_default() += 1;
                            // Whoever refuses at once must not be asked in a busy loop.
                            std::thread::park_timeout(std::time::Duration::from_millis(10));
                        }
                    }
                }
            })
        });
        let clients = Clients { threads: threads.collect(), counts };
        clients.more();
        clients
    }

    /// Waits until each client has had about two more answers.
    pub fn more(&self) {
        let before = self.counts.answered.load(Ordering::Relaxed);
        until("no answers come", || self.counts.answered.load(Ordering::Relaxed) >= before + 2 * CLIENTS);
    }

    /// How many connections were refused so far.
    pub fn refused(&self) -> usize {
        self.counts.failed.lock().unwrap().get(Failure::Refused.name()).copied().unwrap_or_default()
    }

    /// How many requests were answered and how many failed, when all have ended.
    pub fn end(self) -> (usize, BTreeMap<&'static str, usize>) {
        self.counts.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let failed = self.counts.failed.lock().unwrap().clone();
        (self.counts.answered.load(Ordering::Relaxed), failed)
    }

    /// Ends them; not one request may have failed.
    pub fn lost_nothing(self) {
        let (answered, failed) = self.end();
        assert!(answered > 4 * CLIENTS && failed.is_empty(), "{answered} answered, failed: {failed:?}");
    }
}

fn ask(target: &Target, path: &str) -> Result<(), Failure> {
    let mut connection = Connection::open(target)?;
    let reply = connection.get(path, true)?;
    connection.finish();
    if reply.status == 200 { Ok(()) } else { Err(Failure::BadBody) }
}
