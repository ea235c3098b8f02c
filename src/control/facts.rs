//! What a status tells of the kernel: looked up on the connection's thread, since a
//! look into /proc takes too long for the loop.

use super::protocol::Status;

/// What the loop has handed over for it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// In the order of [`Status::listeners`].
    pub listeners: Vec<Listener>,
}

/// A listener, as its facts are found by.
#[derive(Debug)]
pub struct Listener {
    /// The word for what it is.
    pub kind: &'static str,
    /// Its number in a worker, if it has one there.
    pub fd: Option<i32>,
}

/// Completes a status before it is sent.
pub fn complete(status: &mut Status, snapshot: &Snapshot) {
    for (shown, listener) in status.listeners.iter_mut().zip(&snapshot.listeners) {
        shown.kind = listener.kind.into();
        shown.fd = listener.fd;
    }
}
