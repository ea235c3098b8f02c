//! What a worker has started beside itself, at an upgrade, at a crash and at our own stop.

use crate::common::{Signal, matches, says};
use crate::stage::{Running, Sockets, left_behind};

fn start(kinds: &[&str], stop_timeout: &str) -> Running {
    Running::start("helpers.py", kinds, Sockets::Blocking, &["--stop-timeout", stop_timeout])
}

/// The number of the line that says this, which is there already.
fn line(running: &Running, pattern: &str) -> usize {
    let lines = running.wrapper.log.all();
    let found = lines.iter().position(|line| matches(pattern, line));
    found.unwrap_or_else(|| panic!("nobody said {pattern:?}:\n{}", lines.join("\n")))
}

/// That nobody was asked to stop or killed by this pid.
fn assert_left_alone(running: &Running, pid: i32) {
    let signalled = running.wrapper.log.has(&format!("pid {pid} (*), left behind"));
    assert!(!signalled, "pid {pid} is to live:\n{}", running.log());
    assert!(running.scene.processes().contains(&pid), "pid {pid} lives:\n{}", running.log());
}

/// It waits on the listener, so it is asked at once; the one in the group, which is older and so
/// would be asked before it if both were asked at once, comes after `--stop-timeout`; the one with a
/// session of its own does not come at all, even if it has inherited the listener.
#[test]
fn at_an_upgrade() {
    let kinds = ["session", "keeper", "group", "accepts", "apart"];
    let running = start(&kinds, "2s");
    let [session, keeper, group, accepts, apart] =
        kinds.map(|kind| running.said(&format!("{kind} starts"), 1));
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    let asked = |pid| left_behind(1, pid, "asked to stop");
    for (kind, pid) in [("accepts", accepts), ("apart", apart), ("group", group)] {
        running.wrapper.log.wait(&asked(pid));
        running.said(&format!("{kind} got TERM"), 1);
        running.scene.wait_gone(pid);
    }
    for at_once in [accepts, apart] {
        assert!(line(&running, &asked(at_once)) < line(&running, &asked(group)), "{}", running.log());
    }
    [session, keeper].into_iter().for_each(|pid| assert_left_alone(&running, pid));
    // And over another upgrade, of workers that have nothing to do with it.
    running.upgrade(3);
    running.wrapper.log.wait(&says::killed(2, 15));
    [session, keeper].into_iter().for_each(|pid| assert_left_alone(&running, pid));
    assert!(!running.wrapper.log.has("is killed"), "{}", running.log());
    running.wrapper.signal(Signal::SIGTERM);
    running.said("session got TERM", 1);
    running.scene.wait_gone(session);
    running.scene.wait_gone(keeper);
    stop(running);
}

/// Everybody but the one with a session of its own is asked at once. The timeout ends no test.
#[test]
fn at_a_crash() {
    let running = start(&["session", "group", "accepts", "apart"], "1h");
    let [session, group, accepts, apart] =
        ["session", "group", "accepts", "apart"].map(|kind| running.said(&format!("{kind} starts"), 1));
    running.scene.release("crash", 1);
    running.wrapper.log.wait(&says::exited(1, 3));
    for (kind, pid) in [("group", group), ("accepts", accepts), ("apart", apart)] {
        running.wrapper.log.wait(&left_behind(1, pid, "asked to stop"));
        running.said(&format!("{kind} got TERM"), 1);
        running.scene.wait_gone(pid);
    }
    running.wrapper.log.wait_nth(&says::started(1), 2);
    assert_left_alone(&running, session);
    // An upgrade later it is still there.
    running.upgrade(2);
    assert_left_alone(&running, session);
    running.wrapper.signal(Signal::SIGTERM);
    running.said("session got TERM", 1);
    stop(running);
}

/// One in the group that does not heed its TERM is killed after a second timeout.
#[test]
fn one_that_ignores_its_term_is_killed() {
    let running = start(&["session", "stubborn"], "1s");
    let [session, stubborn] = ["session", "stubborn"].map(|kind| running.said(&format!("{kind} starts"), 1));
    running.upgrade(2);
    running.wrapper.log.wait(&says::killed(1, 15));
    let killed = left_behind(1, stubborn, "killed");
    running.wrapper.log.wait(&killed);
    running.scene.wait_gone(stubborn);
    let asked = left_behind(1, stubborn, "asked to stop");
    assert!(line(&running, &asked) < line(&running, &killed), "{}", running.log());
    assert_left_alone(&running, session);
    running.wrapper.stop();
}

/// A timeout of an hour would hold up this test, if a stop of everything waited for it.
#[test]
fn a_stop_of_everything_asks_at_once() {
    let running = start(&["group", "session"], "1h");
    let [group, session] = ["group", "session"].map(|kind| running.said(&format!("{kind} starts"), 1));
    for generation in 2..=4 {
        running.upgrade(generation);
        running.wrapper.log.wait(&says::killed(generation - 1, 15));
    }
    assert_left_alone(&running, group);
    assert_left_alone(&running, session);
    running.wrapper.signal(Signal::SIGTERM);
    for kind in ["group", "session"] {
        running.said(&format!("{kind} got TERM"), 1);
    }
    stop(running);
}

/// The end of one that was asked to stop.
fn stop(running: Running) {
    let Running { mut wrapper, .. } = running;
    let status = wrapper.exit_status();
    assert_eq!(status, 0, "{}", wrapper.log.all().join("\n"));
    assert!(!wrapper.log.has("is killed"), "{}", wrapper.log.all().join("\n"));
}
