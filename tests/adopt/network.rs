//! In a network of its own, where the kernel's counters are a second witness, and where
//! an address may be a wildcard.

use std::thread;

use crate::client::Target;
use crate::counters::Snapshot;
use crate::driver::{Running, upgrades};
use crate::namespace;
use crate::place::tell;
use crate::protocol::Protocol;
use crate::server::{Server, server};

/// A server that listens on `[::]`, asked over both families.
fn reset_and_drop_nothing(server: Server) {
    if !nix::unistd::geteuid().is_root() {
        return tell(&format!("{}: left out, a network of its own wants root here", server.name));
    }
    // The thread takes the namespace with it when it ends.
    let done = thread::spawn(move || {
        namespace::enter().unwrap_or_else(|why| panic!("{why}"));
        let Some(mut running) = Running::start(&server.speaks(Protocol::InStep), &[]) else { return };
        let addresses = ["127.0.0.1:5001", "[::1]:5001"];
        running.prepared.targets =
            addresses.map(|address| Target::Tcp(address.parse().expect("an address"))).into();
        let before = Snapshot::take().unwrap_or_else(|why| panic!("{why}"));
        let mut load = running.load();
        running.upgrade_under(&mut load, upgrades());
        running.lost_nothing(load);
        let mut moved = Snapshot::take().unwrap_or_else(|why| panic!("{why}")).since(&before);
        moved.retain(|(_, by)| *by > 0);
        assert_eq!(moved, [], "{}: what the kernel reset, dropped or sent again", server.name);
        running.stop(|_, _| ());
    });
    done.join().unwrap_or_else(|why| std::panic::resume_unwind(why));
}

#[test]
fn go_on_every_address() {
    reset_and_drop_nothing(server("go, :5001", "go-plain :5001"));
}

#[test]
fn node_on_every_address() {
    reset_and_drop_nothing(server("node, :::5001", "node server.js 5001"));
}
