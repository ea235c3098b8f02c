//! The state of one connection: what was read and not yet handled, and what was answered
//! and not yet sent.

use super::line::Lines;
use super::message::ClientId;
use super::protocol::{self, Outcome, Reply};
use super::reply_queue::Answer;
use super::status_reply::{metrics_reply, progress_event, status_reply};
use crossbeam_channel::{Receiver, Sender};

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    pub(super) lines: Lines,
    /// How many requests were read.
    pub(super) requests: u64,
    pub(super) outstanding: Option<Outstanding>,
    /// Replies that were not yet sent.
    pub(super) unsent: Vec<u8>,
    /// Completion signals: dropped once `unsent` is sent. The loop, which holds the
    /// receiver, sees them disconnect and knows that it may exit.
    pub(super) written: Vec<Sender<()>>,
    /// The process exits after this reply, and the connection stays open until then: the
    /// client knows from its end that the process has ended.
    pub(super) keep_open: bool,
    /// The connection is closed once `unsent` is sent.
    pub(super) closing: bool,
}

/// A request whose result was not yet sent.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) client: ClientId,
    pub(super) progress: bool,
    pub(super) answers: Receiver<Answer>,
    /// Its result is in `unsent`.
    pub(super) over: bool,
}

impl ConnectionState {
    /// Moves every answer from the queue to `unsent`.
    pub(super) fn take_answers(&mut self) {
        while let Some(Ok(answer)) = self.outstanding.as_ref().map(|it| it.answers.try_recv()) {
            self.append(answer);
        }
    }

    /// Appends an answer to `unsent`.
    pub(super) fn append(&mut self, answer: Answer) {
        let (last, exits) = match &answer {
            Answer::Line(_) | Answer::Progress(_) => (false, false),
            Answer::Status(..) | Answer::Metrics(..) | Answer::Result(..) => (true, false),
            Answer::LastLine(..) | Answer::LastResult(..) => (true, true),
        };
        let (line, written) = match answer {
            Answer::Line(line) => (line.to_vec(), None),
            Answer::LastLine(line, written) => (line.to_vec(), written),
            Answer::Progress(status) => (protocol::line(&progress_event(*status)), None),
            Answer::Status(status, written) => (protocol::line(&status_reply(*status)), written),
            Answer::Metrics(status, written) => (protocol::line(&metrics_reply(*status)), written),
            Answer::Result(reply, written) | Answer::LastResult(reply, written) => {
                (protocol::line(&*reply), written)
            }
        };
        self.unsent.extend(line);
        self.written.extend(written);
        self.keep_open |= exits;
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.over |= last;
        }
    }

    /// Appends a reply to a request that is not understood.
    pub(super) fn refuse(&mut self, why: String) {
        self.unsent.extend(protocol::line(&Reply::because(Outcome::Invalid, why)));
    }
}
