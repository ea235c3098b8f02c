//! `graceful-run ctl`: every verb, its outcome, and what it exits with.

mod common;

use common::{SERVER, Scene, Signal, am_root, quick, says, until};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Output, Stdio};

const GATED: &str = "count-signals\nserve\nwait gate\nready notify\n";

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `--json` printed: one object, in one line.
fn object(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one object: {text}{}", stderr(output));
    serde_json::from_str(&text).expect("JSON")
}

/// It exits with this, and the last line of stderr says why.
fn fails(output: &Output, status: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("graceful-run: cannot "), "{said}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
}

fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("wait for ctl")
}

#[test]
fn status_tells_what_there_is() {
    let scene = Scene::of("count-signals\nserve\nready notify\ndump all");
    let wrapper = scene.start(&["-b", "http=127.0.0.1:0", "-b", "unix:x.sock", "-n", "2", "--ack", "notify"]);
    wrapper.log.wait(&says::ready(1));
    let status = scene.status();
    let keys: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "crashes",
            "failed_upgrades",
            "generation",
            "held",
            "last_upgrade",
            "listeners",
            "name",
            "pending_upgrade",
            "phase",
            "pid",
            "upgrades",
            "uptime_ms",
            "version",
            "workers",
            "workers_wanted"
        ]
    );
    assert_eq!((&status["version"], &status["pid"]), (&json!(1), &json!(wrapper.pid.as_raw())));
    assert_eq!((&status["phase"], &status["generation"]), (&json!("running"), &json!(1)));
    assert_eq!((&status["name"], &status["last_upgrade"]), (&Value::Null, &Value::Null));
    assert_eq!(status["listeners"][0]["kind"], "tcp");
    assert_eq!((&status["listeners"][0]["name"], &status["listeners"][0]["fd"]), (&json!("http"), &json!(3)));
    assert_eq!((&status["listeners"][1]["kind"], &status["listeners"][1]["fd"]), (&json!("unix"), &json!(4)));
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for (slot, worker) in workers.iter().enumerate() {
        assert_eq!((&worker["slot"], &worker["stage"]), (&json!(slot), &json!("ready")));
        assert_eq!((&worker["generation"], &worker["ack"]), (&json!(1), &json!("notify")));
        assert!(worker["pid"].is_i64() && worker["age_ms"].is_u64());
        for later in ["connections", "status"] {
            assert!(worker.as_object().unwrap().contains_key(later));
        }
    }
    let table = ok(&scene.ctl(&["status"]));
    assert!(table.starts_with("running, generation 1, pid "), "{table}");
    for word in ["http", "tcp", "SLOT", "notify"] {
        assert!(table.contains(word), "{table}");
    }
    wrapper.stop();
}

#[test]
fn a_worker_finds_the_socket_of_its_own_supervisor() {
    let scene = Scene::of("count-signals\nready notify\ndump all");
    let wrapper = scene.ready(&[]);
    scene.log.wait("dump all");
    let path =
        scene.dump("all")["environment"]["GRACEFUL_RUN_CONTROL"].as_str().expect("it is set").to_owned();
    assert_eq!(path, scene.control().join(format!("{}.sock", wrapper.pid)).to_str().unwrap());
    let mut command = scene.ctl_command(&["status", "--json"]);
    command.env("GRACEFUL_RUN_CONTROL", path).env_remove("XDG_RUNTIME_DIR");
    assert_eq!(object(&command.output().unwrap())["pid"], wrapper.pid.as_raw());
    wrapper.stop();
}

