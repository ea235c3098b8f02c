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
    /// The process exits after this reply: the connection stays open until then, so that
    /// its end tells the client that the process has ended.
    pub(super) stays: bool,
    /// The connection is closed once `unsent` is sent.
    pub(super) closing: bool,
}

/// A request that has not had its result.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) client: ClientId,
    pub(super) progress: bool,
    pub(super) answers: Receiver<Answer>,
    /// Its result is in `unsent`.
    pub(super) over: bool,
}

impl ConnectionState {
    /// Everything that was answered is to be sent.
    pub(super) fn set_aside(&mut self) {
        while let Some(Ok(answer)) = self.outstanding.as_ref().map(|it| it.answers.try_recv()) {
            self.put(answer);
        }
    }

    /// One answer more is to be sent.
    pub(super) fn put(&mut self, answer: Answer) {
        let (last, ends) = match &answer {
            Answer::Line(_) | Answer::Progress(_) => (false, false),
            Answer::Status(..) | Answer::Metrics(..) | Answer::Result(..) => (true, false),
            Answer::LastLine(..) | Answer::LastResult(..) => (true, true),
        };
        let (line, written) = match answer {
            Answer::Line(line) => (line.to_vec(), None),
            Answer::LastLine(line, written) => (line.to_vec(), written),
            Answer::Progress(about) => (protocol::line(&progress_event(*about)), None),
            Answer::Status(about, written) => (protocol::line(&status_reply(*about)), written),
            Answer::Metrics(about, written) => (protocol::line(&metrics_reply(*about)), written),
            Answer::Result(reply, written) | Answer::LastResult(reply, written) => {
                (protocol::line(&*reply), written)
            }
        };
        self.unsent.extend(line);
        self.written.extend(written);
        self.stays |= ends;
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.over |= last;
        }
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.unsent.extend(protocol::line(&Reply::because(Outcome::Invalid, why)));
    }
}
