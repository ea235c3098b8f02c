//! The control socket, for `graceful-run ctl` and every other client of its protocol.
//!
//! Each line is one JSON object. The reply to a request is any number of lines with `event`,
//! then one with `result`. Each connection has a thread, which sends requests to the loop and
//! waits for the answers. The loop never waits for a client: its answers go into a bounded
//! queue, and a client that does not read them loses lines, then its connection.

mod admission;
mod connection;
mod connection_state;
mod connection_table;
pub mod directory;
pub mod instance;
mod line;
mod message;
mod metrics;
mod name_guard;
pub mod protocol;
pub mod removal;
pub mod reply_queue;
mod request;
pub mod server;
pub mod socket_stats;
mod status;
mod status_reply;
