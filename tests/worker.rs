//! What a worker sees: descriptors, environment, directory, program, identity, signals.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, am_root, example, quick, says};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

const DUMP: &str = "dump seen\nready notify\n";

/// What the first worker sees.
fn seen(args: &[&str]) -> Value {
    let scene = Scene::of(DUMP);
    let wrapper = scene.ready(args);
    let seen = scene.dump("seen");
    wrapper.stop();
    seen
}

fn environment<'a>(seen: &'a Value, name: &str) -> Option<&'a str> {
    seen["environment"].get(name)?.as_str()
}

/// 0 to 2, the listeners, and what READY_FD names: nothing else, nothing close-on-exec.
fn assert_fds(seen: &Value, listeners: usize) {
    let fds = seen["fds"].as_object().unwrap();
    let mut expected: Vec<String> = (0..3 + listeners).map(|fd| fd.to_string()).collect();
    expected.extend(environment(seen, "READY_FD").map(str::to_owned));
    let mut got: Vec<_> = fds.keys().cloned().collect();
    got.sort_by_key(|fd| fd.parse::<u32>().unwrap());
    assert_eq!(got, expected, "{fds:#?}");
    for (fd, what) in fds {
        assert_eq!(what["cloexec"], false, "fd {fd} would not survive an exec");
    }
    for fd in 3..3 + listeners {
        let target = fds[&fd.to_string()]["target"].as_str().unwrap();
        assert!(target.starts_with("socket:"), "fd {fd} is {target}");
    }
}

#[test]
fn the_descriptors_are_exactly_the_listeners() {
    let seen = seen(&["-b", "127.0.0.1:0", "-b", "udp://127.0.0.1:0", "--ack", "notify"]);
    assert_fds(&seen, 3);
    assert!(environment(&seen, "READY_FD").is_none());
}

#[test]
fn the_descriptors_are_the_same_after_100_upgrades() {
    let scene = Scene::of("count-signals\nready notify\n");
    // Its own signal pipes are not there yet when a puppet dumps first.
    scene.script("101", DUMP);
    scene.script("1", &format!("{DUMP}count-signals\n"));
    let wrapper = scene.ready(&["-b", "127.0.0.1:0"]);
    let first = scene.dump("seen");
    assert_fds(&first, 2);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    let ours = wrapper.fd_count();
    for generation in 3..=101 {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::exited(generation - 1, 0));
    }
    let last = scene.dump("seen");
    assert_fds(&last, 2);
    assert_eq!(first["fds"]["3"], last["fds"]["3"], "the socket is the same");
    common::until("the wrapper's own descriptors add up", || wrapper.fd_count() <= ours);
    wrapper.stop();
}

#[test]
fn listen_fds_is_set_for_the_worker_itself() {
    let scene = Scene::of(DUMP);
    let args = ["-b", "web=127.0.0.1:0", "-n", "1", "-b", "unix:run/app.sock"];
    let wrapper = scene.ready(&args);
    let seen = scene.dump("seen");
    assert_eq!(environment(&seen, "LISTEN_FDS"), Some("3"));
    assert_eq!(environment(&seen, "LISTEN_PID"), Some(&*seen["pid"].to_string()));
    assert_eq!(environment(&seen, "LISTEN_FDNAMES"), Some("socket0:web:socket2"));
    assert_eq!(environment(&seen, "GRACEFUL_RUN_GENERATION"), Some("1"));
    assert_eq!(environment(&seen, "GRACEFUL_RUN_SLOT"), Some("0"));
    let pid = wrapper.pid.to_string();
    assert_eq!(environment(&seen, "GRACEFUL_RUN_PID"), Some(&*pid));
    assert_eq!(seen["parent"].to_string(), pid);
    let listeners = environment(&seen, "GRACEFUL_RUN_LISTENERS").unwrap();
    assert!(common::matches("socket0=127.0.0.1:* web=127.0.0.1:* socket2=", listeners));
    assert!(!listeners.contains(":0 "), "the port that was got: {listeners}");
    assert_eq!(seen["group"], seen["pid"], "a worker leads its own process group");
    assert!(environment(&seen, "NOTIFY_SOCKET").is_some());
    wrapper.stop();
}

