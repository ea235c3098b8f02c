//! Halts other processes for a moment, so that what they have open does not change while it is looked
//! at.
//!
//! Contract: whoever has halted processes continues them: at the latest when [`Halted`] is dropped. What
//! somebody else has halted before stays as it is. If we are killed in that moment, the kernel continues
//! them where they are in our session (setpgid(2): an orphaned process group gets HUP and CONT).

use super::tree::{self, Halt};
use super::{pidfd, proc};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// How long it may take until every thread has come to a halt: one that waits for a disk may take longer.
const TIMEOUT: Duration = Duration::from_millis(5);
/// The pause between two looks whether they have.
const PAUSE: Duration = Duration::from_micros(40);

/// Halted processes, which are continued on drop.
#[derive(Debug)]
pub struct Halted(Vec<(Pid, OwnedFd)>);

impl Halted {
    /// Halts these processes: parents before their children, which would tell them.
    ///
    /// # Errors
    /// EPERM if we may not signal one of them, ETIMEDOUT if one does not come to a halt. They are
    /// continued then.
    pub fn new(pids: &[Pid]) -> nix::Result<Halted> {
        let mut halted = Halted(Vec::new());
        for &pid in pids {
            let Ok(process) = pidfd::open(pid, 0) else { continue };
            if tree::stat(pid).is_none_or(|stat| !stat.is_live() || stat.is_halted(Halt::Any)) {
                continue;
            }
            match send(&process, libc::SIGSTOP) {
                Ok(()) => halted.0.push((pid, process)),
                Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno),
            }
        }
        let until = Instant::now() + TIMEOUT;
        while !halted.0.iter().all(|(pid, _)| is_still(*pid)) {
            if Instant::now() >= until {
                return Err(Errno::ETIMEDOUT);
            }
            thread::sleep(PAUSE);
        }
        Ok(halted)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        for (_, process) in self.0.iter().rev() {
            let _ = send(process, libc::SIGCONT);
        }
    }
}

/// Whether every thread of the process is halted, or has ended.
fn is_still(pid: Pid) -> bool {
    let threads = proc::entries(pid, "task").into_iter().flatten().flatten();
    let mut threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    threads.all(|thread| tree::stat(thread).is_none_or(|stat| !stat.is_live() || stat.is_halted(Halt::Any)))
}

/// pidfd_send_signal(2), Linux 5.1.
fn send(process: &OwnedFd, signal: i32) -> nix::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: plain system call; without siginfo the kernel fills it as kill(2) does.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0_u32) };
    Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    struct Killed(Child);

    impl Killed {
        fn new() -> Killed {
            Killed(Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat"))
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(self.0.id() as i32)
        }

        fn is_halted(&self) -> bool {
            tree::stat(self.pid()).expect("it lives").is_halted(Halt::Any)
        }
    }

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_was_halted_is_continued() {
        let (one, two, nobody) = (Killed::new(), Killed::new(), Pid::from_raw(i32::MAX));
        let halted = Halted::new(&[one.pid(), nobody, two.pid()]).expect("ours");
        assert!(one.is_halted() && two.is_halted());
        drop(halted);
        assert!(!one.is_halted() && !two.is_halted());
    }

    #[test]
    fn what_another_has_halted_stays_so() {
        let one = Killed::new();
        let theirs = Halted::new(&[one.pid()]).expect("ours");
        drop(Halted::new(&[one.pid()]).expect("nothing to do"));
        assert!(one.is_halted());
        drop(theirs);
        assert!(!one.is_halted());
    }
}
