//! The clients: closed loops that never retry and hide nothing.
//!
//! Contract: [`Clients::start`] runs them until [`Clients::finish`], which lets
//! each finish the request it is in, so that the end of a run cuts nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::ledger::{Kind, Ledger};
use crate::load::{Connection, Failure, Target};
use crate::worker::{self, HELD};

/// Requests on one keep-alive connection before the client takes a new one.
///
/// Few enough that a server that never says `Connection: close` is rid of them soon.
const KEPT: u32 = 100;

/// How many requests are held across every upgrade.
pub const HOLDERS: usize = 4;

/// A client to be: what it does and where.
pub struct Client {
    kind: Kind,
    target: Target,
}

/// The clients of the proof; `unix` only where that is listened on.
pub fn all(port: u16, unix: Option<&Path>) -> Vec<Client> {
    let mut clients = fresh(8, port);
    let counts =
        [(Kind::KeepAlive, 4), (Kind::Held, HOLDERS), (Kind::Late, 3), (Kind::Unix, 3), (Kind::Ipv6, 3)];
    for (kind, count) in counts {
        for _ in 0..count {
            let target = match kind {
                Kind::Unix => match unix {
                    Some(path) => Target::Unix(path.to_owned()),
                    None => continue,
                },
                Kind::Ipv6 => Target::Tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)),
                _ => loopback(1, port),
            };
            clients.push(Client { kind, target });
        }
    }
    clients
}

/// The clients of a control.
pub fn fresh(count: u8, port: u16) -> Vec<Client> {
    // Each has an address of its own to connect to, hence ports of its own.
    (0..count).map(|n| Client { kind: Kind::Fresh, target: loopback(10 + n, port) }).collect()
}

fn loopback(host: u8, port: u16) -> Target {
    Target::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), port))
}

/// Running clients.
pub struct Clients {
    finish: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them.
    pub fn start(clients: Vec<Client>, ledger: &Arc<Ledger>) -> Self {
        let finish = Arc::new(AtomicBool::new(false));
        let threads = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let (ledger, finish) = (Arc::clone(ledger), Arc::clone(&finish));
                thread::spawn(move || run(number, &client, &ledger, &finish))
            })
            .collect();
        Clients { finish, threads }
    }

    /// Lets each end with the request it is in.
    pub fn finish(self) {
        self.finish.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
    }
}

fn run(number: usize, client: &Client, ledger: &Ledger, finish: &AtomicBool) {
    let mut kept = None;
    for request in 0_u64.. {
        if finish.load(Ordering::SeqCst) {
            break;
        }
        let prefix = if client.kind == Kind::Held { HELD } else { "/" };
        let path = format!("{prefix}{number}-{request}");
        let started = Instant::now();
        let (opened, used) = match kept.take() {
            Some((connection, used)) => (Ok(connection), used),
            None => (Connection::open(&client.target), 1),
        };
        if client.kind == Kind::Late && opened.is_ok() {
            ledger.await_upgrade();
        }
        let last = client.kind != Kind::KeepAlive || used == KEPT;
        let exchanged = opened.and_then(|mut connection| {
            exchange(&mut connection, &path, last).map(|reply| (connection, reply))
        });
        match exchanged {
            Ok((connection, (generation, closes))) => {
                ledger.ok(client.kind, generation, started.elapsed());
                if last || closes {
                    connection.finish();
                } else {
                    kept = Some((connection, used + 1));
                }
            }
            Err(failure) => ledger.failed(client.kind, failure),
        }
    }
    if let Some((connection, _)) = kept {
        connection.finish();
    }
}

/// One request: the generation that answered, and whether it closes.
fn exchange(connection: &mut Connection, path: &str, last: bool) -> Result<(u64, bool), Failure> {
    let reply = connection.get(path, last)?;
    let generation = reply.body.split(' ').next().and_then(|word| word.parse().ok());
    match generation {
        Some(generation) if reply.status == 200 && reply.body == worker::body(generation, path) => {
            Ok((generation, reply.last))
        }
        _ => Err(Failure::BadBody),
    }
}
