//! The control socket: `graceful-run ctl` and whoever speaks its protocol.
//!
//! A client sends one JSON object a line and is answered in such lines: any
//! number that have `event`, then one that has `result`. Each connection has a
//! thread, which turns requests into messages of the loop and waits for its
//! answers. The loop never waits for a client: what it answers goes into a bounded
//! queue, and a client that does not read loses lines, then its connection.

mod admission;
mod connection;
mod connection_state;
mod connection_table;
pub mod instance;
mod line;
mod message;
mod metrics;
pub mod protocol;
pub mod reply_queue;
mod request;
pub mod server;
pub mod socket_stats;
mod status;
mod status_reply;
