//! We are replaced by the binary at our path: same pid, same workers, and nobody notices; or it
//! is refused, and nothing has happened.

mod common;
#[path = "common/load.rs"]
#[allow(dead_code, reason = "the torture needs more of it")]
mod load;

use common::{
    SERVER, Scene, Signal, Wrapper, address_in, binary, copy_binary, matches, pid_in, quick, says, until, who,
};
use load::{Connection, Target};
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The new image's first line.
const TAKEN: &str = "has taken over from version";
const REFUSED: &str = "cannot replace ourselves: ";

/// A copy of graceful-run that can be replaced.
fn installed(scene: &Scene) -> PathBuf {
    let path = scene.path("graceful-run");
    copy_binary(&path);
    path
}

fn start(scene: &Scene, args: &[&str]) -> Wrapper {
    let mut command = scene.mark(std::process::Command::new(installed(scene)));
    command.args(quick(args)).arg("--").args(scene.puppet());
    scene.spawn(command)
}

fn ready(scene: &Scene, args: &[&str]) -> Wrapper {
    let wrapper = start(scene, args);
    wrapper.log.wait(&says::ready(1));
    wrapper
}

/// `ctl reexec`, to its end, which is a good one.
fn reexec(scene: &Scene) {
    let output = scene.ctl(&["reexec"]);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(TAKEN), "{said}\n{}", scene.log.all().join("\n"));
}

/// The same, to a bad end: why.
fn refused(scene: &Scene) -> String {
    let output = scene.ctl(&["reexec"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Puts a script at the place of a program, by rename.
fn put(path: &Path, content: &[u8], mode: u32) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).expect("write");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::rename(fresh, path).expect("rename");
}

/// What graceful-run is replaced by: it does something on the way, in the same process, and then
/// becomes the real one.
fn put_detour(path: &Path, deeds: &str) {
    let real = binary().display();
    let script = format!("#!/bin/sh\n[ \"$1\" = reexec-check ] || {{ {deeds}; }}\nexec {real} \"$@\"\n");
    put(path, script.as_bytes(), 0o755);
}

/// Numbers and kinds of what a process has open; sockets and files by their inodes.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let mut all: Vec<String> =
        entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect();
    all.sort();
    all
}

/// So many are open, once the last client has gone.
/// No more are open than were, when one more may have been for a moment.
fn settled(wrapper: &Wrapper, count: usize) {
    until("descriptors are left", || descriptors(wrapper.pid.as_raw()).len() <= count);
}

/// The number after these words.
fn milliseconds(words: &str, line: &str) -> u32 {
    let number = line.split_once(words).and_then(|(_, rest)| rest.split_once(" ms"));
    number.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("no number: {line}"))
}

/// What is its own: the text of the program comes and goes as it works or rests.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn the_pid_the_workers_and_the_sockets_stay() {
    let scene = Scene::of(SERVER);
    let path = scene.run().join("app.sock");
    let bind = format!("unix:{}", path.display());
    let pid_file = scene.run().join("pid");
    let pid_arg = pid_file.display().to_string();
    let wrapper = ready(&scene, &["-n", "2", "-b", &bind, "--pid-file", &pid_arg]);
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    let inodes = || [&path, &pid_file].map(|path| fs::symlink_metadata(path).expect("it is there").ino());
    let (before, workers, held) = (inodes(), pids(&wrapper), descriptors(wrapper.pid.as_raw()));
    reexec(&scene);
    assert_eq!((pids(&wrapper), inodes()), (workers, before));
    let sockets = |list: &[String]| -> Vec<String> {
        list.iter().filter(|what| what.starts_with("socket:")).cloned().collect()
    };
    settled(&wrapper, held.len());
    let now = descriptors(wrapper.pid.as_raw());
    let lost: Vec<_> = sockets(&held).into_iter().filter(|socket| !now.contains(socket)).collect();
    // The two of the thread for signals are made anew; a client that was just leaving has gone.
    assert!(lost.len() <= 3, "before: {held:?}, now: {now:?}");
    assert_eq!(fs::read_to_string(&pid_file).expect("pid file"), format!("{}\n", wrapper.pid));
    assert!(who(&address).starts_with("g1 "));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    scene.log.wait_nth("g1 * worker TERM", 2);
    // One that has heard it may still answer.
    until("generation 1 answers", || who(&address).starts_with("g2 "));
    assert_eq!(inodes(), before);
    wrapper.stop();
    assert_eq!(scene.log.count("worker TERM"), 4);
}

