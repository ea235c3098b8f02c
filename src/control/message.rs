//! What the threads of the control socket send to the loop.

use super::protocol::Verb;
use super::reply_queue::ReplyQueue;
use crate::sys::peer::Peer;
use serde::{Deserialize, Serialize};

/// A message of a client's thread to the loop.
#[derive(Debug)]
pub enum Message {
    /// A client has sent a request.
    Request(ClientRequest),
    /// The client is to get an event of kind `progress`.
    Progress(ClientId),
    /// The client has gone: its request needs no result.
    Gone(ClientId),
}

/// The identity of one request of one client; no two requests have the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientId(pub(super) u64);

/// A request for the loop.
#[derive(Debug)]
pub struct ClientRequest {
    /// Its identity.
    pub client: ClientId,
    /// The verb and its arguments.
    pub verb: Verb,
    /// Whether the client waits for the outcome.
    pub wait: bool,
    /// The process that connected.
    pub peer: Peer,
    /// Where the answers go.
    pub answers: ReplyQueue,
}
