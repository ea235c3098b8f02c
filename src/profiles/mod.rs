//! Profiles of known servers: how each is recognised, what it needs, and what there is to know of it.
//!
//! `servers/NAME.toml` is one file a server, and everything else comes from these files: the options
//! and arguments that are applied, the advice of messages, `graceful-run profiles`, docs/servers.md and
//! the command lines that tests run.

mod advice;
mod check;
mod command;
mod hints;
mod interpreter;
mod known;
mod launcher;
mod own_check;
mod print;
mod profile;
mod recognise;

pub use advice::advice;
pub use check::quote;
pub use hints::{exec_hint, foreground_hint, listener_hint};
pub use known::{all, named};
pub use own_check::own_check;
pub use print::{Shown, ShownAddition, ShownWay, plain};
pub use profile::{Addition, Profile, Warning, Way};
pub use recognise::{
    Found, arguments, arguments_of, find, is_module, program_of, starts_shell, words_behind,
};
