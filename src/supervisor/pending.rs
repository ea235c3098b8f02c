//! The requests of clients that have not got their result.
//!
//! Contract: each request gets one result, and there is always room for it in the reply
//! queue, however slowly the client reads. [`verdicts`](super::verdicts) decides what the
//! result is.

use super::context::Verdict;
use super::report::event;
use crate::control::protocol::{Reply, line};
use crate::control::reply_queue::ReplyQueue;
use crate::control::server::ClientId;
use crate::core::event::{Generation, WorkerId};
use crate::error::Error;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long the last replies may take before we exit.
const FLUSH: Duration = Duration::from_secs(1);

/// Every request that has not got its result.
#[derive(Debug)]
pub(super) struct Pending {
    requests: Vec<PendingRequest>,
    /// The sender is cloned into every reply that is not written; nothing is ever sent.
    written: (Sender<()>, Receiver<()>),
}

/// A client that has not got its result.
#[derive(Debug)]
pub(super) struct PendingRequest {
    pub(super) client: ClientId,
    pub(super) replies: ReplyQueue,
    pub(super) awaits: Awaits,
}

/// What a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaits {
    /// Every event; so many were dropped because it reads too slowly.
    Events {
        missed: u64,
    },
    /// The end of the next upgrade, which has not begun; `hold` if it is to stop on hold.
    Next {
        hold: bool,
    },
    /// The end of the upgrade to this generation.
    Upgrade(Generation),
    /// The upgrade on hold is committed, or rolled back.
    Commit,
    Rollback,
    /// The generation on hold gets another part of the new connections.
    Weight,
    /// So many workers are ready.
    Scale(u32),
    /// The end of these workers.
    Gone(BTreeSet<WorkerId>),
    /// Another image of ours has taken over.
    Reexec,
    /// The end of the supervisor.
    Stop,
}

impl Pending {
    pub(super) fn new() -> Pending {
        Pending { requests: Vec::new(), written: bounded(0) }
    }

    /// What a reply holds until it is written.
    pub(super) fn written(&self) -> Sender<()> {
        self.written.0.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn push(&mut self, request: PendingRequest) {
        self.requests.push(request);
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&PendingRequest> {
        self.requests.iter().find(|request| request.client == client)
    }

    /// What each client awaits.
    pub(super) fn awaits_mut(&mut self) -> impl Iterator<Item = &mut Awaits> {
        self.requests.iter_mut().map(|request| &mut request.awaits)
    }

    /// For the next image of ourselves.
    pub(super) fn save(&self) -> Vec<(ClientId, Awaits)> {
        self.requests.iter().map(|request| (request.client, request.awaits.clone())).collect()
    }

    /// Resolves the requests for another image of ours.
    pub(super) fn resolve_reexec(&mut self, outcome: &Reply) {
        self.resolve(|awaits| (*awaits == Awaits::Reexec).then(|| outcome.clone()));
    }

    /// Removes the request of a client.
    pub(super) fn take(&mut self, client: ClientId) -> Option<PendingRequest> {
        let at = self.requests.iter().position(|request| request.client == client)?;
        Some(self.requests.swap_remove(at))
    }

    /// Sends a result to each client for which `result` has one.
    pub(super) fn resolve(&mut self, result: impl Fn(&Awaits) -> Option<Reply>) {
        let mut kept = Vec::with_capacity(self.requests.len());
        for request in self.requests.drain(..) {
            match result(&request.awaits) {
                Some(reply) => request.replies.result(reply),
                None => kept.push(request),
            }
        }
        self.requests = kept;
    }

    /// Sends an event to every client whose queue has room.
    pub(super) fn send_event(&mut self, event: &Value) {
        let text: Arc<[u8]> = line(event).into();
        for request in &mut self.requests {
            let Awaits::Events { missed } = &mut request.awaits else {
                // It does not need the event: its result follows.
                let _ = request.replies.line(&text);
                continue;
            };
            if *missed > 0 {
                let note = line(&event::named("missed", json!({"count": *missed})));
                if request.replies.line(&note.into()).is_ok() {
                    *missed = 0;
                }
            }
            if *missed > 0 || request.replies.line(&text).is_err() {
                *missed += 1;
            }
        }
    }

    /// Sends every client its last result, before we exit.
    pub(super) fn end(&mut self, verdict: &Result<Verdict, Error>) {
        let (status, why) = match verdict {
            Ok((status, why)) => (*status, why.clone()),
            Err(error) => (error.status(), Some(error.to_string())),
        };
        let why = why.as_deref();
        for request in self.requests.drain(..) {
            match request.awaits {
                Awaits::Events { .. } => {
                    let event = event::named("ended", json!({"exit_status": status}));
                    request.replies.last_line(&line(&event).into());
                }
                Awaits::Stop => {
                    let done = why.map_or("stopped".into(), |why| format!("stopped; {why}"));
                    let reply = Reply { exit_status: Some(status), ..Reply::done(done) };
                    request.replies.last_result(reply);
                }
                _ => {
                    let why = why.map_or(String::new(), |why| format!(": {why}"));
                    let reply = Reply::failed(format!("graceful-run ends with status {status}{why}"));
                    let reply = Reply { exit_status: Some(status), ..reply };
                    request.replies.last_result(reply);
                }
            }
        }
        let (ours, all) = std::mem::replace(&mut self.written, bounded(0));
        drop(ours);
        // The channel is disconnected once the last reply has been written, or dropped.
        let _ = all.recv_timeout(FLUSH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::reply_queue::Answer;

    fn pending(awaits: Awaits) -> (Pending, Receiver<Answer>) {
        let mut pending = Pending::new();
        let (replies, received) = ReplyQueue::channel();
        pending.push(PendingRequest { client: ClientId::default(), replies, awaits });
        (pending, received)
    }

    fn text(answer: Answer) -> String {
        match answer {
            Answer::Line(line) => String::from_utf8(line.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slow_reader_gets_the_count_of_events_that_it_missed() {
        let (mut pending, received) = pending(Awaits::Events { missed: 0 });
        for _ in 0..2000 {
            pending.send_event(&event::named("asked", json!({})));
        }
        let fitted = received.try_iter().count() as u64;
        assert!((100..2000).contains(&fitted));
        pending.send_event(&event::named("stopping", json!({})));
        let missed: Value = serde_json::from_str(&text(received.try_recv().unwrap())).unwrap();
        assert_eq!((&missed["event"], &missed["count"]), (&json!("missed"), &json!(2000 - fitted)));
        assert!(text(received.try_recv().unwrap()).contains("stopping"));
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn the_result_of_a_slow_reader_has_room() {
        let (mut pending, received) = pending(Awaits::Upgrade(Generation(2)));
        for _ in 0..2000 {
            pending.send_event(&event::named("asked", json!({})));
        }
        pending.resolve(|awaits| (*awaits == Awaits::Upgrade(Generation(2))).then(|| Reply::failed("no")));
        assert!(pending.is_empty());
        assert!(matches!(received.try_iter().last(), Some(Answer::Result(..))));
    }
}
