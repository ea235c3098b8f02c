//! What a terminal does to us: Ctrl-C below a runner that passes INT on, and a window that is
//! closed.

mod common;
#[path = "common/terminal.rs"]
mod terminal;

use common::{SERVER, Scene, Signal, Wrapper, quick, says};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use terminal::Terminal;

/// A runner that passes on what it gets, to its own child.
const RUNNER: &str = "import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
def pass_on(number, frame):
    child.send_signal(number)
    sys.stderr.write('the runner has told its child\\n')
for number in (signal.SIGINT, signal.SIGQUIT): signal.signal(number, pass_on)
sys.exit(child.wait())";

/// `graceful-run ARGS -- puppet DIR`.
fn ours(scene: &Scene, args: &[&str]) -> Vec<String> {
    let words = [vec![common::binary().to_str().unwrap()], quick(args), vec!["--"]].concat();
    words.into_iter().map(String::from).chain(scene.puppet()).collect()
}

fn below_runner(command: Vec<String>) -> Vec<String> {
    ["python3", "-c", RUNNER].map(String::from).into_iter().chain(command).collect()
}

/// The program in this terminal, once the worker is ready.
fn in_terminal(scene: &Scene, terminal: &Terminal, program: &[String]) -> Wrapper {
    let mut command = scene.mark(terminal.leader(program));
    command.stdin(terminal.stdin());
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    wrapper
}

