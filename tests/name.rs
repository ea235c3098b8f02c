//! `--name`, `--socket` and `--control-group`: who holds a name, and where the
//! control socket is.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, am_root, quick, says, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

/// It ends with this status, and its last line has these words.
fn refused(mut wrapper: Wrapper, status: i32, words: &[&str]) {
    let got = wrapper.exit_status();
    let last = wrapper.last_line();
    assert_eq!(got, status, "{last}");
    assert!(last.starts_with("graceful-run: cannot "), "{last}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
}

/// Another place for the socket does not make it another name.
#[test]
fn a_name_is_taken_wherever_the_socket_lies() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    let socket = scene.arg("run/elsewhere.sock");
    let mut second = scene.start(&["-b", "127.0.0.1:0", "--name", "web", "--socket", &socket]);
    assert_eq!(second.exit_status(), 100);
    wrapper.stop();
}

#[test]
fn a_second_instance_is_100_and_touches_nothing() {
    let scene = Scene::of(SERVER);
    let address = format!("{}:5000", common::host());
    let pid_file = scene.arg("run/pid");
    let args = ["-b", &address, "--name", "web", "--pid-file", &pid_file, "--soak", "1ms"];
    let wrapper = scene.start(&args);
    wrapper.log.wait(&says::ready(1));
    let look = || {
        let mut seen = Vec::new();
        for directory in [scene.run(), scene.control()] {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let data = entry.metadata().unwrap();
                if data.is_dir() {
                    continue;
                }
                seen.push((entry.path(), data.ino(), fs::read(entry.path()).unwrap_or_default()));
            }
        }
        seen.sort();
        seen
    };
    let before = look();
    assert_eq!(before.len(), 3, "pid file, socket and lock: {before:?}");
    let second = scene.start(&args);
    refused(second, 100, &["the name 'web'", &format!("pid {} holds it", wrapper.pid)]);
    assert_eq!(look(), before);
    assert_eq!(scene.status()["generation"], 1);
    assert!(common::who(&address).starts_with("g1"));
    wrapper.stop();
    assert!(scene.control().join("web.lock").exists(), "a lock file is never removed");
}

#[test]
fn of_fifty_at_once_exactly_one_lives() {
    let scene = Scene::of(SERVER);
    let mut all: Vec<Wrapper> = (0..50).map(|_| scene.start(&quick(&["--name", "web"]))).collect();
    until("all but one have ended", || {
        all.iter_mut().filter_map(|it| (!it.has_ended()).then_some(())).count() <= 1
    });
    let at = all.iter_mut().position(|wrapper| !wrapper.has_ended()).expect("one lives");
    let winner = all.swap_remove(at);
    winner.log.wait(&says::ready(1));
    for wrapper in all {
        refused(wrapper, 100, &[&format!("pid {} holds it", winner.pid)]);
    }
    assert_eq!(scene.status()["pid"], winner.pid.as_raw());
    winner.stop();
}

#[test]
fn what_one_that_was_killed_has_left_is_no_obstacle() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&["--name", "web", "--on-death", "term"]);
    wrapper.signal(Signal::SIGKILL);
    assert_eq!(wrapper.exit_status(), -9);
    assert_eq!(scene.ctl(&["--name", "web", "status"]).status.code(), Some(3));
    let next = scene.ready(&["--name", "web"]);
    assert_eq!(scene.status()["pid"], next.pid.as_raw());
    next.stop();
    for entry in fs::read_dir(scene.run()).unwrap().flatten().filter(|it| it.file_name() != "graceful-run") {
        // The notify sockets of the one that was killed.
        fs::remove_dir_all(entry.path()).unwrap();
    }
}

#[test]
fn workers_that_outlive_us_hold_their_sockets_and_not_the_name() {
    let scene = Scene::of(SERVER);
    let address = format!("{}:5000", common::host());
    let mut wrapper = scene.start(&["-b", &address, "--name", "web"]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGKILL);
    wrapper.exit_status();
    let next = scene.start(&["-b", &address, "--name", "web"]);
    refused(next, 125, &["address already in use"]);
    scene.clear();
    let next = scene.start(&["-b", &address, "--name", "web"]);
    next.log.wait(&says::ready(1));
    next.stop();
    scene.forget_files();
}