/// Newer sd_listen_fds(3) compares it too, so that it must be right or missing.
#[test]
fn listen_pidfdid_is_the_workers_own_if_it_is_there() {
    let scene = Scene::new();
    let check = "import os, sys
given = os.environ.get('LISTEN_PIDFDID')
sys.exit(given is not None and int(given) != os.fstat(os.pidfd_open(os.getpid())).st_ino)";
    let mut wrapper = scene.start_command(&quick(&[]), &["python3", "-c", check]);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn what_was_meant_for_us_is_not_passed_on() {
    let scene = Scene::of(DUMP);
    let mut command = scene.command();
    command.args(quick(&["--"])).args(scene.puppet());
    for (name, value) in [
        ("LISTEN_PID", "1"),
        ("LISTEN_FDS", "7"),
        ("LISTEN_FDNAMES", "stranger"),
        ("LISTEN_PIDFDID", "9"),
        ("NOTIFY_SOCKET", "/nonexistent/notify"),
        ("WATCHDOG_USEC", "1000000"),
        ("WATCHDOG_PID", "1"),
        ("GRACEFUL_RUN_GENERATION", "77"),
        ("READY_FD", "66"),
    ] {
        command.env(name, value);
    }
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    assert_eq!(environment(&seen, "LISTEN_FDS"), Some("1"));
    assert_eq!(environment(&seen, "LISTEN_FDNAMES"), Some("socket0"));
    assert_eq!(environment(&seen, "GRACEFUL_RUN_GENERATION"), Some("1"));
    assert_ne!(environment(&seen, "NOTIFY_SOCKET"), Some("/nonexistent/notify"));
    assert_ne!(environment(&seen, "READY_FD"), Some("66"));
    assert_ne!(environment(&seen, "LISTEN_PIDFDID"), Some("9"));
    for name in ["WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert_eq!(environment(&seen, name), None, "{name}");
    }
    wrapper.stop();
}

/// The second generation's dump, after `change`.
fn seen_after(scene: &Scene, args: &[&str], change: impl FnOnce()) -> (Value, Value) {
    let wrapper = scene.ready(args);
    let before = scene.dump("seen");
    change();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    let after = scene.dump("seen");
    wrapper.stop();
    (before, after)
}

#[test]
fn the_environment_is_what_was_asked() {
    let args = ["-E", "COLOUR=blue=green", "-E", "EMPTY=", "--drop-env", "HOME"];
    let seen = seen(&args);
    assert_eq!(environment(&seen, "COLOUR"), Some("blue=green"));
    assert_eq!(environment(&seen, "EMPTY"), Some(""));
    assert_eq!(environment(&seen, "HOME"), None);
    assert!(environment(&seen, "PATH").is_some());
}

#[test]
fn clear_env_leaves_what_is_ours_and_asked() {
    let seen = seen(&["--clear-env", "-E", "COLOUR=blue"]);
    for name in seen["environment"].as_object().unwrap().keys() {
        let ours = ["LISTEN_", "GRACEFUL_RUN_", "NOTIFY_SOCKET", "READY_FD", "COLOUR"];
        assert!(ours.iter().any(|prefix| name.starts_with(prefix)), "{name} is left");
    }
    assert_eq!(environment(&seen, common::MARK), None);
}

#[test]
fn an_env_file_is_read_anew() {
    let scene = Scene::of(DUMP);
    let file = scene.path("settings");
    fs::write(&file, "# a comment\n\nCOLOUR=blue\nGONE=soon\n").unwrap();
    let (before, after) = seen_after(&scene, &["--env-file", file.to_str().unwrap()], || {
        fs::write(&file, "COLOUR=red\n").unwrap();
    });
    assert_eq!(environment(&before, "COLOUR"), Some("blue"));
    assert_eq!(environment(&before, "GONE"), Some("soon"));
    assert_eq!(environment(&after, "COLOUR"), Some("red"));
    assert_eq!(environment(&after, "GONE"), None);
}

#[test]
fn an_env_dir_is_read_anew() {
    let scene = Scene::of(DUMP);
    let dir = scene.path("settings");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("COLOUR"), "blue\n").unwrap();
    let (before, after) = seen_after(&scene, &["--env-dir", dir.to_str().unwrap()], || {
        fs::write(dir.join("COLOUR"), "red\n").unwrap();
        fs::write(dir.join("SHAPE"), "round").unwrap();
    });
    assert_eq!(environment(&before, "COLOUR"), Some("blue"));
    assert_eq!(environment(&after, "COLOUR"), Some("red"));
    assert_eq!(environment(&after, "SHAPE"), Some("round"));
}