/// Our own pid, wherever we run.
fn our_pid(wrapper: &Wrapper) -> Pid {
    let line = wrapper.log.wait("pid *: HUP or USR2 upgrades");
    let digits: String =
        line.split("pid ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    Pid::from_raw(digits.parse().unwrap())
}

/// A worker whose requests take until they are released.
const SLOW: &str = "gate-term done\nready notify";

#[test]
fn a_ctrl_c_that_a_runner_passes_on_is_one_stop() {
    for key in ["\x03", "\x1c"] {
        let scene = Scene::of(SLOW);
        let mut terminal = Terminal::new();
        // The kernel tells all three, and the runner tells us once more.
        let mut runner = in_terminal(&scene, &terminal, &below_runner(ours(&scene, &[])));
        terminal.types(key);
        // The two may have been merged by then: signal(7).
        runner.log.wait("the runner has told its child");
        scene.log.wait("worker TERM");
        scene.release("done", 1);
        assert_eq!(runner.exit_status(), 0, "{:?}", runner.log.all());
        assert_eq!(scene.log.count("worker TERM"), 1);
        assert!(!runner.log.has("killed"), "{:?}", runner.log.all());
    }
}

#[test]
fn a_second_ctrl_c_kills() {
    let scene = Scene::of("count-signals\nignore-term\nready notify");
    let mut terminal = Terminal::new();
    let mut runner = in_terminal(&scene, &terminal, &below_runner(ours(&scene, &["--stop-timeout", "0"])));
    terminal.types("\x03");
    runner.log.wait("stopping");
    runner.log.wait("the runner has told its child");
    terminal.types("\x03");
    assert_eq!(runner.exit_status(), 137, "{:?}", runner.log.all());
}

#[test]
fn a_second_int_of_the_same_process_kills() {
    let scene = Scene::of("count-signals\nignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "0"]);
    wrapper.signal(Signal::SIGINT);
    wrapper.log.wait("stopping");
    wrapper.signal(Signal::SIGINT);
    assert_eq!(wrapper.exit_status(), 137);
}

/// timeout(1) signals its child, and then its group.
#[test]
fn timeout_stops_once() {
    let scene = Scene::of(SLOW);
    let mut command = scene.mark(std::process::Command::new("timeout"));
    command.arg("1h").args(ours(&scene, &[]));
    let mut timeout = scene.spawn(command);
    timeout.log.wait(&says::ready(1));
    timeout.signal(Signal::SIGINT);
    scene.log.wait("worker TERM");
    scene.release("done", 1);
    timeout.log.wait("exited with status 0");
    assert!(!timeout.log.has("killed"), "{:?}", timeout.log.all());
    timeout.exit_status();
}

/// What the post-stop hook does is not cut short either.
#[test]
fn a_ctrl_c_that_is_passed_on_late_leaves_the_hooks_alone() {
    let scene = Scene::of(SERVER);
    scene.gate("hook");
    let mut terminal = Terminal::new();
    let hook = "post-stop=echo > runner; head -c 1 hook > read; echo its end: $(cat read) >&2";
    // It passes INT on when the hook runs.
    let runner = "import os, signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
def pass_on(number, frame): pass
signal.signal(signal.SIGINT, pass_on)
os.read(os.open('runner', os.O_RDONLY), 1)
child.send_signal(signal.SIGINT)
sys.exit(child.wait())";
    scene.gate("runner");
    let command = ["python3", "-c", runner].map(String::from).into_iter();
    let command: Vec<String> = command.chain(ours(&scene, &["--hook", hook])).collect();
    let mut runner = in_terminal(&scene, &terminal, &command);
    terminal.types("\x03");
    runner.log.wait("pid * has passed on what the terminal sent");
    scene.release("hook", 1);
    assert_eq!(runner.exit_status(), 0);
    assert!(runner.log.has("its end: ."), "{:?}", runner.log.all());
}

#[test]
fn a_window_that_is_closed_is_a_stop() {
    let scene = Scene::of(SERVER);
    let terminal = Terminal::new();
    // The kernel tells the leader of the session, which is us.
    let mut wrapper = in_terminal(&scene, &terminal, &ours(&scene, &[]));
    drop(terminal);
    wrapper.log.wait("HUP: our terminal is gone");
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!((scene.log.count("worker TERM"), scene.log.count("g2 ")), (1, 0));
}

#[test]
fn a_hangup_that_a_shell_passes_on_is_a_stop() {
    let scene = Scene::of(SERVER);
    // When the window is closed, an interactive shell sends HUP to its jobs; one that is a login
    // shell does so too when it exits, if it is told to, and the terminal is still there.
    let closed = (["bash", "--norc", "-i"].as_slice(), None);
    let left = (["bash", "--noprofile", "--login", "-i", "-O", "huponexit"].as_slice(), Some("exit\nexit\n"));
    for (shell, said) in [closed, left] {
        let mut terminal = Terminal::new();
        let shell: Vec<String> = shell.iter().map(|word| (*word).to_owned()).collect();
        let mut command = scene.mark(terminal.leader(&shell));
        command.stdin(terminal.stdin()).env("HISTFILE", "/dev/null");
        let shell = scene.spawn(command);
        let words: Vec<String> = ours(&scene, &[]).iter().map(|word| format!("'{word}'")).collect();
        terminal.types(&format!("{} &\n", words.join(" ")));
        shell.log.wait(&says::ready(1));
        let pid = our_pid(&shell);
        if let Some(said) = said {
            terminal.types(said);
            shell.log.wait("HUP: our terminal is gone");
        }
        drop(terminal);
        shell.log.wait("HUP: our terminal is gone");
        scene.wait_gone(pid.as_raw());
    }
    assert_eq!((scene.log.count("worker TERM"), scene.log.count("g2 ")), (2, 0));
}

#[test]
fn a_hup_that_somebody_sends_in_a_terminal_is_an_upgrade() {
    let scene = Scene::of(SERVER);
    let terminal = Terminal::new();
    let mut wrapper = in_terminal(&scene, &terminal, &ours(&scene, &[]));
    kill(wrapper.pid, Signal::SIGHUP).unwrap();
    wrapper.log.wait(&says::exited(1, 0));
    assert!(scene.log.has("g2 s0 worker ready"));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn without_its_terminal_it_goes_on_where_that_was_asked_for() {
    for args in [&["--on", "HUP=upgrade"][..], &["--on", "HUP=ignore"]] {
        let scene = Scene::of(SERVER);
        let terminal = Terminal::new();
        let mut wrapper = in_terminal(&scene, &terminal, &ours(&scene, args));
        drop(terminal);
        if args[1] == "HUP=upgrade" {
            wrapper.log.wait(&says::exited(1, 0));
        }
        wrapper.signal(Signal::SIGUSR2);
        wrapper.log.wait(&says::exited(if args[1] == "HUP=upgrade" { 2 } else { 1 }, 0));
        wrapper.signal(Signal::SIGTERM);
        assert_eq!(wrapper.exit_status(), 0);
    }
}
