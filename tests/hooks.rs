//! `--hook`: the user's own commands, what they are told, who waits for them.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, pid_in, quick, says};
use std::fs;

/// A hook of an event that writes what it is told to the scene's log, then does `more`.
fn tells(event: &str, more: &str) -> String {
    let about = "$GRACEFUL_RUN_EVENT g$GRACEFUL_RUN_GENERATION s$GRACEFUL_RUN_SLOT";
    format!("{event}=echo \"{about} hook: $GRACEFUL_RUN_REASON pid=$GRACEFUL_RUN_WORKER\" > log; {more}")
}

fn start(scene: &Scene, hooks: &[String], args: &[&str]) -> Wrapper {
    let hooks = hooks.iter().flat_map(|hook| ["--hook", hook.as_str()]);
    scene.start(&quick(&hooks.chain(args.iter().copied()).collect::<Vec<_>>()))
}

/// Says that it waits, and does until it is let through.
fn waits(scene: &Scene, event: &str, gate: &str) -> String {
    scene.gate(gate);
    tells(event, &format!("head -c 1 {gate} > /dev/null; echo {event} goes on > log"))
}

fn place(scene: &Scene, pattern: &str) -> usize {
    let all = scene.log.all();
    let at = all.iter().position(|line| common::matches(pattern, line));
    at.unwrap_or_else(|| panic!("nobody said {pattern:?}:\n{}", all.join("\n")))
}