#[test]
fn upgrade_returns_when_the_new_generation_serves() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let output = scene.ctl(&["upgrade"]);
    assert!(ok(&output).starts_with("generation 2 serves after "));
    assert!(stderr(&output).contains("upgrade to generation 2 begins"), "{}", stderr(&output));
    let reply = object(&scene.ctl(&["upgrade", "--json"]));
    assert_eq!((&reply["result"], &reply["from"], &reply["to"]), (&json!("ok"), &json!(2), &json!(3)));
    let status = scene.status();
    let last = &status["last_upgrade"];
    assert_eq!((&last["from"], &last["to"], &last["result"]), (&json!(2), &json!(3), &json!("ok")));
    assert_eq!((&last["reason"], &status["failed_upgrades"]), (&Value::Null, &json!(0)));
    assert_eq!(last["duration_ms"], reply["duration_ms"]);
    assert_eq!((&status["upgrades"], last["ago_ms"].is_u64()), (&json!(2), true));
    wrapper.stop();
}

/// Nothing is under way that an upgrade could follow.
#[test]
fn an_upgrade_that_is_asked_for_in_the_first_start_is_told_what_it_waits_for() {
    let scene = Scene::of("count-signals\nwait gate\nready notify");
    let wrapper = scene.start(&quick(&["--ack", "notify"]));
    wrapper.log.wait(&says::started(1));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("upgrade requested while the first generation is not ready yet: it follows then");
    let upgrade = scene.ctl_started(&["upgrade"]);
    wrapper.log.wait("asks: upgrade");
    scene.release("gate", 2);
    let output = end(upgrade);
    assert!(output.status.success());
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(progress.contains("the first generation is not ready yet: it follows then"), "{progress}");
    assert!(!wrapper.log.has("one is under way"), "{:?}", wrapper.log.all());
    wrapper.stop();
}

#[test]
fn a_refusal_to_scale_says_why_there_is_a_limit() {
    let Some(python) = common::tool("python3") else { return };
    let scene = Scene::new();
    let server = "import socket\ns = socket.socket()\n\
                  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.bind(('127.0.0.1', PORT))\ns.listen()\n\
                  while True: s.accept()\n";
    // A port that is free: another program has just had it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(scene.path("server.py"), server.replace("PORT", &free.to_string())).unwrap();
    let command = [python.to_str().unwrap(), "server.py"];
    let reuseport = ["-n", "2", "-b", "127.0.0.1:0,reuseport", "--ack", "timer:10ms"];
    for (args, number, why) in [
        (&["--follow", "USR2"][..], "2", "stays 1: with --follow the program starts its successor itself"),
        (&reuseport, "1", "stays 2: with ,reuseport nobody would serve the queue of a slot without a worker"),
    ] {
        let wrapper = scene.start_command(args, &command);
        wrapper.log.wait(&says::ready(1));
        fails(&scene.ctl(&["scale", number]), 1, &["the number of workers ", why]);
        wrapper.log.wait(why);
        wrapper.stop();
    }
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGTTOU);
    wrapper.log.wait("the number of workers stays 1: from 1 to 1000 can be asked for");
    wrapper.stop();
}

#[test]
fn an_upgrade_that_is_undone_says_why() {
    let scene = Scene::of(SERVER);
    scene.script("2", "exit 3");
    scene.script("3", "hang");
    let wrapper = scene.ready(&["--ack-timeout", "4s"]);
    let why = [
        "cannot upgrade: worker pid ",
        "exited with status 3 before it was ready (see its output, or use --capture-stderr to have it here); ",
        "; generation 1 still serves",
    ];
    let output = scene.ctl(&["upgrade"]);
    fails(&output, 1, &why);
    assert_eq!(stdout(&output), "");
    let output = scene.ctl(&["upgrade", "--json"]);
    fails(&output, 1, &["not ready after"]);
    let reply = object(&output);
    assert_eq!((&reply["result"], &reply["to"]), (&json!("failed"), &json!(3)));
    let status = scene.status();
    assert_eq!((&status["failed_upgrades"], &status["crashes"]), (&json!(2), &json!(0)));
    assert_eq!(status["last_upgrade"]["reason"], reply["reason"]);
    assert_eq!(status["generation"], 1);
    wrapper.stop();
}

