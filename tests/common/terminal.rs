//! A terminal for a program: what a user types, and the window that is closed.

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

/// The side of the user. Dropped, it is a window that is closed.
pub struct Terminal {
    user: PtyMaster,
    program: File,
}

impl Terminal {
    pub fn new() -> Terminal {
        // What another test starts must not keep the window open.
        let user =
            posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a pseudo terminal");
        grantpt(&user).and_then(|()| unlockpt(&user)).expect("the program may open it");
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let program = options.open(ptsname_r(&user).expect("its name")).expect("its other side");
        Terminal { user, program }
    }

    /// `PROGRAM ARGS` as the leader of a session of its own, with this as its terminal and its
    /// stdin. It keeps the pid.
    pub fn leader(&self, program: &[String]) -> Command {
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(program);
        command
    }

    /// Its stdin, for [`leader`](Self::leader).
    pub fn stdin(&self) -> Stdio {
        self.program.try_clone().expect("a copy").into()
    }

    /// What the user types.
    pub fn types(&mut self, keys: &str) {
        self.user.write_all(keys.as_bytes()).expect("typed");
    }
}
