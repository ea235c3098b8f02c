//! What clients see that keep their connections, as most do.
//!
//! Contract: no answer is cut. An upgrade ends each connection at most once, between two
//! requests, or with a request on it of which not a byte was answered, and which every
//! client of HTTP sends once more on a new connection: only the server could say
//! `Connection: close` before. How often that was is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Connection, Failure, Target};
use crate::driver::{CLIENTS, Running};
use crate::place::tell;
use crate::server::{Server, server};
use crate::servers::{GO, NODE, nginx_that_listens};

/// Upgrades of each server.
const UPGRADES: u64 = 10;

/// A client thinks so long between two requests, and the drain must find it there.
const THINKS: Duration = Duration::from_millis(50);

/// What a client saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    ended: u64,
    cut: Vec<Failure>,
}

fn no_answer_is_cut(server: &Server) {
    let Some(mut running) = Running::start(server, &["--idle", "15ms"]) else { return };
    let finish = AtomicBool::new(false);
    let target = running.prepared.targets[0].clone();
    let mut load = running.load();
    let seen = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| keep_asking(&target, &finish))).collect();
        running.upgrade_under(&mut load, UPGRADES);
        finish.store(true, Ordering::SeqCst);
        let seen = clients.into_iter().map(|client| client.join().expect("a client"));
        seen.reduce(|all, one| Seen {
            answers: all.answers + one.answers,
            ended: all.ended + one.ended,
            cut: [all.cut, one.cut].concat(),
        })
    });
    let seen = seen.expect("there are clients");
    tell(&format!(
        "{:<28} {UPGRADES:>4} upgrades, {CLIENTS} kept connections: {} requests answered, ended before an answer {}, cut in one {}",
        server.name,
        seen.answers,
        seen.ended,
        seen.cut.len()
    ));
    assert_eq!(seen.cut, [], "{}", server.name);
    // On new connections nothing fails meanwhile.
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// Asks on one connection for as long as it lasts, and then on another.
fn keep_asking(target: &Target, finish: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !finish.load(Ordering::SeqCst) {
        let mut connection = match Connection::open(target) {
            Ok(connection) => connection,
            Err(failure) => {
                seen.cut.push(failure);
                continue;
            }
        };
        while !finish.load(Ordering::SeqCst) {
            match connection.get("/", false) {
                Ok(reply) => {
                    seen.answers += 1;
                    thread::park_timeout(THINKS);
                    if reply.last {
                        break;
                    }
                }
                Err(Failure::EofEmpty | Failure::ResetBeforeSend | Failure::ResetAfterSend) => {
                    seen.ended += 1;
                    break;
                }
                Err(failure) => {
                    seen.cut.push(failure);
                    break;
                }
            }
        }
    }
    seen
}

#[test]
fn go() {
    no_answer_is_cut(&server("go, keep-alive", GO));
}

#[test]
fn node() {
    no_answer_is_cut(&server("node, keep-alive", NODE));
}

#[test]
fn nginx() {
    no_answer_is_cut(&nginx_that_listens("nginx, keep-alive", "listen 127.0.0.1:8000"));
}
