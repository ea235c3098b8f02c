//! Signals to us, some of which our own workers send.
//!
//! Servers built on grace and endless send TERM to their parent once they have
//! inherited its sockets, goagain a signal of its own: that is their ack. So a
//! TERM of a worker, of one of its descendants, or of one that has just died is
//! never a stop; everybody else's is. Two TERMs that come before the first is
//! read are one to the kernel (signal(7)): a thread does nothing but read them,
//! what waited while we were stopped is taken for a stop, and INT, QUIT and a
//! second TERM are there for who wants to be sure.

use super::event_loop::EventLoop;
use crate::core::event::{AckKind, Event, Request, WorkerId};
use crate::dialect::{Dialect, GOAGAIN_SIGNAL};
use crate::sys::terminal;
use crate::sys::tree::Sender;
use log::{debug, info, warn};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::path::PathBuf;

/// Says where a TERM that is waited for cannot come.
pub(super) fn warn_of_silence(kinds: &[AckKind], foreign: bool) {
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
    pub(super) fn on_signal(&mut self, number: i32, from: Option<Sender>) {
        let sender = |from: Sender| Some((from.pid, self.ctx.processes.sender(&from, self.ctx.now())?));
        match number {
            GOAGAIN_SIGNAL => match from.and_then(sender) {
                Some((_, id)) => self.ctx.queue(Event::Ack(id, AckKind::Goagain)),
                None => debug!("signal {number} of a stranger is no ack"),
            },
            libc::SIGTERM => match from.and_then(sender) {
                Some((pid, id)) => self.term_of(id, pid),
                None => self.ask(Signal::SIGTERM),
            },
            // overseer's programs say so that they have let go of the sockets.
            libc::SIGUSR1 if self.ctx.config.dialects.contains(&Dialect::Overseer) => {
                match from.and_then(sender) {
                    Some((pid, _)) => debug!("USR1 of pid {pid}, a worker's own, is not passed on"),
                    None => self.ask(Signal::SIGUSR1),
                }
            }
            _ => {
                if let Ok(signal) = Signal::try_from(number) {
                    self.ask(signal);
                }
            }
        }
    }

    /// What is watched has changed.
    pub(super) fn on_change(&mut self, paths: &[PathBuf]) {
        for path in paths {
            info!("{} has changed", path.display());
        }
        if self.rolled_back.is_same(&self.ctx) {
            return;
        }
        self.look_for_handovers();
        self.ctx.queue(Event::Request(Request::Upgrade));
    }

    fn ask(&mut self, signal: Signal) {
        debug!("signal {signal}");
        let shared = self.ctx.config.worker.foreground_tty && terminal::is_in_foreground();
        if let Some(request) = self.ctx.config.signals.request(signal, shared) {
            self.look_for_handovers();
            self.ctx.queue(Event::Request(request));
        }
    }

    fn term_of(&mut self, id: WorkerId, pid: Pid) {
        if self.ctx.config.follow.is_some() {
            // Meant for a predecessor that has gone, and left us as the parent.
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
        // Whoever did not mean an ack is told, once.
        if process.terms == needed + 1 {
            info!("TERM of pid {pid}, a worker's own, is no stop (to stop us from there: INT or QUIT)");
        }
        if process.terms >= needed {
            self.ctx.queue(Event::Ack(id, AckKind::ParentTerm));
        }
    }
}
