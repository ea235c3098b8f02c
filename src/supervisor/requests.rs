//! The requests of clients of the control socket.
//!
//! Contract: the state of the core decides. Each request gets one result, unless its client
//! has gone, which does not undo what it began. Nothing here waits.

use super::event_loop::EventLoop;
use super::pending::{Awaits, PendingRequest};
use super::replies::count_of_workers;
use super::report::event;
use super::status::phase_name;
use crate::config::{signals, weight};
use crate::control::protocol::{self, Reply, Verb, line};
use crate::control::reply_queue::ReplyQueue;
use crate::control::server::{ClientRequest, Message};
use crate::core::event::{Event, Request, Token, Weight, WorkerId};
use crate::core::{Phase, ShownStage};
use log::Level;
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeSet;

impl EventLoop {
    /// Handles a message of the control socket.
    pub(super) fn on_message(&mut self, message: Message) {
        match message {
            Message::Request(received) => self.handle_request(received),
            Message::Progress(client) => {
                let (status, snapshot) = self.state();
                let pending = self.control.pending.get(client);
                if let Some(pending) = pending {
                    pending.replies.progress(status, snapshot);
                }
            }
            Message::Gone(client) => drop(self.control.pending.take(client)),
        }
    }

    fn handle_request(&mut self, mut received: ClientRequest) {
        received.answers.signal_when_written(self.control.pending.written());
        let level = if matches!(received.verb, Verb::Status { .. } | Verb::Events | Verb::Metrics) {
            Level::Debug
        } else {
            Level::Info
        };
        log::log!(level, "ctl: {} asks: {}", received.peer, received.verb);
        self.control.asked_by(format!("ctl {}", received.verb));
        self.find_handovers();
        self.process_events();
        let phase = self.ctx.core.phase();
        let stopping = phase == Phase::Stopping;
        match received.verb {
            Verb::Status { .. } => {
                let (status, snapshot) = self.state();
                received.answers.status(status, snapshot);
            }
            Verb::Metrics => {
                let (status, snapshot) = self.state();
                received.answers.metrics(status, snapshot);
            }
            Verb::Events => {
                let (generation, phase) = (self.ctx.core.generation().0, phase_name(phase));
                let hello = json!({"version": protocol::VERSION, "pid": std::process::id(), "generation": generation, "phase": phase});
                // It is the first line of this client: there is room for it.
                let _ = received.answers.line(&line(&event::named("hello", hello)).into());
                let ClientRequest { client, answers, .. } = received;
                self.control.pending.push(PendingRequest {
                    client,
                    replies: answers,
                    awaits: Awaits::Events { missed: 0 },
                });
            }
            Verb::Hammer => self.kill_draining(received),
            Verb::Stop { now, .. } => {
                let request = if now { Request::Kill } else { Request::Stop };
                self.request_and_await(received, request, Awaits::Stop);
            }
            _ if stopping => received.answers.result(Reply::failed("stopping")),
            Verb::Upgrade { now: false, .. }
                if phase == Phase::Holding
                    && self.ctx.core.canary().is_none_or(|canary| canary.until.is_none()) =>
            {
                let to = self.control.history.to.map_or(0, |to| to.0);
                let why =
                    format!("generation {to} is on hold (ctl commit, ctl rollback, or ctl upgrade --now)");
                received.answers.result(Reply::failed(why));
            }
            Verb::Upgrade { ref hold, now, .. } => {
                let (request, held) = match (hold, now) {
                    (Some(percent), _) => match self.weight(percent) {
                        Ok(weight) => (Request::Hold(weight), true),
                        Err(why) => return received.answers.result(Reply::failed(why)),
                    },
                    (None, true) => (Request::UpgradeNow, false),
                    (None, false) => (Request::Upgrade, false),
                };
                self.request_and_await(received, request, Awaits::Next { hold: held });
            }
            Verb::Weight { ref percent } => match self.weight(percent) {
                Ok(Some(weight)) => self.request_and_await(received, Request::Weigh(weight), Awaits::Weight),
                Ok(None) => received.answers.result(Reply::failed("there is no percentage")),
                Err(why) => received.answers.result(Reply::failed(why)),
            },
            Verb::Commit(_) => self.request_and_await(received, Request::Commit, Awaits::Commit),
            Verb::Rollback(_) => self.request_and_await(received, Request::Rollback, Awaits::Rollback),
            Verb::Scale { workers, .. } => {
                self.request_and_await(received, Request::Scale(workers), Awaits::Scale(workers))
            }
            Verb::Signal { signal } => self.forward_signal(received.answers, &signal),
            Verb::Bind { bind: spec } => {
                let reply = match self.listening.bind(&spec, &mut self.ctx) {
                    Ok((name, address)) => {
                        let done =
                            format!("listening on {address} ({name}), handed over from the next upgrade on");
                        Reply { name: Some(name), address: Some(address), ..Reply::done(done) }
                    }
                    Err(why) => Reply::failed(why),
                };
                received.answers.result(reply);
            }
            Verb::Reexec => {
                let ClientRequest { client, answers, wait, .. } = received;
                match wait {
                    true => self.control.pending.push(PendingRequest {
                        client,
                        replies: answers,
                        awaits: Awaits::Reexec,
                    }),
                    false => answers.result(not_awaited(&Verb::Reexec)),
                }
                self.begin_reexec();
            }
            Verb::Unbind { listener: name } => {
                let reply = match self.listening.unbind(&name, &mut self.ctx) {
                    Ok(done) => Reply::done(done),
                    Err(why) => Reply::failed(why),
                };
                received.answers.result(reply);
            }
        }
    }