#[test]
fn how_far_a_bounded_surge_came_is_told() {
    let scene = Scene::of(SERVER);
    scene.script("2.1", "exit 3");
    let wrapper = scene.ready(&["-n", "3", "--surge", "1"]);
    fails(&scene.ctl(&["upgrade"]), 1, &["1 of 3 replaced, the others stay as they were"]);
    scene.script("3.0", "exit 3");
    let reply = object(&scene.ctl(&["upgrade", "--json"]));
    assert_eq!((&reply["replaced"], &reply["of"]), (&json!(0), &json!(3)));
    wrapper.stop();
}

#[test]
fn what_is_asked_for_meanwhile_is_the_next() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let first = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("upgrade to generation 2 begins");
    let others = [(); 2].map(|()| scene.ctl_started(&["upgrade", "--json"]));
    wrapper.log.wait_nth("asks: upgrade", 3);
    assert_eq!(scene.status()["pending_upgrade"], true);
    // One upgrade follows, however often it is asked for.
    assert_eq!(wrapper.log.count("another follows it"), 1, "{:?}", wrapper.log.all());
    scene.release("gate", 1);
    assert_eq!(object(&end(first))["to"], 2);
    for other in others {
        assert_eq!(object(&end(other))["to"], 3);
    }
    assert_eq!(scene.status()["generation"], 3);
    wrapper.stop();
}

#[test]
fn the_last_word_on_what_follows_counts_and_the_others_are_told() {
    let scene = Scene::of(SERVER);
    for gated in ["2", "4"] {
        scene.script(gated, GATED);
    }
    let wrapper = scene.ready(&[]);
    let overruled = |output: Output, words: &str| {
        fails(&output, 1, &["overruled: ", words]);
        assert_eq!(object(&output)["result"], "superseded");
    };
    let under_way = scene.ctl_started(&["upgrade"]);
    wrapper.log.wait("upgrade to generation 2 begins");
    let plain = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("another follows it");
    let held = scene.ctl_started(&["upgrade", "--hold", "--json"]);
    overruled(end(plain), "one that is to be held");
    scene.release("gate", 1);
    ok(&end(under_way));
    assert_eq!(object(&end(held))["held"], true);
    ok(&scene.ctl(&["commit"]));
    let under_way = scene.ctl_started(&["upgrade"]);
    wrapper.log.wait("upgrade to generation 4 begins");
    let held = scene.ctl_started(&["upgrade", "--hold", "--json"]);
    wrapper.log.wait_nth("another follows it", 2);
    wrapper.signal(Signal::SIGHUP);
    overruled(end(held), "one that replaces everything");
    scene.release("gate", 1);
    ok(&end(under_way));
    wrapper.log.wait("generation 5: serves");
    wrapper.stop();
}

#[test]
fn the_last_word_counts_before_anything_serves_too() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nwait gate\nserve\nready notify");
    let wrapper = scene.start(&quick(&[]));
    wrapper.log.wait(&says::started(1));
    let held = scene.ctl_started(&["upgrade", "--hold", "--json"]);
    until("the request is kept", || scene.status()["pending_upgrade"] == true);
    let plain = scene.ctl_started(&["upgrade", "--json"]);
    assert_eq!(object(&end(held))["result"], "superseded");
    scene.release("gate", 1);
    assert_eq!(object(&end(plain))["to"], 2);
    wrapper.stop();
}

#[test]
fn now_supersedes_what_is_under_way() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let first = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("upgrade to generation 2 begins");
    assert_eq!(object(&scene.ctl(&["upgrade", "--now", "--json"]))["to"], 3);
    let first = end(first);
    fails(&first, 1, &["another was asked for in its stead"]);
    assert_eq!(object(&first)["result"], "superseded");
    wrapper.stop();
}

