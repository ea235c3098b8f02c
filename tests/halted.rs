//! Workers that a signal stops: a replacement is refused, one that serves is told of and shown.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, address_in, binary, pid_in, quick, says, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

/// Serves, says that it is ready, and stops.
const STOPS: &str = "count-signals\nserve\nready notify\nstop-self\n";

/// The worker of this slot in `ctl status`.
fn worker(scene: &Scene, slot: usize) -> serde_json::Value {
    scene.status()["workers"][slot].clone()
}

/// An upgrade to generation 2 has failed for this reason; the old worker serves and has heard
/// nothing, the new one ends by its TERM, and the next upgrade succeeds.
fn is_refused(scene: &Scene, wrapper: &Wrapper, address: &str, why: &str) {
    wrapper.signal(Signal::SIGUSR2);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(common::matches(why, &line), "the reason is not {why:?}: {line}");
    wrapper.log.wait("generation 2: pid * stopped *, and is continued, so that it can leave");
    // Until then it may accept a connection.
    wrapper.log.wait("generation 2: pid * exited *");
    assert!(who(address).starts_with("g1 "));
    assert!(!scene.log.has("g1 s0 worker TERM"), "{}", wrapper.log.all().join("\n"));
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::ready(3));
    wrapper.log.wait(&says::exited(1, 0));
    assert!(who(address).starts_with("g3 "));
}

/// No ack timeout is waited for.
#[test]
fn a_replacement_that_stops_is_refused() {
    for script in [STOPS, "count-signals\nserve\nstop-self\n"] {
        let scene = Scene::of(SERVER);
        scene.script("2", script);
        let wrapper = scene.ready(&["--soak", "300ms", "--ack-timeout", "1h"]);
        let address = address_in(&scene.log.wait("g1 s0 worker serving"));
        is_refused(
            &scene,
            &wrapper,
            &address,
            "worker pid * is stopped by signal 19 (STOP), and had replaced nobody; generation 1 still serves",
        );
        wrapper.stop();
    }
}

/// The shell, which is the worker, is not stopped.
#[test]
fn a_replacement_behind_a_shell_that_stops_is_refused() {
    let scene = Scene::of(SERVER);
    scene.script("2", STOPS);
    let command = format!("x=1; {} here -- {}; true", binary().display(), scene.puppet().join(" "));
    let wrapper = scene.start_command(&quick(&["--soak", "300ms"]), &["sh", "-c", &command]);
    wrapper.log.wait(&says::ready(1));
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    wrapper.signal(Signal::SIGUSR2);
    let stopped = scene.log.wait("g2 s0 worker ready");
    let process = format!("has a process that is stopped, pid {} (puppet)", pid_in(&stopped));
    wrapper.log.wait(&format!("{}worker pid * {process}, and had replaced nobody", says::failed(2)));
    scene.wait_gone(pid_in(&stopped));
    assert!(who(&address).starts_with("g1 "));
    wrapper.stop();
}

/// It is logged, shown and counted; CONT clears it. Over another image of ourselves too.
#[test]
fn a_serving_worker_that_is_stopped_is_shown() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["-n", "2", "--name", "web"]);
    let pid = pid_in(&scene.log.wait("g1 s1 worker ready"));
    for reexec in [false, true] {
        let round = usize::from(reexec) + 1;
        send(pid, Signal::SIGSTOP);
        let told =
            "pid * is stopped by signal 19 (STOP), and serves nobody until it is continued (kill -CONT *)";
        let told = wrapper.log.wait_nth(&format!("generation 1: {told}"), round);
        assert!(told.ends_with(&format!("(kill -CONT {pid})")), "{told}");
        if reexec {
            let output = scene.ctl(&["reexec"]);
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(
            (&worker(&scene, 1)["stage"], &worker(&scene, 1)["stopped"]),
            (&"stopped".into(), &"STOP".into())
        );
        assert_eq!(worker(&scene, 0)["stage"], "ready");
        let table = String::from_utf8(scene.ctl(&["status"]).stdout).expect("UTF-8");
        assert!(common::matches("* stopped * stopped: STOP*", &table), "{table}");
        let metrics = String::from_utf8(scene.ctl(&["metrics"]).stdout).expect("UTF-8");
        for line in ["{stage=\"ready\"} 1", "{stage=\"stopped\"} 1"] {
            assert!(metrics.contains(&format!("graceful_run_workers{line}")), "{metrics}");
        }
        send(pid, Signal::SIGCONT);
        wrapper.log.wait_nth(&format!("generation 1: pid {pid} goes on, after it was stopped for"), round);
        assert_eq!(worker(&scene, 1)["stage"], "ready");
    }
    wrapper.stop();
}

/// Its upgrade goes on, and it is continued: it ends by its TERM, not by a KILL.
#[test]
fn a_serving_worker_that_is_stopped_is_replaced() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--stop-timeout", "1h"]);
    let pid = pid_in(&scene.log.wait("g1 s0 worker ready"));
    send(pid, Signal::SIGSTOP);
    wrapper.log.wait("generation 1: pid * is stopped by signal 19 (STOP)");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper
        .log
        .wait("generation 1: pid * is stopped by signal 19 (STOP), and is continued, so that it can leave");
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

