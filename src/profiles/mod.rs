//! Profiles of known servers, found by the name of the program. They give advice in the log, and
//! the check of a server's own configuration that goes before an upgrade with --stop-first.

mod check;
mod command;
mod hints;
mod known;

pub use command::{own_check, program};
pub use hints::{exec_hint, foreground_hint, listener_hint, stop_signal_hint};
pub use known::{Profile, find_profile};