#[test]
fn what_is_on_hold_is_committed_or_rolled_back() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["-n", "2"]);
    fails(&scene.ctl(&["commit"]), 1, &["nothing is on hold"]);
    fails(&scene.ctl(&["rollback"]), 1, &["nothing is on hold"]);
    let reply = object(&scene.ctl(&["upgrade", "--hold", "--json"]));
    assert_eq!((&reply["result"], &reply["held"]), (&json!("ok"), &json!(true)));
    let status = scene.status();
    assert_eq!((&status["phase"], &status["generation"]), (&json!("holding"), &json!(1)));
    assert_eq!(status["workers"].as_array().unwrap().len(), 3);
    assert_eq!((&status["held"], &status["workers_wanted"]), (&json!(2), &json!(2)));
    fails(&scene.ctl(&["upgrade"]), 1, &["generation 2 is on hold (ctl commit, ctl rollback, or"]);
    assert!(ok(&scene.ctl(&["rollback"])).starts_with("generation 2 is undone: rolled back"));
    let status = scene.status();
    assert_eq!((&status["last_upgrade"]["result"], &status["held"]), (&json!("failed"), &Value::Null));
    ok(&scene.ctl(&["upgrade", "--hold"]));
    assert!(ok(&scene.ctl(&["commit"])).starts_with("generation 3 serves after "));
    assert_eq!(scene.status()["generation"], 3);
    ok(&scene.ctl(&["upgrade", "--hold"]));
    assert_eq!(object(&scene.ctl(&["upgrade", "--now", "--json"]))["to"], 5);
    wrapper.stop();
}

#[test]
fn what_was_kept_and_is_dropped_by_a_rollback_is_told() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let held = scene.ctl_started(&["upgrade", "--hold"]);
    wrapper.log.wait("upgrade to generation 2 begins");
    let next = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("another follows it");
    ok(&scene.ctl(&["rollback"]));
    fails(&end(held), 1, &["rolled back"]);
    let next = end(next);
    fails(&next, 1, &["a rollback came in between"]);
    assert_eq!(object(&next)["result"], "superseded");
    wrapper.stop();
}

#[test]
fn two_that_cannot_live_side_by_side_are_not_held() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--stop-first"]);
    fails(&scene.ctl(&["upgrade", "--hold"]), 1, &["cannot be on hold with --stop-first"]);
    wrapper.stop();
}

#[test]
fn scale_returns_when_so_many_are_ready() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    assert_eq!(ok(&scene.ctl(&["scale", "3"])), "3 workers ready\n");
    assert_eq!(scene.status()["workers"].as_array().unwrap().len(), 3);
    assert_eq!(scene.status()["workers_wanted"], 3);
    assert_eq!(object(&scene.ctl(&["scale", "1", "--json"]))["workers"], 1);
    assert_eq!(scene.ctl(&["scale", "0"]).status.code(), Some(2));
    wrapper.stop();

    let scene = Scene::of(SERVER);
    let wrapper = scene.start(&["-b", "127.0.0.1:0,reuseport", "-n", "2"]);
    wrapper.log.wait(&says::ready(1));
    fails(&scene.ctl(&["scale", "1"]), 1, &["the number of workers stays 2"]);
    wrapper.stop();
}

#[test]
fn stop_returns_when_the_name_is_free() {
    let scene = Scene::of(SERVER);
    for _ in 0..3 {
        let mut wrapper = scene.ready(&["--name", "web"]);
        let output = scene.ctl(&["stop", "--json"]);
        assert_eq!(object(&output)["exit_status"], 0);
        let next = scene.ready(&["--name", "web"]);
        assert_eq!(wrapper.exit_status(), 0);
        next.stop();
    }
}

