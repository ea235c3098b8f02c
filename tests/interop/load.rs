//! A constant load on one server, and what came of it.
//!
//! Contract: each client opens a connection for every request, as a server's
//! shutdown is allowed to close an idle one, and never retries. The test that
//! owns the [`Load`] counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Failure, Target};
use crate::protocol::{Answer, Protocol};

/// Between two requests of a client. Clients that go on at once take the processor from the server
/// that is about to start, and a start is what a test waits for.
pub const PAUSE: Duration = Duration::from_millis(4);

/// Between a failure and the next request. A refusal costs nothing: clients that go on
/// at once would take the processor from the server that is about to start.
const BREATH: Duration = Duration::from_millis(5);

/// Clients at work.
pub struct Load {
    finish: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    outcomes: Receiver<Result<Answer, Failure>>,
    supervisor: u32,
    /// Requests that were answered whole.
    pub ok: u64,
    /// Requests that failed, by how.
    pub failures: BTreeMap<Failure, u64>,
}

impl Load {
    /// Starts so many clients, which go round the targets. Every reply must name
    /// this supervisor.
    pub fn on(clients: usize, targets: &[Target], protocol: Protocol, supervisor: u32) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let (sender, outcomes) = channel();
        let clients = (0..clients)
            .map(|_| {
                let (targets, sender, finish) = (targets.to_vec(), sender.clone(), Arc::clone(&finish));
                thread::spawn(move || request_until(&finish, &targets, protocol, &sender))
            })
            .collect();
        Load { finish, clients, outcomes, supervisor, ok: 0, failures: BTreeMap::new() }
    }

    /// Waits for `wanted` replies of generation `from` or a later one; returns
    /// the newest generation that has answered.
    pub fn await_replies(&mut self, from: u64, wanted: u32, limit: Duration) -> Result<u64, String> {
        let deadline = Instant::now() + limit;
        // What was answered before now is no sign of anything new.
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.enter(outcome, from)?;
        }
        let mut seen = 0;
        let mut newest = 0;
        while seen < wanted {
            match self.outcomes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(outcome) => {
                    if let Some(generation) =
                        self.enter(outcome, from)?.filter(|generation| *generation >= from)
                    {
                        seen += 1;
                        newest = newest.max(generation);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(format!(
                        "only {seen} of {wanted} replies came from generation {from} or later in {limit:?}; \
                         {} answered in all, failed: {:?}",
                        self.ok, self.failures
                    ));
                }
            }
        }
        Ok(newest)
    }

    /// Lets each client end its request, and counts the rest.
    pub fn finish(&mut self) -> Result<(), String> {
        self.finish.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| "a client panicked".to_owned())?;
        }
        while let Ok(outcome) = self.outcomes.try_recv() {
            self.enter(outcome, 0)?;
        }
        Ok(())
    }

    /// The generation that answered; one that could not say so is `serving`.
    fn enter(&mut self, outcome: Result<Answer, Failure>, serving: u64) -> Result<Option<u64>, String> {
        match outcome {
            Ok(Answer::Whole) => {
                self.ok += 1;
                Ok(Some(serving))
            }
            Ok(Answer::By(generation, supervisor)) if supervisor == self.supervisor => {
                self.ok += 1;
                Ok(Some(generation))
            }
            Ok(Answer::By(generation, supervisor)) => Err(format!(
                "generation {generation} was told that {supervisor} supervises it, not {}",
                self.supervisor
            )),
            Err(failure) => {
                *self.failures.entry(failure).or_default() += 1;
                Ok(None)
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::SeqCst);
    }
}

fn request_until(
    finish: &AtomicBool,
    targets: &[Target],
    protocol: Protocol,
    outcomes: &Sender<Result<Answer, Failure>>,
) {
    for target in targets.iter().cycle() {
        if finish.load(Ordering::SeqCst) {
            return;
        }
        let outcome = protocol.ask(target);
        let failed = outcome.is_err();
        if outcomes.send(outcome).is_err() {
            return;
        }
        thread::park_timeout(if failed { BREATH } else { PAUSE });
    }
}
