//! As PID 1, in a pid namespace of its own: reaps everything, and ends by itself.

mod common;

use common::{Scene, Signal, Wrapper, am_root, quick};
use graceful_run::sys::process;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::process::Command;

/// The launcher, and PID 1 itself as this namespace calls it. None where that is forbidden.
fn first_process(scene: &Scene, args: &[&str]) -> Option<(Wrapper, Pid)> {
    first_process_at(scene, args, "worker ready")
}

/// The same, once the worker has said this.
fn first_process_at(scene: &Scene, args: &[&str], said: &str) -> Option<(Wrapper, Pid)> {
    if !am_root() {
        return None;
    }
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(common::binary());
    command.args(args).arg("--").args(scene.puppet());
    let wrapper = scene.spawn(command);
    scene.log.wait(said);
    let child = wrapper.children().first().expect("a child of unshare").0;
    Some((wrapper, Pid::from_raw(child)))
}

#[test]
fn pid_1_stops_and_gives_its_status() {
    let scene = Scene::of("count-signals\nready notify");
    let Some((mut wrapper, one)) = first_process(&scene, &quick(&[])) else { return };
    kill(one, Signal::SIGTERM).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 1);
}

#[test]
fn pid_1_stops_by_the_signal_that_stops_a_container_of_systemd() {
    let scene = Scene::of("count-signals\nready notify");
    let Some((mut wrapper, one)) = first_process(&scene, &quick(&[])) else { return };
    process::signal(one, libc::SIGRTMIN() + 3).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert!(wrapper.log.has("RTMIN+3: a stop"));
    assert_eq!(scene.log.count("worker TERM"), 1);
}

/// What `docker stop` sends to a container of haproxy's official image. Elsewhere it is forwarded.
#[test]
fn pid_1_stops_by_the_stop_signal_of_the_servers_image() {
    if !am_root() || common::tool("haproxy").is_none() {
        return;
    }
    let scene = Scene::new();
    let file = "defaults\n mode http\n timeout client 10s\n timeout server 10s\n timeout connect 10s\n\
                frontend web\n bind 127.0.0.1:PORT\n http-request return status 200\n";
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("TCP").port();
    std::fs::write(scene.path("haproxy.cfg"), file.replace("PORT", &free.to_string())).expect("it is ours");
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(common::binary());
    command.args(["haproxy", "-f", "haproxy.cfg"]);
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait("profile haproxy: --stop-signal USR1 --on USR1=stop, adds -db (");
    wrapper.log.wait(&common::says::ready(1));
    let one = wrapper.children().first().expect("a child of unshare").0;
    kill(Pid::from_raw(one), Signal::SIGUSR1).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert!(wrapper.log.has("stopping") && !wrapper.log.has("generation 2"), "{:?}", wrapper.log.all());
}

#[test]
fn pid_1_reaps_what_it_never_started() {
    let scene = Scene::of("count-signals\nready notify\nfork-orphans 20\nwait never");
    scene.gate("brood");
    let Some((mut wrapper, one)) = first_process(&scene, &quick(&[])) else { return };
    scene.log.wait("worker orphans left");
    let children = || {
        let path = format!("/proc/{one}/task/{one}/children");
        std::fs::read_to_string(path).unwrap_or_default().split_whitespace().count()
    };
    common::until("they are not adopted", || children() == 21);
    scene.release("brood", 20);
    common::until("zombies are left", || children() == 1);
    kill(one, Signal::SIGTERM).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn pid_1_upgrades() {
    let scene = Scene::of("count-signals\nready notify");
    let Some((mut wrapper, one)) = first_process(&scene, &quick(&[])) else { return };
    wrapper.log.wait(&common::says::ready(1));
    kill(one, Signal::SIGHUP).unwrap();
    scene.log.wait("g1 s0 worker TERM");
    kill(one, Signal::SIGTERM).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn pid_1_stops_before_anything_is_ready() {
    let scene = Scene::of("count-signals\nsay up\nhang");
    let args = quick(&["--ack", "notify"]);
    let Some((mut wrapper, one)) = first_process_at(&scene, &args, "worker up") else { return };
    kill(one, Signal::SIGTERM).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 1);
}

#[test]
fn pid_1_gives_the_signal_that_ended_its_worker() {
    let scene = Scene::of("say up\nwait go\nabort-signal SEGV");
    let args = quick(&["--ack", "notify", "--restart", "never"]);
    let Some((mut wrapper, _)) = first_process_at(&scene, &args, "worker up") else { return };
    scene.release("go", 1);
    assert_eq!(wrapper.exit_status(), 128 + 11);
}
