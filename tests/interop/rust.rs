//! Rust: servers on crates, each a program of `crates/`.

use crate::driver::{EACH_CLIENT_ONE, upgrade_under_load};
use crate::server::server;

/// hyper closes what it has accepted and not yet read.
#[test]
fn axum() {
    upgrade_under_load(&server("-b 127.0.0.1:8000 --ack notify -- axum").may_lose(EACH_CLIENT_ONE));
}

/// It closes what it has accepted and not yet read.
#[test]
fn actix() {
    upgrade_under_load(&server("-b 127.0.0.1:8000 --ack accepting -- actix").may_lose(EACH_CLIENT_ONE));
}
