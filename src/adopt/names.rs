//! The names of the files that matter to us, for the threads that receive system calls: a call about any
//! other file is answered there, at once. A server may remove many files.

use crate::sys::caller_path;
use crate::sys::seccomp::{Call, Operation, PathAt};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The last names of the paths of adopted unix sockets.
#[derive(Debug, Default)]
pub struct Names(Mutex<BTreeSet<Vec<u8>>>);

impl Names {
    /// Replaces them.
    pub(super) fn set(&self, names: BTreeSet<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Whether the call may be about one of them; every call about a socket is. What cannot be read is
    /// left to the kernel.
    pub fn concerns(&self, call: &Call) -> bool {
        match call.operation {
            Operation::Unlink(path) => self.has(call, path),
            Operation::Rename(from, to) => self.has(call, to) || self.has(call, from),
            Operation::Other => false,
            _ => true,
        }
    }

    fn has(&self, call: &Call, path: PathAt) -> bool {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return false;
        }
        let Ok(path) = caller_path::read(call.thread, path.at) else { return false };
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(caller_path::last_name(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    #[test]
    fn only_a_call_about_a_known_name_concerns_us() {
        let names = Names::default();
        let texts = [&b"/run/app.sock\0"[..], b"app.sock\0", b"/run/other\0", b"app.sock/\0"];
        let at = |text: &[u8]| PathAt { directory: libc::AT_FDCWD, at: text.as_ptr() as u64 };
        let call = |operation| Call { id: 1, thread: Pid::this(), fd: -1, operation };
        let [long, short, other, slash] = texts.map(at);
        assert!(!names.concerns(&call(Operation::Unlink(long))), "there is none");
        names.set(BTreeSet::from([b"app.sock".to_vec()]));
        for (operation, expected) in [
            (Operation::Unlink(long), true),
            (Operation::Unlink(short), true),
            (Operation::Unlink(other), false),
            (Operation::Unlink(slash), false),
            (Operation::Unlink(PathAt { directory: libc::AT_FDCWD, at: 0 }), false),
            (Operation::Rename(other, long), true),
            (Operation::Rename(short, other), true),
            (Operation::Rename(other, other), false),
            (Operation::Other, false),
            (Operation::Listen(1), true),
        ] {
            assert_eq!(names.concerns(&call(operation)), expected, "{operation:?}");
        }
    }
}
