//! Upgrades that are held and judge themselves: `--canary`, `--verify`, and the part of the new
//! connections that the worker on hold gets.

mod common;

use common::{End, SERVER, Scene, Signal, Wrapper, address_in, host, pid_in, says, who};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

const HELD: &str = "generation 2: on hold after ";
/// Longer than any test.
const FOR_EVER: &str = "1h";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("wait for ctl")
}

/// The result of `ctl upgrade --json`, and its reason.
fn verdict(child: Child) -> (String, String) {
    let reply = object(&end(child));
    let text = |field: &str| reply[field].as_str().unwrap_or_default().to_owned();
    (text("result"), text("reason"))
}

/// A command of `--verify` that says `bad` and fails once a file of that name is in the scene.
fn verify(scene: &Scene) -> String {
    format!("if test -e {0}; then echo first; echo it is bad >&2; exit 3; fi", scene.arg("bad"))
}

fn spoil(scene: &Scene) {
    fs::write(scene.path("bad"), "").expect("write");
}

/// One listener with a socket for each of `workers`, and where it is.
fn weighable(scene: &Scene, workers: u32, args: &[&str]) -> (Wrapper, String) {
    let (bind, workers) = (format!("{}:0,reuseport", host()), workers.to_string());
    let first = ["-b", &bind, "-n", &workers, "--soak", "1ms", "--ack", "notify"];
    let wrapper = scene.start(&[&first[..], args].concat());
    wrapper.log.wait(&says::ready(1));
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    (wrapper, address)
}

/// How many of so many connections each generation answers.
fn counts(address: &str, connections: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        let answer = who(address);
        let generation = answer.split(' ').next().expect("a generation").to_owned();
        *counts.entry(generation).or_default() += 1;
    }
    counts
}

fn of(counts: &BTreeMap<String, u32>, generation: &str) -> u32 {
    counts.get(generation).copied().unwrap_or(0)
}

/// Runs `during` while clients connect all the time; returns how many were answered and how many not.
fn under_load(address: &str, during: impl FnOnce()) -> (u32, u32) {
    let (done, answered, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let mut answer = String::new();
                    let got = TcpStream::connect(address).and_then(|mut it| it.read_to_string(&mut answer));
                    let count = if got.is_ok() && answer.ends_with('\n') { &answered } else { &lost };
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _end = End(&done);
        during();
    });
    (answered.into_inner(), lost.into_inner())
}

#[test]
fn every_upgrade_is_held_for_its_time_and_then_goes_on() {
    let scene = Scene::of(SERVER);
    scene.script("release", "");
    let watched = scene.arg("release");
    let wrapper = scene.ready(&["-n", "2", "--canary", "300ms", "--watch", &watched]);
    for (generation, request) in [(2, "a signal"), (3, "a change"), (4, "ctl")] {
        let asked = match request {
            "a signal" => {
                wrapper.signal(Signal::SIGHUP);
                None
            }
            "a change" => {
                scene.script("release", "another");
                None
            }
            _ => Some(scene.ctl_started(&["upgrade", "--json"])),
        };
        let line = wrapper.log.wait(&format!("generation {generation}: on hold after "));
        assert!(line.contains("it goes on in 300 ms if that worker is good (--canary)"), "{request}: {line}");
        let line = wrapper.log.wait(&format!("generation {generation}: its first worker has served for "));
        assert!(line.ends_with(": the upgrade goes on"), "{line}");
        wrapper.log.wait(&says::ready(generation));
        scene.log.wait(&format!("g{generation} s1 worker serving"));
        if let Some(asked) = asked {
            assert_eq!(verdict(asked), ("ok".into(), String::new()));
        }
    }
    wrapper.stop();
}

#[test]
fn a_canary_that_ends_is_undone_and_the_asker_hears_why() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nready notify\nwait crash\nexit 6");
    let wrapper = scene.ready(&["--canary", FOR_EVER]);
    let asked = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait(HELD);
    scene.release("crash", 1);
    let (result, reason) = verdict(asked);
    assert_eq!(result, "failed");
    assert!(reason.contains("exited with status 6 while it was on hold"), "{reason}");
    assert!(reason.ends_with("generation 1 still serves"), "{reason}");
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

