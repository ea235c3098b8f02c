//! One client of the control socket, and the thread that serves it.
//!
//! Contract: what was read from a client and not yet handled, its outstanding request, and
//! what was not yet sent to it stand in the [`ConnectionState`]. The thread changes the
//! state only while it holds an `ActivityGuard`, and does not block meanwhile. So when the
//! threads are quiesced, the state is complete, and a thread of the next image goes on
//! with it.

use super::admission::{Admission, MOST_WAITING};
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

/// How long half a request may take, and a client to read what was sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// While an answer is waited for: how often we look whether the client is there,
/// and how often it hears of progress.
const GLANCE: Duration = Duration::from_millis(250);

/// A connection, as its thread has it.
#[derive(Debug)]
pub(super) struct Connection<T> {
    pub(super) client: Admitted,
    /// Sends a message to the loop; false once the loop has ended.
    pub(super) tell: T,
    pub(super) quiesce: Quiesce,
}

impl<T: Fn(Message) -> bool> Connection<T> {
    /// Until the client has gone.
    pub(super) fn serve(&self) {
        loop {
            if !self.send() {
                return self.say_gone();
            }
            let mut state = self.state();
            state.written.clear();
            while state.stays {
                drop(state);
                std::thread::park();
                state = self.state();
            }
            let (closing, waits) = (state.closing, state.outstanding.as_ref().map(|it| it.over));
            drop(state);
            let goes_on = match waits {
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
            if !goes_on {
                return self.say_gone();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.client.state)
    }

    fn say_gone(&self) {
        let _active = self.quiesce.activity();
        if let Some(outstanding) = self.state().outstanding.take() {
            (self.tell)(Message::Gone(outstanding.client));
        }
    }

    /// Awaits until the stream is ready; false if it is not within `limit`.
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

    /// Sends what is to be sent. False if the client does not read it.
    fn send(&self) -> bool {
        while !self.state().unsent.is_empty() {
            if !self.wait(PollFlags::POLLOUT, Some(PATIENCE)) {
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

    /// Takes the next answer, or looks whether the client is still there.
    fn await_answer(&self) -> bool {
        let Some(answers) = self.state().outstanding.as_ref().map(|it| it.answers.clone()) else {
            return true;
        };
        let mut select = Select::new();
        select.recv(&answers);
        let _ = select.ready_timeout(GLANCE);
        let _active = self.quiesce.activity();
        let mut state = self.state();
        match answers.try_recv() {
            Ok(answer) => {
                state.put(answer);
                true
            }
            // They may have been set aside.
            Err(TryRecvError::Disconnected) => !state.unsent.is_empty(),
            Err(TryRecvError::Empty) => {
                let Some((client, progress)) = state.outstanding.as_ref().map(|it| (it.client, it.progress))
                else {
                    return true;
                };
                drop(state);
                let heard = !progress || (self.tell)(Message::Progress(client));
                heard && !peer::has_gone(&*self.client.stream)
            }
        }
    }

    /// Reads from the client, and asks for what it wants.
    fn read(&self) -> bool {
        let active = self.quiesce.activity();
        let mut state = self.state();
        match state.lines.take(PATIENCE) {
            None => {
                let left = state.lines.left(PATIENCE);
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
                state.refuse(format!("half a request was not completed within {} s", PATIENCE.as_secs()));
                state.closing = true;
            }
            Some(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(Line::Whole(line)) => {
                state.requests += 1;
                match Request::read(&line) {
                    Ok(request) => return self.ask(state, request),
                    Err(why) => state.refuse(why),
                }
            }
        }
        true
    }

    /// Takes what has come; false if the client has gone.
    fn receive(&self) -> bool {
        let _active = self.quiesce.activity();
        let mut bytes = [0; 4096];
        // What has been read goes to the state at once: it is saved from there.
        let mut state = self.state();
        match recv(self.client.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            // Nothing more comes: what there is, is all of it.
            Ok(0) if !state.lines.rest().is_empty() => state.lines.push(b"\n"),
            Ok(0) => return false,
            Ok(count) => state.lines.push(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Asks the loop; false once nobody is there.
    fn ask(&self, mut state: MutexGuard<'_, ConnectionState>, request: Request) -> bool {
        // So many requests that two have the same number never come.
        let client = ClientId(self.client.membership.number << 32 | state.requests);
        let (way, answers) = ReplyQueue::channel();
        state.outstanding = Some(Outstanding { client, progress: request.progress, answers, over: false });
        drop(state);
        if !self.client.membership.set_admission(Admission::of(&request.verb, request.wait)) {
            let why =
                format!("{MOST_WAITING} clients wait already (the other places are for status and stop)");
            let mut state = self.state();
            state.outstanding = None;
            state.unsent.extend(protocol::line(&protocol::Reply::failed(why)));
            return true;
        }
        let Request { verb, wait, .. } = request;
        let (peer, answers) = (self.client.peer.clone(), way);
        (self.tell)(Message::Request(ClientRequest { client, verb, wait, peer, answers }))
    }
}
