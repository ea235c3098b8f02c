//! Ten upgrades of one server under load, and what must have come of it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{Connection, Failure};
use crate::load::Load;
use crate::place::{installed, path, tell};
use crate::server::{COPY, NOBODY, Prepared, SHIMS, Server};
use crate::wrapper::{self, Verdict, Wrapper};

/// Clients at a time.
pub const CLIENTS: usize = 4;

/// Upgrades of each server.
pub const UPGRADES: u64 = 10;

/// Replies that must come from the new generation before the next upgrade.
pub const PROGRESS: u32 = 30;

/// Where Debian puts programs.
const DEBIAN_S_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Nothing here takes this long on a sound machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Runs the server through its upgrades, or leaves it out.
pub fn upgrade_under_load(name: &str, server: &Server) {
    if !server.is_here() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory of our own");
    let prepared = server.prepare(directory.path());
    let mut wrapper = start(&prepared, directory.path());
    let pid = wrapper.pid();
    let outcome = wrapper.await_first_ready(LIMIT).and_then(|()| {
        let mut load = Load::on(CLIENTS, &prepared.targets, server.protocol, pid);
        let upgraded = upgrade(&mut wrapper, &mut load).and_then(|()| match &server.broken {
            Some((file, line)) => refuse(&mut wrapper, &mut load, &directory.path().join(file), line),
            None => Ok(()),
        });
        load.finish()?;
        upgraded.map(|()| load)
    });
    let load = outcome.unwrap_or_else(|why| panic!("{name}: {why}\n{}", wrapper.tail()));
    let failed: u64 = load.failures.values().sum();
    tell(&format!(
        "{name}: {UPGRADES} upgrades, {} requests, {failed} failed {:?}, of its own {} allowed",
        load.ok + failed,
        load.failures,
        server.may_lose
    ));
    for class in [Failure::Refused, Failure::Exhausted, Failure::Timeout, Failure::BadBody] {
        assert_eq!(load.failures.get(&class), None, "{name}: {}", class.name());
    }
    assert!(failed <= server.may_lose, "{name}: {failed} requests failed: {:?}", load.failures);
    stop(name, wrapper, &prepared, directory.path());
}

/// Starts graceful-run in this directory, which holds the server's files.
pub fn start(prepared: &Prepared, directory: &Path) -> Wrapper {
    let mut command = match prepared.as_nobody {
        true => of_nobody(directory),
        false => {
            let mut command = Command::new(wrapper::binary());
            command.env("PATH", path_of(directory, path()));
            command
        }
    };
    command.args(&prepared.arguments);
    command.env("PYTHONPATH", directory).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("CLASSPATH", installed().join("java"));
    Wrapper::of(command, directory)
}

/// Without the programs that `tests/all` installs, which may be where only root may look.
fn of_nobody(directory: &Path) -> Command {
    let mut command = Command::new(directory.join(COPY));
    command.uid(NOBODY).gid(NOBODY).env("PATH", path_of(directory, DEBIAN_S_PATH.into()));
    command
}

/// Where programs are found: launchers come first.
fn path_of(directory: &Path, others: OsString) -> OsString {
    let mut all = directory.join(SHIMS).into_os_string();
    all.push(":");
    all.push(others);
    all
}

/// Stops it: the status is 0, and neither a process nor a listener is left.
pub fn stop(name: &str, mut wrapper: Wrapper, prepared: &Prepared, directory: &Path) {
    let pid = wrapper.pid();
    let status = wrapper.stop(LIMIT).unwrap_or_else(|why| panic!("{name}: {why}"));
    assert!(status.success(), "{name}: {}\n{}", wrapper::in_words(status), wrapper.tail());
    let left = wrapper::left_in(directory, pid);
    assert!(left.is_empty(), "{name}: left behind: {}", left.join(", "));
    for target in &prepared.targets {
        // Whatever still held the socket would let us connect.
        assert_eq!(
            Connection::open(target).err(),
            Some(Failure::Refused),
            "{name}: {target:?} is still open"
        );
    }
    let suspicious = wrapper.suspicious();
    assert!(suspicious.is_empty(), "{name}: {}", suspicious.join("\n"));
}

/// A release with this line in this file is refused, and the one before serves on.
fn refuse(wrapper: &mut Wrapper, load: &mut Load, file: &Path, line: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    std::fs::write(file, format!("{line}\n{text}"))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    wrapper.signal(Signal::SIGUSR2);
    if wrapper.await_verdict(LIMIT)? == Verdict::Upgraded {
        return Err(format!("a release with {line:?} in {} went live", file.display()));
    }
    load.await_replies(UPGRADES + 1, PROGRESS, LIMIT).map(|_| ())
}

fn upgrade(wrapper: &mut Wrapper, load: &mut Load) -> Result<(), String> {
    let mut serving = load.await_replies(1, PROGRESS, LIMIT)?;
    let mut descriptors = 0;
    for number in 1..=UPGRADES {
        let signal = if number % 2 == 1 { Signal::SIGUSR2 } else { Signal::SIGHUP };
        wrapper.signal(signal);
        if let Verdict::Refused(why) = wrapper.await_verdict(LIMIT)? {
            return Err(format!("upgrade {number} ({signal}) was refused: {why}"));
        }
        serving = load.await_replies(serving + 1, PROGRESS, LIMIT)?;
        if number == 1 {
            descriptors = wrapper.descriptors();
        }
    }
    if serving != UPGRADES + 1 {
        return Err(format!("generation {serving} serves after {UPGRADES} upgrades"));
    }
    // Old generations that still drain hold a few.
    wrapper.await_descriptors(descriptors + 8, LIMIT)
}
