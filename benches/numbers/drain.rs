//! What it costs to see that an old worker has nothing left, while it holds many connections.
//!
//! The looks are made here, as the main thread would make them; whoever holds the connections is
//! another process.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, bare};
use crate::{HOLDER, Result, raise_descriptors};
use graceful_run::adopt::drain::{Drain, Remaining, handshakes};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const FEW: usize = 10;
const MANY: usize = 10_000;
const LOOKS: usize = 20;
/// How long the looks go on whose share of a core is taken.
const DRAIN: Duration = Duration::from_secs(10);
/// Nothing is idle.
const IDLE: Duration = Duration::MAX;

pub fn rows() -> Result<Vec<Row>> {
    raise_descriptors()?;
    let mut few = Held::new(FEW)?;
    let (small, small_took) = few.looks()?;
    drop(few);
    let mut many = Held::new(MANY)?;
    let (large, large_took) = many.looks()?;
    let (share, looks) = many.share()?;
    Ok(vec![
        Row::new(
            format!("CPU of a look at a worker that drains, {MANY} connections"),
            large.show(1, "ms"),
            "< 60 ms",
        )
        .other(format!(
            "it takes {}; with {FEW} connections {}, {}",
            large_took.show(1, "ms"),
            small.show(2, "ms"),
            small_took.show(2, "ms")
        ))
        .met(large.median() < 60.0),
        Row::new(
            format!("share of a core while it drains, {MANY} connections"),
            format!("{:.2} %", share * 100.0),
            "< 2 %",
        )
        .other(format!("{looks} looks in {} s", DRAIN.as_secs()))
        .met(share < 0.02),
    ])
}

/// A process that holds connections, and their other ends.
struct Held {
    listener: TcpListener,
    holder: Process,
    drain: Drain,
    _clients: Vec<TcpStream>,
}

impl Held {
    fn new(connections: usize) -> Result<Held> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let holder = Process::spawn(bare(HOLDER)?.stdin(OwnedFd::from(listener.try_clone()?)))?;
        let clients: std::io::Result<_> = (0..connections).map(|_| TcpStream::connect(address)).collect();
        let drain = begin(BTreeSet::from([address.port()]));
        let mut held = Held { listener, holder, drain, _clients: clients? };
        while held.inspect().busy < connections as u32 {}
        Ok(held)
    }

    fn inspect(&mut self) -> Remaining {
        let root = Pid::from_raw(self.holder.id() as i32);
        let listeners = [self.listener.as_fd()].into_iter();
        self.drain.inspect(root, &BTreeSet::new(), listeners, IDLE, Duration::ZERO)
    }

    /// The CPU time of a look, and how long it takes, in milliseconds.
    fn looks(&mut self) -> Result<(Sample, Sample)> {
        let [mut cpu, mut took] = [const { Sample::new() }; 2];
        for _ in 0..LOOKS {
            let (start, before) = (Instant::now(), cpu_time()?);
            self.inspect();
            cpu.push((cpu_time()? - before).as_secs_f64() * 1e3);
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok((cpu, took))
    }

    /// Of a core, by looks as far apart as they are to be; and how many there were.
    fn share(&mut self) -> Result<(f64, usize)> {
        let (start, before) = (Instant::now(), cpu_time()?);
        self.drain = begin(BTreeSet::from([self.listener.local_addr()?.port()]));
        let mut looks = 0;
        while start.elapsed() < DRAIN {
            self.inspect();
            looks += 1;
            std::thread::sleep(self.drain.pause(1));
        }
        Ok(((cpu_time()? - before).as_secs_f64() / start.elapsed().as_secs_f64(), looks))
    }
}

fn begin(ports: BTreeSet<u16>) -> Drain {
    let handshakes = handshakes(&ports);
    Drain::begin(ports, handshakes, Duration::ZERO)
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