#[test]
fn a_worker_that_starts_afterwards_finds_what_those_before_found() {
    let scene = Scene::of(&format!("{SERVER}dump d"));
    scene.script("2", &format!("{SERVER}dump d2"));
    let wrapper = ready(&scene, &["--ack", "notify,fd"]);
    scene.log.wait("dump d");
    reexec(&scene);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("dump d2");
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(scene.path(name)).expect("a dump")).expect("JSON")
    };
    let (before, after) = (read("d"), read("d2"));
    for key in ["limits", "directory", "program", "arguments", "parent", "session", "foreground"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    for key in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd", "Umask", "NoNewPrivs", "Groups", "CapEff", "CapBnd"] {
        assert_eq!(after["status"][key], before["status"][key], "{key}");
    }
    for table in ["fds", "environment"] {
        let names = |dump: &serde_json::Value| -> Vec<String> {
            dump[table].as_object().expect("a table").keys().cloned().collect()
        };
        assert_eq!(names(&after), names(&before), "{table}");
    }
    wrapper.stop();
}

/// A worker that was started by one image becomes ready under the next.
fn ack_is_heard(kind: &str, ready_verb: &str) {
    let scene = Scene::of(SERVER);
    scene.script("2", &format!("count-signals\nserve\nsay parked\nwait ack\n{ready_verb}\n"));
    let wrapper = ready(&scene, &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    // This one is kept.
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait("another follows it");
    reexec(&scene);
    assert!(!scene.log.has("g1 s0 worker TERM"));
    scene.release("ack", 1);
    wrapper.log.wait(&says::ready_by(2, kind));
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn an_ack_by_notify_is_heard_and_the_pending_upgrade_goes_on() {
    ack_is_heard("notify", "ready notify");
}

#[test]
fn an_ack_by_descriptor_is_heard() {
    ack_is_heard("fd", "ready fd");
}

#[test]
fn a_replacement_that_never_acks_fails_in_its_time() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay parked\nhang");
    let wrapper = ready(&scene, &["--ack-timeout", "4s"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    reexec(&scene);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(milliseconds("was not ready after ", &line) >= 4000, "{line}");
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

#[test]
fn one_that_drains_is_killed_at_its_own_time() {
    let scene = Scene::of(SERVER);
    scene.script("1", "ignore-term\nserve\nready notify\n");
    let wrapper = ready(&scene, &["--stop-timeout", "4s"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    reexec(&scene);
    wrapper.log.wait(&says::killed(1, 9));
    // The whole time, and no second signal.
    let line = wrapper.log.wait("generation 1: pid * killed, * ms after it was asked to stop");
    assert!(milliseconds("killed, ", &line) >= 4000, "{line}");
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 1);
    wrapper.stop();
}

#[test]
fn what_happens_between_two_images_is_noticed() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    let worker = pid_in(&scene.log.wait("g1 s0 worker serving"));
    let dead =
        format!("kill -9 {worker}; until read _ _ state _ < /proc/{worker}/stat; [ $state = Z ]; do :; done");
    put_detour(&scene.path("graceful-run"), &dead);
    reexec(&scene);
    wrapper.log.wait(&says::killed(1, 9));
    let worker = pid_in(&scene.log.wait_nth("g1 s0 worker serving", 2));
    // A shell reaps whatever it finds while it waits for a command of its own.
    let reaped = format!("kill -9 {worker}; while [ -e /proc/{worker} ]; do /bin/true; done");
    put_detour(&scene.path("graceful-run"), &reaped);
    reexec(&scene);
    wrapper.log.wait("generation 1: pid * ended (its exit status went to its parent)");
    scene.log.wait_nth("g1 s0 worker serving", 3);
    wrapper.stop();
}

#[test]
fn signals_that_come_between_two_images_are_heeded() {
    for signal in ["TERM", "INT", "QUIT"] {
        let scene = Scene::of(SERVER);
        let mut wrapper = ready(&scene, &[]);
        put_detour(&scene.path("graceful-run"), &format!("kill -{signal} $$"));
        let asked = scene.ctl_started(&["reexec"]);
        assert_eq!(wrapper.exit_status(), 0, "{signal}");
        assert!(wrapper.log.has(TAKEN));
        assert!(asked.wait_with_output().expect("ctl").status.success());
        assert_eq!(scene.log.count("g1 s0 worker TERM"), 1);
    }
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    put_detour(&scene.path("graceful-run"), "kill -HUP $$; kill -USR1 $$");
    reexec(&scene);
    scene.log.wait("g1 s0 worker USR1");
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn a_binary_that_cannot_take_over_is_refused() {
    let truncated = fs::read(binary()).expect("ourselves");
    let cases: [(&str, &[u8], u32, &str); 9] = [
        ("a script that says nothing", b"#!/bin/sh\n", 0o755, "is no graceful-run"),
        ("a script that says no", b"#!/bin/sh\necho 'not today'; exit 3", 0o755, "status 3: not today"),
        ("a script that crashes", b"#!/bin/sh\nkill -SEGV $$", 0o755, "ended by signal 11"),
        ("one that says much", b"#!/bin/sh\nyes yes | head -c 50000", 0o755, "is no graceful-run"),
        ("not executable", b"#!/bin/sh\n", 0o644, "permission denied"),
        ("without interpreter", b"#!/no/such\n", 0o755, "no such file"),
        ("empty", b"", 0o755, "exec format error"),
        ("cut short", &truncated[..5000], 0o755, "cannot"),
        ("text", b"hello", 0o755, "exec format error"),
    ];
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    let path = scene.path("graceful-run");
    let held = descriptors(wrapper.pid.as_raw()).len();
    let refuses = |what: &str, why: &str| {
        let line = refused(&scene);
        assert!(matches(why, &line), "{what}: {line}");
    };
    for (what, content, mode, why) in cases {
        put(&path, content, mode);
        refuses(what, why);
    }
    fs::remove_file(&path).expect("remove");
    refuses("missing", "no such file");
    fs::create_dir(&path).expect("a directory");
    refuses("a directory", "is not a file");
    fs::remove_dir(&path).expect("remove");
    // Nothing has happened, and a good one is taken.
    settled(&wrapper, held);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    copy_binary(&path);
    reexec(&scene);
    wrapper.stop();
}

#[test]
fn one_that_hangs_is_given_up_and_holds_up_nothing() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    put(&scene.path("graceful-run"), b"#!/bin/sh\nsleep 100 & sleep 100", 0o755);
    let asked = scene.ctl_started(&["reexec"]);
    wrapper.log.wait("is asked whether");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has(REFUSED));
    wrapper.log.wait("did not answer within 5 s");
    assert_eq!(asked.wait_with_output().expect("ctl").status.code(), Some(1));
    wrapper.stop();
}

#[test]
fn a_stop_ends_the_question() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    put(&scene.path("graceful-run"), b"#!/bin/sh\nsleep 100 & sleep 100", 0o755);
    let asked = scene.ctl_started(&["reexec"]);
    wrapper.log.wait("is asked whether");
    wrapper.stop();
    assert_eq!(asked.wait_with_output().expect("ctl").status.code(), Some(1));
}

#[test]
fn twice_at_once_is_once() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &[]);
    let both = [(); 2].map(|()| scene.ctl_started(&["reexec"]));
    for asked in both {
        assert!(asked.wait_with_output().expect("ctl").status.success());
    }
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn twenty_in_a_row_cost_nothing() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &["-n", "3"]);
    let pid = wrapper.pid.as_raw();
    let held = descriptors(pid).len();
    reexec(&scene);
    settled(&wrapper, held);
    let memory = resident(pid);
    for _ in 2..=20 {
        reexec(&scene);
        settled(&wrapper, held);
    }
    let now = resident(pid);
    assert!(now < memory + 1024, "{memory} KiB have become {now}");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn workers_that_are_to_die_with_us_live_on() {
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &["--on-death", "term"]);
    let workers = pids(&wrapper);
    reexec(&scene);
    reexec(&scene);
    assert_eq!(pids(&wrapper), workers);
    assert!(!scene.log.has("worker TERM"));
    wrapper.stop();
}

