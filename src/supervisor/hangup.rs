//! HUP is an upgrade, but not where it says that our terminal has gone: then it is a stop.
//!
//! The kernel sends it when a window is closed or a connection is lost. A shell that gets it
//! passes it on, and one that exits may send it to its jobs: that one comes from a process, and
//! the terminal is still there for a moment. Without a terminal at our start (a service, setsid)
//! no HUP is about one, except for the kernel's.

use crate::core::event::Time;
use crate::sys::terminal;
use crate::sys::tree::Origin;
use std::time::Duration;

/// How long a shell may take to exit after it has sent HUP to its jobs.
const SHELL_EXITS: Duration = Duration::from_millis(200);

/// What a HUP is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    /// Our terminal has gone.
    Hangup,
    /// The user has sent it to us.
    Request,
    /// It is not known before [`Hangup::deadline`].
    Later,
}

pub(super) struct Hangup {
    /// We had a terminal when we were started.
    had_terminal: bool,
    check_at: Option<Time>,
}

impl Hangup {
    pub(super) fn new() -> Hangup {
        Hangup { had_terminal: terminal::exists(), check_at: None }
    }

    /// What a HUP that has come is about.
    pub(super) fn meaning(&mut self, origin: &Origin, now: Time) -> Meant {
        match origin {
            Origin::Kernel => Meant::Hangup,
            _ if !self.had_terminal => Meant::Request,
            _ if terminal::is_gone() => Meant::Hangup,
            _ => {
                self.check_at.get_or_insert(now + SHELL_EXITS);
                Meant::Later
            }
        }
    }

    /// What the HUP was about that is checked now, if one is due.
    pub(super) fn check(&mut self, now: Time) -> Option<Meant> {
        self.check_at.take_if(|at| *at <= now)?;
        Some(if terminal::is_gone() { Meant::Hangup } else { Meant::Request })
    }

    /// When a HUP is to be checked.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.check_at
    }
}
