//! The object that `ctl status` shows. Fields are only ever added; one that is missing has its
//! default.

use serde::{Deserialize, Serialize};

/// The state of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`VERSION`](super::protocol::VERSION).
    pub version: u32,
    /// Our process id.
    pub pid: i32,
    /// `--name`.
    pub name: Option<String>,
    /// `starting`, `running`, `upgrading`, `holding` or `stopping`.
    pub phase: String,
    /// The generation that serves, or the first one while it starts.
    pub generation: u32,
    /// The time since we were started.
    pub uptime_ms: u64,
    /// The sockets that we hold, in order.
    pub listeners: Vec<Listener>,
    /// Every worker of which a process lives.
    pub workers: Vec<Worker>,
    /// The last upgrade that ended.
    pub last_upgrade: Option<LastUpgrade>,
    /// Whether another upgrade follows the one under way.
    pub pending_upgrade: bool,
    /// Upgrades that were undone.
    pub failed_upgrades: u32,
    /// Workers that ended by themselves, or were replaced by the watchdog.
    pub crashes: u32,
    /// The generation that is on hold beside the one that serves.
    pub held: Option<u32>,
    /// The first worker of that generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// How many workers there are to be.
    pub workers_wanted: u32,
    /// Upgrades that succeeded.
    pub upgrades: u32,
    /// Upgrades that succeeded, and that probation has rolled back or was to.
    #[serde(skip_serializing_if = "is_zero")]
    pub rolled_back: u32,
    /// The generation that is on probation, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Probation>,
    /// Files that have changed since a worker of the serving generation was started from them,
    /// or one of the generation that a probation would bring back: another start takes what is
    /// there now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Whether workers get no signal from us while we stop (`--on SIGNAL=wait`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// With `--adopt`: the sockets that the workers bind themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopted>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The first worker of a generation on hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Canary {
    /// Its generation.
    pub generation: u32,
    /// Its slot.
    pub slot: Option<u32>,
    /// Its process id.
    pub pid: Option<i32>,
    /// How long it is until the upgrade goes on; None: that waits for a request.
    pub left_ms: Option<u64>,
    /// Its part of the new connections; None where that cannot be set.
    pub weight_percent: Option<Percent>,
    /// What `--verify` has found, if there is such a command.
    pub verify: Option<Verified>,
}

/// What `--verify` has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    /// Whether the command runs.
    pub running: bool,
    /// How often it has found the worker good.
    pub passed: u32,
    /// The time since then.
    pub ago_ms: Option<u64>,
}

/// A number of percent, as hundredths of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Percent(pub u16);

impl From<Percent> for f64 {
    fn from(percent: Percent) -> f64 {
        f64::from(percent.0) / 100.0
    }
}

impl From<f64> for Percent {
    fn from(percent: f64) -> Percent {
        Percent((percent * 100.0).round() as u16)
    }
}

/// A generation on probation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probation {
    /// Its number.
    pub generation: u32,
    /// The generation that is started again if its workers keep ending.
    pub before: u32,
    /// How many of its workers have ended by themselves.
    pub crashes: u32,
    /// At how many of them it is rolled back.
    pub of: u32,
    /// How long the probation goes on, if nothing more happens.
    pub left_ms: u64,
    /// Files of the generation before that have changed: it cannot be started again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
}

/// Sockets that workers bind themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adopted {
    /// `steer` or `share`.
    pub mode: String,
    /// Every address.
    pub addresses: Vec<Address>,
}

/// An address that workers listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// As the kernel has it, with `udp://` before it for UDP.
    pub address: String,
    /// Whether all generations share its sockets.
    pub shared: bool,
    /// The newest generation that gets new connections; None where all share a socket.
    pub generation: Option<u32>,
    /// The workers that get new connections; empty where all share a socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub serving: Vec<Server>,
    /// How many sockets those workers have there.
    pub sockets: u32,
    /// How many sockets other workers have there: those that start, drain, or have gone.
    pub others: u32,
    /// Connections that wait to be accepted.
    pub queue: Option<u32>,
}

/// A worker that gets new connections at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Its process.
    pub pid: Option<i32>,
}

/// A socket that we hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// As in LISTEN_FDNAMES.
    pub name: String,
    /// As the kernel has it.
    pub address: String,
    /// `tcp`, `udp`, `unix`, `unix-dgram` or `unix-seqpacket`.
    pub kind: String,
    /// Its number in a worker, if it has one there.
    pub fd: Option<i32>,
    /// Connections that wait to be accepted.
    pub queue: Option<u32>,
    /// How many connections may wait.
    pub backlog: Option<u32>,
    /// What the next upgrade changes about it, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlook: Option<String>,
}

/// A worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its process id; None while it has no process.
    pub pid: Option<i32>,
    /// Its generation.
    pub generation: u32,
    /// Its slot.
    pub slot: u32,
    /// `starting`, `ready`, `draining` or `killed`; `stopped` in the place of the first two.
    pub stage: String,
    /// The time since its program first ran.
    pub age_ms: u64,
    /// The ack that made it ready.
    pub ack: Option<String>,
    /// Connections that it holds.
    pub connections: Option<u32>,
    /// Why it does nothing until it is continued: the signal that has stopped it, as TTIN does, or
    /// the process of it that is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// What it says of itself.
    pub status: Option<String>,
    /// For how long it has to live until it may replace its predecessor, where that is because the
    /// predecessor took long to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_soak_ms: Option<u64>,
    /// While it drains, with `--adopt`: what it still has to serve, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
}

/// An upgrade that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastUpgrade {
    /// The generation that served.
    pub from: u32,
    /// The generation that was to serve.
    pub to: u32,
    /// `ok`, `failed`, `superseded`, or `rolled back` after it was `ok`.
    pub result: String,
    /// Why, unless it is `ok`.
    pub reason: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// The time since it ended.
    pub ago_ms: Option<u64>,
    /// The last lines of the failed worker's stderr, with `--capture-stderr`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}