#[test]
fn an_env_file_that_is_gone_fails_the_upgrade() {
    let scene = Scene::of(DUMP);
    let file = scene.path("settings");
    fs::write(&file, "COLOUR=blue\n").unwrap();
    let wrapper = scene.ready(&["--env-file", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("settings"), "{line}");
    wrapper.stop();
}

#[test]
fn the_command_is_looked_up_with_the_workers_path_at_each_start() {
    let scene = Scene::of(DUMP);
    for dir in ["r1", "r2"] {
        fs::create_dir(scene.path(dir)).unwrap();
        fs::copy(example("puppet"), scene.path(dir).join("server")).unwrap();
    }
    let file = scene.path("settings");
    fs::write(&file, format!("PATH={}\n", scene.arg("r1"))).unwrap();
    let args = quick(&["--env-file", file.to_str().unwrap()]);
    let wrapper = scene.start_command(&args, &["server".to_owned(), scene.arg("")]);
    wrapper.log.wait(&says::ready(1));
    let program = || scene.dump("seen")["program"].as_str().unwrap().to_owned();
    assert_eq!(program(), scene.arg("r1/server"));
    fs::write(&file, format!("PATH={}\n", scene.arg("r2"))).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert_eq!(program(), scene.arg("r2/server"));
    wrapper.stop();
}

/// `current` points at one of two releases.
fn releases(scene: &Scene) {
    for dir in ["r1", "r2"] {
        fs::create_dir(scene.path(dir)).unwrap();
        fs::copy(example("puppet"), scene.path(dir).join("server")).unwrap();
    }
    symlink("r1", scene.path("current")).unwrap();
}

fn switch(scene: &Scene, to: &str) {
    symlink(to, scene.path("current.new")).unwrap();
    fs::rename(scene.path("current.new"), scene.path("current")).unwrap();
}

fn follow_the_link(scene: &Scene, wrapper: Wrapper) {
    wrapper.log.wait(&says::ready(1));
    let at = |release: &str| {
        let seen = scene.dump("seen");
        assert_eq!(seen["directory"], scene.arg(release));
        assert_eq!(seen["program"], scene.arg(&format!("{release}/server")));
        assert_eq!(environment(&seen, "PWD"), Some(&*scene.arg("current")));
    };
    at("r1");
    for (generation, release) in [(2, "r2"), (3, "r1")] {
        switch(scene, release);
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::ready(generation));
        at(release);
    }
    wrapper.stop();
}

#[test]
fn chdir_through_a_link_is_resolved_at_each_start() {
    let scene = Scene::of(DUMP);
    releases(&scene);
    let current = scene.arg("current");
    let args = quick(&["-C", &current]);
    let wrapper = scene.start_command(&args, &["./server".to_owned(), scene.arg("")]);
    follow_the_link(&scene, wrapper);
}

#[test]
fn the_logical_directory_is_resolved_at_each_start() {
    let scene = Scene::of(DUMP);
    releases(&scene);
    let mut command = scene.command();
    command.current_dir(scene.path("current")).env("PWD", scene.path("current"));
    command.args(quick(&["--", "./server", &scene.arg("")]));
    let wrapper = scene.spawn(command);
    follow_the_link(&scene, wrapper);
}

#[test]
fn a_directory_that_is_gone_fails_the_upgrade() {
    let scene = Scene::of("dump seen\ncount-signals\nready notify\n");
    let dir = scene.path("home");
    fs::create_dir(&dir).unwrap();
    let wrapper = scene.ready(&["-C", dir.to_str().unwrap()]);
    fs::remove_dir(&dir).unwrap();
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("home"), "{line}");
    assert_eq!(scene.log.count("worker TERM"), 0);
    fs::create_dir(&dir).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn we_ourselves_sit_in_the_root_directory() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let link = fs::read_link(format!("/proc/{}/cwd", wrapper.pid)).unwrap();
    assert_eq!(link, std::path::Path::new("/"));
    wrapper.stop();
}

#[test]
fn the_umask_is_what_was_asked_or_ours() {
    assert_eq!(seen(&["--umask", "027"])["status"]["Umask"], "0027");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim().to_owned();
    assert_eq!(seen(&[])["status"]["Umask"], own.as_str());
}

