//! Listeners: what we hold so that no restart is noticed.
//!
//! [`Bind`] is one `-b`, parsed. [`Upstream`] is what LISTEN_FDS says reached
//! us. [`Listeners::open`] first checks everything that can be checked without
//! a trace (descriptors, accounts, host names, path lengths), then binds in
//! order, and on the first failure closes and unlinks what it made.
//!
//! Every socket is close-on-exec, and blocking unless its BIND says otherwise.
//! It is made once and stays the same until we exit, whatever the number of
//! generations: so a unix path keeps its inode and a `reuseport` socket its
//! place in the group. [`repair`] undoes what workers do to it meanwhile. The path is
//! removed when [`Listeners`] is dropped, and only if it is still ours; `process::exit`
//! does not drop, so drop before it.

pub(crate) mod address;
mod baseline;
pub(crate) mod change;
mod hard_link;
mod inet;
mod inherit;
mod lifetime;
mod list;
mod load;
mod open;
pub(crate) mod options;
mod path;
mod path_repair;
mod private;
pub(crate) mod repair;
mod saved;
mod socket_file;
mod tune;
pub(crate) mod upstream;

pub use address::Bind;
pub use list::{Listener, Listeners};
pub use private::{PrivateSocket, SavedPrivate};
pub use saved::Saved;
pub use upstream::Upstream;

pub use crate::dialect::Kind;

#[cfg(test)]
mod tests;
