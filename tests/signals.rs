//! Signals to us: each row of the table, and storms of them.

mod common;

use common::{SERVER, Scene, Signal, quick, says, until};
use graceful_run::sys::{inherited, process};
use nix::unistd::Pid;

#[test]
fn usr1_and_winch_are_passed_on_to_ready_workers_only() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay parked\nwait ack\nready notify");
    let wrapper = scene.ready(&["-n", "2"]);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker parked");
    scene.log.wait("g2 s1 worker parked");
    for (signal, name) in [(Signal::SIGUSR1, "USR1"), (Signal::SIGWINCH, "WINCH")] {
        wrapper.signal(signal);
        for slot in 0..2 {
            scene.log.wait(&format!("g1 s{slot} worker {name}"));
        }
    }
    scene.release("ack", 2);
    wrapper.log.wait_nth(&says::exited(1, 0), 2);
    wrapper.signal(Signal::SIGUSR1);
    scene.log.wait("g2 s0 worker USR1");
    scene.log.wait("g2 s1 worker USR1");
    wrapper.stop();
    assert_eq!(scene.log.count("g2 * worker USR1"), 2);
    assert_eq!(scene.log.count("g2 * worker WINCH"), 0);
}

#[test]
fn ttin_and_ttou_change_the_number_of_workers() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGTTIN);
    scene.log.wait("s1 worker ready");
    wrapper.signal(Signal::SIGTTIN);
    scene.log.wait("s2 worker ready");
    wrapper.signal(Signal::SIGTTOU);
    scene.log.wait("s2 worker TERM");
    assert!(!scene.log.has("s0 worker TERM"));
    // A new number of workers holds for the next generation too.
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker ready");
    scene.log.wait("g2 s1 worker ready");
    scene.log.wait("g1 s1 worker TERM");
    assert!(!scene.log.has("g2 s2 "));
    wrapper.stop();
}

#[test]
fn tstp_and_cont_stop_and_continue_us_and_the_workers() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let worker = common::pid_in(&scene.log.wait("worker ready"));
    wrapper.signal(Signal::SIGTSTP);
    until("graceful-run does not stop", || wrapper.state() == 'T');
    until("the worker does not stop", || wrapper.children().contains(&(worker, 'T')));
    wrapper.signal(Signal::SIGCONT);
    scene.log.wait("worker CONT");
    until("graceful-run does not go on", || wrapper.state() != 'T');
    until("the worker does not go on", || !wrapper.children().contains(&(worker, 'T')));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn alrm_kills_what_drains_and_nothing_else() {
    let scene = Scene::of(SERVER);
    scene.script("1", "ignore-term\nserve\nready notify");
    let wrapper = scene.ready(&["--stop-timeout", "0"]);
    wrapper.signal(Signal::SIGALRM);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.signal(Signal::SIGALRM);
    wrapper.log.wait(&says::killed(1, 9));
    wrapper.stop();
    assert_eq!(scene.log.count("g2 s0 worker TERM"), 1);
}

#[test]
fn on_changes_what_a_signal_means() {
    let scene = Scene::of(SERVER);
    let mut rows = Vec::new();
    for row in ["USR1=upgrade", "HUP=ignore", "WINCH=forward:USR2", "USR2=forward", "TTIN=stop"] {
        rows.extend(["--on", row]);
    }
    let mut wrapper = scene.ready(&rows);
    wrapper.signal(Signal::SIGHUP);
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("g1 s0 worker USR2");
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait_nth("g1 s0 worker USR2", 2);
    assert!(!scene.log.has("g2 "));
    wrapper.signal(Signal::SIGUSR1);
    wrapper.log.wait(&says::exited(1, 0));
    assert!(scene.log.has("g2 s0 worker ready"));
    wrapper.signal(Signal::SIGTTIN);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker HUP") + scene.log.count("worker USR1"), 0);
}

#[test]
fn on_can_name_the_other_meanings() {
    let scene = Scene::of("ignore-term\nready notify");
    let rows = ["--on", "USR1=more", "--on", "WINCH=fewer", "--on", "ALRM=kill"];
    let mut wrapper = scene.ready(&[&rows[..], &["--stop-timeout", "0"]].concat());
    wrapper.signal(Signal::SIGUSR1);
    scene.log.wait("s1 worker ready");
    wrapper.signal(Signal::SIGWINCH);
    scene.log.wait("s1 worker TERM");
    wrapper.signal(Signal::SIGALRM);
    assert_eq!(wrapper.exit_status(), 137);
}

/// Sends us a signal by its number.
fn send(pid: Pid, signal: i32) {
    process::signal(pid, signal).unwrap();
}

