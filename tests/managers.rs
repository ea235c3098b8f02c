//! Below managers that others wrote: whoever they tell to stop, each worker hears it once.

mod common;
#[path = "common/terminal.rs"]
mod terminal;

use common::{SERVER, Scene, Signal, Wrapper, quick, tool, who};
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use terminal::Terminal;

/// A worker whose requests take until they are released.
const SLOW: &str = "gate-term done\nready notify";

/// `graceful-run ... -- puppet DIR`, for a shell.
fn line(scene: &Scene, args: &[&str]) -> String {
    let words = quick(args);
    format!("{} {} -- {}", common::binary().display(), words.join(" "), scene.puppet().join(" "))
}

/// A manager that reads a Procfile and is told to stop, once it has said of both
/// processes that it started them: honcho forgets one that it has not.
fn stops_each_worker_once(name: &str, started: &str) {
    let Some(program) = tool(name) else { return };
    let scene = Scene::of(SERVER);
    let web = line(&scene, &["--ack", "notify", "-n", "2"]);
    let other = line(&scene, &["--ack", "notify"]);
    fs::write(scene.path("Procfile"), format!("web: {web}\nother: exec {other}\n")).unwrap();
    let mut command = scene.mark(Command::new("sh"));
    command.args(["-c", "exec \"$0\" start >&2"]).arg(program);
    let mut manager = scene.spawn(command);
    scene.log.wait_nth("worker ready", 3);
    for process in ["web", "other"] {
        manager.log.wait(&format!("{process}.1*{started}"));
    }
    manager.signal(Signal::SIGTERM);
    manager.exit_status();
    for pid in scene.processes() {
        scene.wait_gone(pid);
    }
    assert_eq!(scene.log.count("worker TERM"), 3, "{:?}", scene.log.all());
}

#[test]
fn honcho_stops_each_worker_once() {
    stops_each_worker_once("honcho", "started (pid=");
}

#[test]
fn foreman_stops_each_worker_once() {
    stops_each_worker_once("foreman", "started with pid");
}

/// The manager in a terminal, with `keys` typed there once the worker is ready. The worker is
/// released when this has been said of it.
fn in_a_terminal(scene: &Scene, program: &[String], keys: &str, heard: &str) -> Wrapper {
    let mut terminal = Terminal::new();
    let mut command = scene.mark(terminal.leader(program));
    command.stdin(terminal.stdin());
    let mut manager = scene.spawn(command);
    scene.log.wait("worker ready");
    manager.log.wait("generation 1: serv");
    terminal.types(keys);
    scene.log.wait(heard);
    scene.release("done", 1);
    manager.exit_status();
    for pid in scene.processes() {
        scene.wait_gone(pid);
    }
    manager
}

/// concurrently gets Ctrl-C as we do, and then sends INT to every descendant of its commands: to us
/// and to the worker.
#[test]
fn concurrently_stops_each_worker_once() {
    let Some(program) = tool("concurrently") else { return };
    let scene = Scene::of(SLOW);
    let ours = line(&scene, &["--ack", "notify", "--on", "INT=wait", "--on", "TERM=wait"]);
    let program = [program.to_str().unwrap(), "--raw", &format!("{ours} 2>&1")].map(String::from);
    let script = ["sh", "-c", "exec \"$@\" >&2", "sh"].map(String::from);
    let program: Vec<String> = script.into_iter().chain(program).collect();
    let manager = in_a_terminal(&scene, &program, "\x03", "worker INT");
    assert!(manager.log.has(&common::says::exited(1, 0)), "{:?}", manager.log.all());
    assert_eq!((scene.log.count("worker INT"), scene.log.count("worker TERM")), (1, 0));
}

/// honcho has its processes in sessions of their own: the terminal does not reach them.
#[test]
fn honcho_in_a_terminal_stops_each_worker_once() {
    let Some(program) = tool("honcho") else { return };
    let scene = Scene::of(SLOW);
    fs::write(scene.path("Procfile"), format!("web: exec {}\n", line(&scene, &["--ack", "notify"]))).unwrap();
    let script = ["sh", "-c", "exec \"$@\" >&2", "sh", program.to_str().unwrap(), "start"].map(String::from);
    let manager = in_a_terminal(&scene, &script, "\x03", "worker TERM");
    assert_eq!((scene.log.count("worker INT"), scene.log.count("worker TERM")), (0, 1));
    assert!(!manager.log.has("killed"), "{:?}", manager.log.all());
}

/// A shell that leads a process group, as a manager starts it.
fn in_a_shell(scene: &Scene, script: &str) -> Wrapper {
    let mut command = scene.mark(Command::new("sh"));
    command.args(["-c", script]).process_group(0).stderr(Stdio::null());
    let shell = scene.spawn(command);
    scene.log.wait("worker ready");
    shell
}

#[test]
fn term_to_the_shell_to_the_group_and_to_us_is_one_term_for_the_worker() {
    type Tell = fn(Pid);
    let to_one: Tell = |pid| kill(pid, Signal::SIGTERM).unwrap();
    let to_all: Tell = |pid| killpg(pid, Signal::SIGTERM).unwrap();
    for (form, tell) in [("exec {}", to_one), ("exec {}", to_all), ("{}; exit $?", to_all)] {
        let scene = Scene::of(SERVER);
        let script = form.replace("{}", &line(&scene, &["--ack", "notify"]));
        let mut shell = in_a_shell(&scene, &script);
        tell(shell.pid);
        shell.exit_status();
        for pid in scene.processes() {
            scene.wait_gone(pid);
        }
        assert_eq!(scene.log.count("worker TERM"), 1, "{form}");
    }
}

#[test]
fn sockets_of_systemd_are_handed_on_with_their_names() {
    let Some(program) = tool("systemd-socket-activate") else { return };
    let scene = Scene::of("dump seen\ncount-signals\nserve\nready notify");
    let addresses = [5000, 5001].map(|port| format!("{}:{port}", common::host()));
    let mut command = scene.mark(Command::new(program));
    for address in &addresses {
        command.args(["-l", address]);
    }
    command.args(["--fdname=http:admin", "-E", common::MARK, "-E", "XDG_RUNTIME_DIR"]);
    command.arg(common::binary()).args(["--soak", "1ms", "--ack", "notify", "--"]).args(scene.puppet());
    let wrapper = scene.spawn(command);
    wrapper.log.wait("Listening on 127.*as 4");
    // It starts us at the first connection, which waits.
    assert!(who(&addresses[0]).starts_with("g1 "));
    let seen = scene.dump("seen");
    assert_eq!(seen["environment"]["LISTEN_FDNAMES"], "http:admin");
    assert_eq!(seen["environment"]["LISTEN_PID"], seen["pid"].to_string());
    wrapper.log.wait("generation 1: serving");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&common::says::exited(1, 0));
    assert!(who(&addresses[1]).starts_with("g2 "));
    wrapper.stop();
}