#[test]
fn stop_now_kills() {
    let scene = Scene::of("ignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "0"]);
    let waiting = scene.ctl_started(&["stop", "--json"]);
    scene.log.wait("TERM");
    fails(&scene.ctl(&["upgrade"]), 1, &["stopping"]);
    assert_eq!(scene.status()["phase"], "stopping");
    let reply = object(&scene.ctl(&["stop", "--now", "--json"]));
    assert_eq!((&reply["result"], &reply["exit_status"]), (&json!("ok"), &json!(137)));
    assert_eq!(object(&end(waiting))["exit_status"], 137);
    assert_eq!(wrapper.exit_status(), 137);
}

#[test]
fn a_stop_in_between_is_told_to_who_waits_for_an_upgrade() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let waiting = [(); 2].map(|()| scene.ctl_started(&["upgrade"]));
    wrapper.log.wait("another follows it");
    wrapper.stop();
    for waiting in waiting {
        fails(&end(waiting), 1, &["a stop came in between"]);
    }
}

#[test]
fn our_own_end_is_told_to_who_waits() {
    let scene = Scene::of("wait gate\nexit 7");
    let mut wrapper = scene.start(&quick(&[]));
    wrapper.log.wait(&says::started(1));
    let upgrade = scene.ctl_started(&["upgrade"]);
    until("the request is kept", || scene.status()["pending_upgrade"] == true);
    let mut events = scene.ctl_started(&["events"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("hello"));
    scene.release("gate", 1);
    assert_eq!(wrapper.exit_status(), 7);
    fails(&end(upgrade), 1, &["graceful-run ends with status 7: cannot keep ", "exited with status 7"]);
    let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit_status"]), (&json!("ended"), &json!(7)));
    assert_eq!(end(events).status.code(), Some(0));
}

#[test]
fn a_signal_reaches_ready_workers() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["-n", "2"]);
    assert_eq!(ok(&scene.ctl(&["signal", "winch"])), "WINCH was sent to 2 workers\n");
    scene.log.wait_nth("WINCH", 2);
    fails(&scene.ctl(&["signal", "FROB"]), 2, &["no such signal"]);
    wrapper.stop();
}

#[test]
fn hammer_returns_when_what_drained_is_gone() {
    let scene = Scene::of("gate-term late\nserve\nready notify");
    let wrapper = scene.ready(&[]);
    assert_eq!(ok(&scene.ctl(&["hammer"])), "nothing was draining\n");
    ok(&scene.ctl(&["upgrade"]));
    scene.log.wait("g1 s0 worker TERM");
    assert_eq!(scene.status()["workers"][0]["stage"], "draining");
    assert_eq!(ok(&scene.ctl(&["hammer"])), "1 worker killed\n");
    assert_eq!(scene.status()["workers"].as_array().unwrap().len(), 1);
    scene.release("late", 1);
    wrapper.stop();
}

#[test]
fn a_worker_that_ends_by_itself_is_counted() {
    let scene = Scene::of("wait gate\nready notify\nwait crash\nexit 1");
    scene.release("gate", 2);
    let wrapper = scene.ready(&[]);
    scene.release("crash", 1);
    wrapper.log.wait_nth("ready after", 2);
    assert_eq!(scene.status()["crashes"], 1);
    wrapper.stop();
}

#[test]
fn a_worker_that_the_watchdog_replaces_is_counted_once() {
    let scene = Scene::of("count-signals\nbeat-until hush\nready notify");
    let wrapper = scene.ready(&["--ack", "notify", "--worker-watchdog", "5s"]);
    scene.release("hush", 1);
    wrapper.log.wait("silent for");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    wrapper.log.wait(&says::exited(1, 0));
    assert_eq!(scene.status()["crashes"], 1);
    wrapper.stop();
}