#[test]
fn a_canary_that_falls_silent_is_undone() {
    let scene = Scene::of("count-signals\nbeat-until hush\nready notify");
    scene.script("2", "count-signals\nbeat-until hush2\nready notify");
    let wrapper = scene.ready(&["--canary", FOR_EVER, "--worker-watchdog", "2s"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(HELD);
    scene.release("hush2", 1);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("was silent for ") && line.ends_with("generation 1 still serves"), "{line}");
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

#[test]
fn verify_runs_with_the_worker_in_its_environment_until_the_time_is_over() {
    let scene = Scene::of(SERVER);
    let verify = format!(
        "echo $GRACEFUL_RUN_EVENT $GRACEFUL_RUN_GENERATION $GRACEFUL_RUN_SLOT $GRACEFUL_RUN_WORKER >>{}",
        scene.arg("verified")
    );
    let wrapper = scene.ready(&["--canary", "1s", "--verify", &verify, "--verify-interval", "200ms"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(HELD);
    let pid = pid_in(&scene.log.wait("g2 s0 worker ready"));
    let line = wrapper.log.wait("generation 2: its first worker has served for ");
    wrapper.log.wait(&says::ready(2));
    let text = fs::read_to_string(scene.path("verified")).expect("what it wrote");
    let runs = text.lines().count();
    assert!(text.lines().all(|line| line == format!("verify 2 0 {pid}")), "{text}");
    assert!((2..=6).contains(&runs), "{runs} in a second, every 200 ms: {text}");
    assert!(line.contains("--verify has found it good "), "{line}");
    wrapper.stop();
}

#[test]
fn a_verify_that_fails_undoes_the_upgrade_and_its_last_lines_are_the_reason() {
    let scene = Scene::of(SERVER);
    let wrapper =
        scene.ready(&["--canary", FOR_EVER, "--verify", &verify(&scene), "--verify-interval", "20ms"]);
    let asked = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait(HELD);
    common::until("one has passed", || scene.status()["canary"]["verify"]["passed"].as_u64() > Some(0));
    spoil(&scene);
    let (result, reason) = verdict(asked);
    assert_eq!(result, "failed");
    assert!(
        reason.starts_with("--verify 'if test -e ")
            && reason.ends_with("' exited with status 3: first; it is bad; generation 1 still serves"),
        "{reason}"
    );
    assert_eq!(scene.status()["last_upgrade"]["reason"], json!(reason));
    scene.log.wait("g2 s0 worker TERM");
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

#[test]
fn a_verify_that_hangs_or_cannot_be_started_is_a_failure() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[
        "--canary",
        FOR_EVER,
        "--verify",
        "echo so far; sleep 1000",
        "--hook-timeout",
        "200ms",
    ]);
    let (result, reason) = verdict(scene.ctl_started(&["upgrade", "--json"]));
    assert_eq!(result, "failed");
    assert!(reason.contains("was killed after 200 ms (--hook-timeout): so far; "), "{reason}");
    wrapper.stop();

    let scene = Scene::of(SERVER);
    fs::create_dir(scene.path("home")).expect("a directory");
    let home = scene.arg("home");
    let wrapper =
        scene.ready(&["--canary", FOR_EVER, "--verify", "true", "-C", &home, "--verify-interval", "50ms"]);
    let asked = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait(HELD);
    fs::rename(scene.path("home"), scene.path("away")).expect("rename");
    let (result, reason) = verdict(asked);
    assert_eq!(result, "failed");
    assert!(reason.contains("--verify 'true' cannot be run: cannot enter directory "), "{reason}");
    wrapper.stop();
}

/// The time is over while the command runs: what it finds decides.
#[test]
fn the_last_verify_is_waited_for() {
    let scene = Scene::of(SERVER);
    scene.gate("decide");
    let verify = format!("head -c1 {} >/dev/null; test ! -e {}", scene.arg("decide"), scene.arg("bad"));
    for (to, good) in [(2, false), (3, true)] {
        let wrapper = scene.ready(&["--canary", "1ms", "--verify", &verify]);
        let asked = scene.ctl_started(&["upgrade", "--json"]);
        wrapper.log.wait(HELD);
        common::until("it runs", || scene.status()["canary"]["verify"]["running"] == json!(true));
        common::until("its time is over", || scene.status()["canary"]["left_ms"] == json!(0));
        if good {
            fs::remove_file(scene.path("bad")).expect("remove");
        } else {
            spoil(&scene);
        }
        scene.release("decide", 1);
        let (result, reason) = verdict(asked);
        assert_eq!(result, if good { "ok" } else { "failed" }, "{to}: {reason}");
        wrapper.stop();
    }
}

#[test]
fn commit_and_rollback_end_the_hold_and_its_verify() {
    let scene = Scene::of(SERVER);
    let verify = "echo $$ >&2; exec sleep 1000";
    let wrapper = scene.ready(&["--canary", FOR_EVER, "--verify", verify]);
    let asked = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait(HELD);
    // A request that comes meanwhile follows.
    let next = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("upgrade requested while one is under way");
    assert_eq!(object(&scene.ctl(&["commit", "--json"]))["result"], json!("ok"));
    assert_eq!(verdict(asked).0, "ok");
    wrapper.log.wait("generation 3: on hold after ");
    assert_eq!(object(&scene.ctl(&["rollback", "--json"]))["result"], json!("ok"));
    let (result, reason) = verdict(next);
    assert!(result == "failed" && reason.contains("rolled back"), "{result}: {reason}");
    common::until("no command is left", || scene.processes().len() == 2);
    assert_eq!(who(&address_in(&scene.log.wait("g2 s0 worker serving"))).split(' ').next(), Some("g2"));
    wrapper.stop();
}

#[test]
fn verify_runs_with_a_hold_that_was_asked_for_too() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--verify", &verify(&scene), "--verify-interval", "20ms"]);
    let reply = object(&scene.ctl(&["upgrade", "--hold", "--json"]));
    assert_eq!((&reply["result"], &reply["held"]), (&json!("ok"), &json!(true)));
    let canary = &scene.status()["canary"];
    assert_eq!((&canary["left_ms"], &canary["weight_percent"]), (&Value::Null, &Value::Null));
    let text = String::from_utf8_lossy(&scene.ctl(&["status"]).stdout).into_owned();
    assert!(
        text.contains("generation 2 is on hold until ctl commit or ctl rollback: its first worker, pid ")
    );
    spoil(&scene);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("exited with status 3: first; it is bad"), "{line}");
    wrapper.stop();
}

/// There is nothing that the new worker could be compared with.
#[test]
fn where_nothing_serves_nothing_is_held() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nready notify\nwait crash\nexit 1");
    let wrapper = scene.ready(&["--canary", FOR_EVER, "--restart", "always"]);
    scene.script("1", "exit 1");
    scene.release("crash", 1);
    wrapper.log.wait_nth("generation 1: started pid", 2);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has("on hold"));
    wrapper.stop();
}

