//! What becomes of connections that outlive a request, and of handshakes that an upgrade meets.

use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::Signal;

use crate::client::{Connection, Failure, Target};
use crate::driver::{Running, upgrades};
use crate::protocol::Protocol;
use crate::server::{Server, server};
use crate::servers::{GO, NODE, SCENE, nginx_that_listens};

/// Longer than any test.
const NEVER: &str = "1h";

fn ask(target: &Target) -> String {
    let mut connection = Connection::open(target).expect("somebody listens");
    connection.get("/", true).expect("an answer").body
}

/// A connection between two requests, and one on which none has come, are nobody's work.
fn idle_ones_do_not_hold_up(server: &Server) {
    let options = ["--idle", "100ms", "--drain-timeout", NEVER];
    let Some(mut running) = Running::start(server, &options) else { return };
    let target = running.prepared.targets[0].clone();
    let mut idle = Connection::open(&target).expect("it listens");
    let reply = idle.get("/", false).expect("an answer");
    assert!(!reply.last, "{}: it keeps connections", server.name);
    let silent = Connection::open(&target).expect("it listens");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.await_said(": drained after ");
    // Of those that are asked to leave, nginx waits for one that has not said anything.
    drop(silent);
    running.await_gone(1);
    // What a client of HTTP sends once more, on a new connection.
    let cut = idle.get("/", false).expect_err("the old one has gone");
    assert!(matches!(cut, Failure::EofEmpty | Failure::ResetBeforeSend | Failure::ResetAfterSend), "{cut:?}");
    assert!(ask(&target).starts_with("generation 2 "), "{}", server.name);
    running.stop(|_, _| ());
}

#[test]
fn idle_connections_do_not_hold_up_go() {
    idle_ones_do_not_hold_up(&server("go", GO));
}

#[test]
fn idle_connections_do_not_hold_up_node() {
    idle_ones_do_not_hold_up(&server("node", NODE));
}

#[test]
fn idle_connections_do_not_hold_up_nginx() {
    idle_ones_do_not_hold_up(&nginx_that_listens("nginx", "listen 127.0.0.1:8000"));
}

#[test]
fn idle_connections_do_not_hold_up_threads() {
    idle_ones_do_not_hold_up(&SCENE);
}

/// A response that goes on is waited for until the timeout, and then cut.
#[test]
fn a_response_without_end_ends_at_the_timeout() {
    let Some(mut running) = Running::start(&SCENE, &["--drain-timeout", "1s"]) else { return };
    let target = running.prepared.targets[0].clone();
    let (sender, ended) = channel();
    let client = thread::spawn({
        let target = target.clone();
        move || {
            let mut connection = Connection::open(&target).expect("it listens");
            connection.send(b"GET /drip HTTP/1.1\r\nHost: it\r\n\r\n").expect("it is read");
            connection.receive_until(|received| received.ends_with(b"x").then_some(())).expect("it drips");
            sender.send(()).expect("the test waits");
            // More than any head that we would read: this ends when the connection does.
            loop {
                if let Err(cut) = connection.receive_until(|received| received.last().map(drop)) {
                    return cut;
                }
            }
        }
    });
    ended.recv().expect("the response has begun");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.await_said("not drained after ");
    running.await_gone(1);
    let cut = client.join().expect("the client sees the end");
    assert!(matches!(cut, Failure::EofEmpty | Failure::EofPartial | Failure::ResetAfterSend), "{cut:?}");
    assert!(ask(&target).starts_with("generation 2 "));
    running.stop(|_, _| ());
}

/// Nobody sees a good moment to close a connection that is never quiet.
#[test]
fn a_busy_connection_ends_at_the_timeout() {
    let Some(mut running) = Running::start(&SCENE, &["--drain-timeout", "1s", "--idle", "30s"]) else {
        return;
    };
    let target = running.prepared.targets[0].clone();
    let mut connection = Connection::open(&target).expect("it listens");
    connection.get("/", false).expect("an answer");
    let client = thread::spawn(move || {
        loop {
            match connection.get("/", false) {
                Ok(reply) => assert!(reply.body.starts_with("generation 1 "), "{}", reply.body),
                Err(cut) => return cut,
            }
        }
    });
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_upgraded();
    running.await_said("not drained after ");
    running.await_gone(1);
    client.join().expect("the client sees the end");
    assert!(ask(&target).starts_with("generation 2 "));
    running.stop(|_, _| ());
}

/// With TCP_DEFER_ACCEPT a connection is a handshake until its request comes: an upgrade
/// meets it in a state in which no list of connections has it.
#[test]
fn nginx_with_deferred_accept_loses_nothing() {
    let nginx =
        nginx_that_listens("nginx, deferred", "listen 127.0.0.1:8000 deferred").speaks(Protocol::Late);
    let Some(mut running) = Running::start(&nginx, &[]) else { return };
    let mut load = running.load();
    running.upgrade_under(&mut load, upgrades());
    running.lost_nothing(load);
    running.stop(|_, _| ());
}