#[test]
fn events_are_told_as_they_happen() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut events = scene.ctl_started(&["events"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let hello = next();
    assert_eq!((&hello["event"], &hello["version"]), (&json!("hello"), &json!(1)));
    ok(&scene.ctl(&["upgrade"]));
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
    let mut seen = Vec::new();
    loop {
        let event = next();
        assert!(event["time_ms"].is_u64(), "{event}");
        seen.push(event["event"].as_str().unwrap().to_owned());
        if seen.last().unwrap() == "ended" {
            break;
        }
    }
    for pair in ["upgrade-started", "started", "ready", "upgrade-done", "asked", "gone", "stopping", "ended"]
        .windows(2)
    {
        let at =
            |name: &str| seen.iter().position(|it| it == name).unwrap_or_else(|| panic!("{name}: {seen:?}"));
        assert!(at(pair[0]) < at(pair[1]), "{pair:?}: {seen:?}");
    }
    assert_eq!(end(events).status.code(), Some(0));
}

#[test]
fn a_timeout_ends_the_wait_and_nothing_else() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    fails(&scene.ctl(&["upgrade", "--timeout", "3s"]), 124, &["no outcome after 3s; what was begun goes on"]);
    let output = scene.ctl(&["--timeout", "3s", "upgrade", "--json"]);
    fails(&output, 124, &[]);
    assert_eq!(object(&output)["result"], "timeout");
    scene.release("gate", 1);
    wrapper.log.wait(&says::ready(2));
    wrapper.log.wait(&says::ready(3));
    let events = scene.ctl(&["events", "--timeout", "50ms"]);
    fails(&events, 124, &["--timeout 50ms is over"]);
    assert!(!stderr(&events).contains("begun"), "{}", stderr(&events));
    let wrong = scene.ctl(&["status", "--timeout", "5x"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("'5x' for '--timeout'"), "{}", stderr(&wrong));
    wrapper.stop();
}

#[test]
fn who_does_not_wait_is_told_that_it_was_asked_for() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let said = ok(&scene.ctl(&["upgrade", "--no-wait"]));
    assert!(said.starts_with("asked for: upgrade, without a wait for its outcome"), "{said}");
    fails(&scene.ctl(&["commit", "--no-wait"]), 1, &["nothing is on hold"]);
    scene.release("gate", 1);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn a_client_that_is_killed_changes_nothing() {
    let scene = Scene::of(SERVER);
    scene.script("2", GATED);
    let wrapper = scene.ready(&[]);
    let client = scene.ctl_started(&["upgrade"]);
    wrapper.log.wait("upgrade to generation 2 begins");
    kill(Pid::from_raw(client.id().cast_signed()), Signal::SIGKILL).unwrap();
    end(client);
    scene.release("gate", 1);
    wrapper.log.wait(&says::ready(2));
    assert_eq!(scene.status()["last_upgrade"]["result"], "ok");
    wrapper.stop();
}

#[test]
fn nothing_that_runs_is_3_and_wrong_words_are_2() {
    let scene = Scene::new();
    let alone = |args: &[&str]| scene.ctl(args);
    let nowhere = scene.arg("no.sock");
    fails(&alone(&["--socket", &nowhere, "status"]), 3, &["nothing is running at "]);
    fails(
        &alone(&["--name", "no-such-name", "upgrade"]),
        3,
        &["nothing of the name 'no-such-name' is running"],
    );
    let output = alone(&["--name", "no-such-name", "upgrade", "--json"]);
    fails(&output, 3, &[]);
    assert_eq!(object(&output)["result"], "failed");
    for wrong in [&["dance"][..], &[], &["status", "--hold"], &["scale"], &["upgrade", "--now", "--hold"]] {
        let output = alone(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains("see graceful-run ctl --help"), "{}", stderr(&output));
    }
    for wrong in [
        &["dance"][..],
        &["scale", "0"],
        &["signal", "NOPE"],
        &["signal", "0"],
        &["status", "--timeout", "5x"],
        &["bind", ":99999"],
        &["--name", "a/b", "status"],
    ] {
        let output = alone(&[wrong, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let object = object(&output);
        assert_eq!((&object["version"], &object["result"]), (&json!(1), &json!("invalid")), "{wrong:?}");
        assert!(object["reason"].is_string() && !stderr(&output).is_empty(), "{wrong:?}");
    }
    fails(&alone(&["--name", "a/b", "status"]), 2, &["'a/b' is no name"]);
    let output = alone(&["--help"]);
    for word in ["upgrade", "rollback", "--timeout", "Exit status: 0 done"] {
        assert!(ok(&output).contains(word), "{word}");
    }
}

#[test]
fn one_is_found_by_its_name_its_socket_or_as_the_only_one() {
    let scene = Scene::of(SERVER);
    let one = scene.ready(&["--name", "one"]);
    assert_eq!(scene.status()["name"], "one");
    // What was killed has left its socket, and is passed over.
    let stale = scene.control().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    until("it is stale", || UnixStream::connect(&stale).is_err());
    assert_eq!(scene.status()["name"], "one");
    fs::remove_file(&stale).unwrap();
    let other = scene.ready(&["--name", "two"]);
    fails(
        &scene.ctl(&["status"]),
        2,
        &["several are running (say --name or --socket): ", "one.sock, ", "two.sock"],
    );
    let several = scene.ctl(&["status", "--json"]);
    fails(&several, 2, &[]);
    assert_eq!(object(&several)["result"], "invalid");
    assert_eq!(object(&scene.ctl(&["--name", "two", "status", "--json"]))["name"], "two");
    let path = scene.control().join("one.sock");
    assert_eq!(object(&scene.ctl(&["status", "--json", "--socket", path.to_str().unwrap()]))["name"], "one");
    one.stop();
    assert_eq!(scene.status()["name"], "two");
    other.stop();
}

#[test]
fn a_strangers_ctl_is_4() {
    if !am_root() {
        return;
    }
    let scene = Scene::of(SERVER);
    let socket = scene.arg("x.sock");
    let wrapper = scene.ready(&["--socket", &socket]);
    let as_nobody = |groups: &str, args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            groups,
            common::binary().to_str().unwrap(),
            "ctl",
        ]);
        let mut command = scene.mark(command);
        command.args(args).stdout(Stdio::piped()).output().unwrap()
    };
    fails(&as_nobody("--clear-groups", &["--socket", &socket, "status"]), 4, &["permission denied"]);
    let output = as_nobody("--clear-groups", &["--socket", &socket, "stop", "--json"]);
    assert_eq!(object(&output)["result"], "denied");
    wrapper.stop();
    let wrapper = scene.ready(&["--socket", &socket, "--control-group", "4711"]);
    fails(&as_nobody("--clear-groups", &["--socket", &socket, "status"]), 4, &[]);
    ok(&as_nobody("--groups=4711", &["--socket", &socket, "status"]));
    wrapper.stop();
}

