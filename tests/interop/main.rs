//! Real servers under graceful-run: each is upgraded ten times under load.
//!
//! Contract: every upgrade succeeds, no client is ever refused, and no more
//! requests fail than the server itself loses when it is asked to leave. After
//! the stop nothing is left and the status is 0. The command lines are those of
//! docs/servers.md, word for word, and the files that they name are samples in
//! `servers/`. A server that this machine does not have is left out, and said so;
//! `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure. `tests/all` installs
//! them all.

#[allow(dead_code)] // keep-alive and ends in step are the torture's alone
#[path = "../common/load.rs"]
mod client;
mod driver;
mod load;
#[path = "../common/place.rs"]
mod place;
mod protocol;
mod server;
#[path = "../common/wrapper.rs"]
mod wrapper;

mod cases;
mod daemons;
mod follow;
mod go;
mod javascript;
mod native;
mod perl;
mod php;
mod python;
mod ruby;
mod rust;
