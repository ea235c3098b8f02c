//! Workers that end by themselves, our own death, the pid file, children that are not ours.

mod common;

use common::{SERVER, Scene, Signal, address_in, pid_in, quick, says, until, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;

#[test]
fn a_worker_that_ends_is_restarted_and_connections_wait() {
    let scene = Scene::of("serve\nready notify\nwait crash\nabort-signal SEGV");
    let wrapper = scene.ready(&[]);
    let address = address_in(&scene.log.wait("worker serving"));
    for restarts in 2..4 {
        scene.release("crash", 1);
        wrapper.log.wait_nth("was ended by signal 11", restarts - 1);
        // Whoever connects now, before there is a worker, is served by the next.
        assert!(who(&address).starts_with('g'));
        scene.log.wait_nth("worker ready", restarts);
    }
    wrapper.stop();
}

#[test]
fn only_the_slot_that_lost_its_worker_gets_a_new_one() {
    let scene = Scene::of(SERVER);
    scene.script("1.1", "serve\nready notify\nwait crash\nexit 3");
    let wrapper = scene.ready(&["-n", "3"]);
    scene.log.wait("s1 worker ready");
    scene.release("crash", 1);
    scene.log.wait_nth("s1 worker ready", 2);
    wrapper.stop();
    assert_eq!(scene.log.count("s0 worker ready"), 1);
    assert_eq!(scene.log.count("s2 worker ready"), 1);
}

#[test]
fn an_upgrade_ends_a_backoff() {
    let scene = Scene::of(SERVER);
    scene.script("1", "serve\nready notify\nwait crash\nexit 3");
    let wrapper = scene.ready(&[]);
    // After so many ends the wait for the next start is far longer than the watchdog's half.
    scene.release("crash", 8);
    wrapper.log.wait_nth(&says::exited(1, 3), 6);
    wrapper.signal(Signal::SIGHUP);
    let address = address_in(&scene.log.wait("g2 s0 worker serving"));
    wrapper.log.wait(&says::ready(2));
    assert!(who(&address).starts_with("g2 "));
    wrapper.stop();
}

#[test]
fn a_stop_ends_a_backoff() {
    let scene = Scene::of("ready notify\nwait crash\nexit 3");
    let mut wrapper = scene.ready(&[]);
    scene.release("crash", 5);
    wrapper.log.wait_nth(&says::exited(1, 3), 5);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn the_pid_file_is_written_when_the_first_generation_is_ready() {
    let scene = Scene::of("count-signals\nsay up\nwait ack\nready notify");
    let path = scene.run().join("app.pid");
    let wrapper = scene.start(&quick(&["--ack", "notify", "--pid-file", path.to_str().unwrap()]));
    scene.log.wait("worker up");
    assert!(!path.exists());
    scene.release("ack", 1);
    wrapper.log.wait(&says::ready(1));
    until("the pid file is not written", || path.exists());
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), wrapper.pid.to_string());
    wrapper.stop();
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_is_no_longer_ours_stays() {
    let scene = Scene::of(SERVER);
    let path = scene.path("app.pid");
    // What it held before is nobody that anything may be sent to.
    fs::write(&path, std::process::id().to_string()).unwrap();
    let wrapper = scene.ready(&["--pid-file", path.to_str().unwrap()]);
    let ours = wrapper.pid.to_string();
    until("the pid file is not replaced", || fs::read_to_string(&path).unwrap().trim() == ours);
    fs::write(scene.path("other"), "4194999\n").unwrap();
    fs::rename(scene.path("other"), &path).unwrap();
    wrapper.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "4194999\n");
}

#[test]
fn a_pid_file_that_cannot_be_put_in_place_ends_us() {
    let scene = Scene::of("count-signals\nwait go\nready notify");
    let path = scene.run().join("pid");
    let mut wrapper = scene.start(&quick(&["--ack", "notify", "--pid-file", path.to_str().unwrap()]));
    wrapper.log.wait("started");
    fs::create_dir(&path).unwrap();
    scene.release("go", 1);
    assert_eq!(wrapper.exit_status(), 125);
    assert!(wrapper.last_line().starts_with("graceful-run: cannot put the pid file"));
    fs::remove_dir(&path).unwrap();
    let slash = format!("{}/", path.display());
    let mut wrapper = scene.start(&quick(&["--pid-file", &slash]));
    assert_eq!(wrapper.exit_status(), 125);
}

#[test]
fn a_pid_file_does_not_follow_a_link() {
    let scene = Scene::of(SERVER);
    let (path, target) = (scene.path("app.pid"), scene.path("precious"));
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    let mut wrapper = scene.start(&quick(&["--pid-file", path.to_str().unwrap()]));
    scene.log.wait("worker ready");
    // Replaced or refused, but never written through.
    until("neither written nor refused", || {
        wrapper.has_ended() || fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file())
    });
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    if !wrapper.has_ended() {
        wrapper.stop();
    }
}

#[test]
fn on_death_keep_leaves_the_workers_serving() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&["--on-death", "keep"]);
    let address = address_in(&scene.log.wait("worker serving"));
    let worker = pid_in(&scene.log.wait("worker ready"));
    wrapper.signal(Signal::SIGKILL);
    assert_eq!(wrapper.exit_status(), -9);
    assert!(who(&address).starts_with("g1 "));
    assert!(!scene.log.has("worker TERM"));
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    scene.wait_gone(worker);
    scene.forget_files();
}

#[test]
fn workers_are_kept_by_default() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&[]);
    let address = address_in(&scene.log.wait("worker serving"));
    let worker = pid_in(&scene.log.wait("worker ready"));
    wrapper.signal(Signal::SIGKILL);
    wrapper.exit_status();
    assert!(who(&address).starts_with("g1 "));
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    scene.wait_gone(worker);
    scene.forget_files();
}

#[test]
fn on_death_term_ends_the_workers() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&["--on-death", "term"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.signal(Signal::SIGKILL);
    assert_eq!(wrapper.exit_status(), -9);
    scene.log.wait("g2 s0 worker TERM");
    scene.forget_files();
}

#[test]
fn children_that_we_adopt_are_reaped() {
    let scene = Scene::of("count-signals\nready notify\nwait make\nfork-orphans 200");
    scene.gate("brood");
    let wrapper = scene.ready(&[]);
    scene.release("make", 1);
    scene.log.wait("worker orphans left");
    until("they are not adopted", || wrapper.children().len() > 200);
    // Stopped, we do not hear of any; all end at once; then we are to find every one of them.
    wrapper.signal(Signal::SIGSTOP);
    scene.release("brood", 200);
    let zombies = || wrapper.children().iter().filter(|(_, state)| *state == 'Z').count();
    until("they do not end", || zombies() == 200);
    wrapper.signal(Signal::SIGCONT);
    until("zombies are left", || wrapper.children().len() == 1);
    assert_eq!(scene.log.count("worker TERM"), 0);
    wrapper.stop();
}
