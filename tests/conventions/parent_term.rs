//! TERM as an ack: whose it is decides what it means.
//!
//! Contract: a TERM of a worker that starts, or of a process below it, is its ack; of any other
//! process of ours, living or just dead, it means nothing; of anybody else it is a stop, whatever
//! acks come in around it.

use crate::common::{Scene, Signal, Wrapper, quick, says, until};

const ACK: [&str; 2] = ["--ack", "parent-term"];

/// Serves and acks.
const SERVER: &str = "count-signals\nserve\nkill-parent TERM\nsay acked";

/// The first generation serves; the next plays `script`.
fn first(script: &str, args: &[&str]) -> (Scene, Wrapper) {
    let scene = Scene::of(SERVER);
    scene.script("2", script);
    let wrapper = scene.ready(&[&ACK, args].concat());
    wrapper.log.wait(&says::ready_by(1, "parent-term"));
    (scene, wrapper)
}

/// Nobody was asked to leave, and the next upgrade proves that all is well.
fn still_serves(scene: &Scene, wrapper: Wrapper, serving: u32) {
    assert_eq!(scene.log.count(&format!("g{serving} s0 worker TERM")), 0, "{:?}", wrapper.log.all());
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::exited(serving, 0));
    assert!(!wrapper.log.has("stopping"), "{:?}", wrapper.log.all());
    wrapper.stop();
}

/// Stops all of `pid` and waits until it stands.
fn freeze(wrapper: &Wrapper) {
    wrapper.signal(Signal::SIGSTOP);
    until("it goes on", || wrapper.state() == 'T');
}

#[test]
fn a_worker_that_acks_and_dies_at_once_has_failed() {
    let (scene, wrapper) = first("say up\nwait go\nkill-parent TERM\nexit 3", &["--soak", "4s"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker up");
    scene.release("go", 1);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("status 3"), "{line}");
    still_serves(&scene, wrapper, 1);
}

#[test]
fn a_first_worker_that_acks_and_dies_is_no_stop() {
    let scene = Scene::of("kill-parent TERM\nexit 3");
    let args = [&ACK[..], &["--restart", "never"]].concat();
    let mut wrapper = scene.start(&quick(&args));
    assert_eq!(wrapper.exit_status(), 3);
    assert!(!wrapper.log.has("stopping"), "{:?}", wrapper.log.all());
}

#[test]
fn a_stop_among_acks_is_a_stop() {
    let (scene, mut wrapper) = first("count-signals\nsay up\nwait go\nkill-parent TERM\nsay acked", &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker up");
    scene.release("go", 1);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 1);
}

/// Two TERMs that are pending at once are one to the kernel, and it names the first sender.
#[test]
fn a_stop_that_coalesces_with_an_ack_is_not_lost() {
    let (scene, mut wrapper) = first("count-signals\nsay up\nwait go\nkill-parent TERM\nsay acked", &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker up");
    freeze(&wrapper);
    scene.release("go", 1);
    scene.log.wait("g2 s0 worker acked");
    wrapper.signal(Signal::SIGTERM);
    wrapper.signal(Signal::SIGCONT);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn an_ack_of_the_old_generation_means_nothing() {
    let scene = Scene::of(SERVER);
    scene.script("1", &format!("{SERVER}\nwait again\nterm-supervisor"));
    scene.script("2", "count-signals\nserve\nsay up\nwait go\nkill-parent TERM");
    let wrapper = scene.ready(&ACK);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker up");
    scene.release("again", 1);
    scene.log.wait("g1 s0 worker told TERM");
    // WINCH comes after it on the same way: once it is here, the TERM was judged.
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g1 s0 worker WINCH");
    assert!(!wrapper.log.has(&says::ready_by(2, "")), "{:?}", wrapper.log.all());
    scene.release("go", 1);
    wrapper.log.wait(&says::ready_by(2, "parent-term"));
    still_serves(&scene, wrapper, 2);
}

#[test]
fn an_old_generation_that_drains_cannot_stop_us() {
    let scene = Scene::of(SERVER);
    scene.script("1", &format!("gate-term leave\n{SERVER}\nwait again\nterm-supervisor"));
    let wrapper = scene.ready(&ACK);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    scene.release("again", 1);
    scene.log.wait("g1 s0 worker told TERM");
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g2 s0 worker WINCH");
    scene.release("leave", 1);
    wrapper.log.wait(&says::exited(1, 0));
    still_serves(&scene, wrapper, 2);
}

#[test]
fn an_ack_after_the_abort_means_nothing() {
    let late = "gate-term leave\nsay up\nwait late\nterm-supervisor";
    let (scene, wrapper) = first(late, &["--ack-timeout", "4s"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker TERM");
    scene.release("late", 1);
    scene.log.wait("g2 s0 worker told TERM");
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g1 s0 worker WINCH");
    scene.release("leave", 1);
    wrapper.log.wait(&says::failed(2));
    still_serves(&scene, wrapper, 1);
}

#[test]
fn an_ack_twice_is_an_ack() {
    let (scene, wrapper) = first(&format!("{SERVER}\nkill-parent TERM\nkill-parent TERM"), &[]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::exited(1, 0));
    still_serves(&scene, wrapper, 2);
}

/// A server below a shell, or in a process of its own: its TERM speaks for the worker.
#[test]
fn a_grandchild_acks_for_its_worker() {
    let (scene, wrapper) = first("count-signals\nserve\nfork-child term-supervisor", &[]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::ready_by(2, "parent-term"));
    wrapper.log.wait(&says::exited(1, 0));
    still_serves(&scene, wrapper, 2);
}

#[test]
fn a_term_without_such_an_ack_kind_is_still_no_stop_of_ours() {
    let scene = Scene::of("count-signals\nserve\nready notify\nterm-supervisor");
    let wrapper = scene.ready(&["--ack", "notify"]);
    scene.log.wait("g1 s0 worker told TERM");
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g1 s0 worker WINCH");
    still_serves(&scene, wrapper, 1);
}

#[test]
fn a_stranger_s_term_is_a_stop_before_anything_was_ready() {
    let scene = Scene::of("count-signals\nsay up\nhang");
    let mut wrapper = scene.start(&quick(&ACK));
    scene.log.wait("g1 s0 worker up");
    let helper = std::process::Command::new("kill").args(["-TERM", &wrapper.pid.to_string()]).status();
    assert!(helper.expect("kill(1)").success());
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 1);
}

/// It has neither our variables nor its worker's group, and its parent has gone.
#[test]
fn a_descendant_that_has_cut_every_tie_is_no_stop() {
    let scene = Scene::new();
    let script = "rm -f told; (env -i setsid /bin/bash -c \"kill -TERM $PPID; : >told; exec sleep 1000\" &); \
                  until [ -e told ]; do sleep 0.01; done; eval \"echo >&$READY_FD\"; exec sleep 1000";
    let args = quick(&["--ack", "fd", "--stop-timeout", "4s"]);
    let mut wrapper = scene.start_command(&args, &["/bin/bash", "-c", script]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait("generation 2: serves after");
    assert!(!wrapper.log.has("stopping"), "{:?}", wrapper.log.all());
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}