/// Whatever a launcher ignores and blocks, a worker ignores and blocks: nothing more or less.
#[test]
fn signals_and_limits_are_those_that_we_were_started_with() {
    let launcher = "import os, resource, signal, sys
for name in ('HUP', 'INT', 'USR1', 'CHLD', 'PIPE'):
    signal.signal(getattr(signal, 'SIG' + name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD])
resource.setrlimit(resource.RLIMIT_NOFILE, (123, 234))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.argv[1], sys.argv[1:])";
    let scene = Scene::of("dump seen\nsay dumped\nready notify");
    let run = |program: &[String]| {
        let mut command = scene.mark(Command::new("python3"));
        command.args(["-c", launcher]).args(program);
        scene.spawn(command)
    };

    let direct = run(&scene.puppet());
    scene.log.wait("worker dumped");
    let expected = scene.dump("seen");
    nix::sys::signal::kill(direct.pid, Signal::SIGKILL).unwrap();
    drop(direct);

    let mut wrapped = vec![common::binary().to_str().unwrap().to_owned()];
    wrapped.extend(quick(&["--stop-timeout", "100ms", "--"]).iter().map(|arg| (*arg).to_owned()));
    wrapped.extend(scene.puppet());
    let wrapper = run(&wrapped);
    scene.log.wait("g1 s0 worker dumped");
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let mut names = vec!["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "NoNewPrivs", "Seccomp"];
    names.extend(["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]);
    for name in names {
        assert_eq!(seen["status"][name], expected["status"][name], "{name}");
    }
    assert_eq!(seen["limits"], expected["limits"]);
    assert_eq!(seen["status"]["Cpus_allowed"], expected["status"]["Cpus_allowed"]);
    // TERM, which the launcher blocked, is ours to handle all the same; the worker still has it
    // blocked, and has to be killed.
    let mut wrapper = wrapper;
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137);
}

/// The C library hides two signals, and a program in Rust ignores SIGPIPE from its start on.
#[test]
fn every_disposition_is_the_one_that_we_were_started_with() {
    // What is ignored: nothing, all, PIPE alone.
    for ignored in ["[]", "range(1, 65)", "[13]"] {
        let launcher = format!(
            "import ctypes, os, signal, sys
call = ctypes.CDLL(None).syscall
rt_sigaction = {{'x86_64': 13, 'aarch64': 134}}[os.uname().machine]
for number in range(1, 65):
    action = (ctypes.c_ulong * 8)(1 if number in {ignored} else 0)
    call(rt_sigaction, number, action, None, 8)
os.execv(sys.argv[1], sys.argv[1:])"
        );
        let scene = Scene::of("hang");
        let run = |program: &[&str]| {
            let mut command = scene.mark(Command::new("python3"));
            command.args(["-c", &launcher]).args(program).stdout(Stdio::piped());
            let output = command.output().expect("python3");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a status").trim();
            u64::from_str_radix(line, 16).expect("hexadecimal")
        };
        let expected = run(&["/bin/cat", "/proc/self/status"]);
        let us = common::binary().to_str().unwrap();
        let seen = run(&[us, "--restart", "never", "--", "/bin/cat", "/proc/self/status"]);
        // The stop signal is never ignored.
        let term = 1 << (Signal::SIGTERM as u32 - 1);
        assert_eq!(seen | term, expected | term, "{ignored}: {seen:x}, not {expected:x}");
        assert_eq!(seen & term, 0);
    }
}

#[test]
fn a_worker_that_dies_by_pipe_is_told_of_with_the_cure() {
    let scene = Scene::of("hang");
    let dies = ["sh", "-c", "kill -s PIPE $$"];
    for (trap, cure) in [("-", true), ("''", false)] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap {trap} PIPE; exec \"$@\""), "sh"]).arg(common::binary());
        // A worker that has given up what it was started with is not helped by the cure.
        let kill = "import os, signal; signal.signal(13, signal.SIG_DFL); os.kill(os.getpid(), 13)";
        shell.args(["--restart", "never", "--"]);
        if cure {
            shell.args(dies)
        } else {
            shell.args(["python3", "-c", kill])
        };
        let mut wrapper = scene.spawn(scene.mark(shell));
        assert_eq!(wrapper.exit_status(), 128 + 13);
        wrapper.log.wait("was ended by signal 13 (PIPE)");
        assert_eq!(wrapper.log.has("trap '' PIPE"), cure, "{:?}", wrapper.log.all());
    }
}

