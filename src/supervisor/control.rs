//! What clients of the control socket ask for.
//!
//! Contract: the processes of the core decide. Each request has one result, unless its
//! client has gone; that changes nothing of what it began. Nobody is waited for here.

use super::Run;
use super::pending::{Awaits, PendingRequest};
use super::replies::workers;
use super::status::phase_name;
use crate::config::signals;
use crate::control::protocol::{self, Reply, Verb, line};
use crate::control::reply_queue::ReplyQueue;
use crate::control::server::{Asked, Message};
use crate::core::event::{Event, Request, Token, WorkerId};
use crate::core::{Phase, ShownStage};
use crate::supervisor::report::event;
use log::Level;
use serde_json::json;
use std::collections::BTreeSet;

impl Run {
    /// A message of the control socket.
    pub(super) fn control(&mut self, message: Message) {
        match message {
            Message::Asked(asked) => self.asked(asked),
            Message::Progress(client) => {
                let (status, snapshot) = self.state();
                let waiter = self.control.waiters.iter().find(|waiter| waiter.client == client);
                if let Some(waiter) = waiter {
                    waiter.answers.progress(status, snapshot);
                }
            }
            Message::Gone(client) => drop(self.control.take(client)),
        }
    }

    fn asked(&mut self, mut asked: Asked) {
        asked.answers.tell_written(self.control.written());
        let level = if matches!(asked.verb, Verb::Status { .. } | Verb::Events | Verb::Metrics) {
            Level::Debug
        } else {
            Level::Info
        };
        log::log!(level, "ctl: {} asks: {}", asked.peer, asked.verb);
        self.look_for_takeovers();
        self.work_off();
        let phase = self.core.phase();
        let stopping = phase == Phase::Stopping;
        match asked.verb {
            Verb::Status { .. } => {
                let (status, snapshot) = self.state();
                asked.answers.status(status, snapshot);
            }
            Verb::Metrics => {
                let (status, snapshot) = self.state();
                asked.answers.metrics(status, snapshot);
            }
            Verb::Events => {
                let (generation, phase) = (self.core.generation().0, phase_name(phase));
                let hello = json!({"version": protocol::VERSION, "pid": std::process::id(), "generation": generation, "phase": phase});
                // It is the first line of this client: there is room for it.
                let _ = asked.answers.line(&line(&event::named("hello", hello)).into());
                let Asked { client, answers, .. } = asked;
                self.control.waiters.push(PendingRequest {
                    client,
                    answers,
                    waits: Awaits::Events { missed: 0 },
                });
            }
            Verb::Hammer => self.hammer(asked),
            Verb::Stop { now, .. } => {
                let request = if now { Request::Kill } else { Request::Stop };
                self.demand(asked, request, Awaits::Stop);
            }
            _ if stopping => asked.answers.result(Reply::failed("stopping")),
            Verb::Upgrade { now: false, .. } if phase == Phase::Holding => {
                let to = self.control.to.map_or(0, |to| to.0);
                let why =
                    format!("generation {to} is on hold (ctl commit, ctl rollback, or ctl upgrade --now)");
                asked.answers.result(Reply::failed(why));
            }
            Verb::Upgrade { hold, now, .. } => {
                let request = match (hold, now) {
                    (true, _) => Request::Hold,
                    (false, true) => Request::UpgradeNow,
                    (false, false) => Request::Upgrade,
                };
                self.demand(asked, request, Awaits::Next { hold });
            }
            Verb::Commit(_) => self.demand(asked, Request::Commit, Awaits::Commit),
            Verb::Rollback(_) => self.demand(asked, Request::Rollback, Awaits::Rollback),
            Verb::Scale { workers, .. } => {
                self.demand(asked, Request::Scale(workers), Awaits::Scale(workers))
            }
            Verb::Signal { signal } => self.pass_on(asked.answers, &signal),
            Verb::Bind { bind } => {
                let reply = match self.bind(&bind) {
                    Ok((name, address)) => {
                        let done =
                            format!("listening on {address} ({name}), handed over from the next upgrade on");
                        Reply { name: Some(name), address: Some(address), ..Reply::done(done) }
                    }
                    Err(why) => Reply::failed(why),
                };
                asked.answers.result(reply);
            }
            Verb::Reexec => {
                let Asked { client, answers, wait, .. } = asked;
                match wait {
                    true => {
                        self.control.waiters.push(PendingRequest { client, answers, waits: Awaits::Reexec })
                    }
                    false => answers.result(Reply::done("asked for")),
                }
                self.begin_reexec();
            }
            Verb::Unbind { listener } => {
                let reply = match self.unbind(&listener) {
                    Ok(done) => Reply::done(done),
                    Err(why) => Reply::failed(why),
                };
                asked.answers.result(reply);
            }
        }
    }

    /// Has the core do something, for a client that waits for it.
    fn demand(&mut self, asked: Asked, request: Request, waits: Awaits) {
        let Asked { client, answers, wait, .. } = asked;
        self.control.waiters.push(PendingRequest { client, answers, waits });
        self.step(Event::Request(request));
        // What is wrong at once has been answered.
        if !wait && let Some(waiter) = self.control.take(client) {
            waiter.answers.result(Reply::done("asked for"));
        }
    }

    fn pass_on(&mut self, answers: ReplyQueue, name: &str) {
        // A request with another name was refused when it was read.
        let Some(signal) = signals::signal_by_name(name) else {
            return answers.result(Reply::failed(format!("there is no signal '{name}'")));
        };
        let ready = self.core.workers().filter(|shown| shown.stage == ShownStage::Ready).count() as u32;
        if ready == 0 {
            return answers.result(Reply::failed("no worker is ready"));
        }
        self.step(Event::Request(Request::Forward(Token(signal as i32))));
        let done = Reply::done(format!("{name} was sent to {}", workers(ready)));
        answers.result(Reply { workers: Some(ready), ..done });
    }

    fn hammer(&mut self, asked: Asked) {
        let draining = self.core.workers().filter(|shown| shown.stage == ShownStage::Draining);
        let draining: BTreeSet<WorkerId> = draining.map(|shown| shown.worker).collect();
        if draining.is_empty() {
            let done = Reply::done("nothing was draining");
            return asked.answers.result(Reply { workers: Some(0), ..done });
        }
        self.demand(asked, Request::Hammer, Awaits::Gone(draining));
    }
}