#[test]
fn a_hook_that_would_wait_for_itself_is_told() {
    let scene = Scene::of(SERVER);
    let ctl = format!("pre-upgrade={} ctl upgrade || echo said $? >&2", common::binary().display());
    let wrapper = scene.ready(&["--hook", &ctl]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("cannot upgrade: a hook that is waited for would wait for itself (--no-wait)");
    wrapper.log.wait("said 2");
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

#[test]
fn every_event_has_its_hook_in_order_and_knows_its_worker() {
    let scene = Scene::of(SERVER);
    scene.script("3", "exit 7");
    let hooks = ["pre-upgrade", "pre-start", "post-ready", "pre-stop", "post-stop", "upgrade-failed"]
        .map(|event| tells(event, ":"));
    let wrapper = start(&scene, &hooks, &[]);
    wrapper.log.wait(&says::ready(1));
    let first = pid_in(&scene.log.wait("g1 s0 worker serving"));
    // Nobody waits for this hook.
    scene.log.wait("post-ready g1 s0 hook");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    scene.log.wait("post-stop g1 s0 hook");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(3));
    let why = scene.log.wait("upgrade-failed g3 s hook");
    assert!(why.contains(" exited with status 7 before it was ready ("), "{why}");
    wrapper.stop();
    let order = [
        "pre-start g1 s0 hook:  pid=".to_owned(),
        "g1 s0 worker serving".to_owned(),
        format!("post-ready g1 s0 hook:  pid={first}"),
        "pre-upgrade g2 s hook:  pid=".to_owned(),
        "pre-start g2 s0 hook".to_owned(),
        "g2 s0 worker serving".to_owned(),
        "post-ready g2 s0 hook".to_owned(),
        format!("pre-stop g1 s0 hook:  pid={first}"),
        "g1 s0 worker TERM".to_owned(),
        format!("post-stop g1 s0 hook:  pid={first}"),
        "pre-stop g2 s0 hook".to_owned(),
        "g2 s0 worker TERM".to_owned(),
        "post-stop g2 s0 hook".to_owned(),
    ];
    for pair in order.windows(2) {
        assert!(place(&scene, &pair[0]) < place(&scene, &pair[1]), "{pair:?}: {:?}", scene.log.all());
    }
}

#[test]
fn a_hook_has_the_worker_s_environment_and_none_of_its_descriptors() {
    let scene = Scene::of(SERVER);
    let told = "for name in MINE LISTEN_FDS NOTIFY_SOCKET; do printenv $name; done > told";
    let hook = format!("post-ready=ls -l /proc/$$/fd > fds; {told}; echo hook has looked > log");
    let wrapper = start(&scene, &[hook], &["-E", "MINE=1"]);
    scene.log.wait("hook has looked");
    wrapper.stop();
    // What sh opens for itself is none of ours.
    let fds = fs::read_to_string(scene.path("fds")).unwrap();
    assert!(fds.contains(" 2 -> ") && !fds.contains("socket:"), "{fds}");
    assert_eq!(fs::read_to_string(scene.path("told")).unwrap(), "1\n");
}

#[test]
fn hooks_of_one_event_run_one_after_another() {
    let scene = Scene::of(SERVER);
    let hooks = [waits(&scene, "post-ready", "go"), tells("post-ready", "exit 3"), tells("post-ready", ":")];
    let wrapper = start(&scene, &hooks, &[]);
    scene.log.wait("post-ready g1");
    wrapper.log.wait(&says::ready(1));
    assert_eq!(scene.log.count("post-ready g1"), 1, "the second waits for the first");
    scene.release("go", 1);
    scene.log.wait_nth("post-ready g1", 3);
    wrapper.log.wait("generation 1: post-ready hook '*' exited with status 3");
    wrapper.stop();
}

#[test]
fn a_pre_upgrade_hook_refuses_an_upgrade() {
    let scene = Scene::of(SERVER);
    let hooks = ["pre-upgrade=test -e allowed || exit 3".into(), tells("upgrade-failed", ":")];
    let wrapper = start(&scene, &hooks, &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    let why = "pre-upgrade hook 'test -e allowed || exit 3' exited with status 3";
    assert!(line.ends_with(&format!("failed: {why}; generation 1 still serves")), "{line}");
    scene.log.wait(&format!("upgrade-failed g2 s hook: {why} pid="));
    assert!(!wrapper.log.has(&says::started(2)) && !scene.log.has("worker TERM"));
    fs::write(scene.path("allowed"), "").unwrap();
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn a_pre_start_hook_that_fails_is_a_start_that_failed() {
    let scene = Scene::of(SERVER);
    let mut wrapper = start(&scene, &["pre-start=exit 4".into()], &[]);
    assert_eq!(wrapper.exit_status(), 125);
    let line = wrapper.last_line();
    assert!(line.starts_with("graceful-run: cannot start '"), "{line}");
    assert!(line.ends_with("pre-start hook 'exit 4' exited with status 4"), "{line}");
    assert!(!wrapper.log.has(&says::started(1)));

    let wrapper = start(&scene, &["pre-start=test $GRACEFUL_RUN_GENERATION != 2".into()], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(
        line.contains("pre-start hook 'test $GRACEFUL_RUN_GENERATION != 2' exited with status 1"),
        "{line}"
    );
    assert!(!wrapper.log.has(&says::started(2)) && !scene.log.has("worker TERM"));
    wrapper.stop();
}

#[test]
fn a_worker_that_comes_back_waits_for_its_pre_start_hook_too() {
    let scene = Scene::of("count-signals\nready notify\nwait crash\nexit 1");
    let wrapper = start(&scene, &[waits(&scene, "pre-start", "go")], &[]);
    scene.log.wait("pre-start g1 s0 hook");
    assert!(!wrapper.log.has(&says::started(1)));
    scene.release("go", 1);
    wrapper.log.wait(&says::ready(1));
    scene.release("crash", 1);
    scene.log.wait_nth("pre-start g1 s0 hook", 2);
    assert_eq!(wrapper.log.count(&says::started(1)), 1);
    scene.release("go", 1);
    wrapper.log.wait_nth(&says::started(1), 2);
    wrapper.stop();
}

#[test]
fn a_pre_start_hook_may_bring_the_program() {
    let scene = Scene::of(SERVER);
    let puppet = scene.puppet();
    let bring = format!("pre-start=cp {} server", puppet[0]);
    let args = quick(&["--hook", &bring]);
    let wrapper = scene.start_command(&args, &["./server", &puppet[1]]);
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

#[test]
fn another_try_of_a_start_has_had_its_hook() {
    let scene = Scene::of(SERVER);
    let program = scene.puppet_copy("server");
    let hook = tells("pre-start", ":");
    let args = quick(&["--hook", &hook]);
    let wrapper = scene.start_command(&args, &["./server", &scene.puppet()[1]]);
    wrapper.log.wait(&says::ready(1));
    fs::remove_file(program).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: cannot find * (trying again)");
    wrapper.log.wait(&says::failed(2));
    wrapper.stop();
    assert_eq!(scene.log.count("pre-start g2"), 1);
}

#[test]
fn a_hook_that_hangs_is_killed_with_what_it_started() {
    let scene = Scene::of(SERVER);
    scene.gate("never");
    let hang = "sh -c 'head -c 1 never' & head -c 1 never";
    for (event, then) in [("pre-upgrade", says::failed(2)), ("pre-start", says::failed(2))] {
        let hook = format!("{event}=test $GRACEFUL_RUN_GENERATION = 1 || {{ {hang}; }}");
        let wrapper = start(&scene, &[hook], &["--hook-timeout", "3s"]);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&then);
        assert!(line.contains(&format!("{event} hook '")), "{line}");
        assert!(line.contains(" was killed after 3000 ms (--hook-timeout); generation 1 still"), "{line}");
        // The rest of its group is gone as well: only the worker is left.
        common::until("the hook is left", || wrapper.children().len() == 1);
        wrapper.stop();
    }
}

#[test]
fn the_stop_signal_follows_a_pre_stop_hook_that_fails_or_hangs() {
    for (command, why) in
        [("exit 5", "exited with status 5"), ("head -c 1 never", "was killed after 3000 ms")]
    {
        let scene = Scene::of(SERVER);
        scene.gate("never");
        let wrapper = start(&scene, &[tells("pre-stop", command)], &["--hook-timeout", "3s"]);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&format!("generation 1: pre-stop hook '*' {why}"));
        scene.log.wait("g1 s0 worker TERM");
        assert!(place(&scene, "pre-stop g1 s0") < place(&scene, "g1 s0 worker TERM"));
        wrapper.log.wait(&says::exited(1, 0));
        wrapper.stop();
    }
}

#[test]
fn the_stop_signal_waits_for_the_pre_stop_hook_and_a_kill_does_not() {
    let scene = Scene::of(SERVER);
    let mut wrapper = start(&scene, &[waits(&scene, "pre-stop", "go")], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("pre-stop g1 s0 hook");
    wrapper.log.wait(&says::ready(2));
    assert!(!scene.log.has("worker TERM"));
    scene.release("go", 1);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.signal(Signal::SIGINT);
    scene.log.wait("pre-stop g2 s0 hook");
    wrapper.signal(Signal::SIGQUIT);
    assert_eq!(wrapper.exit_status(), 137);
    assert!(!scene.log.has("g2 s0 worker TERM"));
}

#[test]
fn the_loop_goes_on_while_a_hook_runs() {
    let scene = Scene::of(SERVER);
    let wrapper = start(&scene, &[waits(&scene, "pre-upgrade", "go")], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("pre-upgrade g2");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("upgrade requested while one is under way");
    wrapper.signal(Signal::SIGUSR1);
    scene.log.wait("g1 s0 worker USR1");
    assert!(!wrapper.log.has(&says::started(2)));
    scene.release("go", 2);
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn a_crash_during_the_pre_upgrade_hook_is_mended_meanwhile() {
    let scene = Scene::of("count-signals\nready notify\nwait crash\nexit 1");
    let wrapper = start(&scene, &[waits(&scene, "pre-upgrade", "go")], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("pre-upgrade g2");
    scene.release("crash", 1);
    wrapper.log.wait_nth(&says::ready_by(1, "notify"), 2);
    scene.release("go", 1);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn a_stop_does_not_wait_for_hooks_before_a_start() {
    let scene = Scene::of(SERVER);
    let wrapper = start(&scene, &[waits(&scene, "pre-upgrade", "go")], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("pre-upgrade g2");
    wrapper.stop();
    let wrapper = start(&scene, &[waits(&scene, "pre-start", "go")], &[]);
    scene.log.wait("pre-start g1");
    wrapper.stop();
    assert!(!scene.log.has("goes on"), "both were ended");
}

#[test]
fn at_our_end_the_post_stop_hook_finishes() {
    let scene = Scene::of(SERVER);
    let mut wrapper = start(&scene, &[waits(&scene, "post-stop", "go")], &[]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait("post-stop g1 s0 hook");
    assert!(!wrapper.has_ended());
    scene.release("go", 1);
    scene.log.wait("post-stop goes on");
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn at_our_end_a_hook_that_hangs_is_killed() {
    for (args, hurried) in [(&["--hook-timeout", "3s"][..], false), (&[], true)] {
        let scene = Scene::of(SERVER);
        let hooks = [waits(&scene, "post-stop", "go"), waits(&scene, "post-ready", "go")];
        let mut wrapper = start(&scene, &hooks, args);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGTERM);
        scene.log.wait("post-stop g1 s0 hook");
        if hurried {
            wrapper.signal(Signal::SIGINT);
        }
        assert_eq!(wrapper.exit_status(), 0);
        assert!(!scene.log.has("goes on"));
    }
}

#[test]
fn what_a_hook_leaves_behind_is_no_worker_s_and_goes_with_us() {
    let scene = Scene::of(SERVER);
    scene.gate("never");
    // By its arguments the scene knows it for its own.
    let daemon =
        format!("setsid sh -c 'echo left behind pid=$$ > log; head -c 1 never' sh {}", scene.arg(""));
    let hook = format!("post-ready={daemon} &");
    let wrapper = start(&scene, &[hook], &[]);
    let left = pid_in(&scene.log.wait("left behind"));
    common::until("it is left to us", || wrapper.children().iter().any(|(pid, _)| *pid == left));
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::exited(1, 0));
    assert!(!line.contains("left processes behind"), "{line}");
    assert!(scene.processes().contains(&left));
    wrapper.stop();
    scene.wait_gone(left);
}

#[test]
fn a_term_that_a_hook_sends_is_a_stop() {
    let scene = Scene::of(SERVER);
    let mut wrapper = start(&scene, &["post-ready=kill -TERM $GRACEFUL_RUN_PID".into()], &[]);
    assert_eq!(wrapper.exit_status(), 0);
    assert!(wrapper.log.has("stopping"));
}

#[test]
fn hooks_that_are_none_are_usage_errors() {
    let scene = Scene::of(SERVER);
    for args in [["--hook", "prestop=true"], ["--hook", "pre-stop"], ["--hook-timeout", "0"]] {
        let mut wrapper = scene.start(&args);
        assert_eq!(wrapper.exit_status(), 2, "{args:?}");
        assert!(wrapper.log.has(args[1]), "{args:?}: {:?}", wrapper.log.all());
    }
}
