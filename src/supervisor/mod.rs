//! The supervisor at work: the loop, and an owner for each part of the work.
//!
//! What happens becomes an [`Event`](crate::core::event::Event), the [core](crate::core)
//! answers with actions, and the loop performs them; the result of an action is an event
//! again. The owners:
//!
//! | owner | what it owns |
//! | --- | --- |
//! | `context` | what all share: the core, the configuration, the clock, the process table, the launcher |
//! | `workers` | the start of a worker; its acks, messages, stored descriptors and stderr |
//! | `readiness` | whether a worker waits on its listeners; the user's check of it |
//! | `halts` | replacements that are halted by a signal |
//! | `listening` | the listeners: checks and repairs, `ctl bind` and `unbind` |
//! | `hooks` | the user's hooks |
//! | `hints` | what the user can do about a worker that failed |
//! | `follow` | `--follow`: successors that workers start themselves |
//! | `adopt` | sockets that workers bind themselves; `adoption`: whether they are adopted at all |
//! | `orphans` | what workers leave behind |
//! | `interrupts` | which INTs and QUITs are one act of the user |
//! | `hangup` | whether a HUP says that our terminal has gone |
//! | `rollback` | the files of the generation that was rolled back |
//! | `profile` | the profile of a known server: what it has changed |
//! | `repeats` | what the log has said already, and does not repeat |
//! | `control` | the control socket: pending requests, history |
//! | `service` | the service manager and the pid file |
//! | `reexec` | whether a new binary of ours can take over |
//!
//! An owner has `on_report`, which is called with each report of the core, and `deadline`,
//! if it wants to be called again at a time. It has no access to the loop. What needs several
//! owners is a method of the loop: `actions`, `report_dispatch`, `signals`, `requests`, `reap`,
//! `look`, `status`, `handover`, `startup`.

mod actions;
mod adopt;
mod adoption;
mod clock;
mod context;
mod control;
mod event_loop;
mod file_checks;
mod follow;
mod halts;
mod handover;
mod hangup;
mod held;
mod hints;
mod history;
mod hold;
mod hook_queue;
mod hooks;
mod inputs;
mod interrupts;
mod launcher;
mod listening;
mod look;
mod master;
mod messages;
mod orphans;
mod pending;
mod profile;
mod readiness;
mod reap;
mod reexec;
mod repeats;
mod replies;
mod report;
mod report_dispatch;
mod requests;
mod rollback;
mod saved_state;
mod service;
mod signals;
mod startup;
mod status;
mod successor;
mod verdicts;
mod verify;
mod workers;

pub(crate) use adoption::obstacle;
pub use context::Verdict;
pub use saved_state::State;

use crate::config::Config;
use crate::error::Error;

/// Runs the command until it has ended, or continues from the `state` of the image before
/// this one.
///
/// # Errors
/// Whatever keeps us from starting the first worker; nothing is left behind then.
pub fn run(config: Config, state: Option<State>) -> Result<Verdict, Error> {
    let (event_loop, inputs) = match state {
        Some(state) => startup::resume(config, state),
        None => startup::start(config)?,
    };
    event_loop.run(&inputs)
}
