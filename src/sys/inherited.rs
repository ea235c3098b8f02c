//! What we were started with: the signal mask, the ignored signals and the
//! number of descriptors that we may have.
//!
//! Saved before the Rust runtime starts, because that sets SIGPIPE to ignored and installs handlers
//! of its own. A worker must get the values that *we* inherited (`nohup`, a blocked set), not the
//! present ones. Saving changes nothing, so that any program may link this module.

use std::array;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_long, c_ulong};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Bit n-1 stands for signal n, as in `SigBlk` of `/proc/PID/status`.
static MASK: AtomicU64 = AtomicU64::new(0);
static IGNORED: AtomicU64 = AtomicU64::new(0);
/// The soft RLIMIT_NOFILE from before [`raise_file_limit`]; until then the highest number.
static FILE_LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

#[used]
// SAFETY: the C runtime calls each pointer in this section once before main,
// with arguments that a function without parameters leaves alone.
#[unsafe(link_section = ".init_array")]
static SAVE: extern "C" fn() = save;

extern "C" fn save() {
    MASK.store(change_mask(libc::SIG_BLOCK, 0), Ordering::Relaxed);
    let ignored = (1..=64).filter(|&signal| is_currently_ignored(signal)).map(bit).sum();
    IGNORED.store(ignored, Ordering::Relaxed);
}

/// What we were started with, to be passed over an execve(2) of ourselves: the next image inherits
/// our present values instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    mask: u64,
    ignored: u64,
    file_limit: u64,
}

/// What we were started with.
pub fn inherited() -> Inherited {
    let [mask, ignored, file_limit] =
        [&MASK, &IGNORED, &FILE_LIMIT].map(|value| value.load(Ordering::Relaxed));
    Inherited { mask, ignored, file_limit }
}

/// Sets what we were started with.
pub fn restore(inherited: Inherited) {
    MASK.store(inherited.mask, Ordering::Relaxed);
    IGNORED.store(inherited.ignored, Ordering::Relaxed);
    FILE_LIMIT.store(inherited.file_limit, Ordering::Relaxed);
}

impl Inherited {
    /// Whether `signal` (1 to 64) was ignored when we were started.
    pub fn ignored(&self, signal: i32) -> bool {
        self.ignored & bit(signal) != 0
    }
}

/// The signal mask that we were started with; bit n-1 stands for signal n.
pub fn mask() -> u64 {
    MASK.load(Ordering::Relaxed)
}

/// Whether `signal` (1 to 64) was ignored when we were started.
pub fn ignored(signal: i32) -> bool {
    IGNORED.load(Ordering::Relaxed) & bit(signal) != 0
}

/// Whether `signal` (1 to 64) was blocked when we were started.
pub fn blocked(signal: i32) -> bool {
    mask() & bit(signal) != 0
}

/// Blocks every signal in the calling thread. The first act of `main`: every thread made afterwards
/// inherits it, and a signal that comes before a thread reads signals stays pending. PID 1 would
/// lose an unblocked one.
///
/// The C library leaves out the two signals that it uses itself (32 and 33).
pub fn block_all_signals() {
    set_thread_mask(true);
}

/// Unblocks every signal in the calling thread.
pub fn unblock_all_signals() {
    set_thread_mask(false);
}

/// Raises our soft limit of open descriptors (RLIMIT_NOFILE, getrlimit(2)) to the hard one. A
/// worker costs us up to three, and twice as many workers live during an upgrade: the usual limit
/// of 1024 allows some 160 workers. Workers get the earlier limit, because a program that uses
/// select(2) must not see a descriptor above it. A limit that cannot be raised stays.
#[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
    {
        FILE_LIMIT.store(soft as u64, Ordering::Relaxed);
    }
}

/// The soft limit of open descriptors that workers have.
#[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
pub fn worker_file_limit() -> u64 {
    let own = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft as u64);
    own.min(FILE_LIMIT.load(Ordering::Relaxed))
}

