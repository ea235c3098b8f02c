//! JavaScript: node.

use crate::driver::{EACH_CLIENT_ONE, upgrade_under_load};
use crate::server::server;

#[test]
fn node() {
    upgrade_under_load(&server("-b 127.0.0.1:8000 --ack accepting -- node server.js"));
}

/// Its primary hands a connection that it has accepted to a worker that leaves.
#[test]
fn node_cluster() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack accepting -- node cluster.js").may_lose(EACH_CLIENT_ONE),
    );
}
