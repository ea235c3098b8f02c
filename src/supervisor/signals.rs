//! Signals to us, some of which our own workers send.
//!
//! Servers built on grace and endless send TERM to their parent once they have
//! inherited its sockets, goagain a signal of its own: that is their ack. So a
//! TERM of a worker, of one of its descendants, or of one that has just ended is
//! never a stop; every other TERM is. The kernel merges two TERMs that come before
//! the first is read (signal(7)). Therefore a thread does nothing but read signals,
//! and a TERM that was pending while we were stopped counts as a stop. INT, QUIT or
//! a second TERM stops us in any case.

use super::event_loop::EventLoop;
use super::hangup::Meant;
use super::report::duration_text;
use crate::config::signals;
use crate::core::Phase;
use crate::core::event::{AckKind, Event, Request, WorkerId};
use crate::dialect::{Dialect, GOAGAIN_SIGNAL};
use crate::sys::terminal;
use crate::sys::tree::{Origin, Sender};
use log::{debug, info, warn};
use nix::unistd::Pid;
use std::path::PathBuf;

/// Warns where `--ack` waits for a TERM that cannot come.
pub(super) fn warn_of_impossible_term(kinds: &[AckKind], foreign: bool) {
    if kinds != [AckKind::ParentTerm] {
        return;
    }
    if foreign {
        warn!(
            "workers of another user cannot send us TERM: grace exits, endless gives no ack (leave --ack out)"
        );
    } else if Pid::this().as_raw() == 1 {
        warn!("servers built on grace send no TERM to process 1, which we are (leave --ack out)");
    }
}

impl EventLoop {
    pub(super) fn on_signal(&mut self, number: i32, origin: &Origin) {
        let sender = |from: &Sender| Some((from.pid, self.ctx.processes.sender(from, self.ctx.now())?));
        let from_worker = origin.process().and_then(sender);
        match (number, from_worker) {
            (GOAGAIN_SIGNAL, from) if self.ctx.config.acks.goagain() => match from {
                Some((_, id)) => self.ctx.queue(Event::Ack(id, AckKind::Goagain)),
                None => debug!("signal {number} of a stranger is no ack"),
            },
            (libc::SIGTERM, Some((pid, id))) => self.on_worker_term(id, pid),
            // Programs built on overseer send it when they have closed the sockets.
            (libc::SIGUSR1, Some((pid, _))) if self.ctx.config.dialects.contains(&Dialect::Overseer) => {
                debug!("USR1 of pid {pid}, a worker's own, is not passed on");
            }
            // It may be the word of a library that we do not know.
            (_, Some((pid, _))) if self.ctx.config.signals.is_unlisted(number) => {
                info!("{} of pid {pid}, a worker's own, is no stop", signals::name(number));
            }
            _ if self.is_repeated_interrupt(number, origin) => {}
            _ => self.request_by_signal(number, origin),
        }
    }

    /// Whether this is an INT or QUIT that has reached us already by another way.
    pub(super) fn is_repeated_interrupt(&mut self, number: i32, origin: &Origin) -> bool {
        let now = self.ctx.now();
        [libc::SIGINT, libc::SIGQUIT].contains(&number) && self.interrupts.is_repeated(number, origin, now)
    }

    /// Files that are watched have changed.
    pub(super) fn on_change(&mut self, paths: &[PathBuf]) {
        for path in paths {
            info!("{} has changed", path.display());
        }
        if self.rolled_back.is_same(&self.ctx) {
            return;
        }
        self.find_handovers();
        self.ctx.queue(Event::Request(Request::Upgrade));
    }

    fn request_by_signal(&mut self, signal: i32, origin: &Origin) {
        let name = signals::name(signal);
        debug!("signal {name}");
        self.control.asked_by(name.clone());
        if signal == libc::SIGHUP && !self.ctx.config.signals.is_chosen(signal) {
            let meant = self.hangup.meaning(origin, self.ctx.now());
            return self.act_on_hangup(meant);
        }
        let by_terminal = matches!(origin, Origin::Kernel);
        let shared = by_terminal && self.ctx.config.worker.foreground_tty && terminal::is_in_foreground();
        if self.ctx.config.signals.waits(signal) && self.ctx.core.phase() != Phase::Stopping {
            self.ctx.processes.signalled = true;
            let limit = self.ctx.config.policy.stop_timeout.map(duration_text);
            info!(
                "{name}: a stop; workers have had a signal from whoever sent it (--on {name}=wait), and get none from us (--stop-timeout: {})",
                limit.unwrap_or_else(|| "none".into())
            );
        }
        if self.ctx.config.signals.is_unlisted(signal) && self.ctx.core.phase() != Phase::Stopping {
            info!("{name}: a stop, because it would end us by default (to change that: --on {name}=ignore)");
        }
        self.request(self.ctx.config.signals.request(signal, shared));
    }

    /// A HUP that came from a process a moment ago is looked at once more.
    pub(super) fn check_hangup(&mut self) {
        if let Some(meant) = self.hangup.check(self.ctx.now()) {
            self.act_on_hangup(meant);
        }
    }

    fn act_on_hangup(&mut self, meant: Meant) {
        let request = self.ctx.config.signals.request(libc::SIGHUP, false);
        match (meant, request) {
            (Meant::Hangup, Some(Request::Upgrade)) => {
                if self.ctx.core.phase() != Phase::Stopping {
                    info!(
                        "HUP: our terminal is gone, which is a stop (to go on without it: nohup, or setsid; to upgrade: --on HUP=upgrade)"
                    );
                }
                self.request(Some(Request::Stop));
            }
            (Meant::Later, _) => {}
            (_, request) => self.request(request),
        }
    }

    fn request(&mut self, request: Option<Request>) {
        if let Some(request) = request {
            self.find_handovers();
            self.ctx.queue(Event::Request(request));
        }
    }

    fn on_worker_term(&mut self, id: WorkerId, pid: Pid) {
        if self.ctx.config.follow.is_some() {
            // It was meant for a predecessor that has ended; we are the new parent.
            return debug!("TERM of pid {pid}, a worker's own, is no stop");
        }
        let listeners = self
            .ctx
            .processes
            .get(id)
            .map_or(0, |entry| self.ctx.launcher.settings.listeners.of(entry.generation.0).count());
        let needed = self.ctx.config.acks.terms(listeners);
        let entry = self
            .ctx
            .processes
            .get_mut(id)
            .and_then(|entry| Some((entry.generation, entry.process.as_mut()?)));
        let Some((generation, process)) = entry else {
            return debug!("TERM of pid {pid}, a worker that has gone, is no stop");
        };
        process.terms = process.terms.saturating_add(1);
        debug!("{generation}: TERM {} of {needed} from pid {pid}", process.terms);
        // Logged once, for a worker that did not mean an ack.
        if process.terms == needed + 1 {
            info!("TERM of pid {pid}, a worker's own, is no stop (to stop us from there: INT or QUIT)");
        }
        if process.terms >= needed {
            self.ctx.queue(Event::Ack(id, AckKind::ParentTerm));
        }
    }
}
