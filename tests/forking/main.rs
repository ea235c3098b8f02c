//! Servers whose children outlive them: those that fork for each connection, those that fork ahead,
//! sshd, and helpers that a worker starts beside itself.
//!
//! Contract: a server that is asked to stop at an upgrade may go at once and leave children with
//! requests under way: thirty upgrades under load fail no request of clients that never retry. What
//! it leaves behind and waits on a listener is asked to stop at once, what else is in its group after
//! `--stop-timeout`, and what made a session of its own only when everything stops. The log names
//! what gets a signal. sshd is installed by `tests/all`; where it is missing it is left out, and said
//! so, unless `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure.

#[allow(dead_code)] // unix sockets, keep-alive and ends in step are the torture's alone
#[path = "../common/load.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
#[path = "../interop/load.rs"]
mod load;
#[allow(dead_code)] // the servers here speak HTTP, or SSH
#[path = "../interop/protocol.rs"]
mod protocol;
mod stage;

mod children;
mod helpers;
mod prefork;
mod ssh;
mod sshd;