    /// Passes a request to the core, for a client that waits for `awaits`.
    fn request_and_await(&mut self, received: ClientRequest, request: Request, awaits: Awaits) {
        let ClientRequest { client, answers, wait, verb, .. } = received;
        self.control.pending.push(PendingRequest { client, replies: answers, awaits });
        self.step(Event::Request(request));
        // A request that failed at once has its result already.
        if !wait && let Some(pending) = self.control.pending.take(client) {
            pending.replies.result(not_awaited(&verb));
        }
    }

    /// The weight that a client asks for, if it names one.
    fn weight(&self, percent: &str) -> Result<Option<Weight>, String> {
        if percent.is_empty() {
            return Ok(None);
        }
        // A request with a wrong number was refused when it was read.
        let weight = weight(percent).map_err(|why| format!("'{percent}' is {why}"))?;
        if self.ctx.config.policy.can_hold()
            && let Some(why) = self.ctx.launcher.settings.listeners.unweighable()
        {
            return Err(format!("the connections cannot be weighed: {why}"));
        }
        Ok(Some(weight))
    }

    fn forward_signal(&mut self, answers: ReplyQueue, name: &str) {
        // A request with an unknown name was refused when it was read.
        let Some(signal) = signals::signal_by_name(name) else {
            return answers.result(Reply::failed(format!("there is no signal '{name}'")));
        };
        let ready = self.ctx.core.workers().filter(|shown| shown.stage == ShownStage::Ready).count() as u32;
        if ready == 0 {
            return answers.result(Reply::failed("no worker is ready"));
        }
        self.step(Event::Request(Request::Forward(Token(signal as i32))));
        let name = signals::name(signal as i32);
        // Most programs end by these.
        let ends = matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGKILL);
        let then = match ends {
            true => {
                "; one that ends by it is started again, and counts as a crash (upgrade replaces them without)"
            }
            false => "",
        };
        let done = Reply::done(format!("{name} was sent to {}{then}", count_of_workers(ready)));
        answers.result(Reply { workers: Some(ready), ..done });
    }

    fn kill_draining(&mut self, received: ClientRequest) {
        let draining = self.ctx.core.workers().filter(|shown| shown.stage == ShownStage::Draining);
        let draining: BTreeSet<WorkerId> = draining.map(|shown| shown.worker).collect();
        if draining.is_empty() {
            let done = Reply::done("nothing was draining");
            return received.answers.result(Reply { workers: Some(0), ..done });
        }
        self.request_and_await(received, Request::Hammer, Awaits::Gone(draining));
    }
}

/// The answer with `--no-wait`.
fn not_awaited(verb: &Verb) -> Reply {
    Reply::done(format!("asked for: {verb}, without a wait for its outcome (ctl status shows it)"))
}