#[test]
fn a_signal_that_we_send_is_never_inherited_as_ignored() {
    let scene = Scene::of("dump seen\nready notify");
    let mut shell = Command::new("sh");
    // A script that starts us with & has this effect on INT and QUIT.
    shell.args(["-c", "trap '' INT QUIT USR1; exec \"$@\"", "sh"]).arg(common::binary());
    shell.args(quick(&["--stop-signal", "INT", "--stop-timeout", "60s", "--"])).args(scene.puppet());
    let mut wrapper = scene.spawn(scene.mark(shell));
    wrapper.log.wait("INT and QUIT: ignored, because they were when we were started (*): stop with TERM");
    wrapper.log.wait("INT was ignored when we were started; workers do not ignore it");
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let ignored = u64::from_str_radix(seen["status"]["SigIgn"].as_str().unwrap(), 16).unwrap();
    let is_ignored = |signal: Signal| ignored & 1 << (signal as u32 - 1) != 0;
    assert!(!is_ignored(Signal::SIGINT) && is_ignored(Signal::SIGQUIT) && is_ignored(Signal::SIGUSR1));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0, "INT ends it: {:?}", wrapper.log.all());
}

#[test]
fn a_signal_that_workers_cannot_hear_is_told_of() {
    let scene = Scene::of("dump seen\nready notify");
    let mut env = Command::new("env");
    env.args(["--block-signal=TERM", "--block-signal=USR1"]).arg(common::binary());
    env.args(quick(&["--stop-timeout", "1s", "--"])).args(scene.puppet());
    let mut wrapper = scene.spawn(scene.mark(env));
    let said = wrapper.log.wait("blocked when we were started: TERM; workers inherit that");
    assert!(said.contains("is killed after --stop-timeout"), "{said}");
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let blocked = u64::from_str_radix(seen["status"]["SigBlk"].as_str().unwrap(), 16).unwrap();
    let both = 1 << (Signal::SIGTERM as u32 - 1) | 1 << (Signal::SIGUSR1 as u32 - 1);
    assert_eq!(blocked & both, both, "the mask is handed on");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137, "{:?}", wrapper.log.all());
}

