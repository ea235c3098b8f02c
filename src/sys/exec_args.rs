//! The arguments and the environment of execve(2), allocated before the fork, with room for the
//! variables that only the child knows: its pid, and the inode number of its pidfd.

use libc::{c_char, c_int};
use std::ffi::{CStr, CString};
use std::ptr;

/// argv and envp in the form of execve(2).
pub(super) struct ExecArgs {
    pub(super) argv: Vec<*const c_char>,
    /// Ends with nulls: room for three more variables, and the terminator.
    pub(super) envp: Vec<*const c_char>,
    variables: usize,
    listen_pid: Variable,
    listen_pidfdid: Variable,
    watchdog_pid: Variable,
}

impl ExecArgs {
    pub(super) fn new(argv: &[CString], env: &[CString]) -> Self {
        let pointers = |strings: &[CString], nulls: usize| {
            let end = std::iter::repeat_n(ptr::null(), nulls);
            strings.iter().map(|string| string.as_ptr()).chain(end).collect()
        };
        ExecArgs {
            argv: pointers(argv, 1),
            envp: pointers(env, 4),
            variables: env.len(),
            listen_pid: Variable::new(c"LISTEN_PID="),
            listen_pidfdid: Variable::new(c"LISTEN_PIDFDID="),
            watchdog_pid: Variable::new(c"WATCHDOG_PID="),
        }
    }

    /// Called in the child: adds LISTEN_PID, LISTEN_PIDFDID and WATCHDOG_PID.
    pub(super) fn add_process_ids(&mut self, listen: bool, watchdog: bool) {
        // SAFETY: getpid has no arguments and cannot fail.
        let pid = u64::from(unsafe { libc::getpid() }.unsigned_abs());
        let inode = if listen { own_pidfd_inode() } else { None };
        let variables = [
            listen.then(|| self.listen_pid.set(pid)),
            inode.map(|inode| self.listen_pidfdid.set(inode)),
            watchdog.then(|| self.watchdog_pid.set(pid)),
        ];
        let free = self.envp.iter_mut().skip(self.variables);
        for (entry, variable) in free.zip(variables.into_iter().flatten()) {
            *entry = variable;
        }
    }
}

/// `NAME=` and a number that is written later, without allocating.
struct Variable {
    /// Longer than the name, 20 digits and the NUL.
    text: [u8; 40],
    name: usize,
}

impl Variable {
    fn new(name: &CStr) -> Self {
        let name = name.to_bytes();
        let mut text = [0; 40];
        text[..name.len()].copy_from_slice(name);
        Variable { text, name: name.len() }
    }

    /// Writes `value` in plain decimal, as readers compare it. The pointer is valid until `self` is
    /// moved.
    fn set(&mut self, value: u64) -> *const c_char {
        let mut digits = [0_u8; 20];
        let mut rest = value;
        let mut used = 0_usize;
        for digit in &mut digits {
            *digit = b'0' | (rest % 10) as u8;
            rest /= 10;
            used = used.wrapping_add(1);
            if rest == 0 {
                break;
            }
        }
        let bytes = self.text.iter_mut().skip(self.name);
        for (byte, digit) in bytes.zip(digits.iter().take(used).rev()) {
            *byte = *digit;
        }
        self.text.as_ptr().cast()
    }
}

/// The inode number of the calling process's pidfd, which names a process for
/// as long as the machine runs; None where pidfds are not on pidfs and all share one.
fn own_pidfd_inode() -> Option<u64> {
    const PIDFS_MAGIC: i64 = 0x5049_4446;
    // SAFETY: plain system calls; both buffers are valid when all zero, live
    // through the calls, and the descriptor is closed exactly once.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as c_int;
        if pidfd == -1 {
            return None;
        }
        let mut system: libc::statfs = std::mem::zeroed();
        let mut file: libc::stat = std::mem::zeroed();
        let known = libc::fstatfs(pidfd, &raw mut system) == 0 && libc::fstat(pidfd, &raw mut file) == 0;
        libc::close(pidfd);
        #[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
        (known && system.f_type as i64 == PIDFS_MAGIC).then_some(file.st_ino as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_decimal() {
        for value in [0, 7, 10, 4_194_304, u64::MAX] {
            let mut variable = Variable::new(c"LISTEN_PIDFDID=");
            variable.set(value);
            let text = CStr::from_bytes_until_nul(&variable.text).expect("a NUL");
            assert_eq!(text.to_str(), Ok(format!("LISTEN_PIDFDID={value}").as_str()));
        }
    }
}
