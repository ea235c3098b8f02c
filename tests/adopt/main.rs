//! Real servers that know nothing of inherited sockets, under `--adopt`.
//!
//! Contract: each is upgraded twenty times under load, and no request fails: not one
//! of clients that open a connection for each request and never retry. After the stop
//! nothing is left and the status is 0. Beside three servers, the same clients lose
//! requests where the server is stopped and started, in the same run. A server that this machine does not
//! have is left out, and said so; `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure.
//! `tests/all` installs them all. `ADOPT_UPGRADES` is another number of upgrades.

#[path = "../common/load.rs"]
mod client;
mod cluster;
mod control;
#[path = "../torture/counters.rs"]
mod counters;
mod driver;
#[path = "../interop/load.rs"]
mod load;
#[path = "../torture/namespace.rs"]
mod namespace;
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code)] // some protocols are the interop's alone
#[path = "../interop/protocol.rs"]
mod protocol;
mod server;
#[allow(dead_code)] // descriptors are counted elsewhere
#[path = "../common/wrapper.rs"]
mod wrapper;

mod connections;
mod generations;
mod keep_alive;
mod network;
mod passive_ports;
mod servers;
mod unix;
