//! What a worker leaves with us by FDSTORE=1 is there for the next one in its slot.

mod common;

use common::{Scene, Signal, Wrapper, says, until};

/// Says what it was given, then plays `rest`, then is ready.
fn script(rest: &str) -> String {
    format!("count-signals\ntell-stored\n{rest}\nready notify\n")
}

fn upgrade(wrapper: &Wrapper, to: u32) {
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(to));
}

/// What the worker of generation `n` was given.
fn given(scene: &Scene, n: u32) -> String {
    let line = scene.log.wait(&format!("g{n} s0 worker stored"));
    line.split_once("stored ").unwrap().1.split(" pid=").next().unwrap().to_owned()
}

#[test]
fn what_is_stored_survives_upgrades() {
    let scene = Scene::of(&script(""));
    scene.script("1", &script("store db one\nstore cache two\nsend FDSTORE=1"));
    scene.script("2", &script("remove db\nstore a:b three"));
    let wrapper = scene.ready(&["--ack", "notify"]);
    upgrade(&wrapper, 2);
    upgrade(&wrapper, 3);
    assert_eq!(given(&scene, 1), "");
    assert_eq!(given(&scene, 2), "db=one cache=two");
    assert_eq!(given(&scene, 3), "cache=two stored=three");
    wrapper.stop();
}

#[test]
fn what_is_stored_survives_a_crash_that_follows_at_once() {
    let scene = Scene::of(&script("store db one\nexit 3"));
    let wrapper = scene.start(&common::quick(&["--ack", "notify", "--retry-start"]));
    scene.log.wait("worker stored db=one");
    scene.script("default", &script(""));
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

#[test]
fn an_upgrade_that_fails_loses_and_adds_nothing() {
    let scene = Scene::of(&script(""));
    scene.script("1", &script("store db one"));
    scene.script("2", &script("remove db\nstore db two\nstore more three\nbarrier\nexit 3"));
    let wrapper = scene.ready(&["--ack", "notify"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    upgrade(&wrapper, 3);
    assert_eq!(given(&scene, 2), "db=one");
    assert_eq!(given(&scene, 3), "db=one");
    wrapper.stop();
}

#[test]
fn slots_do_not_share() {
    let scene = Scene::of(&script(""));
    scene.script("1.0", &script("store db one"));
    scene.script("1.1", &script("store db two"));
    let wrapper = scene.ready(&["--ack", "notify", "-n", "2"]);
    upgrade(&wrapper, 2);
    scene.log.wait("g2 s0 worker stored db=one");
    scene.log.wait("g2 s1 worker stored db=two");
    wrapper.stop();
}

#[test]
fn what_has_no_other_end_any_more_is_let_go_unless_it_is_to_be_kept() {
    let scene = Scene::of(&script(""));
    let store = "store-pipe FDNAME=polled\nstore-pipe FDPOLL=0\\nFDNAME=kept\nbarrier";
    scene.script("1", &script(store));
    let wrapper = scene.ready(&["--ack", "notify"]);
    upgrade(&wrapper, 2);
    assert_eq!(given(&scene, 2), "polled=pipe kept=pipe");
    // Both ends of the pipes were its own.
    wrapper.log.wait(&says::exited(1, 0));
    scene.script("3", &script(""));
    upgrade(&wrapper, 3);
    assert_eq!(given(&scene, 3), "kept=pipe");
    wrapper.stop();
}

#[test]
fn there_is_a_limit_and_the_rest_is_closed() {
    let scene = Scene::of(&script(""));
    scene.script("1", "count-signals\nready notify\nwait go\nstore-many 50\nbarrier\nsay stored");
    let wrapper = scene.ready(&["--ack", "notify"]);
    let before = wrapper.fd_count();
    scene.release("go", 1);
    scene.log.wait("worker stored");
    // At the start a descriptor more may have been open for a moment.
    until("descriptors are left", || wrapper.fd_count() <= before + 128);
    assert_eq!(wrapper.log.count("128 descriptors are stored; others are closed"), 1);
    upgrade(&wrapper, 2);
    assert_eq!(given(&scene, 2).split(' ').count(), 128);
    wrapper.stop();
}

#[test]
fn other_dialects_store_nothing_and_say_so_once() {
    let scene = Scene::of("count-signals\nready notify\nwait go\nsend-fds 30\nbarrier\nsay sent");
    let wrapper = scene.ready(&["--ack", "notify", "--export", "einhorn", "--stop-signal", "TERM"]);
    let before = wrapper.fd_count();
    scene.release("go", 1);
    scene.log.wait("worker sent");
    until("descriptors are left", || wrapper.fd_count() <= before);
    assert_eq!(wrapper.log.count("FDSTORE is for --export listen-fds"), 1);
    wrapper.stop();
}

#[test]
fn numbers_that_were_promised_to_others_are_kept_free() {
    let scene = Scene::of("count-signals\ntell-stored\nready fd");
    scene.script("1", "count-signals\nstore a one\nstore b two\nbarrier\nready fd");
    // 3 is the listener, 4 what was stored first.
    let wrapper = scene.ready(&["--ack", "notify,fd:5"]);
    upgrade(&wrapper, 2);
    assert_eq!(given(&scene, 2), "a=one");
    wrapper.log.wait("only 1 of 2 stored descriptors fit");
    wrapper.stop();
}