#[test]
fn a_number_in_a_file_is_nobody_to_signal() {
    let scene = Scene::of(SERVER);
    let mut command = Command::new("sleep");
    let mut innocent = scene.mark({
        command.arg("1000");
        command
    });
    let mut innocent = innocent.stderr(Stdio::null()).spawn().unwrap();
    let pid = format!("{}\n", innocent.id());
    fs::create_dir(scene.control()).unwrap();
    fs::write(scene.control().join("web.lock"), &pid).unwrap();
    fs::write(scene.run().join("pid"), &pid).unwrap();
    let stale = scene.control().join("web.sock");
    drop(UnixListener::bind(&stale).unwrap());
    until("it is stale", || UnixStream::connect(&stale).is_err());
    let wrapper = scene.ready(&["--name", "web", "--pid-file", &scene.arg("run/pid")]);
    assert!(scene.ctl(&["--name", "web", "stop"]).status.success());
    drop(wrapper);
    assert!(innocent.try_wait().unwrap().is_none(), "it lives");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_name_is_a_part_of_file_names() {
    let scene = Scene::new();
    for name in ["", "a/b", "a b", "ä"] {
        let wrapper = scene.start_command(&["--name", name], &["/bin/true"]);
        let mut wrapper = wrapper;
        assert_eq!(wrapper.exit_status(), 2, "{name}");
        assert!(wrapper.last_line().contains("for '--name': a name has letters"), "{name}");
    }
    assert!(!scene.control().exists());
}

#[test]
fn the_socket_is_ours_alone_or_the_groups() {
    let scene = Scene::of(SERVER);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let wrapper = scene.ready(&["--name", "web"]);
    assert_eq!(mode(&scene.control()), 0o700);
    assert_eq!(mode(&scene.control().join("web.sock")), 0o600);
    assert_eq!(mode(&scene.control().join("web.lock")), 0o600);
    wrapper.stop();
    let group = nix::unistd::getgid().to_string();
    let wrapper = scene.ready(&["--name", "web", "--control-group", &group]);
    let socket = scene.control().join("web.sock");
    assert_eq!((mode(&scene.control()), mode(&socket)), (0o755, 0o660));
    assert_eq!(fs::metadata(&socket).unwrap().gid().to_string(), group);
    wrapper.stop();
    refused(scene.start(&["--control-group", "no-such-group"]), 125, &["no group no-such-group"]);
}

#[test]
fn what_lies_at_the_path_of_the_socket() {
    let scene = Scene::of(SERVER);
    let path = scene.arg("run/x.sock");
    let start = || scene.start(&["--socket", &path]);
    fs::write(&path, "precious").unwrap();
    refused(start(), 125, &["x.sock: file exists", "it is left alone"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    symlink(scene.path("elsewhere"), &path).unwrap();
    refused(start(), 125, &["file exists"]);
    fs::remove_file(&path).unwrap();
    let live = UnixListener::bind(&path).unwrap();
    refused(start(), 125, &["address already in use", "a live server holds it"]);
    drop(live);
    // A test beside this one may be between fork and exec, and hold it still.
    until("it is stale", || UnixStream::connect(&path).is_err());
    let wrapper = scene.ready(&["--socket", &path]);
    let output = scene.ctl(&["--socket", &path, "status"]);
    assert!(output.status.success(), "a stale one is replaced");
    assert!(!scene.control().exists(), "the default place is not touched");
    // Somebody else's stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    wrapper.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    fs::remove_file(&path).unwrap();

    let long = scene.arg(&"x".repeat(108));
    refused(scene.start(&["--socket", &long]), 2, &["107"]);
    refused(scene.start(&["--socket", &scene.arg("no/x.sock")]), 125, &["no such file or directory"]);
    fs::create_dir(scene.path("open")).unwrap();
    fs::set_permissions(scene.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(scene.start(&["--socket", &scene.arg("open/x.sock")]), 125, &["everybody can write to it"]);
}

#[test]
fn where_the_socket_is() {
    let scene = Scene::of("count-signals\nready notify\ndump all");
    let started = |change: &dyn Fn(&mut Command), args: &[&str]| {
        let mut command = scene.command();
        change(&mut command);
        command.args(quick(args)).arg("--").args(scene.puppet());
        let wrapper = scene.spawn(command);
        wrapper.log.wait(&says::ready(1));
        wrapper
    };
    fs::create_dir(scene.path("given")).unwrap();
    let given = scene.arg("given");
    let wrapper = started(
        &|command| {
            command.env("RUNTIME_DIRECTORY", format!("{given}:/nowhere"));
        },
        &["--name", "a"],
    );
    assert!(scene.path("given/a.sock").exists() && scene.path("given/a.lock").exists());
    scene.log.wait("dump all");
    wrapper.stop();
    assert!(!scene.path("given/a.sock").exists());
    let nowhere = |command: &mut Command| {
        command.env("XDG_RUNTIME_DIR", "/no/such/directory");
    };
    let wrapper = started(&nowhere, &[]);
    assert!(wrapper.log.has("no control socket: cannot keep the control socket in /no/such/directory"));
    scene.log.wait_nth("dump all", 2);
    wrapper.stop();
    assert!(scene.dump("all")["environment"]["GRACEFUL_RUN_CONTROL"].is_null());
    let mut command = scene.command();
    nowhere(&mut command);
    command.args(quick(&["--name", "a"])).arg("--").args(scene.puppet());
    refused(scene.spawn(command), 125, &["/no/such/directory"]);
    let wrapper = started(&|_| {}, &["--name", "a", "--no-socket"]);
    assert!(!scene.control().join("a.sock").exists());
    refused(scene.start(&quick(&["--name", "a"])), 100, &[]);
    wrapper.stop();
    assert_eq!(scene.start(&["--no-socket", "--socket", "x"]).exit_status(), 2);
}

#[test]
fn an_inner_one_does_not_hand_on_what_was_meant_for_it() {
    let scene = Scene::of("count-signals\nready notify\ndump all");
    let binary = common::binary().to_str().unwrap();
    let puppet = scene.puppet();
    let inner = [&[binary, "--no-socket", "--soak", "1ms", "--"][..], &[&puppet[0], &puppet[1]]].concat();
    let wrapper = scene.start_command(&["--name", "outer", "--soak", "1ms"], &inner);
    scene.log.wait("dump all");
    assert!(scene.dump("all")["environment"]["GRACEFUL_RUN_CONTROL"].is_null());
    wrapper.log.wait_nth(&says::ready(1), 2);
    wrapper.stop();
}

#[test]
fn cranks_workers_are_told_the_name() {
    let scene = Scene::of("ready notify\ndump all");
    for (args, name) in [(&[][..], "puppet"), (&["--name", "shop"], "shop")] {
        let wrapper = scene.ready(&[&["--export", "crank", "--ack", "notify"], args].concat());
        until("it is told", || scene.path("all").exists());
        assert_eq!(scene.dump("all")["environment"]["CRANK_NAME"], name);
        wrapper.stop();
        fs::remove_file(scene.path("all")).unwrap();
    }
}

#[test]
fn a_directory_of_somebody_else_is_not_used() {
    if !am_root() {
        return;
    }
    let scene = Scene::of(SERVER);
    fs::create_dir(scene.control()).unwrap();
    nix::unistd::chown(&scene.control(), Some(nix::unistd::Uid::from_raw(65534)), None).unwrap();
    refused(scene.start(&["--name", "web"]), 125, &["it belongs to another user"]);
    let wrapper = scene.ready(&[]);
    assert!(wrapper.log.has("no control socket"));
    wrapper.stop();
}
