//! `cargo bench`: what graceful-run costs, beside its peers and the limit that no wrapper can go
//! below, as ratios within one run.
//!
//! Absolute times say more about the machine than about us, so whatever can be is measured in
//! turns with its counterpart, and the ratio is taken turn by turn. Nothing here fails because
//! a number is bad: the machine may be busy. It takes about a minute, on loopback only.
//!
//! The programs that are started are this one again, in another role.

mod adopt;
mod cluster;
mod control;
mod data_path;
mod drain;
mod many;
mod proc;
mod rest;
mod start;
mod table;
mod upgrade;
#[path = "../../examples/worker.rs"]
mod worker;
mod wrapper;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::Command;
use table::Row;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Writes a byte to stdout, acks, and waits for its TERM.
const TINY: &str = "tiny";
/// The example worker.
const SERVER: &str = "server";
/// Accepts, and lets nobody go.
const HOLDER: &str = "holder";
/// Hands its stdin, a listener, to the example worker, as systemd would.
const HANDED: &str = "handed";
/// Binds the address that follows, says when it listened, and is the example worker.
const BOUND: &str = "bound";
/// Says what a system call costs in it.
const CALLS: &str = "calls";
/// Says what it costs to bind and listen.
const LISTENS: &str = "listens";

fn main() -> Result<()> {
    let role = std::env::args().nth(1);
    match role.as_deref() {
        Some(TINY) => tiny(),
        Some(SERVER) => {
            data_path::keep_to(data_path::End::Server)?;
            Ok(worker::main()?)
        }
        Some(HANDED) => handed(),
        Some(BOUND) => adopt::bound(),
        Some(CALLS) => adopt::calls(),
        Some(LISTENS) => adopt::listens(),
        Some(HOLDER) => hold(),
        // `cargo test --benches` comes here too.
        _ if cfg!(debug_assertions) => Ok(writeln!(io::stderr(), "not optimised, not measured")?),
        _ => measure(),
    }
}

fn measure() -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", Row::HEAD)?;
    let parts: [fn() -> Result<Vec<Row>>; 10] = [
        start::rows,
        upgrade::rows,
        rest::rows,
        data_path::rows,
        many::rows,
        control::rows,
        adopt::rows,
        cluster::rows,
        drain::rows,
        size,
    ];
    for rows in parts {
        for row in rows()? {
            writeln!(out, "{row}")?;
        }
    }
    Ok(())
}

fn size() -> Result<Vec<Row>> {
    let bytes = std::fs::metadata(wrapper::BINARY)?.len() as f64;
    let ours = format!("{:.2} MB", bytes / 1e6);
    Ok(vec![Row::new("size of the binary", ours, "< 2 MB").met(bytes < 2e6)])
}

/// A descriptor for each of many connections: more than most are given.
fn raise_descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Does as little as a worker can.
fn tiny() -> Result<()> {
    io::stdout().write_all(b"!")?;
    io::stdout().flush()?;
    ack()?;
    loop {
        nix::unistd::pause();
    }
}

/// Keeps whatever it accepts.
fn hold() -> Result<()> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(false)?;
    ack()?;
    let mut held = Vec::new();
    loop {
        held.push(listener.accept()?);
    }
}

fn ack() -> Result<()> {
    if let Some(address) = std::env::var("NOTIFY_SOCKET").ok().as_deref() {
        let address = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    }
    Ok(())
}

fn handed() -> Result<()> {
    let number = fcntl(io::stdin(), FcntlArg::F_DUPFD(3))?;
    if number != 3 {
        return Err(format!("the listener became descriptor {number} and not 3").into());
    }
    let mut server = Command::new(std::env::current_exe()?);
    server.arg(SERVER).env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    Err(server.exec().into())
}