#[test]
fn a_weight_is_exact_and_can_be_changed_while_it_is_held() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) = weighable(&scene, 2, &["--canary", "1h,10%"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: gets 10 % of the new connections");
    let share = of(&counts(&address, 10_000), "g2");
    assert!((850..=1150).contains(&share), "{share} of 10,000, not 1,000");
    assert_eq!(scene.status()["canary"]["weight_percent"], json!(10.0));
    let metrics = String::from_utf8_lossy(&scene.ctl(&["metrics"]).stdout).into_owned();
    assert!(metrics.contains("\ngraceful_run_canary_weight_ratio 0.1\n"), "{metrics}");
    for (percent, expected) in [("0", 0..=0), ("100%", 200..=200), ("50", 60..=140)] {
        let reply = object(&scene.ctl(&["weight", percent, "--json"]));
        assert_eq!(reply["result"], json!("ok"), "{reply}");
        let share = of(&counts(&address, 200), "g2");
        assert!(expected.contains(&share), "{percent}: {share} of 200");
    }
    let text = String::from_utf8_lossy(&scene.ctl(&["status"]).stdout).into_owned();
    assert!(text.contains(", gets 50 % of the new connections"), "{text}");
    assert_eq!(object(&scene.ctl(&["rollback", "--json"]))["result"], json!("ok"));
    assert_eq!(of(&counts(&address, 100), "g2"), 0);
    wrapper.stop();
}

/// Without a percentage it is a worker like any other.
#[test]
fn a_hold_without_a_weight_has_that_of_one_worker() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) = weighable(&scene, 3, &[]);
    assert_eq!(object(&scene.ctl(&["upgrade", "--hold", "--json"]))["result"], json!("ok"));
    wrapper.log.wait("generation 2: gets 25 % of the new connections");
    let share = of(&counts(&address, 1000), "g2");
    assert!((180..=320).contains(&share), "{share} of 1,000, not 250");
    wrapper.stop();
}

