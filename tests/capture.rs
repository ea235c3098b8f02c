//! `--capture-stderr`: every line still reaches our stderr.

mod common;

use common::{SERVER, Scene, Signal, am_root, says};

#[test]
fn what_workers_write_comes_out_of_our_own_stderr() {
    let scene = Scene::of("count-signals\nserve\nstderr it begins\nready notify\n");
    let wrapper = scene.ready(&["--capture-stderr"]);
    wrapper.log.wait("it begins");
    scene.script("2", "stderr it fails\nexit 3\n");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("it fails");
    wrapper.log.wait(&says::failed(2));
    let log = wrapper.log.clone();
    wrapper.stop();
    assert_eq!((log.count("it begins"), log.count("it fails")), (1, 1));
}

/// The last that it wrote is what one looks for.
#[test]
fn the_last_words_of_a_first_worker_come_before_ours() {
    let scene = Scene::of("stderr no such database\nexit 3\n");
    let mut wrapper = scene.start(&["--capture-stderr"]);
    assert_eq!(wrapper.exit_status(), 3);
    let lines = wrapper.log.all();
    let at = |text: &str| lines.iter().position(|line| line.contains(text));
    let (theirs, ours) = (at("no such database"), at("graceful-run: cannot keep"));
    assert!(theirs.is_some() && theirs < ours, "{lines:?}");
}

/// Servers are told to log to /dev/stderr, and open it as the user that they run as.
#[test]
fn stderr_can_be_opened_anew_by_the_user_of_the_worker() {
    if !am_root() {
        return;
    }
    let scene = Scene::of(SERVER);
    let shell = "echo opened anew >/dev/stderr; exec sleep 300";
    let command = ["sh", "-c", shell].map(str::to_owned);
    let options = ["--capture-stderr", "--user", "nobody", "--ack", "timer:10ms"];
    let wrapper = scene.start_command(&options, &command);
    wrapper.log.wait("opened anew");
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

/// What a worker left behind still has its stderr.
#[test]
fn leftovers_can_write_to_the_end() {
    let scene = Scene::of(SERVER);
    let left = "trap 'echo left to the last >&2; exit' TERM; echo waits >&2; while :; do read x; done <>gate";
    let shell = format!("mkfifo gate; sh -c \"{left}\" & exec sleep 300");
    let command = ["sh", "-c", &shell].map(str::to_owned);
    let wrapper = scene.start_command(&["--capture-stderr", "--ack", "timer:10ms"], &command);
    wrapper.log.wait("waits");
    wrapper.log.wait(&says::ready(1));
    let log = wrapper.log.clone();
    wrapper.stop();
    log.wait("left to the last");
}
