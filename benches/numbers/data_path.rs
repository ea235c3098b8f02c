//! Requests a second with and without us: we are not in the way of the data, so there should be
//! nothing to see.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, bare, wrapped};
use crate::{HANDED, Result, SERVER};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Two processes of one program differ for as long as they live (where their pages lie, say), so
/// both servers are started anew for each few pairs.
const STARTS: usize = 8;
const PAIRS: usize = 4;
const TURN: Duration = Duration::from_millis(300);
const CLIENTS: usize = 2;
/// Requests on one connection: some of the work is in accept.
const REQUESTS: usize = 50;

pub fn rows() -> Result<Vec<Row>> {
    Ok(vec![row("requests a second", |start| {
        let options = ["-b", "127.0.0.1:0", "--ack", "accepting"];
        let mut wrapper = Process::spawn(wrapped(&options, SERVER)?.stderr(Stdio::piped()))?;
        let lines = wrapper.lines()?;
        let line = lines.wait_for("listening on")?;
        let ours = line.split(' ').find(|word| word.starts_with("127.")).ok_or("no address")?.to_owned();
        lines.wait_for("serving")?;

        let listener = TcpListener::bind("127.0.0.1:0")?;
        let theirs = listener.local_addr()?.to_string();
        let stdin = std::os::fd::OwnedFd::from(listener);
        let _server = Process::spawn(bare(HANDED)?.stdin(stdin).stderr(Stdio::null()))?;
        pairs(start, &ours, &theirs)
    })?])
}

/// What the rates of some starts of both servers, wrapped and bare, come to.
pub fn row(what: &str, pairs: impl Fn(usize) -> Result<Vec<(f64, f64)>>) -> Result<Row> {
    let [mut wrapped, mut bare, mut ratio] = [const { Sample::new() }; 3];
    for start in 0..STARTS {
        for (with, without) in pairs(start)? {
            wrapped.push(with);
            bare.push(without);
            ratio.push(with / without);
        }
    }
    let (low, high) = ratio.interval();
    Ok(Row::new(what, wrapped.show(0, ""), "1.00 in the median's 95 % interval")
        .other(format!("{}; interval: {low:.2}–{high:.2}", bare.show(0, "")))
        .ratio(&ratio)
        .met((low..=high).contains(&1.0)))
}

/// The rates of the server that is wrapped, `ours`, and of the one that is not, in turns.
pub fn pairs(start: usize, ours: &str, theirs: &str) -> Result<Vec<(f64, f64)>> {
    for address in [ours, theirs] {
        rate(address)?;
    }
    let mut rates = Vec::new();
    for pair in start..start + PAIRS {
        // Who comes first may have it better, so they take turns at that.
        rates.push(match pair % 2 {
            0 => (rate(ours)?, rate(theirs)?),
            _ => {
                let without = rate(theirs)?;
                (rate(ours)?, without)
            }
        });
    }
    Ok(rates)
}

/// Requests a second that are answered at `address`.
fn rate(address: &str) -> Result<f64> {
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let counts: Vec<std::io::Result<usize>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(address, &over))).collect();
        std::thread::sleep(TURN);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client panicked")).collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let count: usize = counts.into_iter().sum::<std::io::Result<usize>>()?;
    Ok(count as f64 / elapsed)
}

fn client(address: &str, over: &AtomicBool) -> std::io::Result<usize> {
    keep_to(End::Clients)?;
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut answers = BufReader::new(&stream);
        for _ in 0..REQUESTS {
            (&stream).write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            skip_answer(&mut answers)?;
            count += 1;
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(count)
}

/// Who keeps to a core of their own.
pub enum End {
    /// The server that is asked, the first core.
    Server,
    /// Those who ask, the last.
    Clients,
}

/// Has this thread, and what it starts, keep to one core: a client that happens to share one with
/// its server has three times as many answers, which would be all that is seen.
pub fn keep_to(end: End) -> std::io::Result<()> {
    let we = Pid::from_raw(0);
    let allowed = sched_getaffinity(we)?;
    let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
    let core = match end {
        End::Server => cores.next(),
        End::Clients => cores.next_back(),
    };
    let mut own = CpuSet::new();
    core.map_or(Ok(()), |core| own.set(core))?;
    Ok(sched_setaffinity(we, &own)?)
}

fn skip_answer(answers: &mut impl BufRead) -> std::io::Result<()> {
    let mut length = 0;
    let mut line = String::new();
    while answers.read_line(&mut line)? > 2 {
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body)
}