#[test]
fn no_connection_is_lost_by_a_commit_or_a_rollback() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) =
        weighable(&scene, 2, &["--verify", &verify(&scene), "--verify-interval", "20ms"]);
    let mut total = 0;
    for round in 0..5 {
        let (answered, lost) = under_load(&address, || {
            let held = object(&scene.ctl(&["upgrade", "--hold=30%", "--json"]));
            assert_eq!(held["result"], json!("ok"), "{held}");
            let verb = if round % 2 == 0 { "rollback" } else { "commit" };
            let reply = object(&scene.ctl(&[verb, "--json"]));
            assert_eq!(reply["result"], json!("ok"), "{reply}");
            let gone = |status: &Value| {
                let stages = status["workers"].as_array().expect("workers").clone();
                stages.len() == 2 && stages.iter().all(|worker| worker["stage"] == json!("ready"))
            };
            common::until("what had to leave has gone", || gone(&scene.status()));
        });
        assert_eq!(lost, 0, "of {answered} in round {round}");
        total += answered;
        let generations = counts(&address, 50);
        assert_eq!(generations.len(), 1, "{generations:?}");
    }
    assert!(total > 500, "{total}");
    let all: BTreeMap<String, u32> = counts(&address, 200);
    assert_eq!(all.len(), 1, "{all:?}");
    wrapper.stop();
}

#[test]
fn a_weight_is_refused_where_the_generations_share_a_socket() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--verify", "true"]);
    let refused = |args: &[&str], words: &str| {
        let output = scene.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    };
    let shared = "the connections cannot be weighed: both generations share the socket of 127.0.0.1:";
    refused(&["upgrade", "--hold=10%"], shared);
    assert!(!wrapper.log.has("upgrade to generation 2"));
    assert_eq!(object(&scene.ctl(&["upgrade", "--hold", "--json"]))["result"], json!("ok"));
    refused(&["weight", "10"], shared);
    assert_eq!(scene.status()["phase"], json!("holding"), "nothing has changed");
    for wrong in [&["weight", "101"][..], &["weight", ""], &["upgrade", "--hold=x"]] {
        let output = scene.ctl(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("not a percentage from 0 to 100"), "{}", stderr(&output));
    }
    wrapper.stop();

    let scene = Scene::of(SERVER);
    let (wrapper, _) = weighable(&scene, 1, &["--canary", "1h,10%"]);
    refused_in(&scene, &["weight", "5"], "nothing is on hold");
    refused_in(&scene, &["bind", "127.0.0.1:0"], "each upgrade has a weight (--canary)");
    wrapper.stop();
}

