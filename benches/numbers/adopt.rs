//! What `--adopt` costs a server: its data path, the calls that are not ours to see, those that
//! are, and how soon after settling an upgrade switches.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, bare, wrapped};
use crate::{BOUND, CALLS, HANDED, LISTENS, Result, data_path};
use graceful_run::core::policy::LISTEN_GRACE;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{dup2_stdin, getppid};
use std::hint::black_box;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Without a descriptor for readiness, whose place the example worker's listener must have.
pub const ADOPT: [&str; 3] = ["--adopt", "--ack", "listen"];
const PAIRS: usize = 7;
const UPGRADES: usize = 20;
const PAUSE: Duration = Duration::from_millis(600);
/// System calls whose time is taken together, and how often: the fastest is what they cost.
const BATCH: u32 = 10_000;
const BATCHES: usize = 400;
/// Sockets that are told to listen.
const SOCKETS: usize = 50;

pub fn rows() -> Result<Vec<Row>> {
    Ok(vec![requests()?, untrapped()?, trapped()?, switch()?])
}

fn requests() -> Result<Row> {
    data_path::row("requests a second, --adopt", |start| {
        let (ours, theirs) = (free_address()?, free_address()?);
        let mut wrapper = Process::spawn(wrapped(&ADOPT, BOUND)?.arg(&ours).stderr(Stdio::piped()))?;
        let lines = wrapper.lines()?;
        lines.wait_for("serving")?;
        let mut server = Process::spawn(bare(BOUND)?.arg(&theirs).stderr(Stdio::null()))?;
        server.number()?;
        data_path::pairs(start, &ours, &theirs)
    })
}

fn untrapped() -> Result<Row> {
    let (with, without) = in_turns(CALLS)?;
    let more = with.median() - without.median();
    Ok(Row::new("a system call under --adopt that is let through", with.show(1, "ns"), "at most 12 ns more")
        .other(format!("{}: {more:.1} ns more", without.show(1, "ns")))
        .met(more <= 12.0))
}

fn trapped() -> Result<Row> {
    let (with, without) = in_turns(LISTENS)?;
    Ok(Row::new("socket, bind and listen under --adopt", with.show(0, "µs"), "–")
        .other(without.show(0, "µs")))
}

/// What `role` says of itself under us, and alone.
fn in_turns(role: &str) -> Result<(Sample, Sample)> {
    let [mut with, mut without] = [const { Sample::new() }; 2];
    for _ in 0..PAIRS {
        let mut command = wrapped(&["--adopt", "--ack", "timer:1h"], role)?;
        with.push(Process::spawn(command.stderr(Stdio::null()))?.number()?);
        without.push(Process::spawn(bare(role)?.stderr(Stdio::null()))?.number()?);
    }
    Ok((with, without))
}

/// From the new server's listen(2), as it saw it, to our line that it serves, as that is read.
fn switch() -> Result<Row> {
    let address = free_address()?;
    let mut wrapper = Process::spawn(wrapped(&ADOPT, BOUND)?.arg(&address).stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    lines.wait_for("serving")?;
    wrapper.number()?;
    let mut beyond = Sample::new();
    for _ in 0..UPGRADES {
        // A worker that has just begun to serve has a moment before it is sent away again.
        std::thread::sleep(PAUSE);
        wrapper.signal(Signal::SIGUSR2)?;
        lines.wait_for("serves after")?;
        let switched = monotonic()?;
        beyond.push((switched - LISTEN_GRACE).as_secs_f64() * 1e3 - wrapper.number()?);
        // The old worker's end would disturb the next turn.
        lines.wait_for("drained after")?;
        lines.wait_for("exited")?;
    }
    Ok(Row::new("from listen to the switch, beyond settling", beyond.show(1, "ms"), "< 5 ms")
        .met(beyond.median() < 5.0))
}

/// The role BOUND.
pub fn bound() -> Result<()> {
    let address = std::env::args().nth(2).ok_or("no address")?;
    let listener = TcpListener::bind(address)?;
    say(monotonic()?.as_secs_f64() * 1e3)?;
    dup2_stdin(listener)?;
    Err(bare(HANDED)?.exec().into())
}

/// The role CALLS: nanoseconds.
pub fn calls() -> Result<()> {
    let batch = || {
        let start = Instant::now();
        for _ in 0..BATCH {
            black_box(getppid());
        }
        start.elapsed()
    };
    let best = (0..BATCHES).map(|_| batch()).min().unwrap_or_default();
    say(best.as_nanos() as f64 / f64::from(BATCH))?;
    rest()
}

/// The role LISTENS: microseconds.
pub fn listens() -> Result<()> {
    let mut took = Sample::new();
    let mut kept = Vec::new();
    for _ in 0..SOCKETS {
        let start = Instant::now();
        kept.push(TcpListener::bind("127.0.0.1:0")?);
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    say(took.median())?;
    rest()
}

fn say(number: f64) -> Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{number}")?;
    Ok(out.flush()?)
}

/// Until its TERM.
fn rest() -> Result<()> {
    loop {
        nix::unistd::pause();
    }
}

pub fn monotonic() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// Of loopback, and nobody's a moment ago.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
