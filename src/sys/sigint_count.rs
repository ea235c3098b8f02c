//! How many SIGINTs have been caught. Their owner, ctrlc, has a thread of its own
//! that tells of each a moment later; before we are replaced it has to have told
//! of all.

use signal_hook::low_level::register;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Counts from now on. ctrlc's handler has to be there already: it is called
/// first.
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
