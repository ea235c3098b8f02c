//! `graceful-run COMMAND`, without any flag: what is adopted, what is not, and what the log says of it.

mod common;

use common::{DENY, Scene, Signal, Wrapper, binary, copy, copy_binary, host, says, tool, until, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const SERVER: &str = r"
import os, socket, sys
one = socket.socket(); one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind((sys.argv[1], 8000)); one.listen(64)
while True:
    client, _ = one.accept(); client.sendall(b'generation=%s\n' % os.environb[b'GRACEFUL_RUN_GENERATION']); client.close()
";

const ADOPTED: &str = "whatever the worker binds is adopted (--adopt=never turns that off;";

/// `OPTIONS -- python3 server.py HOST`, ready.
fn server(scene: &Scene, options: &[&str], host: &str) -> Wrapper {
    fs::write(scene.path("server.py"), SERVER).expect("it is ours");
    let wrapper = scene.start_command(options, &["python3", "server.py", host]);
    wrapper.log.wait(&says::ready(1));
    wrapper
}

fn upgrade(scene: &Scene) {
    let done = scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
}

/// What `ctl` says of an upgrade that is refused.
fn refused(scene: &Scene) -> String {
    let output = scene.ctl(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn what_a_server_binds_is_adopted() {
    let (scene, host) = (Scene::new(), host());
    let wrapper = server(&scene, &[], &host);
    assert!(wrapper.log.has(ADOPTED), "{:?}", wrapper.log.all());
    for generation in 2..5 {
        upgrade(&scene);
        assert_eq!(who(&format!("{host}:8000")), format!("generation={generation}\n"));
    }
    let again = scene.ctl(&["reexec"]);
    assert!(again.status.success(), "{again:?}");
    upgrade(&scene);
    assert_eq!(who(&format!("{host}:8000")), "generation=5\n");
    wrapper.stop();
}

/// Then a second one cannot bind, and the verdict says what to do; also after an execve(2) of ours.
#[test]
fn never_adopts_nothing() {
    let (scene, host) = (Scene::new(), host());
    let wrapper = server(&scene, &["--adopt=never", "--capture-stderr"], &host);
    assert!(!wrapper.log.has(ADOPTED), "{:?}", wrapper.log.all());
    let again = scene.ctl(&["reexec"]);
    assert!(again.status.success(), "{again:?}");
    let told = refused(&scene);
    let what = "say --adopt, or give it its socket with -b ADDRESS, if it can take one (see --export)";
    assert!(told.contains("has bound port 8000 itself") && told.contains(what), "{told}");
    let logged = wrapper.log.wait(&says::failed(2));
    assert!(logged.contains(what), "{logged}");
    assert_eq!(who(&format!("{host}:8000")), "generation=1\n");
    wrapper.stop();
}

/// A known server is told what it can take, and only that.
#[test]
fn an_address_that_is_in_use_is_told_with_what_the_server_can_do() {
    let (scene, host) = (Scene::new(), host());
    let module = ["python3", "-m", "http.server", "--bind", &host, "8000"];
    let bind = format!("{host}:8000");
    for more in [&[][..], &["--capture-stderr"]] {
        let wrapper = scene.start_command(&[&["--adopt=never"], more].concat(), &module);
        wrapper.log.wait(&says::ready(1));
        let told = refused(&scene);
        assert!(told.contains("has bound port 8000 itself, so a second one cannot: say --adopt)"), "{told}");
        wrapper.stop();
        // Several of them.
        let args = [&["-n", "2", "--adopt=never"], more].concat();
        let profile = ["--profile", "unicorn", "--stop-signal", "TERM"];
        fs::write(scene.path("server.py"), SERVER.replace("SO_REUSEADDR", "SO_REUSEPORT"))
            .expect("it is ours");
        let wrapper = scene.start_command(&[&args[..], &profile].concat(), &["python3", "server.py", &host]);
        wrapper.log.wait(&says::ready(1));
        fs::write(scene.path("server.py"), SERVER).expect("it is ours");
        let told = refused(&scene);
        assert!(
            told.contains(
                "a second one cannot: say --adopt, or give it its socket with -b ADDRESS --export unicorn)"
            ),
            "{told}"
        );
        wrapper.stop();
        // It does not look at the socket that it is given.
        let mut wrapper = scene.start_command(&[&["-b", &bind], more].concat(), &module);
        assert_eq!(wrapper.exit_status(), 1);
        let told = wrapper.last_line();
        assert!(told.contains("http.server binds its own sockets: leave -b out"), "{told}");
    }
}

/// A release that binds what the one before was given.
#[test]
fn a_release_that_binds_an_address_of_ours_is_told_to_leave_b_out() {
    let (scene, host) = (Scene::new(), host());
    let takes = SERVER.replace("one = socket.socket();", "one = socket.socket(fileno=3);");
    let bind = format!("{host}:8000");
    let takes = takes.replace("one.bind((sys.argv[1], 8000)); ", "");
    for more in [&[][..], &["--capture-stderr"]] {
        fs::write(scene.path("server.py"), &takes).expect("it is ours");
        let args = [&["-b", bind.as_str()], more].concat();
        let wrapper = scene.start_command(&args, &["python3", "server.py", &host]);
        wrapper.log.wait(&says::ready(1));
        fs::write(scene.path("server.py"), SERVER).expect("it is ours");
        let told = refused(&scene);
        assert!(
            told.contains("which -b holds: leave -b out") || told.contains("-b holds that: leave -b out"),
            "{told}"
        );
        assert!(told.contains("see --export"), "{told}");
        assert_eq!(who(&bind), "generation=1\n");
        wrapper.stop();
    }
}

/// A program without sockets: the first one has 10 s to bind something, and those after it 2 s.
#[test]
fn a_worker_without_sockets_is_ready_by_its_age() {
    let scene = Scene::new();
    let wrapper = scene.start_command(&[], &["sleep", "1000"]);
    wrapper.log.wait("generation 1: ready after * (timer)");
    let done = scene.ctl(&["upgrade", "--json"]);
    assert!(done.status.success(), "{done:?}");
    wrapper.log.wait("generation 2: ready after * (timer)");
    wrapper.stop();
}

#[test]
fn a_worker_without_sockets_is_ready_by_its_ack() {
    let scene = Scene::of("count-signals\nready notify");
    let wrapper = scene.start_command(&["--soak", "1ms"], &scene.puppet());
    wrapper.log.wait("generation 1: ready after * (notify)");
    upgrade(&scene);
    wrapper.stop();
}

#[test]
fn where_it_is_forbidden_the_command_runs_without_after_a_warning() {
    let (scene, host) = (Scene::new(), host());
    fs::write(scene.path("deny.py"), DENY).expect("it is ours");
    fs::write(scene.path("server.py"), SERVER).expect("it is ours");
    let mut command = scene.mark(Command::new("python3"));
    command.arg(scene.path("deny.py")).arg("getfd").arg(binary()).args(["python3", "server.py", &host]);
    let wrapper = scene.spawn(command);
    wrapper
        .log
        .wait("cannot adopt what workers bind: pidfd_getfd(2) on a child: *; the command runs without");
    wrapper.log.wait(&says::ready(1));
    assert_eq!(who(&format!("{host}:8000")), "generation=1\n");
    assert!(!wrapper.log.has(ADOPTED));
    for _ in 0..2 {
        let told = refused(&scene);
        let what =
            "a second one cannot: give it its socket with -b ADDRESS, if it can take one (see --export))";
        assert!(told.contains(what) && !told.contains("--adopt"), "{told}");
        let again = scene.ctl(&["reexec"]);
        assert!(again.status.success(), "{again:?}");
    }
    wrapper.stop();
    // A server that can only be adopted.
    let mut command = scene.mark(Command::new("python3"));
    command.arg(scene.path("deny.py")).arg("getfd").arg(binary());
    command.args(["python3", "-m", "http.server", "--bind", &host, "8000"]);
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let told = refused(&scene);
    assert!(told.contains("it takes no socket from -b, so that only --stop-first is left"), "{told}");
    wrapper.stop();
}

/// graceful-run as another user, with a copy of it that everybody may execute.
fn as_nobody(scene: &Scene, arguments: &[&str]) -> Option<Wrapper> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let program = scene.path("graceful-run");
    copy_binary(&program);
    let mut command = scene.mark(Command::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    Some(scene.spawn({
        command.arg("--no-socket").args(arguments);
        command
    }))
}

#[test]
fn another_user_than_root_is_told_of_no_new_privs() {
    let (scene, host) = (Scene::new(), host());
    fs::write(scene.path("server.py"), SERVER).expect("it is ours");
    let python = fs::canonicalize("/usr/bin/python3").expect("Debian's python");
    let Some(wrapper) = as_nobody(&scene, &[python.to_str().unwrap(), "server.py", &host]) else { return };
    wrapper.log.wait("to adopt what it binds, the worker runs with no_new_privs, as we lack CAP_SYS_ADMIN");
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: serves after");
    assert_eq!(who(&format!("{host}:8000")), "generation=2\n");
    wrapper.stop();
}

#[test]
fn a_command_that_needs_privileges_is_left_unadopted() {
    let scene = Scene::new();
    let sleep = scene.path("sleep");
    copy("/bin/sleep", &sleep);
    fs::set_permissions(&sleep, fs::Permissions::from_mode(0o2755)).expect("it is ours");
    for (command, how) in [(sleep.to_str().unwrap(), "u+s"), ("sudo", "sudo changes the user")] {
        let Some(wrapper) = as_nobody(&scene, &["--ack", "timer:1ms", "--retry-start", command, "1000"])
        else {
            return;
        };
        let line = wrapper.log.wait("what the worker binds is not adopted: that needs no_new_privs here");
        assert!(line.contains("root with --user") && line.contains(how), "{line}");
        wrapper.stop();
    }
}

/// `daemon` twice is an error of nginx: what its profile adds is left out, also by the next image of
/// ourselves.
#[test]
fn an_nginx_whose_file_keeps_it_in_the_foreground_starts_all_the_same() {
    if tool("nginx").is_none() {
        return;
    }
    for (daemon, handed) in [("", false), ("", true), ("daemon off;", false), ("daemon off;", true)] {
        let (scene, host) = (Scene::new(), host());
        let file = format!(
            "{daemon}\npid nginx.pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\n\
             http {{ access_log off; server {{ listen {host}:8000; return 200 ok; }} }}\n"
        );
        fs::write(scene.path("nginx.conf"), file).expect("it is ours");
        let bind = format!("{host}:8000");
        let options: &[&str] = if handed { &["-b", &bind] } else { &[] };
        let command = ["nginx", "-p", ".", "-c", "nginx.conf"];
        let wrapper = scene.start_command(options, &command);
        wrapper.log.wait(&says::ready(1));
        assert_eq!(wrapper.log.has("it is started once more without -g 'daemon off;'"), !daemon.is_empty());
        let again = scene.ctl(&["reexec"]);
        assert!(again.status.success(), "{again:?}");
        upgrade(&scene);
        let page = Path::new("/proc").join(wrapper.pid.to_string());
        assert!(page.exists());
        wrapper.stop();
    }
}

/// What the file says since makes an error of what the profile has added.
#[test]
fn a_release_that_refuses_what_its_profile_adds_is_told_so() {
    assert!(tool("nginx").is_some(), "nginx is not installed");
    let (scene, host) = (Scene::new(), host());
    let file = format!(
        "pid nginx.pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\n\
         http {{ access_log off; server {{ listen {host}:8000; return 200 ok; }} }}\n"
    );
    let added =
        "refuse -g 'daemon off;', which profile nginx adds: leave that setting out of its configuration";
    for (more, whether) in [(&[][..], "if it refuses -g"), (&["--capture-stderr"], "it may refuse -g")] {
        fs::write(scene.path("nginx.conf"), &file).expect("it is ours");
        let wrapper = scene.start_command(more, &["nginx", "-p", ".", "-e", "stderr", "-c", "nginx.conf"]);
        wrapper.log.wait(&says::ready(1));
        fs::write(scene.path("nginx.conf"), format!("daemon off;\n{file}")).expect("it is ours");
        let told = refused(&scene);
        assert!(told.contains(whether) && told.contains(&added[6..]), "{told}");
        assert!(told.contains("; generation 1 still serves"), "{told}");
        // Other words have another cause.
        fs::write(scene.path("nginx.conf"), format!("demon off;\n{file}")).expect("it is ours");
        let other = refused(&scene);
        assert_eq!(other.contains("which profile nginx adds"), more.is_empty(), "{other}");
        fs::write(scene.path("nginx.conf"), &file).expect("it is ours");
        upgrade(&scene);
        wrapper.stop();
    }
}

/// Each of them listens before it exits, and none is ready.
#[test]
fn workers_that_crash_again_and_again_leave_nothing_open() {
    let (scene, host) = (Scene::new(), host());
    let server = SERVER.replace("while True:", "if os.path.exists('bad'): sys.exit(3)\nwhile True:");
    fs::write(scene.path("server.py"), server).expect("it is ours");
    let wrapper =
        scene.start_command(&["--ack", "notify,listen", "--soak", "1ms"], &["python3", "server.py", &host]);
    wrapper.log.wait(&says::ready(1));
    let listeners_of_calls = || {
        let open = fs::read_dir(format!("/proc/{}/fd", wrapper.pid)).expect("it lives").flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("seccomp")).count()
    };
    assert_eq!(listeners_of_calls(), 1);
    fs::write(scene.path("bad"), "").expect("it is ours");
    let worker = wrapper.children()[0].0;
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it is ours");
    wrapper.log.wait_nth("generation 1: pid * exited with status 3", 4);
    until("at most the last one's is open", || listeners_of_calls() <= 1);
    fs::remove_file(scene.path("bad")).expect("it is there");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_eq!(who(&format!("{host}:8000")), "generation=1\n");
    wrapper.stop();
}
