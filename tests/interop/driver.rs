//! Ten upgrades of one server under load, and what must have come of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{Connection, Failure};
use crate::load::Load;
use crate::place::{path, tell};
use crate::server::{Prepared, Server};
use crate::wrapper::{self, Verdict, Wrapper};

/// Clients at a time.
pub const CLIENTS: usize = 4;

/// Upgrades of each server.
pub const UPGRADES: u64 = 10;

/// What a server may lose that closes, when it is asked to leave, what it has
/// accepted and not yet read: at most what each client has under way.
pub const EACH_CLIENT_ONE: u64 = UPGRADES * CLIENTS as u64;

/// Replies that must come from the new generation before the next upgrade.
pub const PROGRESS: u32 = 30;

/// Nothing here takes this long on a sound machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Runs the server through its upgrades, or leaves it out.
pub fn upgrade_under_load(server: &Server) {
    if !server.is_here() {
        return;
    }
    let name = server.name();
    let directory = tempfile::tempdir().expect("a directory of our own");
    let prepared = server.prepare(directory.path());
    let mut wrapper = start(&prepared, directory.path());
    let pid = wrapper.pid();
    let outcome = wrapper.await_first_ready(LIMIT).and_then(|()| {
        let mut load = Load::on(CLIENTS, &prepared.targets, server.protocol, pid);
        let upgraded = upgrade(&mut wrapper, &mut load);
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
    stop(&name, wrapper, &prepared, directory.path());
}

/// Starts graceful-run in this directory, which holds the server's files.
pub fn start(prepared: &Prepared, directory: &Path) -> Wrapper {
    Wrapper::start(directory, |command: &mut Command| {
        command.args(&prepared.arguments).env("PATH", path());
        command.env("PYTHONPATH", directory).env("PYTHONDONTWRITEBYTECODE", "1");
    })
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
    let now = wrapper.descriptors();
    // An old generation that still drains holds a few.
    if now > descriptors + 8 {
        return Err(format!("the wrapper's open files grew from {descriptors} to {now}"));
    }
    Ok(())
}
