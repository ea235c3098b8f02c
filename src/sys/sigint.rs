//! Records where each SIGINT comes from. ctrlc reports each one a moment later, in a thread of its
//! own, and without its sender. Before an execve(2) of ourselves it has to have reported all of them.

use super::tree::{Lineage, Origin, Sender};
use libc::{c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many may wait to be reported; of more than these the senders are mixed up.
const ROOM: usize = 64;

static CAUGHT: AtomicU64 = AtomicU64::new(0);
/// si_code and si_pid (sigaction(2)) of the last ones, as two halves.
static ORIGINS: [AtomicU64; ROOM] = [const { AtomicU64::new(0) }; ROOM];
static CTRLC: OnceLock<extern "C" fn(c_int)> = OnceLock::new();

/// Starts recording. ctrlc's handler has to be installed already: it is called after ours.
///
/// # Errors
/// None for SIGINT that sigaction(2) documents.
pub fn start_recording() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(record), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler uses atomic numbers and calls ctrlc's, which is async-signal-safe.
    let before = unsafe { sigaction(Signal::SIGINT, &action) }?;
    if let SigHandler::Handler(handler) = before.handler() {
        let _ = CTRLC.set(handler);
    }
    Ok(())
}

extern "C" fn record(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a structure that lives through the call;
    // si_pid is 0 where the kernel is the sender.
    let (code, pid) = unsafe { ((*info).si_code, (*info).si_pid()) };
    let at = CAUGHT.load(Ordering::SeqCst);
    let origin = u64::from(code.cast_unsigned()) << 32 | u64::from(pid.cast_unsigned());
    ORIGINS[at as usize % ROOM].store(origin, Ordering::SeqCst);
    CAUGHT.store(at + 1, Ordering::SeqCst);
    if let Some(ctrlc) = CTRLC.get() {
        ctrlc(signal);
    }
}

/// How many have been caught.
pub fn caught() -> u64 {
    CAUGHT.load(Ordering::SeqCst)
}

/// Where the SIGINT comes from that was caught after `number` others.
pub fn origin(number: u64) -> Origin {
    let origin = ORIGINS[number as usize % ROOM].load(Ordering::SeqCst);
    match (((origin >> 32) as u32).cast_signed(), (origin as u32).cast_signed()) {
        (libc::SI_KERNEL, _) => Origin::Kernel,
        (_, pid @ 1..) => Origin::Process(Sender { pid: Pid::from_raw(pid), lineage: Lineage::default() }),
        _ => Origin::Unknown,
    }
}
