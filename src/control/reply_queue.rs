//! The queue of answers from the loop to one client. It is bounded, and keeps room for the
//! result.

use super::protocol::{Reply, Status};
use super::socket_stats::Snapshot;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Arc;

/// How many answers may wait for a client.
const QUEUE: usize = 512;
/// How many of these are kept free for the result.
const RESERVE: usize = 4;

/// The sending end of the queue; sending never blocks.
#[derive(Debug)]
pub struct ReplyQueue {
    queue: Sender<Answer>,
    /// The completion signal of the result: nothing is ever sent on it. It is dropped once
    /// the result is written to the client, or the client has gone; the loop waits for
    /// that before it exits.
    written: Option<Sender<()>>,
}

/// An item of the queue.
#[derive(Debug)]
pub enum Answer {
    /// A line with an event.
    Line(Arc<[u8]>),
    /// The last line for `events`, which has no result, before we exit.
    LastLine(Arc<[u8]>, Option<Sender<()>>),
    /// What an event of kind `progress` is made from.
    Progress(Box<(Status, Snapshot)>),
    /// What the reply to `status` is made from.
    Status(Box<(Status, Snapshot)>, Option<Sender<()>>),
    /// What the reply to `metrics` is made from.
    Metrics(Box<(Status, Snapshot)>, Option<Sender<()>>),
    /// The result.
    Result(Box<Reply>, Option<Sender<()>>),
    /// The result, before we exit.
    LastResult(Box<Reply>, Option<Sender<()>>),
}

impl ReplyQueue {
    /// Both ends of a queue.
    pub fn channel() -> (ReplyQueue, Receiver<Answer>) {
        let (queue, answers) = bounded(QUEUE);
        (ReplyQueue { queue, written: None }, answers)
    }

    /// Attaches the completion signal: `written` is dropped once the result is written to
    /// the client, or the client has gone.
    pub fn signal_when_written(&mut self, written: Sender<()>) {
        self.written = Some(written);
    }

    /// Queues a line, if there is room for it.
    ///
    /// # Errors
    /// `Full` if the client is slow, `Disconnected` if it has gone.
    pub fn line(&self, line: &Arc<[u8]>) -> Result<(), TrySendError<()>> {
        if self.queue.len() + RESERVE >= QUEUE {
            return Err(TrySendError::Full(()));
        }
        self.send(Answer::Line(Arc::clone(line)))
    }

    /// Queues an event of kind `progress`, if there is room for it.
    pub fn progress(&self, status: Status, snapshot: Snapshot) {
        if self.queue.len() + RESERVE < QUEUE {
            let _ = self.send(Answer::Progress(Box::new((status, snapshot))));
        }
    }

    /// Queues the reply to `status` and closes the queue.
    pub fn status(mut self, status: Status, snapshot: Snapshot) {
        let written = self.written.take();
        let _ = self.send(Answer::Status(Box::new((status, snapshot)), written));
    }

    /// Queues the reply to `metrics` and closes the queue.
    pub fn metrics(mut self, status: Status, snapshot: Snapshot) {
        let written = self.written.take();
        let _ = self.send(Answer::Metrics(Box::new((status, snapshot)), written));
    }

    /// Queues the result and closes the queue.
    pub fn result(mut self, reply: Reply) {
        let written = self.written.take();
        let _ = self.send(Answer::Result(Box::new(reply), written));
    }

    /// Queues the result, before we exit, and closes the queue.
    pub fn last_result(mut self, reply: Reply) {
        let written = self.written.take();
        let _ = self.send(Answer::LastResult(Box::new(reply), written));
    }

    /// Queues the last line for `events`, before we exit, and closes the queue.
    pub fn last_line(mut self, line: &Arc<[u8]>) {
        let written = self.written.take();
        let _ = self.send(Answer::LastLine(Arc::clone(line), written));
    }

    fn send(&self, answer: Answer) -> Result<(), TrySendError<()>> {
        self.queue.try_send(answer).map_err(|error| match error {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
        })
    }
}
