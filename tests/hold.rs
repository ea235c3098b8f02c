//! An upgrade that is held: one worker of the next generation serves beside the old ones.

mod common;

use common::{SERVER, Scene, Signal, quick, says};

const HELD: &str = "generation 2: on hold after ";

#[test]
fn start_alongside_keeps_every_old_worker() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.start(&quick(&["-n", "2", "--on", "USR2=start-alongside"]));
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(HELD);
    wrapper.signal(Signal::SIGUSR1);
    for worker in ["g1 s0", "g1 s1", "g2 s0"] {
        scene.log.wait(&format!("{worker} worker USR1"));
    }
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("upgrade requested while one is under way");
    wrapper.signal(Signal::SIGTTIN);
    scene.log.wait("g1 s2 worker serving");
    assert_eq!(wrapper.log.count(&says::started(2)), 1);
    assert!(!scene.log.has("worker TERM"));
    wrapper.stop();
    assert_eq!(scene.log.count("worker TERM"), 4);
}

#[test]
fn on_hold_an_old_worker_comes_back_as_it_was() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nready notify\nwait crash\nexit 1");
    let wrapper = scene.ready(&["--on", "USR2=start-alongside"]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(HELD);
    scene.release("crash", 1);
    wrapper.log.wait_nth(&says::ready_by(1, "notify"), 2);
    assert!(!scene.log.has("worker TERM") && !wrapper.log.has(&says::failed(2)));
    wrapper.stop();
}

#[test]
fn when_the_new_worker_ends_on_hold_the_upgrade_is_undone() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nready notify\nwait crash\nexit 6");
    let wrapper = scene.ready(&["--on", "USR2=start-alongside"]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(HELD);
    scene.release("crash", 1);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(
        line.contains(" exited with status 6 while it was on hold (")
            && line.ends_with("; generation 1 still serves"),
        "{line}"
    );
    assert!(!scene.log.has("worker TERM"));
    wrapper.stop();
}

#[test]
fn where_two_cannot_live_side_by_side_nothing_is_held() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--stop-first", "--on", "USR2=start-alongside"]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait("cannot hold an upgrade: a generation cannot be on hold with --stop-first");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}
