//! One client of the control socket, and the thread that serves it.
//!
//! Contract: what was read from a client and not yet handled, its outstanding request, and
//! what was not yet sent to it are in the [`ConnectionState`]. The thread changes the
//! state only while it holds an `ActivityGuard`, and does not block meanwhile. So when the
//! threads are quiesced, the state is complete, and a thread of the next image goes on
//! with it.

use super::admission::{Admission, MAX_WAITING};
use super::connection_state::{ConnectionState, Outstanding};
use super::connection_table::{Admitted, lock};
use super::line::Line;
use super::message::{ClientId, ClientRequest, Message};
use super::protocol::{self, Request};
use super::reply_queue::ReplyQueue;
use crate::reexec::quiesce::Quiesce;
use crate::sys::peer;
use crossbeam_channel::{Select, TryRecvError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::MutexGuard;
use std::time::Duration;

/// How long a client may take to complete a request that it has begun, and to read what was
/// sent.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// While the thread waits for an answer: how often it checks whether the client is still
/// connected, and requests an event of kind `progress`.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A connection and what its thread needs to serve it.
#[derive(Debug)]
pub(super) struct Connection<T> {
    pub(super) client: Admitted,
    /// Sends a message to the loop; false once the loop has ended.
    pub(super) send_to_loop: T,
    pub(super) quiesce: Quiesce,
}

impl<T: Fn(Message) -> bool> Connection<T> {
    /// Serves the client until it has gone.
    pub(super) fn serve(&self) {
        loop {
            if !self.send() {
                return self.report_gone();
            }
            let mut state = self.state();
            state.written.clear();
            while state.keep_open {
                drop(state);
                std::thread::park();
                state = self.state();
            }
            let (closing, answered) = (state.closing, state.outstanding.as_ref().map(|it| it.over));
            drop(state);
            let connected = match answered {
                _ if closing => return,
                Some(true) => {
                    let _active = self.quiesce.activity();
                    self.state().outstanding = None;
                    self.client.membership.set_admission(Admission::Idle);
                    true
                }
                Some(false) => self.await_answer(),
                None => self.read(),
            };
            if !connected {
                return self.report_gone();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.client.state)
    }

    fn report_gone(&self) {
        let _active = self.quiesce.activity();
        if let Some(outstanding) = self.state().outstanding.take() {
            (self.send_to_loop)(Message::Gone(outstanding.client));
        }
    }

    /// Waits until the stream is ready; false if it is not ready within `limit`.
    fn wait(&self, events: PollFlags, limit: Option<Duration>) -> bool {
        let timeout =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        loop {
            match poll(&mut [PollFd::new(self.client.stream.as_fd(), events)], timeout) {
                Err(Errno::EINTR) => {}
                ready => return ready.is_ok_and(|count| count > 0),
            }
        }
    }

    /// Sends what is unsent. False if the client does not read it.
    fn send(&self) -> bool {
        while !self.state().unsent.is_empty() {
            if !self.wait(PollFlags::POLLOUT, Some(CLIENT_TIMEOUT)) {
                return false;
            }
            let _active = self.quiesce.activity();
            let mut state = self.state();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.client.stream.as_raw_fd(), &state.unsent, flags) {
                Ok(sent) => drop(state.unsent.drain(..sent)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes the next answer, or checks whether the client is still connected. False if it is not.
    fn await_answer(&self) -> bool {
        let Some(answers) = self.state().outstanding.as_ref().map(|it| it.answers.clone()) else {
            return true;
        };
        let mut select = Select::new();
        select.recv(&answers);
        let _ = select.ready_timeout(CHECK_INTERVAL);
        let _active = self.quiesce.activity();
        let mut state = self.state();
        match answers.try_recv() {
            Ok(answer) => {
                state.append(answer);
                true
            }
            // `take_answers` may have moved the last one to `unsent`.
            Err(TryRecvError::Disconnected) => !state.unsent.is_empty(),
            Err(TryRecvError::Empty) => {
                let Some((client, progress)) = state.outstanding.as_ref().map(|it| (it.client, it.progress))
                else {
                    return true;
                };
                drop(state);
                let loop_runs = !progress || (self.send_to_loop)(Message::Progress(client));
                loop_runs && !peer::has_gone(&*self.client.stream)
            }
        }
    }

    /// Takes the next request of the client and sends it to the loop, or waits for one.
    fn read(&self) -> bool {
        let active = self.quiesce.activity();
        let mut state = self.state();
        match state.lines.take_line(CLIENT_TIMEOUT) {
            None => {
                let left = state.lines.time_left(CLIENT_TIMEOUT);
                drop(state);
                drop(active);
                self.wait(PollFlags::POLLIN, left);
                return self.receive();
            }
            Some(Line::TooLong) => {
                state.refuse(format!("a request has at most {} bytes", protocol::LONGEST_LINE));
                state.closing = true;
            }
            Some(Line::TooSlow) => {
                state.refuse(format!(
                    "half a request was not completed within {} s",
                    CLIENT_TIMEOUT.as_secs()
                ));
                state.closing = true;
            }
            Some(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(Line::Whole(line)) => {
                state.requests += 1;
                match Request::read(&line) {
                    Ok(request) => return self.forward(state, request),
                    Err(why) => state.refuse(why),
                }
            }
        }
        true
    }

    /// Receives what the client has sent; false if it has gone.
    fn receive(&self) -> bool {
        let _active = self.quiesce.activity();
        let mut bytes = [0; 4096];
        // What was read goes to the state at once: `save` takes it from there.
        let mut state = self.state();
        match recv(self.client.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            // The client sends no more: what it has sent is a whole line.
            Ok(0) if !state.lines.buffered().is_empty() => state.lines.push(b"\n"),
            Ok(0) => return false,
            Ok(count) => state.lines.push(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Sends the request to the loop; false once the loop has ended.
    fn forward(&self, mut state: MutexGuard<'_, ConnectionState>, request: Request) -> bool {
        // No connection has 2^32 requests, so no two requests have the same number.
        let client = ClientId(self.client.membership.number << 32 | state.requests);
        let (queue, answers) = ReplyQueue::channel();
        state.outstanding = Some(Outstanding { client, progress: request.progress, answers, over: false });
        drop(state);
        if !self.client.membership.set_admission(Admission::of(&request.verb, request.wait)) {
            let why =
                format!("{MAX_WAITING} clients wait already (the other places are for status and stop)");
            let mut state = self.state();
            state.outstanding = None;
            state.unsent.extend(protocol::line(&protocol::Reply::failed(why)));
            return true;
        }
        let Request { verb, wait, .. } = request;
        let (peer, answers) = (self.client.peer.clone(), queue);
        (self.send_to_loop)(Message::Request(ClientRequest { client, verb, wait, peer, answers }))
    }
}