#[test]
fn what_a_worker_stored_is_there_for_its_successor() {
    let scene = Scene::of(&format!("store a x\nstore b yy\n{SERVER}"));
    scene.script("2", &format!("tell-stored\n{SERVER}"));
    let wrapper = ready(&scene, &[]);
    reexec(&scene);
    wrapper.signal(Signal::SIGHUP);
    let line = scene.log.wait("g2 s0 worker stored");
    assert!(line.contains('a') && line.contains('b'), "{line}");
    wrapper.stop();
}

#[test]
fn stderr_that_is_captured_goes_on() {
    let scene = Scene::of(&format!("stderr before\n{SERVER}wait go\nstderr after\nexit 7\n"));
    let wrapper = ready(&scene, &["--capture-stderr"]);
    wrapper.log.wait("before");
    reexec(&scene);
    scene.release("go", 1);
    wrapper.log.wait("after");
    wrapper.log.wait(&says::exited(1, 7));
    drop(wrapper);
    scene.clear();
    scene.forget_files();
}

/// The processes below us, whatever they are doing.
fn pids(wrapper: &Wrapper) -> Vec<i32> {
    wrapper.children().into_iter().map(|(pid, _)| pid).collect()
}

#[test]
fn under_load_nobody_notices() {
    let scene = Scene::new();
    let mut command = scene.mark(std::process::Command::new(installed(&scene)));
    command.args(quick(&["-n", "2"])).arg("--").arg(common::example("worker"));
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let address = wrapper.log.wait("listening on ").split_whitespace().nth(3).expect("an address").to_owned();
    let target = Target::Tcp(address.parse().expect("an address"));
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = || {
            while !over.load(Ordering::Relaxed) {
                let reply = Connection::open(&target).and_then(|mut open| open.get("/", true));
                assert_eq!(reply.expect("an answer").status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let end = common::End(&over);
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        for n in 1..=10 {
            let before = answered.load(Ordering::Relaxed);
            reexec(&scene);
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::ready(n as u32 + 1));
            until("no progress", || answered.load(Ordering::Relaxed) > before + 20);
        }
        drop(end);
        clients.into_iter().for_each(|client| client.join().expect("no failure"));
    });
    wrapper.stop();
}

