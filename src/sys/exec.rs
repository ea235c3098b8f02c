//! Executing another program in this process, with the signals that we were started with.

use std::ffi::CString;

use nix::errno::Errno;

use super::exec_args::ExecArgs;
use super::inherited;

/// Executes the first of `programs` that exists and may be executed, as execvp(3) does. It gets
/// `env` (`K=V`, without the two variables that follow), its pid in LISTEN_PID, where the kernel
/// has pidfs the inode number of its pidfd in LISTEN_PIDFDID, and the signal mask and ignored
/// signals that we were started with.
///
/// Returns why none was executed, with every signal blocked. Meant for a process of one thread.
pub fn exec_first(programs: &[CString], argv: &[CString], env: &[CString]) -> Errno {
    let mut exec_args = ExecArgs::new(argv, env);
    exec_args.add_process_ids(true, false);
    inherited::restore_dispositions();
    let mut error = Errno::ENOENT;
    for program in programs {
        inherited::change_mask(libc::SIG_SETMASK, inherited::mask());
        // SAFETY: the program and both arrays are NUL-terminated strings and
        // null-terminated arrays of such, which live until the process is replaced.
        unsafe { libc::execve(program.as_ptr(), exec_args.argv.as_ptr(), exec_args.envp.as_ptr()) };
        let errno = Errno::last();
        inherited::change_mask(libc::SIG_SETMASK, u64::MAX);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => error = errno,
            other => return other,
        }
    }
    error
}