#[test]
fn a_reader_that_has_gone_is_no_trouble() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    for args in [&["status"][..], &["status", "--json"], &["upgrade"], &["--help"]] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let mut command = scene.ctl_command(args);
        let output = command.stdout(write).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut command = scene.ctl_command(&["upgrade"]);
    assert_eq!(command.stderr(write).status().unwrap().code(), Some(0));
    let mut events = scene.ctl_started(&["events"]);
    let mut reader = BufReader::new(events.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    ok(&scene.ctl(&["upgrade"]));
    assert_eq!(events.wait().unwrap().code(), Some(0));
    wrapper.stop();
}

#[test]
fn watching_ends_with_what_is_watched() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut watching = scene.ctl_started(&["status", "--watch", "--json"]);
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(status["generation"], 1);
    }
    wrapper.stop();
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    watching.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn an_upgrade_before_anything_served_is_a_new_start() {
    let scene = Scene::of("exit 1");
    let wrapper = scene.start(&quick(&["--retry-start"]));
    wrapper.log.wait("starts again in");
    scene.script("default", SERVER);
    let reply = object(&scene.ctl(&["upgrade", "--json"]));
    assert_eq!(reply["result"], "ok");
    assert_eq!(scene.status()["phase"], "running");
    wrapper.stop();
}