/// What a shell's user has stopped in a session of its own is no news.
#[test]
fn a_stopped_process_in_a_session_of_its_own_is_no_news() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nfork-child setsid stop-self\nwait go\nready notify\n");
    let wrapper = scene.ready(&["--soak", "300ms"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.release("go", 1);
    wrapper.log.wait(&says::ready(2));
    // Until then the status shows the old worker too.
    wrapper.log.wait(&says::exited(1, 0));
    assert_eq!(worker(&scene, 0)["stage"], "ready");
    wrapper.stop();
}

/// Its parent is the worker that started it.
#[test]
fn a_successor_that_is_stopped_is_refused() {
    const SERVER: &str = r"
import os, signal, socket, subprocess, sys, time
listener = socket.socket(fileno=int(os.environ['FD'])) if 'FD' in os.environ else socket.create_server(('127.0.0.1', 0))
if 'FD' not in os.environ: open('port', 'w').write(str(listener.getsockname()[1]))
def succeed(*_):
    subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, 'FD': str(listener.fileno())}, pass_fds=[listener.fileno()])
signal.signal(signal.SIGUSR2, succeed)
while True:
    client, _ = listener.accept()
    client.sendall(b'pid=%d\n' % os.getpid())
    client.close()
";
    let scene = Scene::new();
    fs::write(scene.path("server.py"), SERVER).expect("it is ours");
    let arguments = ["--follow", "USR2", "--ack", "accepting", "--soak", "10s", "--ack-timeout", "1h"];
    let wrapper = scene.start_command(&arguments, &["python3", "server.py"]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait("generation 2: ready after");
    let pid = pid_in(&line.replace("pid ", "pid="));
    send(pid, Signal::SIGSTOP);
    wrapper.log.wait(&format!(
        "{}worker pid {pid} is stopped, by a signal or a debugger, and had replaced nobody",
        says::failed(2)
    ));
    wrapper.log.wait(&format!("generation 2: pid {pid} *continued, so that it can leave"));
    scene.wait_gone(pid);
    let port = fs::read_to_string(scene.path("port")).expect("it is bound");
    assert!(who(&format!("127.0.0.1:{port}")).starts_with("pid="));
    wrapper.stop();
}

/// Gives its argument a terminal, with our stderr as its log.
const TERMINAL: &str = r"
import os, pty, sys
log = os.dup(2)
pid, terminal = pty.fork()
if pid == 0:
    os.dup2(log, 2)
    os.execvp(sys.argv[1], sys.argv[1:])
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// Serves, and reads keys as development servers do.
const READS_KEYS: &str = r"
import os, socket, sys, threading
listener = socket.socket(fileno=3)
def serve():
    while True: listener.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.readline()
";

/// `graceful-run OPTIONS -- python3` on a terminal of its own.
fn on_a_terminal(scene: &Scene, options: &[&str]) -> Wrapper {
    fs::write(scene.path("terminal.py"), TERMINAL).expect("it is ours");
    fs::write(scene.path("server.py"), READS_KEYS).expect("it is ours");
    let mut command = scene.mark(std::process::Command::new("python3"));
    command.arg("terminal.py").arg(binary()).args(["-b", "127.0.0.1:0", "--name", "web", "--soak", "1ms"]);
    command.args(options).args(["--", "python3", "server.py"]);
    scene.spawn(command)
}

#[test]
fn a_server_that_reads_its_terminal_from_the_background_is_told_of() {
    let scene = Scene::new();
    let mut wrapper = on_a_terminal(&scene, &[]);
    wrapper.log.wait("generation 1: pid * is stopped by signal 21 (TTIN), and serves nobody until it is continued (it reads its terminal from the background: start graceful-run with </dev/null, or with --foreground-tty)");
    assert_eq!(worker(&scene, 0)["stopped"], "TTIN");
    let output = scene.ctl(&["stop"]);
    assert!(output.status.success(), "{output:?}");
    wrapper.exit_status();
    assert!(!wrapper.log.has("* killed, *"), "{}", wrapper.log.all().join("\n"));
}

/// The cure that the message names.
#[test]
fn a_server_that_reads_its_terminal_in_the_foreground_is_not_stopped() {
    let scene = Scene::new();
    let mut wrapper = on_a_terminal(&scene, &["--foreground-tty"]);
    wrapper.log.wait(&says::ready(1));
    assert_eq!(worker(&scene, 0)["stage"], "ready");
    let output = scene.ctl(&["upgrade"]);
    assert!(output.status.success(), "{output:?}\n{}", wrapper.log.all().join("\n"));
    assert!(!wrapper.log.has("is stopped by"), "{}", wrapper.log.all().join("\n"));
    assert!(scene.ctl(&["stop"]).status.success());
    wrapper.exit_status();
}
