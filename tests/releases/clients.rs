//! A constant load on one server, each request of which can be told from all others.
//!
//! Contract: each client opens a connection for every request, never retries, and waits for
//! as long as it takes. Each request has a number, which the answer has to name, and every one
//! is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::client::{Connection, Failure, Target};
use crate::ledger::release_number;

/// Clients of each server.
pub const CLIENTS: usize = 4;

/// Between two requests of a client: the servers share the machine with each other and with
/// other tests, and a server that boots needs it more.
const PACE: Duration = Duration::from_millis(20);

/// One request, and what became of it.
#[derive(Debug)]
pub struct Request {
    /// Its number.
    pub number: u64,
    /// Just before its connection was asked for.
    pub sent: SystemTime,
    /// When its answer was there, or its failure.
    pub ended: SystemTime,
    /// The release that answered.
    pub outcome: Result<u32, Failure>,
}

/// Clients at work.
pub struct Clients {
    finish: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    requests: Receiver<Request>,
    /// Every request that has ended, and was taken notice of.
    pub seen: Vec<Request>,
}

impl Clients {
    /// Starts them.
    pub fn on(target: &Target) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let (sender, requests) = channel();
        let clients = (0..CLIENTS)
            .map(|_| {
                let (target, sender, finish) = (target.clone(), sender.clone(), Arc::clone(&finish));
                thread::spawn(move || request_until(&finish, &target, &sender))
            })
            .collect();
        Clients { finish, clients, requests, seen: Vec::new() }
    }

    /// Waits for so many answers of this release from now on.
    pub fn await_answers(&mut self, release: u32, wanted: u32, limit: Duration) -> Result<(), String> {
        self.look();
        let deadline = Instant::now() + limit;
        let mut answers = 0;
        while answers < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(request) = self.requests.recv_timeout(left) else {
                let last = self.seen.last();
                return Err(format!(
                    "{answers} of {wanted} answers of r{release} in {limit:?}; last: {last:?}"
                ));
            };
            answers += u32::from(request.outcome == Ok(release));
            self.seen.push(request);
        }
        Ok(())
    }

    /// Takes notice of all that has ended.
    pub fn look(&mut self) {
        self.seen.extend(self.requests.try_iter());
    }

    /// Lets each client end its request. Returns them all.
    pub fn finish(mut self) -> Vec<Request> {
        self.finish.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        self.look();
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::SeqCst);
    }
}

fn request_until(finish: &AtomicBool, target: &Target, requests: &Sender<Request>) {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    while !finish.load(Ordering::SeqCst) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let sent = SystemTime::now();
        let outcome = ask(target, number);
        // Nobody listening means that the test is over.
        if requests.send(Request { number, sent, ended: SystemTime::now(), outcome }).is_err() {
            return;
        }
        thread::park_timeout(PACE);
    }
}

/// One request; the release that answered it.
fn ask(target: &Target, number: u64) -> Result<u32, Failure> {
    let reply = Connection::open(target)?.get(&format!("/{number}"), true)?;
    let answer = reply.body.trim_end().strip_prefix("release ").and_then(|rest| rest.split_once(" request "));
    answer
        .filter(|(_, named)| reply.status == 200 && named.parse() == Ok(number))
        .and_then(|(release, _)| release_number(release))
        .ok_or(Failure::BadBody)
}