#[test]
fn every_signal_that_would_end_us_is_a_stop_that_is_named() {
    let listed = "ABRT TRAP SYS STKFLT XCPU XFSZ VTALRM PROF IO PWR".split(' ').map(|name| {
        let signal: Signal = format!("SIG{name}").parse().unwrap();
        (signal as i32, name.to_owned())
    });
    let real_time = (0..=libc::SIGRTMAX() - libc::SIGRTMIN()).map(|distance| match distance {
        0 => (libc::SIGRTMIN(), "RTMIN".to_owned()),
        distance => (libc::SIGRTMIN() + distance, format!("RTMIN+{distance}")),
    });
    let mut all: Vec<_> = listed.chain(real_time).collect();
    all.retain(|(signal, _)| !inherited::ignored(*signal));
    assert!(all.len() > 30);
    for (signal, name) in all {
        let scene = Scene::of(SERVER);
        let mut wrapper = scene.ready(&[]);
        send(wrapper.pid, signal);
        assert_eq!(wrapper.exit_status(), 0, "{name}");
        assert!(wrapper.log.has(&format!("{name}: a stop")), "{:?}", wrapper.log.all());
        assert_eq!(scene.log.count("worker TERM"), 1, "{name}");
    }
}

#[test]
fn the_signals_of_the_c_library_do_not_end_us() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    for signal in 32..libc::SIGRTMIN() {
        send(wrapper.pid, signal);
    }
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

#[test]
fn a_worker_that_sends_us_one_of_them_does_not_stop_us() {
    let scene = Scene::of(SERVER);
    let script = format!("kill -s PWR $PPID; exec {}", scene.puppet().join(" "));
    let wrapper = scene.start_command(&quick(&[]), &["sh", "-c", &script]);
    wrapper.log.wait("PWR of pid *, a worker's own, is no stop");
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

#[test]
fn real_time_signals_may_have_a_row() {
    let scene = Scene::of(SERVER);
    let rows = ["--on", "RTMIN+3=upgrade", "--on", "SIGRTMAX=ignore", "--on", "XCPU=forward:USR1"];
    let wrapper = scene.ready(&rows);
    send(wrapper.pid, libc::SIGRTMAX());
    send(wrapper.pid, libc::SIGXCPU);
    scene.log.wait("g1 s0 worker USR1");
    send(wrapper.pid, libc::SIGRTMIN() + 3);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

#[test]
fn a_row_that_makes_no_sense_is_a_usage_error() {
    let scene = Scene::of("say started");
    for row in ["HUP", "HUP=", "=stop", "KILL=stop", "STOP=ignore", "NOPE=stop", "HUP=dance"] {
        let mut wrapper = scene.start(&quick(&["--on", row]));
        assert_eq!(wrapper.exit_status(), 2, "--on {row}");
    }
    assert!(!scene.log.has("started"));
}

/// The supervisor leads no group of the workers: what a terminal sends to its foreground group
/// reaches it alone, and every worker hears of it once.
#[test]
fn a_signal_to_our_group_reaches_a_worker_once() {
    use std::os::unix::process::CommandExt;
    let scene = Scene::of(SERVER);
    let mut command = scene.command();
    command.args(quick(&["--"])).args(scene.puppet()).process_group(0);
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    nix::sys::signal::killpg(wrapper.pid, Signal::SIGINT).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 1);
    assert_eq!(scene.log.count("worker INT"), 0);
}

#[test]
fn a_signal_that_comes_with_the_first_breath_is_not_lost() {
    for _ in 0..20 {
        let scene = Scene::of("count-signals\nready notify");
        let mut wrapper = scene.start(&quick(&[]));
        wrapper.signal(Signal::SIGTERM);
        // Before main, TERM ends a process as it always does. After it, a stop is a stop.
        let status = wrapper.exit_status();
        assert!([0, -15].contains(&status), "{status}");
    }
}

#[test]
fn a_storm_of_signals_ends_in_one_stop() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&["-n", "2"]);
    let storm = [
        Signal::SIGHUP,
        Signal::SIGUSR2,
        Signal::SIGUSR1,
        Signal::SIGWINCH,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGALRM,
        Signal::SIGCHLD,
        Signal::SIGCONT,
    ];
    // A generator with a fixed seed: the same storm every time.
    let mut seed: u64 = 7;
    for _ in 0..300 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        wrapper.signal(storm[(seed >> 33) as usize % storm.len()]);
        std::thread::yield_now();
    }
    assert!(!wrapper.has_ended());
    wrapper.signal(Signal::SIGTERM);
    for signal in [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTTIN] {
        let _ = nix::sys::signal::kill(wrapper.pid, signal);
    }
    assert!([0, 137].contains(&wrapper.exit_status()), "ALRM may have killed one that drained");
    assert!(scene.processes().is_empty());
    for pid in scene.log.all().iter().filter(|line| line.contains(" TERM ")) {
        assert_eq!(scene.log.count(pid), 1, "two stop signals: {pid}");
    }
}
