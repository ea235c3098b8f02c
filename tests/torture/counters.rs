//! The kernel's own count of what it reset, dropped or sent again.
//!
//! Contract: a [`Snapshot`] holds every counter of this thread's network namespace;
//! [`Snapshot::since`] gives the watched ones that moved. In a namespace that
//! belongs to the run alone they are a witness that no client code can fool.

use std::collections::BTreeMap;
use std::fs;

/// What must not move while nothing is dropped. The first three are in
/// net/snmp, the others in net/netstat.
///
/// A SYN that the kernel drops is sent again one second later and looks to the
/// client like a slow connect, never like a failure: hence TCPSynRetrans. A
/// connection that ends without its TIME_WAIT leaves resets behind that nobody is
/// hurt by: then OutRsts says nothing, hence TCPTimeWaitOverflow.
const WATCHED: [&str; 13] = [
    "Tcp.OutRsts",
    "Tcp.EstabResets",
    "Tcp.AttemptFails",
    "TcpExt.ListenOverflows",
    "TcpExt.ListenDrops",
    "TcpExt.TCPReqQFullDrop",
    "TcpExt.TCPReqQFullDoCookies",
    "TcpExt.TCPAbortOnData",
    "TcpExt.TCPAbortOnClose",
    "TcpExt.TCPAbortOnTimeout",
    "TcpExt.TCPBacklogDrop",
    "TcpExt.TCPSynRetrans",
    "TcpExt.TCPTimeWaitOverflow",
];

/// All counters at one moment.
pub struct Snapshot(BTreeMap<String, u64>);

impl Snapshot {
    /// Reads the counters.
    pub fn take() -> Result<Self, String> {
        let mut counters = BTreeMap::new();
        for path in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
            let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            // Each group is two lines: the names, then the values.
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks_exact(2) {
                let group = pair[0].split(':').next().unwrap_or_default();
                for (name, value) in pair[0].split_whitespace().zip(pair[1].split_whitespace()).skip(1) {
                    if let Ok(value) = value.parse() {
                        counters.insert(format!("{group}.{name}"), value);
                    }
                }
            }
        }
        match WATCHED.iter().find(|name| !counters.contains_key(**name)) {
            Some(name) => Err(format!("this kernel does not count {name}")),
            None => Ok(Snapshot(counters)),
        }
    }

    /// Every watched counter with how far it moved since `earlier`.
    pub fn since(&self, earlier: &Snapshot) -> Vec<(&'static str, u64)> {
        WATCHED.iter().map(|name| (*name, self.0[*name] - earlier.0[*name])).collect()
    }
}
