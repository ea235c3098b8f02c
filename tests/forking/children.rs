//! A child for each connection, which its parent does not wait for when it is asked to stop.

use crate::stage::{Sockets, upgrade_under_load};

/// Nobody may ask the children to stop. That they were there to be asked is what makes it a test:
/// the answers of those whose parent had gone are counted.
fn children_finish(name: &str, server: &str) {
    let running = upgrade_under_load(name, server, Sockets::Nonblocking);
    assert!(running.scene.log.has("an orphan answers"), "{name}: the first process goes at once");
    assert!(!running.wrapper.log.has(", left behind*, is "), "{name}:\n{}", running.log());
    running.wrapper.stop();
}

/// The child has closed the listener.
#[test]
fn fork() {
    children_finish("fork", "fork.py");
}

/// The child holds the listener, and does not wait on it.
#[test]
fn forking_mixin() {
    children_finish("ForkingMixIn", "forking_mixin.py");
}

/// Here the server gets its TERM when its connections have drained, those of its children too.
#[test]
fn adopted_fork() {
    upgrade_under_load("fork", "fork.py", Sockets::Adopted).wrapper.stop();
}

#[test]
fn adopted_forking_mixin() {
    upgrade_under_load("ForkingMixIn", "forking_mixin.py", Sockets::Adopted).wrapper.stop();
}