/// Called in the child: restores the limit from before [`raise_file_limit`]. Descriptors that are
/// open above it stay open. Async-signal-safe.
#[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
pub(super) fn restore_file_limit() {
    let soft = FILE_LIMIT.load(Ordering::Relaxed);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls; the structure lives through them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur as u64 > soft {
            limit.rlim_cur = soft as libc::rlim_t;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Undoes an inherited SIGCHLD = ignored, under which the kernel reaps our children itself and
/// waitpid(2) does not return their status.
pub fn default_sigchld() {
    set_default(libc::SIGCHLD);
}

/// Ignores the signals between the ordinary and the real-time ones. The C library keeps them for
/// itself and lets nobody handle them; before it does so itself they would end us.
pub fn ignore_hidden_signals() {
    for signal in libc::SIGSYS + 1..libc::SIGRTMIN() {
        set_disposition(signal, libc::SIG_IGN);
    }
}

/// Gives each signal the disposition that we were started with: ignored stays ignored, all else is
/// default.
///
/// Async-signal-safe: for the child between fork and exec.
pub(super) fn restore_dispositions() {
    for signal in 1..=64 {
        set_disposition(signal, if ignored(signal) { libc::SIG_IGN } else { libc::SIG_DFL });
    }
}

/// Gives a signal its default disposition. Async-signal-safe.
pub(super) fn set_default(signal: i32) {
    set_disposition(signal, libc::SIG_DFL);
}

/// rt_sigprocmask(2) of the calling thread; returns the previous mask.
///
/// It is the system call and not the C library's function, which leaves out signals 32 and 33: a
/// worker gets exactly the mask that we got. Async-signal-safe.
pub(super) fn change_mask(how: c_int, mask: u64) -> u64 {
    const WORDS: usize = (u64::BITS / c_ulong::BITS) as usize;
    let shift = |word: usize| word as u32 * c_ulong::BITS;
    let new: [c_ulong; WORDS] = array::from_fn(|word| (mask >> shift(word)) as c_ulong);
    let mut old: [c_ulong; WORDS] = [0; WORDS];
    // SAFETY: both sets are as long as the size given says, and live through
    // the call. It cannot fail: `how` is one of the three that exist.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            c_long::from(how),
            new.as_ptr(),
            old.as_mut_ptr(),
            size_of_val(&new),
        );
    }
    #[allow(clippy::unnecessary_cast, reason = "a long is 32 bits wide on some machines")]
    old.iter().enumerate().fold(0, |sum, (word, &bits)| sum | (bits as u64) << shift(word))
}

fn bit(signal: i32) -> u64 {
    match signal {
        1..=64 => 1 << (signal - 1),
        _ => 0,
    }
}

/// Longer than the kernel's `struct sigaction`. The handler comes first; what follows (flags,
/// perhaps a restorer, the mask) is zero in all that we set. Only MIPS has another order.
type KernelSigaction = [libc::sighandler_t; 8];

/// The system call rt_sigaction(2). The C library hides signals 32 and 33, which may have been
/// ignored, and uses one of them from the first thread on.
fn change_action(signal: c_int, new: *const KernelSigaction, old: *mut KernelSigaction) -> bool {
    /// The size of the kernel's signal set in bytes.
    const SET: usize = 8;
    // SAFETY: the caller gives null or an array that lives through the call and
    // is longer than the structure that the kernel reads or writes there.
    // Nothing but SIG_IGN and SIG_DFL is ever set, which run no code of ours.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, c_long::from(signal), new, old, SET) == 0 }
}

fn is_currently_ignored(signal: c_int) -> bool {
    let mut action: KernelSigaction = [0; 8];
    change_action(signal, ptr::null(), &raw mut action) && action[0] == libc::SIG_IGN
}

/// KILL and STOP cannot be changed, and stay as they are.
fn set_disposition(signal: c_int, disposition: libc::sighandler_t) {
    let action: KernelSigaction = [disposition, 0, 0, 0, 0, 0, 0, 0];
    change_action(signal, &raw const action, ptr::null_mut());
}

fn set_thread_mask(blocked: bool) {
    // SAFETY: the set is initialised by sigfillset or sigemptyset before it is
    // read, and lives through the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if blocked {
            libc::sigfillset(&raw mut set);
        } else {
            libc::sigemptyset(&raw mut set);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocking_all_is_inherited_by_threads_and_can_be_undone() {
        let masks = std::thread::spawn(|| {
            block_all_signals();
            let inherited = std::thread::spawn(|| change_mask(libc::SIG_BLOCK, 0)).join();
            unblock_all_signals();
            (inherited.expect("no panic"), change_mask(libc::SIG_BLOCK, 0))
        });
        let (blocked, unblocked) = masks.join().expect("no panic");
        for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR2, 64] {
            assert_ne!(blocked & bit(signal), 0, "signal {signal}");
        }
        assert_eq!(unblocked, 0);
    }
}
