//! The control socket: `graceful-run ctl` and whoever speaks its protocol.
//!
//! A client sends one JSON object a line and is answered in such lines: any
//! number that have `event`, then one that has `result`. Each connection has a
//! thread, which turns requests into messages of the loop and waits for its
//! answers. The loop never waits for a client: what it answers goes into a bounded
//! queue, and a client that does not read loses lines, then its connection.

pub mod answers;
pub mod client;
mod connection;
mod desk;
pub mod facts;
mod find;
mod line;
mod metrics;
pub mod place;
mod progress;
pub mod protocol;
mod rank;
pub mod server;
mod status;
mod table;
