//! A server of `servers/` under graceful-run, with clients at it.

use crate::client::Target;
use crate::common::{Scene, Signal, WATCHDOG, Wrapper, host, pid_in, says};
use crate::load::Load;
use crate::protocol::Protocol;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Clients at a time.
pub const CLIENTS: usize = 6;

/// Replies that must come from the new generation before the next upgrade.
pub const PROGRESS: u32 = 6;

/// Upgrades under load.
pub const UPGRADES: u32 = 30;

/// Who binds.
#[derive(Debug, Clone, Copy)]
pub enum Sockets {
    /// We do. A server that polls first must not hang in accept(2) when another was faster.
    Nonblocking,
    /// We do, and it waits in accept(2).
    Blocking,
    /// The server does, under `--adopt`.
    Adopted,
}

/// A running server.
pub struct Running {
    pub wrapper: Wrapper,
    pub scene: Scene,
    pub address: SocketAddr,
}

impl Running {
    /// Starts `python3 SERVER ADDRESS ARGUMENTS` and waits until it serves.
    pub fn start(server: &str, arguments: &[&str], sockets: Sockets, options: &[&str]) -> Running {
        let scene = Scene::new();
        for fifo in ["gate", "crash"] {
            scene.gate(fifo);
        }
        let address = SocketAddr::new(host().parse().expect("a host"), 8000);
        let bound = address.to_string();
        let bind = match sockets {
            Sockets::Nonblocking => format!("{bound},nonblock"),
            Sockets::Blocking | Sockets::Adopted => bound.clone(),
        };
        let binds: &[&str] = match sockets {
            Sockets::Adopted => &["--adopt"],
            _ => &["-b", &bind, "--ack", "fd", "--soak", "1ms"],
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forking/servers").join(server);
        // What python compiles would be written beside the sources.
        let python = ["python3", "-B", script.to_str().expect("utf-8"), &bound];
        let wrapper = scene.start_command(&[binds, options].concat(), &[&python, arguments].concat());
        wrapper.log.wait(&says::ready(1));
        Running { wrapper, scene, address }
    }

    /// So many clients, which never retry.
    pub fn load(&self, clients: usize) -> Load {
        let supervisor = self.wrapper.pid.as_raw().unsigned_abs();
        Load::on(clients, &[Target::Tcp(self.address)], Protocol::Http, supervisor)
    }

    /// Upgrades to this generation, with USR2 or HUP.
    pub fn upgrade(&self, to: u32) {
        self.wrapper.signal(if to.is_multiple_of(2) { Signal::SIGUSR2 } else { Signal::SIGHUP });
        self.wrapper.log.wait(&says::ready(to));
    }

    /// Waits until a process of the server has said this, for the nth time; returns its pid.
    pub fn said(&self, what: &str, nth: usize) -> i32 {
        pid_in(&self.scene.log.wait_nth(&format!("{what} pid="), nth))
    }

    /// What the log says, in order.
    pub fn log(&self) -> String {
        self.wrapper.log.all().join("\n")
    }
}

/// That a leftover was asked to stop, or killed: the line for it.
pub fn left_behind(generation: u32, pid: i32, what: &str) -> String {
    format!("generation {generation}: pid {pid} (python3*), left behind*, is {what}")
}

/// Thirty upgrades under load, of which no client may notice anything; returns what ran.
pub fn upgrade_under_load(name: &str, server: &str, sockets: Sockets) -> Running {
    let running = Running::start(server, &[], sockets, &[]);
    let mut load = running.load(CLIENTS);
    load.await_replies(1, PROGRESS, WATCHDOG).unwrap();
    for generation in 2..=UPGRADES + 1 {
        running.upgrade(generation);
        load.await_replies(generation.into(), PROGRESS, WATCHDOG).unwrap();
    }
    load.finish().unwrap();
    let failed: u64 = load.failures.values().sum();
    tell(&format!(
        "{name}, {sockets:?}: {UPGRADES} upgrades, {} requests, {failed} failed {:?}, answered by orphans {}",
        load.ok + failed,
        load.failures,
        running.scene.log.count("an orphan answers"),
    ));
    assert_eq!(load.failures, [].into(), "{name}:\n{}", running.log());
    running
}

/// A line that the test harness does not swallow when the test passes.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "forking: {line}");
}
