//! Counts the SIGINTs that have been caught. ctrlc reports each one a moment later, in a thread of
//! its own. Before an execve(2) of ourselves it has to have reported all of them.

use signal_hook::low_level::register;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Starts counting. ctrlc's handler has to be installed already, so that it is called first.
///
/// # Errors
/// None for SIGINT that sigaction(2) documents.
pub fn start_counting() -> io::Result<()> {
    let count = || {
        CAUGHT.fetch_add(1, Ordering::SeqCst);
    };
    // SAFETY: the action adds to an atomic number, which is async-signal-safe.
    unsafe { register(libc::SIGINT, count) }.map(drop)
}

/// How many have been caught.
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::SeqCst)
}
