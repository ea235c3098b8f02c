//! Releases that die after they went live, and what is started in their place: the one
//! before, from what it was started from.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, address_in, quick, says, until, who};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

/// Answers every connection with its name and its generation, or ends with status 3 at the
/// first.
fn release(name: &str) -> String {
    let deed = if name.starts_with("bad") { "os._exit(3)" } else { "pass" };
    format!(
        "import os, socket, sys\n\
         s = socket.socket(fileno=3)\n\
         while True:\n    c, _ = s.accept()\n    {deed}\n    \
         c.sendall(f\"{name} g{{os.environ['GRACEFUL_RUN_GENERATION']}}\\n\".encode())\n    c.close()\n"
    )
}

/// Each release in a directory of its own.
fn install(scene: &Scene, name: &str) {
    fs::create_dir(scene.path(name)).unwrap();
    fs::write(scene.path(name).join("app.py"), release(name)).unwrap();
    switch(scene, name);
}

/// `current` leads to this release.
fn switch(scene: &Scene, name: &str) {
    let new = scene.path("new");
    symlink(name, &new).unwrap();
    fs::rename(new, scene.path("current")).unwrap();
}

/// `graceful-run -b ADDRESS ARGS -- python3 current/app.py`, with all else as it comes.
fn start(scene: &Scene, args: &[&str]) -> (Wrapper, String) {
    let args = [&["-b", "127.0.0.1:0"], args].concat();
    let wrapper = scene.start_command(&args, &["python3", "current/app.py"]);
    let address = wrapper.log.wait("listening on 127.0.0.1:*");
    let address = address.split("listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    wrapper.log.wait("generation 1: serving");
    (wrapper, address)
}

/// Upgrades to what `current` leads to, which goes live.
fn upgrade(scene: &Scene, wrapper: &Wrapper) {
    let pid = wrapper.pid.to_string();
    let done = scene.ctl(&["--socket", &socket(scene, &pid), "upgrade"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn socket(scene: &Scene, pid: &str) -> String {
    scene.control().join(format!("{pid}.sock")).to_str().unwrap().to_owned()
}

/// So many connections, each of which a bad release ends by. Generation 1 answers none of
/// them: it has gone.
fn crash(wrapper: &Wrapper, address: &str, times: u32) {
    wrapper.log.wait("generation 1: pid * was ended by signal 15 (TERM)");
    for _ in 0..times {
        assert_eq!(who(address), "", "nobody answers");
    }
}

const BACK: &str = "generation 1: serves again after";

#[test]
fn a_release_that_dies_at_its_first_request_is_rolled_back() {
    let scene = Scene::new();
    install(&scene, "good");
    let hook = "upgrade-failed=echo \"$GRACEFUL_RUN_GENERATION: $GRACEFUL_RUN_REASON\" > told";
    let (wrapper, address) = start(&scene, &["--hook", hook]);
    assert_eq!(who(&address), "good g1\n");
    install(&scene, "bad");
    upgrade(&scene, &wrapper);
    let status = scene.status();
    assert_eq!((&status["probation"]["generation"], &status["probation"]["before"]), (&2.into(), &1.into()));
    crash(&wrapper, &address, 3);
    assert_eq!(who(&address), "good g1\n", "it waited in the queue: {:?}", wrapper.log.all());
    let line = wrapper.log.wait("generation 2: ended 3 times within * of going live (--probation)");
    assert!(line.contains("exited with status 3 (see its output"), "{line}");
    assert!(line.ends_with("): generation 1 is to be started again"), "{line}");
    wrapper.log.wait(BACK);
    let status = scene.status();
    let last = &status["last_upgrade"];
    assert_eq!((&last["result"], &last["from"], &last["to"]), (&"rolled back".into(), &1.into(), &2.into()));
    assert!(last["reason"].as_str().unwrap().contains("exited with status 3"), "{last}");
    assert_eq!((&status["generation"], &status["failed_upgrades"]), (&1.into(), &1.into()));
    assert!(status.get("probation").is_none(), "{status}");
    until("the hook has told", || {
        fs::read_to_string(scene.path("told")).is_ok_and(|told| told.ends_with('\n'))
    });
    let told = fs::read_to_string(scene.path("told")).unwrap();
    assert!(told.starts_with("2: ended 3 times within "), "{told}");
    let table = scene.ctl(&["status"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("last upgrade: 1 to 2 rolled back after "), "{table}");
    // It is over, and was one upgrade.
    assert!(table.contains("; generation 1 was started again\n"), "{table}");
    assert!(!table.contains("is to be started again"), "{table}");
    assert!(table.contains(" 1 upgrade failed") && !table.contains("succeeded"), "{table}");
    assert_eq!((&status["upgrades"], &status["rolled_back"]), (&1.into(), &1.into()));

    // A crash brings the same back, and the next release has the next number.
    let pid = status["workers"][0]["pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    wrapper.log.wait(&says::killed(1, 9));
    assert_eq!(who(&address), "good g1\n");
    wrapper.log.wait_nth("generation 1: ready after", 3);
    install(&scene, "better");
    upgrade(&scene, &wrapper);
    // The old one takes no leave: a connection that it had accepted would end with it.
    wrapper.log.wait_nth("generation 1: pid * was ended by signal 15 (TERM)", 2);
    assert_eq!(who(&address), "better g3\n");
    wrapper.stop();
}

#[test]
fn several_workers_go_back_together_and_a_surge_slot_by_slot() {
    for args in [&["-n", "2"][..], &["-n", "2", "--surge", "1"], &["--stop-first"]] {
        let scene = Scene::new();
        install(&scene, "good");
        let (wrapper, address) = start(&scene, args);
        install(&scene, "bad");
        upgrade(&scene, &wrapper);
        wrapper.log.wait_nth("generation 1: pid * was ended by signal 15 (TERM)", args.len().clamp(1, 2));
        // Whichever slot answers: one of them has ended three times by then.
        let mut crashes = 0;
        while !wrapper.log.has("is to be started again") {
            if who(&address).is_empty() {
                crashes += 1;
            }
        }
        assert!(crashes >= 3, "{args:?}");
        wrapper.log.wait(BACK);
        for _ in 0..4 {
            assert_eq!(who(&address), "good g1\n", "{args:?}");
        }
        wrapper.stop();
    }
}

#[test]
fn what_is_watched_does_not_bring_the_same_back() {
    let scene = Scene::new();
    install(&scene, "good");
    let (wrapper, address) = start(&scene, &["--watch", "current"]);
    install(&scene, "bad");
    wrapper.log.wait("generation 2: serves after");
    crash(&wrapper, &address, 3);
    wrapper.log.wait(BACK);
    switch(&scene, "good");
    wrapper.log.wait("generation 3: serves after");
    switch(&scene, "bad");
    wrapper.log.wait("nothing else is there than what was rolled back");
    install(&scene, "better");
    wrapper.log.wait("generation 4: serves after");
    wrapper.log.wait("generation 3: pid * was ended by signal 15 (TERM)");
    assert_eq!(who(&address), "better g4\n");
    assert_eq!(wrapper.log.count("upgrade to generation * begins"), 3);
    wrapper.stop();
}

/// Its number is that of the script that it plays.
#[test]
fn a_native_program_that_was_renamed_over_is_started_from_the_file_that_we_hold() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nready notify\nwait crash\nexit 3");
    let program = scene.puppet_copy("server");
    let first = fs::metadata(&program).unwrap().ino();
    let args = quick(&["--ack", "notify"]);
    let wrapper = scene.start_command(&args, &[program.to_str().unwrap(), &scene.arg("")]);
    wrapper.log.wait(&says::ready(1));
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    fs::rename(scene.puppet_copy("server.new"), &program).unwrap();
    upgrade(&scene, &wrapper);

    // What is held goes with us into another image.
    let done = scene.ctl(&["reexec"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for n in 1..=3 {
        scene.log.wait_nth("g2 s0 worker ready", n);
        wrapper.log.wait_nth("generation 2: ready after", n);
        scene.release("crash", 1);
    }
    wrapper.log.wait(BACK);
    let answer = who(&address);
    assert!(answer.starts_with("g1 s0 "), "{answer}");
    let pid = common::pid_in(answer.trim());
    let runs = fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    assert_eq!(runs, first, "it runs what generation 1 ran");
    assert_ne!(fs::metadata(&program).unwrap().ino(), first);
    wrapper.stop();
}

#[test]
fn what_cannot_be_had_again_is_named() {
    let scene = Scene::new();
    fs::write(scene.path("app.py"), release("good")).unwrap();
    let args = ["-b", "127.0.0.1:0"];
    let wrapper = scene.start_command(&args, &["python3", "app.py"]);
    wrapper.log.wait("generation 1: serving");
    fs::write(scene.path("app.py"), "raise SystemExit(4)").unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    let line = wrapper.log.wait("generation 1: files have changed");
    assert!(line.contains("/app.py: a worker that is started again uses what is there now"), "{line}");
    let lost = scene.status()["lost"].clone();
    assert!(lost[0].as_str().is_some_and(|file| file.ends_with("/app.py")), "{lost}");
    wrapper.stop();
}

/// The link is in an argument, or in a variable that the program reads.
#[test]
fn after_a_refusal_a_crash_brings_back_what_links_led_to() {
    let scene = Scene::new();
    for name in ["r1", "r2"] {
        fs::create_dir(scene.path(name)).unwrap();
    }
    let program = "import os\nexec(open(os.environ['APP'] + '/app.py').read())\n";
    fs::write(scene.path("main.py"), program).unwrap();
    fs::write(scene.path("r1/app.py"), release("r1")).unwrap();
    fs::write(scene.path("r2/app.py"), "raise SystemExit(4)").unwrap();
    switch(&scene, "r1");
    let current = format!("APP={}", scene.arg("current"));
    let args = ["-b", "127.0.0.1:0", "-E", &current];
    let wrapper = scene.start_command(&args, &["python3", "main.py"]);
    let address = wrapper.log.wait("listening on 127.0.0.1:*");
    let address = address.split("listening on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    wrapper.log.wait("generation 1: serving");
    switch(&scene, "r2");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    let pid = scene.status()["workers"][0]["pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    wrapper.log.wait(&says::killed(1, 9));
    assert_eq!(who(&address), "r1 g1\n");
    wrapper.stop();
}

/// Binds its own port; what it is called is the directory that it was started from.
fn binds(port: u16, deed: &str) -> String {
    format!(
        "import os, socket, sys\n\
         s = socket.socket()\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(('127.0.0.1', {port}))\n\
         s.listen(64)\n\
         while True:\n    c, _ = s.accept()\n    {deed}\n    \
         c.sendall(f\"g{{os.environ['GRACEFUL_RUN_GENERATION']}}\\n\".encode())\n    c.close()\n"
    )
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_server_that_binds_its_own_port_goes_back_as_well() {
    let scene = Scene::new();
    let port = free_port();
    for (name, deed) in [("bad", "os._exit(3)"), ("good", "pass")] {
        fs::create_dir(scene.path(name)).unwrap();
        fs::write(scene.path(name).join("app.py"), binds(port, deed)).unwrap();
    }
    switch(&scene, "good");
    let wrapper = scene.start_command(&["--adopt"], &["python3", "current/app.py"]);
    wrapper.log.wait("generation 1: serving");
    let address = format!("127.0.0.1:{port}");
    assert_eq!(who(&address), "g1\n");
    switch(&scene, "bad");
    upgrade(&scene, &wrapper);
    crash(&wrapper, &address, 3);
    assert_eq!(who(&address), "g1\n", "it waited in the queue of the one that had ended");
    wrapper.log.wait(BACK);
    wrapper.stop();
}

/// What was started from it, and what would be started now, is not the same.
#[test]
fn what_is_gone_cannot_be_brought_back_and_nothing_else_is_started_in_its_name() {
    let scene = Scene::new();
    install(&scene, "good");
    let hook = "upgrade-failed=echo \"$GRACEFUL_RUN_REASON\" >> told";
    let (wrapper, address) = start(&scene, &["--hook", hook]);
    install(&scene, "bad");
    upgrade(&scene, &wrapper);
    fs::remove_dir_all(scene.path("good")).unwrap();
    crash(&wrapper, &address, 4);
    let lost = "generation 1 cannot be started again: not as it was: ";
    let line = wrapper.log.wait(lost);
    assert!(line.contains("/good/app.py is gone"), "{line}");
    // Later crashes have only the line of the restart.
    wrapper.log.wait_nth("generation 2: started pid", 5);
    for told in [lost, "not as it was: ", "generation 1 is to be started again"] {
        assert_eq!(wrapper.log.count(told), 1, "{:?}", wrapper.log.all());
    }
    assert_eq!(wrapper.log.count("generation 1: started pid"), 1);
    let last = scene.status()["last_upgrade"].clone();
    assert_eq!(last["result"], "failed", "{last}");
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("ended 4 times within ") && reason.contains("exited with status 3"),
        "{reason}"
    );
    assert!(reason.contains("; generation 1 could not be started again: not as it was: "), "{reason}");
    assert!(reason.ends_with("; generation 2 was tried again"), "{reason}");
    let table = String::from_utf8_lossy(&scene.ctl(&["status"]).stdout).into_owned();
    assert!(table.contains(" 1 upgrade failed") && !table.contains("succeeded"), "{table}");
    assert!(!table.contains("is to be started again"), "{table}");
    let told = || fs::read_to_string(scene.path("told")).unwrap_or_default();
    until("both have been told", || told().lines().count() >= 2);
    assert_eq!(told().lines().count(), 2, "once each: {}", told());
    // Another reason is told.
    fs::create_dir(scene.path("good")).unwrap();
    fs::write(scene.path("good").join("app.py"), release("good")).unwrap();
    crash(&wrapper, &address, 1);
    let line = wrapper.log.wait_nth(lost, 2);
    assert!(line.contains("/good/app.py is another file"), "{line}");
    wrapper.stop();
}

/// A release that is installed over the one that serves, is refused, and is then mended.
#[test]
fn changed_files_are_told_until_every_worker_runs_them() {
    let scene = Scene::new();
    install(&scene, "good");
    let app = scene.path("good").join("app.py");
    let (wrapper, address) = start(&scene, &[]);
    fs::write(&app, "raise SystemExit(3)\n").unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    let lost = || scene.status().get("lost").cloned().unwrap_or_default();
    assert_eq!(lost()[0], app.to_str().unwrap());
    fs::write(&app, release("mended")).unwrap();
    assert_eq!(lost()[0], app.to_str().unwrap(), "a worker of the old one serves");
    let pid = scene.status()["workers"][0]["pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    wrapper.log.wait_nth("generation 1: started pid", 2);
    assert_eq!(who(&address), "mended g1\n");
    assert!(lost().is_null(), "{}", lost());
    fs::write(&app, release("another one")).unwrap();
    assert_eq!(lost()[0], app.to_str().unwrap());
    wrapper.stop();
}

#[test]
fn without_probation_it_is_started_again_and_again() {
    let scene = Scene::new();
    install(&scene, "good");
    let (wrapper, address) = start(&scene, &["--probation", "0"]);
    install(&scene, "bad");
    upgrade(&scene, &wrapper);
    assert!(scene.status().get("probation").is_none());
    crash(&wrapper, &address, 4);
    wrapper.log.wait_nth("slot 0: starts again in", 4);
    assert!(!wrapper.log.has("is to be started again"));
    wrapper.stop();
}

#[test]
fn who_lives_through_its_probation_may_crash() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nready notify\nwait crash\nexit 3");
    let wrapper = scene.ready(&["--probation", "1ms", "-v"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: has been on probation long enough");
    for n in 1..=4 {
        wrapper.log.wait_nth("generation 2: ready after", n);
        scene.release("crash", 1);
    }
    wrapper.log.wait_nth("slot 0: starts again in", 4);
    assert!(!wrapper.log.has("is to be started again"));
    wrapper.stop();
}
