//! What the same clients see where sockets are not handed over.
//!
//! Contract: both controls must lose requests. Where one loses none the load is
//! too weak to show a drop, and the run proves nothing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clients::{Clients, fresh};
use crate::driver::LIMIT;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::worker::GATE;

/// Restarts in each control.
pub const RESTARTS: u64 = 20;

/// Clients in each control.
const CLIENTS: u8 = 16;

/// Replies that must come from the new server before the next restart.
const PROGRESS: u64 = 50;

/// How a control replaces its server.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// TERM, wait for the end, start again: the address is nobody's meanwhile.
    StopAndStart,
    /// A SO_REUSEPORT socket for each generation: the old one's queue dies with it.
    ReusePort,
}

impl Control {
    /// The words of the report.
    pub fn name(self) -> &'static str {
        match self {
            Control::StopAndStart => "stop and start",
            Control::ReusePort => "reuseport socket per generation",
        }
    }

    /// The mode of this executable that it runs.
    fn mode(self) -> &'static str {
        match self {
            Control::StopAndStart => "serve-bound",
            Control::ReusePort => "serve-reuseport",
        }
    }

    /// Restarts a server under load and returns what its clients saw.
    pub fn run(self, port: u16, directory: &Path) -> Result<Arc<Ledger>, String> {
        let gate_path = directory.join(format!("{}.gate", self.mode()));
        let gate = Gate::at(&gate_path)?;
        let ledger = Arc::new(Ledger::default());
        let mut server = self.server(1, port, &gate_path)?;
        gate.await_up(1, LIMIT)?;
        let clients = Clients::start(fresh(CLIENTS, port), &ledger);
        let mut driven = ledger.await_replies(1, PROGRESS, LIMIT);
        for generation in 2..=RESTARTS + 1 {
            if driven.is_err() {
                break;
            }
            driven = self
                .restart(&mut server, generation, port, &gate_path, &gate)
                .and_then(|()| ledger.await_replies(generation, PROGRESS, LIMIT));
        }
        clients.finish();
        end(&mut server)?;
        driven.map(|_| ledger).map_err(|error| format!("{}: {error}", self.name()))
    }

    fn restart(
        self,
        server: &mut Child,
        generation: u64,
        port: u16,
        gate_path: &Path,
        gate: &Gate,
    ) -> Result<(), String> {
        match self {
            Control::StopAndStart => {
                end(server)?;
                *server = self.server(generation, port, gate_path)?;
                gate.await_up(generation, LIMIT)
            }
            Control::ReusePort => {
                let mut old = std::mem::replace(server, self.server(generation, port, gate_path)?);
                let up = gate.await_up(generation, LIMIT);
                end(&mut old)?;
                up
            }
        }
    }

    fn server(self, generation: u64, port: u16, gate: &Path) -> Result<Child, String> {
        let myself = std::env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
        Command::new(myself)
            .args([self.mode(), &format!("0.0.0.0:{port}")])
            .env(GATE, gate)
            .env("GRACEFUL_RUN_GENERATION", generation.to_string())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start a server: {error}"))
    }
}

/// TERM, and wait for the drain to end.
fn end(server: &mut Child) -> Result<(), String> {
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM)
        .map_err(|error| format!("cannot stop a server: {error}"))?;
    server.wait().map(drop).map_err(|error| format!("cannot wait for a server: {error}"))
}
