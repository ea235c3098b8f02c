//! The processes of the workers. The core knows workers by ids; only here is known which process
//! an id means.

mod entry;
mod orphans;
mod saved;
mod symptom;
mod table;

pub use entry::{ChangedFile, Entry, Predecessor, Process, Server};
pub use saved::Saved;
pub use symptom::{Named, Symptom, symptom};
pub use table::{Owner, ProcessTable};

use crate::core::event::Exit;
use crate::sys::process;

/// How a process ended, as the core has it.
pub fn exit_of(exit: process::Exit) -> Exit {
    match exit {
        process::Exit::Code(code) => Exit::Code(code),
        process::Exit::Signal(signal) => Exit::Signal(signal),
    }
}
