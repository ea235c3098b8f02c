//! Listeners: the sockets that we hold, so that clients do not notice a restart.
//!
//! [`Bind`] is one parsed `-b`. [`ListenFds`] describes the sockets that we inherited by
//! LISTEN_FDS. [`Listeners::open`] first checks everything that can be checked without changing
//! anything (descriptors, accounts, host names, path lengths), then binds in order. On the first
//! failure it closes and unlinks what it has made.
//!
//! Every socket is close-on-exec, and blocking unless its BIND says otherwise. It is made once
//! and stays the same until we exit, over all generations: so a unix path keeps its inode, and a
//! `reuseport` socket its position in the group; an upgrade that is held changes that ([`apart`]).
//! [`repair`] undoes what workers do to it
//! meanwhile. A unix path is removed when [`Listeners`] is dropped, and only if it still leads to
//! our socket. `process::exit` drops nothing, so they must be dropped before it.

pub(crate) mod address;
mod apart;
mod baseline;
pub(crate) mod change;
mod hard_link;
mod inet;
mod inherit;
mod lifetime;
mod list;
pub(crate) mod listen_fds;
mod open;
pub(crate) mod options;
mod path;
mod path_repair;
mod private;
mod queues;
pub(crate) mod repair;
mod same_address;
mod saved;
mod socket_file;
mod tune;
mod worker_socket;

pub use address::{Address, Bind};
pub use list::{Listener, Listeners};
pub use listen_fds::ListenFds;
pub use private::{PrivateSocket, SavedPrivate};
pub use saved::Saved;

pub use crate::dialect::Kind;

#[cfg(test)]
mod tests;
