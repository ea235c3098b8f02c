//! Children that accept and whose first process goes without a word to them: they would serve old
//! code for ever.

use crate::client::{Connection, Target};
use crate::common::{WATCHDOG, says};
use crate::stage::{CLIENTS, PROGRESS, Running, Sockets, left_behind, tell};
use std::thread;

/// The first processes of generation 1 go, its children are asked to stop and named.
fn children_that_wait_are_asked(way: &str, sockets: Sockets) {
    let running = Running::start("prefork.py", &[way], sockets, &["--stop-timeout", "1h"]);
    let children = [running.said("g1 accepts", 1), running.said("g1 accepts", 2)];
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    for child in children {
        running.wrapper.log.wait(&left_behind(1, child, "asked to stop"));
        running.scene.wait_gone(child);
    }
    running.wrapper.stop();
}

#[test]
fn in_accept() {
    children_that_wait_are_asked("accept", Sockets::Blocking);
}

#[test]
fn in_poll() {
    children_that_wait_are_asked("poll", Sockets::Nonblocking);
}

#[test]
fn in_select() {
    children_that_wait_are_asked("select", Sockets::Nonblocking);
}

#[test]
fn in_epoll() {
    children_that_wait_are_asked("epoll", Sockets::Nonblocking);
}

/// Under `--adopt` their listener is of their generation alone, and is shut down before the TERM.
#[test]
fn adopted() {
    let running = Running::start("prefork.py", &["select"], Sockets::Adopted, &["--stop-timeout", "1h"]);
    let children = [running.said("g1 accepts", 1), running.said("g1 accepts", 2)];
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    children.into_iter().for_each(|child| running.scene.wait_gone(child));
    running.wrapper.stop();
}

/// With more clients than children none of them is ever seen to wait: new connections that they
/// hold tell that they accept. The timeout ends no test.
#[test]
fn that_never_rest() {
    let running = Running::start("prefork.py", &["poll"], Sockets::Nonblocking, &["--stop-timeout", "1h"]);
    let children = [running.said("g1 accepts", 1), running.said("g1 accepts", 2)];
    let mut load = running.load(CLIENTS);
    load.await_replies(1, PROGRESS, WATCHDOG).unwrap();
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    for child in children {
        running.wrapper.log.wait(&left_behind(1, child, "asked to stop"));
        running.scene.wait_gone(child);
    }
    load.await_replies(2, PROGRESS, WATCHDOG).unwrap();
    load.finish().unwrap();
    tell(&format!("prefork that never rests: {} requests, failed {:?}", load.ok, load.failures));
    assert_eq!(load.failures, [].into(), "{}", running.log());
    running.wrapper.stop();
}

/// One child has a request under way, which a TERM would cut: it is asked once it waits again. Its
/// sibling, which has little to do, is asked at once. The timeout is one that ends no test.
/// `meanwhile` happens while it is busy.
fn a_busy_child_finishes_first(way: &str, meanwhile: impl FnOnce(&Running)) {
    let options = ["--stop-timeout", "1h"];
    let running = Running::start("prefork.py", &[way], Sockets::Nonblocking, &options);
    let target = Target::Tcp(running.address);
    let client = thread::spawn(move || Connection::open(&target)?.get("/hold", true));
    let busy = running.said("g1 holds", 1);
    let children = [running.said("g1 accepts", 1), running.said("g1 accepts", 2)];
    let idle = children.into_iter().find(|child| *child != busy).expect("there are two");
    let mut load = running.load(1);
    load.await_replies(1, PROGRESS, WATCHDOG).unwrap();
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    running.wrapper.log.wait(&left_behind(1, idle, "asked to stop"));
    running.scene.wait_gone(idle);
    meanwhile(&running);
    load.await_replies(2, PROGRESS, WATCHDOG).unwrap();
    let asked = left_behind(1, busy, "asked to stop");
    assert!(!running.wrapper.log.has(&asked), "it is busy:\n{}", running.log());
    running.scene.release("gate", 1);
    let reply = client.join().expect("a client").expect("an answer");
    assert!(reply.body.starts_with("generation 1 "), "{}", reply.body);
    running.wrapper.log.wait(&asked);
    running.scene.wait_gone(busy);
    // Of the old code nothing is left: whoever answers now is new.
    load.await_replies(2, PROGRESS, WATCHDOG).unwrap();
    load.finish().unwrap();
    tell(&format!("prefork, {way}: {} requests, failed {:?}", load.ok + 1, load.failures));
    assert_eq!(load.failures, [].into(), "{}", running.log());
    assert!(!running.wrapper.log.has("is killed") && running.wrapper.log.has(&says::ready(2)));
    running.wrapper.stop();
}

#[test]
fn busy_then_in_poll() {
    a_busy_child_finishes_first("poll", |_| ());
}

#[test]
fn busy_then_in_select() {
    a_busy_child_finishes_first("select", |_| ());
}

/// What it was left behind by, and that it may finish, goes with us into another image of ourselves.
#[test]
fn busy_over_a_reexec() {
    a_busy_child_finishes_first("poll", |running| {
        let output = running.scene.ctl(&["reexec"]);
        assert!(output.status.success(), "{output:?}\n{}", running.log());
    });
}