fn refused_in(scene: &Scene, args: &[&str], words: &str) {
    let output = scene.ctl(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    let scene = Scene::of(SERVER);
    for (args, words) in [
        (&["-b", ":0", "--canary", "5"][..], "'5' for '--canary'"),
        (&["-b", ":0", "--canary", "0"], "a hold of no time proves nothing"),
        (&["-b", ":0", "--canary", "5m,"], "not a percentage"),
        (&["-b", ":0", "--canary", "5m,101%"], "not a percentage"),
        (&["-b", ":0", "--canary", "5m,10%"], "both generations share the socket of -b "),
        (&["-b", "udp://:0,reuseport", "--canary", "5m,10%"], "both generations share the socket of -b "),
        (&["--adopt=never", "--canary", "5m,10%"], "a weight needs -b ADDRESS,reuseport"),
        (&["-b", ":0", "--canary", "5m", "--stop-first"], "--canary cannot go with --stop-first"),
        (&["--canary", "5m", "--follow", "USR2"], "--canary cannot go with --follow"),
        (&["--canary", "5m", "--adopt"], "--canary cannot go with --adopt"),
        (&["-b", ":0", "--verify", "true", "--stop-first"], "--verify cannot go with --stop-first"),
        (&["-b", ":0", "--verify", " "], "the command is empty"),
        (&["-b", ":0", "--verify", "true", "--verify-interval", "0"], "it would run all the time"),
        (&["-b", ":0", "--verify-interval", "1s"], "--verify <CMD>"),
    ] {
        let mut wrapper = scene.start(args);
        assert_eq!(wrapper.exit_status(), 2, "{args:?}");
        let all = wrapper.log.all().join("\n");
        assert!(all.contains(words), "{args:?}: {all}");
    }
}

/// A socket of ours that somebody else shares with SO_REUSEPORT has no order that we know of.
#[test]
fn beside_a_stranger_nothing_is_weighed() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) = weighable(&scene, 1, &[]);
    let at: std::net::SocketAddr = address.parse().expect("an address");
    let stranger =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    stranger.set_reuse_port(true).expect("SO_REUSEPORT");
    stranger.bind(&at.into()).expect("bind");
    stranger.listen(1).expect("listen");
    let (result, reason) = verdict(scene.ctl_started(&["upgrade", "--hold=10%", "--json"]));
    assert_eq!(result, "failed");
    assert!(reason.contains(&format!("somebody else listens on {address} too (socket ")), "{reason}");
    drop(stranger);
    wrapper.stop();
}

#[test]
fn another_image_of_ours_goes_on_with_the_hold() {
    let scene = Scene::of(SERVER);
    let verify = format!("echo run >>{}; head -c1 {} >/dev/null", scene.arg("verified"), scene.arg("pass"));
    scene.gate("pass");
    let (wrapper, address) = weighable(&scene, 2, &["--canary", "1h,20%", "--verify", &verify]);
    let asked = scene.ctl_started(&["upgrade", "--json"]);
    wrapper.log.wait("generation 2: gets 20 % of the new connections");
    let runs = || fs::read_to_string(scene.path("verified")).map_or(0, |text| text.lines().count());
    common::until("it runs", || runs() == 1);
    let reexec = scene.ctl(&["reexec"]);
    assert_eq!(reexec.status.code(), Some(0), "{}", stderr(&reexec));
    common::until("it runs again", || runs() == 2);
    let status = scene.status();
    let left = status["canary"]["left_ms"].as_u64().expect("a time");
    assert!(left < 3_600_000 && left > 3_000_000, "{left}");
    assert_eq!(status["canary"]["weight_percent"], json!(20.0));
    let share = of(&counts(&address, 1000), "g2");
    assert!((130..=270).contains(&share), "{share} of 1,000, not 200");
    scene.release("pass", 1);
    common::until("it has passed", || scene.status()["canary"]["verify"]["passed"] == json!(1));
    assert_eq!(object(&scene.ctl(&["commit", "--json"]))["result"], json!("ok"));
    assert_eq!(verdict(asked).0, "ok");
    assert_eq!(of(&counts(&address, 100), "g2"), 100);
    wrapper.stop();
}