#[test]
fn user_drops_everything() {
    if !am_root() {
        return; // Nobody but root can become somebody else.
    }
    let scene = Scene::of("dump seen\nready notify");
    fs::set_permissions(scene.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let program = scene.puppet_copy("program");
    let command = [program.to_str().unwrap().to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&quick(&["--user", "nobody"]), &command);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    assert_eq!(seen["status"]["Uid"], four(nobody.uid.as_raw()));
    assert_eq!(seen["status"]["Gid"], four(nobody.gid.as_raw()));
    let groups = seen["status"]["Groups"].as_str().unwrap();
    assert!(groups.is_empty() || groups == nobody.gid.to_string(), "root's groups: {groups}");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(seen["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!(environment(&seen, "USER"), Some("nobody"));
    assert_eq!(environment(&seen, "LOGNAME"), Some("nobody"));
    wrapper.stop();
}

#[test]
fn no_new_privs_is_set_when_asked() {
    assert_eq!(seen(&["--no-new-privs"])["status"]["NoNewPrivs"], "1");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).unwrap();
    assert_eq!(seen(&[])["status"]["NoNewPrivs"], own.trim());
}

/// An fd that we were started with stays with us, unless it is asked for.
#[test]
fn pass_fd_passes_that_one_only() {
    let scene = Scene::of(DUMP);
    fs::write(scene.path("asked"), "").unwrap();
    fs::write(scene.path("stray"), "").unwrap();
    let mut command = scene.mark(Command::new("/bin/sh"));
    command.args(["-c", "exec \"$@\" 7<asked 8<stray", "sh"]).arg(common::binary());
    command.args(quick(&["--ack", "notify", "--pass-fd", "7", "--"])).args(scene.puppet());
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let fds = seen["fds"].as_object().unwrap();
    assert_eq!(fds["7"]["target"], scene.arg("asked"));
    assert_eq!(fds.keys().collect::<Vec<_>>(), ["0", "1", "2", "3", "7"]);
    wrapper.stop();
}

#[test]
fn a_socket_that_we_were_started_with_can_be_bound_by_fd() {
    let scene = Scene::of("serve\nready notify\n");
    let launcher = "import os, socket, sys
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(9)
os.dup2(s.fileno(), 9); os.set_inheritable(9, True)
os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = scene.mark(Command::new("python3"));
    command.args(["-c", launcher]).arg(common::binary());
    command.args(["-b", "fd://9", "--"]).args(scene.puppet());
    let wrapper = scene.spawn(command);
    let address = common::address_in(&scene.log.wait("worker serving"));
    assert!(common::who(&address).starts_with("g1 "));
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

#[test]
fn sockets_that_reach_us_come_first_with_their_names() {
    let scene = Scene::of("dump seen\nserve\nready notify\n");
    let launcher = "import os, socket, sys
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(9)
f = os.dup(s.fileno()); s.close(); os.dup2(f, 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='given')
os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = scene.mark(Command::new("python3"));
    command.args(["-c", launcher]).arg(common::binary());
    command.args(["-b", "own=127.0.0.1:0", "--"]).args(scene.puppet());
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    assert_eq!(environment(&seen, "LISTEN_FDS"), Some("2"));
    assert_eq!(environment(&seen, "LISTEN_FDNAMES"), Some("given:own"));
    let address = common::address_in(environment(&seen, "GRACEFUL_RUN_LISTENERS").unwrap());
    assert!(common::who(&address).starts_with("g1 "));
    wrapper.stop();
}

#[test]
fn a_binary_that_a_deploy_still_writes_is_waited_for() {
    let scene = Scene::of("dump seen\ncount-signals\nready notify\n");
    let program = scene.puppet_copy("program");
    let command = [program.to_str().unwrap().to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&quick(&[]), &command);
    wrapper.log.wait(&says::ready(1));
    // A running program cannot be opened for writing: a new one goes to its place.
    let fresh = scene.puppet_copy("fresh");
    let writer = fs::OpenOptions::new().append(true).open(&fresh).unwrap();
    fs::rename(&fresh, &program).unwrap();
    wrapper.signal(Signal::SIGHUP);
    // WINCH, sent after it, has been passed on: the upgrade has begun, and waits or has failed.
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g1 s0 worker WINCH");
    drop(writer);
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has(&says::failed(2)));
    wrapper.stop();
}

#[test]
fn a_binary_that_stays_open_for_writing_fails_the_upgrade_with_a_hint() {
    let scene = Scene::of("count-signals\nready notify\n");
    let program = scene.puppet_copy("program");
    let command = [program.to_str().unwrap().to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&quick(&[]), &command);
    wrapper.log.wait(&says::ready(1));
    let fresh = scene.puppet_copy("fresh");
    let writer = fs::OpenOptions::new().append(true).open(&fresh).unwrap();
    fs::rename(&fresh, &program).unwrap();
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("rename"), "{line}");
    // It was tried for two seconds: that is said at the first time and at the last.
    assert_eq!(wrapper.log.count("generation 2: cannot execute "), 2, "{:?}", wrapper.log.all());
    wrapper.log.wait("generation 2: cannot execute * (install it by rename) (tried * times)");
    drop(writer);
    wrapper.stop();
}

#[test]
fn a_binary_that_is_briefly_away_is_waited_for() {
    let scene = Scene::of("dump seen\ncount-signals\nready notify\n");
    let program = scene.puppet_copy("program");
    let command = [program.to_str().unwrap().to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&quick(&[]), &command);
    wrapper.log.wait(&says::ready(1));
    fs::rename(&program, scene.path("away")).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: cannot find * (trying again)");
    fs::rename(scene.path("away"), &program).unwrap();
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has(&says::failed(2)));
    wrapper.stop();
}

#[test]
fn arguments_reach_the_worker_as_they_are() {
    let scene = Scene::of(DUMP);
    let mut command = scene.puppet();
    let odd = ["--", "-b", "", "two words", "$HOME", "*", "--help"].map(str::to_owned);
    command.extend(odd.clone());
    let wrapper = scene.start_command(&quick(&[]), &command);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    let arguments: Vec<_> = seen["arguments"].as_array().unwrap()[2..].to_vec();
    assert_eq!(arguments, odd);
    wrapper.stop();
}

#[test]
fn the_dashes_may_be_left_out() {
    let scene = Scene::of(DUMP);
    let mut command = scene.command();
    command.args(quick(&[])).args(scene.puppet());
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}
