//! Servers of one process that become clusters of three: upgraded, killed and scaled under load.
//!
//! Contract: an upgrade and a scale lose nothing. A worker that is killed loses no more than what its
//! clients had at it; what still waited for it is answered.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Failure;
use crate::driver::{CLIENTS, Running};
use crate::load::Load;
use crate::place::tell;
use crate::server::{Server, server};
use crate::servers::{GO, NODE, nginx_that_listens};

/// Workers.
const WORKERS: u32 = 3;

/// Upgrades of each; a worker is killed, and the number of workers changed, after each fourth.
const UPGRADES: u64 = 20;

#[test]
fn node() {
    cluster(&server("node, 3 workers", NODE));
}

#[test]
fn node_as_nobody() {
    cluster(&server("node, 3 workers, as nobody", NODE).as_nobody());
}

#[test]
fn go() {
    cluster(&server("go, static, 3 workers", GO));
}

#[test]
fn python() {
    cluster(&server("http.server, 3 workers", "python3 slow.py 127.0.0.1:8000"));
}

#[test]
fn uvicorn() {
    let command = "uvicorn --host 127.0.0.1 --port 8000 --no-access-log --lifespan off asgi:app";
    cluster(&server("uvicorn, 3 workers", command).borrows(&["asgi.py"]));
}

#[test]
fn puma() {
    let command = "puma --config - --bind tcp://127.0.0.1:8000 --threads 1:4 config.ru";
    cluster(&server("puma, 3 workers", command).borrows(&["config.ru"]));
}

#[test]
fn java() {
    cluster(&server("java, 3 workers", "java Plain 127.0.0.1:8000"));
}

/// A master with two workers of its own in each slot.
#[test]
fn nginx() {
    cluster(&nginx_that_listens("nginx, 3 masters", "listen 127.0.0.1:8000"));
}

/// Each worker has two sockets of its own.
#[test]
fn nginx_reuseport() {
    cluster(&nginx_that_listens("nginx, reuseport, 3 masters", "listen 127.0.0.1:8000 reuseport"));
}

/// Upgrades, kills and changes of the number of workers, mixed.
fn cluster(server: &Server) {
    let Some(mut running) = Running::start(server, &["-n", "3"]) else { return };
    let mut load = running.load();
    let mut serving = running.await_replies(&mut load, 1);
    let (mut lost, mut kills) = (0, 0);
    for number in 1..=UPGRADES {
        running.wrapper.signal(if number % 2 == 1 { Signal::SIGUSR2 } else { Signal::SIGHUP });
        running.await_upgraded();
        serving = running.await_replies(&mut load, serving + 1);
        assert_eq!(failed(&load), lost, "{}: upgrade {number}: {:?}", server.name, load.failures);
        match number % 4 {
            0 => {
                kill_one(&mut running, &mut load, number as usize);
                kills += 1;
                // What a killed worker had accepted.
                let now = failed(&load);
                assert!(now - lost <= CLIENTS as u64, "{}: {:?}", server.name, load.failures);
                lost = now;
            }
            2 => {
                for workers in [WORKERS + 2, WORKERS - 1, WORKERS] {
                    running.ctl(&["scale", &workers.to_string()]);
                }
                running.await_replies(&mut load, serving);
                assert_eq!(failed(&load), lost, "{}: scale: {:?}", server.name, load.failures);
            }
            _ => {}
        }
    }
    load.finish().unwrap_or_else(|why| panic!("{}: {why}", server.name));
    tell(&format!(
        "{:<28} {UPGRADES} upgrades, {kills} kills: {} requests, {} failed {:?}",
        server.name,
        load.ok + failed(&load),
        failed(&load),
        load.failures
    ));
    assert_eq!(failed(&load), lost, "{}: {:?}", server.name, load.failures);
    for class in [Failure::Refused, Failure::Exhausted, Failure::Timeout, Failure::BadBody] {
        assert_eq!(load.failures.get(&class), None, "{}: {}", server.name, class.name());
    }
    running.stop(|_, _| ());
}

/// Kills one worker, and waits until there are three again and clients are answered.
fn kill_one(running: &mut Running, load: &mut Load, number: usize) {
    let workers = ready(running);
    let victim = workers[number % workers.len()];
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("it is a worker of ours");
    running.await_said(": ready after ");
    let now = ready(running);
    assert!(!now.contains(&victim), "{now:?}");
    running.await_replies(load, 1);
}

/// The pids of the workers, all of which are ready.
fn ready(running: &Running) -> Vec<i32> {
    let status: Value = serde_json::from_str(&running.ctl(&["status", "--json"])).expect("JSON");
    let workers = status["workers"].as_array().expect("workers");
    let ready = workers.iter().filter(|worker| worker["stage"] == "ready");
    let pids: Vec<i32> = ready.map(|worker| worker["pid"].as_i64().expect("a pid") as i32).collect();
    assert_eq!(pids.len(), WORKERS as usize, "{status}");
    pids
}

fn failed(load: &Load) -> u64 {
    load.failures.values().sum()
}
