//! What `ctl status` tells, as it is written. Fields are only ever added; one that is
//! missing has its default.

use serde::{Deserialize, Serialize};

/// What `ctl status` tells.
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
    /// The one that serves, or the first one while it starts.
    pub generation: u32,
    /// Since we were started.
    pub uptime_ms: u64,
    /// The sockets that we hold, in order.
    pub listeners: Vec<Listener>,
    /// Every worker of which something lives.
    pub workers: Vec<Worker>,
    /// The last upgrade that ended.
    pub last_upgrade: Option<LastUpgrade>,
    /// Whether another one follows the one under way.
    pub pending_upgrade: bool,
    /// Upgrades that were undone.
    pub failed_upgrades: u32,
    /// Workers that ended by themselves, or were replaced by the watchdog.
    pub crashes: u32,
    /// The generation that is on hold beside the one that serves.
    pub held: Option<u32>,
    /// How many workers there are to be.
    pub workers_wanted: u32,
    /// Upgrades that succeeded.
    pub upgrades: u32,
    /// The generation that has gone live of late, and what is done if it keeps ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Probation>,
    /// Files that a worker of the serving generation, or of the one that a probation would
    /// bring back, was started from and that are not as they were: another start takes what
    /// is there now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// With `--adopt`: what the workers bind themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopted>,
}

/// A generation on probation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probation {
    /// Which one.
    pub generation: u32,
    /// The one that is started again if its workers keep ending.
    pub before: u32,
    /// How often one has ended by itself.
    pub crashes: u32,
    /// How often one may.
    pub of: u32,
    /// How long it goes on, if nothing more happens.
    pub left_ms: u64,
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
    /// As the kernel has it; of UDP `udp://` before it.
    pub address: String,
    /// All generations share its sockets.
    pub shared: bool,
    /// The generation that new connections go to; None where all share a socket.
    pub generation: Option<u32>,
    /// How many sockets it has there.
    pub sockets: u32,
    /// How many others have: workers that start, drain, or have gone.
    pub others: u32,
    /// Connections that wait to be accepted.
    pub queue: Option<u32>,
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
    /// How many may.
    pub backlog: Option<u32>,
    /// What becomes of it with the next upgrade, if anything does.
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
    /// Its place.
    pub slot: u32,
    /// `starting`, `ready`, `draining` or `killed`.
    pub stage: String,
    /// Since its program first ran.
    pub age_ms: u64,
    /// What made it ready.
    pub ack: Option<String>,
    /// Connections that it holds.
    pub connections: Option<u32>,
    /// What it says of itself.
    pub status: Option<String>,
    /// While it drains, with `--adopt`: what it still has to serve, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
}

/// An upgrade that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastUpgrade {
    /// The generation that served.
    pub from: u32,
    /// The one that was to.
    pub to: u32,
    /// `ok`, `failed`, `superseded`, or `rolled back` after it was `ok`.
    pub result: String,
    /// Why, unless it is `ok`.
    pub reason: Option<String>,
    /// Since the request was taken up.
    pub duration_ms: u64,
    /// Since it ended.
    pub ago_ms: Option<u64>,
    /// The last lines of the failed worker's stderr, with `--capture-stderr`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}
