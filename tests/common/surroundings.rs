//! What a program that a test starts finds around it: nothing of the machine's own
//! graceful-runs, and nothing that the tests themselves were started with.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::Command;

/// Variables that change what graceful-run does.
const OTHERS: [&str; 10] = [
    "RUST_LOG",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "RUNTIME_DIRECTORY",
    "GRACEFUL_RUN_CONTROL",
];

/// Gives a command `directory` as its runtime directory, and takes away what the tests were
/// started with. The thread that starts the command has a /run of its own, if it may have one.
pub fn surround(command: &mut Command, directory: &Path) {
    has_own_run();
    for name in OTHERS {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", directory);
}

/// Whether this thread has a /run of its own, which is empty at first: `ctl` looks for others
/// there, whatever XDG_RUNTIME_DIR says. All that the thread starts shares it. Only root can have
/// one, and not in every container.
pub fn has_own_run() -> bool {
    thread_local! {
        static HAS: bool = leave_the_machine_s_run().is_ok();
    }
    HAS.with(|has| *has)
}

fn leave_the_machine_s_run() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted from now on must not appear in the namespace of the machine.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
}
