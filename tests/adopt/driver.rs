//! Upgrades of one server under load, and what must have come of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::{Connection, Failure};
use crate::control::{RESTARTS, stop_and_start};
use crate::load::Load;
use crate::place::tell;
use crate::protocol::Protocol;
use crate::server::{Prepared, Server};
use crate::wrapper::surroundings::surround;
use crate::wrapper::{Verdict, Wrapper, binary, in_words, left_in};

/// Clients at a time.
pub const CLIENTS: usize = 6;

/// Replies that must come from the new generation before the next upgrade.
pub const PROGRESS: u32 = 20;

/// Nothing here takes this long on a sound machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Upgrades of each server: `ADOPT_UPGRADES`, or 20.
pub fn upgrades() -> u64 {
    match std::env::var("ADOPT_UPGRADES") {
        Ok(number) => number.parse().expect("ADOPT_UPGRADES is a number"),
        Err(_) => 20,
    }
}

/// The server is upgraded under load and loses nothing.
pub fn upgrade_under_load(server: &Server) {
    let Some(mut running) = Running::start(server, &[]) else { return };
    let mut load = running.load();
    running.upgrade_under(&mut load, upgrades());
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// The server is upgraded under load and loses nothing; stopped and started under the
/// same load it does.
pub fn upgrade_beside_a_control(server: &Server) {
    let Some(mut running) = Running::start(server, &[]) else { return };
    let upgrades = upgrades();
    let mut load = running.load();
    running.upgrade_under(&mut load, upgrades);
    load.finish().unwrap_or_else(|why| panic!("{}: {why}", server.name));
    let control = running.stop(|prepared, directory| stop_and_start(server, prepared, directory));
    let control = control.unwrap_or_else(|why| panic!("{}: control: {why}", server.name));
    tell(&format!(
        "{:<28} {upgrades:>4} upgrades {} | stop and start: {RESTARTS} restarts {}",
        server.name,
        in_figures(&load),
        in_figures(&control),
    ));
    assert_eq!(failed(&load), 0, "{}: {:?}", server.name, load.failures);
    assert!(failed(&control) > 0, "{}: the control shows what a drop looks like", server.name);
    assert_eq!(control.failures.get(&Failure::Exhausted), None, "{}: {:?}", server.name, control.failures);
}

fn failed(load: &Load) -> u64 {
    load.failures.values().sum()
}

fn in_figures(load: &Load) -> String {
    let classes: Vec<_> = load.failures.iter().map(|(class, n)| format!("{} {n}", class.name())).collect();
    let failed = failed(load);
    format!("{:>6} requests {failed:>4} failed {}", load.ok + failed, classes.join(" ")).trim_end().to_owned()
}

/// graceful-run with a server, in a directory of their own.
pub struct Running {
    name: &'static str,
    protocol: Protocol,
    pub wrapper: Wrapper,
    pub prepared: Prepared,
    directory: TempDir,
}

impl Running {
    /// Starts it with these options beside `--adopt`, which is the default where its supervisor is
    /// nobody. `None`: this machine has not got
    /// the server.
    pub fn start(server: &Server, options: &[&str]) -> Option<Running> {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let prepared = server.prepare(directory.path())?;
        let mut command = server.supervisor(directory.path());
        command.args(["--name", "it", "--stop-signal", server.stop.as_str()]);
        if !server.as_nobody {
            // What a profile would do is the interop's matter.
            command.args(["--adopt", "--profile", "none"]);
        }
        command.args(options).arg("--").args(&prepared.command);
        let mut wrapper = Wrapper::of(command, directory.path());
        wrapper.await_first_ready(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", server.name));
        Some(Running { name: server.name, protocol: server.protocol, wrapper, prepared, directory })
    }

    /// Clients at it.
    pub fn load(&self) -> Load {
        Load::on(CLIENTS, &self.prepared.targets, self.protocol, self.wrapper.pid())
    }

    /// Waits for answers of this generation or a later one; returns the newest.
    pub fn await_replies(&mut self, load: &mut Load, from: u64) -> u64 {
        let newest = load.await_replies(from, PROGRESS, LIMIT);
        newest.unwrap_or_else(|why| panic!("{}: {why}\n{}", self.name, self.wrapper.tail()))
    }

    /// Upgrades so many times, each time once the clients have seen the one before.
    pub fn upgrade_under(&mut self, load: &mut Load, times: u64) {
        let before = self.await_replies(load, 1);
        let mut serving = before;
        for number in 1..=times {
            self.wrapper.signal(if number % 2 == 1 { Signal::SIGUSR2 } else { Signal::SIGHUP });
            self.await_upgraded();
            serving = self.await_replies(load, serving + 1);
        }
        assert_eq!(serving, before + times, "{}: the newest generation serves", self.name);
    }

    /// Ends the clients, none of which may have lost anything.
    pub fn lost_nothing(&self, mut load: Load) {
        load.finish().unwrap_or_else(|why| panic!("{}: {why}", self.name));
        tell(&format!("{:<28} {}", self.name, in_figures(&load)));
        assert_eq!(failed(&load), 0, "{}: {:?}", self.name, load.failures);
    }

    /// What `ctl` prints, which has to succeed.
    pub fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new(binary());
        surround(&mut command, self.directory.path());
        let done = command.args(["ctl", "--name", "it"]).args(args).output().expect("ctl is started");
        assert!(done.status.success(), "{}: ctl {args:?}: {done:?}", self.name);
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// A file in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until the log says so.
    pub fn await_said(&mut self, words: &str) {
        let said = self.wrapper.await_line(words, LIMIT, |line| line.contains(words).then_some(()));
        said.unwrap_or_else(|why| panic!("{}: {why}", self.name));
    }

    /// Waits until nothing is left of the worker of this generation.
    pub fn await_gone(&mut self, generation: u64) {
        let name = format!("generation {generation}: ");
        let gone = |line: &str| {
            (line.contains(&name) && [" exited ", " was ended by "].iter().any(|end| line.contains(end)))
                .then_some(())
        };
        let gone = self.wrapper.await_line("the end of the old one", LIMIT, gone);
        gone.unwrap_or_else(|why| panic!("{}: {why}", self.name));
    }

    /// Waits until the upgrade under way has succeeded.
    pub fn await_upgraded(&mut self) {
        let verdict = self.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        assert_eq!(verdict, Verdict::Upgraded, "{}:\n{}", self.name, self.wrapper.tail());
    }

    /// Stops it, sees that nothing is left, and goes on in its place.
    pub fn stop<T>(mut self, then: impl FnOnce(&Prepared, &Path) -> T) -> T {
        let pid = self.wrapper.pid();
        let status = self.wrapper.stop(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        assert!(status.success(), "{}: {}\n{}", self.name, in_words(status), self.wrapper.tail());
        let left = left_in(self.directory.path(), pid);
        assert!(left.is_empty(), "{}: left behind: {}", self.name, left.join(", "));
        for target in &self.prepared.targets {
            let open = Connection::open(target).err();
            assert_eq!(open, Some(Failure::Refused), "{}: {target:?} is still open", self.name);
        }
        let suspicious = self.wrapper.suspicious();
        assert!(suspicious.is_empty(), "{}: {}", self.name, suspicious.join("\n"));
        then(&self.prepared, self.directory.path())
    }
}