/// Whoever started us may have been replaced in place itself.
#[test]
fn a_variable_of_somebody_else_means_nothing() {
    let scene = Scene::of(SERVER);
    let mut command = scene.mark(std::process::Command::new(installed(&scene)));
    command.args(quick(&[])).arg("--").args(scene.puppet()).env("GRACEFUL_RUN_REEXEC", "1:3");
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    reexec(&scene);
    reexec(&scene);
    wrapper.stop();
}

/// Its TERM would wait between two images, and whoever sent it may be gone by then.
#[test]
fn an_ack_by_term_is_waited_for_first() {
    let scene = Scene::of("count-signals\nserve\nterm-supervisor");
    scene.script("2", "count-signals\nserve\nwait gate\nterm-supervisor");
    let wrapper = ready(&scene, &["--ack", "parent-term"]);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker serving");
    let reexec = scene.ctl_started(&["reexec"]);
    wrapper.log.wait("asks: reexec");
    assert!(!wrapper.log.has(TAKEN), "{:?}", wrapper.log.all());
    scene.release("gate", 1);
    assert!(reexec.wait_with_output().expect("ctl").status.success());
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn clients_wait_on_and_nothing_is_forgotten() {
    let scene = Scene::of(SERVER);
    scene.script("2", "exit 5");
    scene.script("3", "count-signals\nserve\nsay parked\nwait gate\nready notify\n");
    let wrapper = ready(&scene, &["--name", "web"]);
    assert_eq!(scene.ctl(&["upgrade"]).status.code(), Some(1));
    let mut events = scene.ctl_started(&["events"]);
    let mut told = BufReader::new(events.stdout.take().expect("a pipe"));
    let mut seen = String::new();
    told.read_line(&mut seen).expect("hello");
    let upgrade = scene.ctl_started(&["upgrade"]);
    scene.log.wait("g3 s0 worker parked");
    let before = scene.status();
    let lock = scene.control().join("web.lock");
    reexec(&scene);
    let (mut before, mut after) = (before, scene.status());
    let ages =
        |status: &serde_json::Value| (status["uptime_ms"].as_u64(), status["workers"][0]["age_ms"].as_u64());
    assert!(ages(&after) >= ages(&before) && ages(&before).0.is_some());
    for status in [&mut before, &mut after] {
        status["uptime_ms"] = 0.into();
        assert!(status["last_upgrade"]["ago_ms"].is_u64());
        status["last_upgrade"]["ago_ms"] = 0.into();
        for worker in status["workers"].as_array_mut().expect("workers") {
            worker["age_ms"] = 0.into();
        }
    }
    assert_eq!(after, before);
    assert_eq!(after["last_upgrade"]["result"], "failed");
    // The name is ours all the time.
    assert_eq!(fs::read_to_string(&lock).expect("the lock"), format!("{}\n", wrapper.pid));
    let mut second = scene.start(&quick(&["--name", "web"]));
    assert_eq!(second.exit_status(), 100);
    scene.release("gate", 1);
    let upgraded = upgrade.wait_with_output().expect("ctl");
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    wrapper.stop();
    told.read_to_string(&mut seen).expect("events");
    assert!(events.wait().expect("ctl").success());
    for event in ["hello", "upgrade-started", "upgrade-done", "ended"] {
        assert!(seen.contains(&format!("\"event\":\"{event}\"")), "{event}: {seen}");
    }
}

#[test]
fn half_a_request_and_an_unread_answer_go_along() {
    use std::io::{BufRead, BufReader};
    let scene = Scene::of(SERVER);
    let wrapper = ready(&scene, &["--name", "web"]);
    let open = || std::os::unix::net::UnixStream::connect(scene.control().join("web.sock")).expect("connect");
    let (mut half, mut idle, gone) = (open(), open(), open());
    half.write_all(b"{\"version\":1,\"ve").expect("write");
    drop(gone);
    reexec(&scene);
    half.write_all(b"rb\":\"status\"}\n").expect("write");
    idle.write_all(b"{\"version\":1,\"verb\":\"status\"}\n").expect("write");
    for stream in [half, idle] {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        assert!(line.contains("\"result\":\"ok\""), "{line}");
    }
    wrapper.stop();
}

#[test]
fn a_hook_under_way_is_waited_for() {
    let scene = Scene::of(SERVER);
    scene.gate("hook");
    let hook = format!("pre-upgrade=read _ < {}", scene.arg("hook"));
    let wrapper = ready(&scene, &["--hook", &hook]);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait("upgrade to generation 2 begins");
    reexec(&scene);
    assert!(!scene.log.has("g2 s0 worker serving"));
    fs::OpenOptions::new()
        .write(true)
        .open(scene.path("hook"))
        .expect("a fifo")
        .write_all(b"go\n")
        .expect("go");
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

/// It passes its check, and is being written to when it is to be executed.
#[test]
fn what_execve_refuses_finds_us_as_we_were() {
    let scene = Scene::of(&format!("{SERVER}dump d"));
    scene.script("2", &format!("{SERVER}dump d2"));
    scene.gate("writer");
    // A generation on probation keeps the program of the one before it.
    let wrapper = ready(&scene, &["--probation", "0"]);
    scene.log.wait("dump d");
    let held = descriptors(wrapper.pid.as_raw()).len();
    let (real, gate) = (binary().display().to_string(), scene.arg("writer"));
    let busy =
        format!("#!/bin/sh\nexec 9>>\"$0\"\n(read _ < {gate}) >/dev/null 2>&1 &\nexec {real} \"$@\" 9>&-\n");
    put(&scene.path("graceful-run"), busy.as_bytes(), 0o755);
    let why = refused(&scene);
    assert!(why.contains("cannot execute") && why.contains("text file busy"), "{why}");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    settled(&wrapper, held);
    // Nothing of ours has leaked into a worker.
    let count = |name: &str| {
        let dump: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(scene.path(name)).expect("a dump")).expect("JSON");
        dump["fds"].as_object().expect("a table").len()
    };
    scene.log.wait("dump d2");
    assert_eq!(count("d2"), count("d"));
    let mut writer = fs::OpenOptions::new().write(true).open(scene.path("writer")).expect("a fifo");
    writer.write_all(b"go\n").expect("go");
    put(&scene.path("graceful-run"), &fs::read(binary()).expect("ourselves"), 0o755);
    reexec(&scene);
    wrapper.stop();
}

/// The detour takes away a descriptor that was to be kept.
#[test]
fn a_state_that_cannot_be_read_leaves_the_workers() {
    let scene = Scene::of(SERVER);
    let path = scene.run().join("app.sock");
    let bind = format!("unix:{}", path.display());
    let mut wrapper = ready(&scene, &["-b", &bind]);
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    let close = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; case $fd in 3|4|5|6|7|8|9) eval \"exec $fd>&-\";; esac; done";
    put_detour(&scene.path("graceful-run"), close);
    let _ = scene.ctl_started(&["reexec"]).wait_with_output();
    assert_eq!(wrapper.exit_status(), 125);
    assert!(wrapper.log.has("manual takeover"), "{}", wrapper.log.all().join("\n"));
    assert!(path.exists() && who(&address).starts_with("g1 "));
    drop(wrapper);
    scene.clear();
    scene.forget_files();
}

#[test]
fn a_change_of_a_watched_path_between_two_images_is_noticed() {
    let scene = Scene::of(SERVER);
    let watched = scene.path("release");
    fs::write(&watched, "1").expect("write");
    let wrapper = ready(&scene, &["--watch", watched.to_str().expect("utf-8")]);
    put_detour(&scene.path("graceful-run"), &format!("echo 2 > {}", watched.display()));
    reexec(&scene);
    wrapper.log.wait("has changed");
    wrapper.log.wait(&says::ready(2));
    reexec(&scene);
    wrapper.stop();
}
