//! What `graceful-run ctl` waits for: a status, also of many workers that hold many
//! connections, and how long nobody is answered while we replace ourselves.

use crate::table::{Row, Sample};
use crate::wrapper::{BINARY, Process, wrapped};
use crate::{HOLDER, Result, TINY, raise_descriptors};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 500;
const STARTS: usize = 20;
const REEXECS: usize = 10;
const WORKERS: usize = 200;
const CONNECTIONS: usize = 5_000;
const STATUS: &[u8] = b"{\"version\":1,\"verb\":\"status\"}\n";

pub fn rows() -> Result<Vec<Row>> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("control.sock");
    let mut rows = few(&path)?;
    rows.extend(many(&path)?);
    Ok(rows)
}

fn few(path: &Path) -> Result<Vec<Row>> {
    let text = path.to_str().ok_or("a path that is no text")?;
    let mut wrapper =
        Process::spawn(wrapped(&["-b", "127.0.0.1:0", "--socket", text], TINY)?.stderr(Stdio::piped()))?;
    wrapper.lines()?.wait_for("serving")?;
    let mut client = Client::connect(path)?;
    let mut round = Sample::new();
    for _ in 0..ROUNDS {
        round.push(client.status()?.as_secs_f64() * 1e3);
    }
    let mut process = Sample::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        let mut ctl = Command::new(BINARY);
        ctl.args(["ctl", "--socket", text, "status", "--json"]).stdout(Stdio::null());
        if !ctl.status()?.success() {
            return Err("ctl status has failed".into());
        }
        process.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let pause = pause(path)?;
    Ok(vec![
        Row::new("ctl status, round trip", round.show(3, "ms"), "< 1 ms")
            .other(format!("with the start of ctl {}", process.show(1, "ms")))
            .met(round.median() < 1.0),
        Row::new(
            "a reexec's pause: the longest that another client waited for a status",
            pause.show(1, "ms"),
            "–",
        ),
    ])
}

/// While we replace ourselves, over and over, another client asks as fast as it is answered.
fn pause(path: &Path) -> Result<Sample> {
    let mut asker = Client::connect(path)?;
    let mut pause = Sample::new();
    for _ in 0..REEXECS {
        let done = AtomicBool::new(false);
        let longest = std::thread::scope(|threads| -> Result<Duration> {
            let reexec = threads.spawn(|| {
                let result = Client::connect(path).and_then(|mut client| {
                    client
                        .ask(b"{\"version\":1,\"verb\":\"reexec\"}\n")
                        .map_err(|error| error.to_string().into())
                });
                done.store(true, Ordering::Relaxed);
                result.map(drop).map_err(|error| error.to_string())
            });
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                longest = longest.max(asker.status()?);
            }
            reexec.join().map_err(|_| "the client has panicked")??;
            Ok(longest)
        })?;
        pause.push(longest.as_secs_f64() * 1e3);
    }
    Ok(pause)
}

fn many(path: &Path) -> Result<Vec<Row>> {
    raise_descriptors()?;
    let text = path.to_str().ok_or("a path that is no text")?;
    let number = WORKERS.to_string();
    let options =
        ["-n", &number, "-b", "127.0.0.1:0", "--ack", "notify", "--export", "stdin", "--socket", text];
    let mut wrapper = Process::spawn(wrapped(&options, HOLDER)?.stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    let line = lines.wait_for("listening on ")?;
    let address =
        line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next()).ok_or("no address")?;
    lines.wait_for("serving")?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(TcpStream::connect(address)?);
    }
    let mut client = Client::connect(path)?;
    let mut took = Sample::new();
    while held(&client.ask(STATUS)?)? < CONNECTIONS {}
    for _ in 0..STARTS {
        took.push(client.status()?.as_secs_f64() * 1e3);
    }
    Ok(vec![Row::new(
        format!("ctl status, {WORKERS} workers that hold {CONNECTIONS} connections"),
        took.show(1, "ms"),
        "–",
    )])
}

/// The connections that a status tells of.
fn held(reply: &str) -> Result<usize> {
    let reply: serde_json::Value = serde_json::from_str(reply)?;
    let workers = reply["status"]["workers"].as_array().ok_or("no workers")?;
    Ok(workers.iter().filter_map(|worker| worker["connections"].as_u64()).sum::<u64>() as usize)
}

struct Client {
    lines: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Client { lines: BufReader::new(stream) })
    }

    fn status(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.ask(STATUS)?;
        Ok(start.elapsed())
    }

    /// The last line of the answer.
    fn ask(&mut self, request: &[u8]) -> Result<String> {
        self.lines.get_ref().write_all(request)?;
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Err("the connection was closed".into());
            }
            if line.contains("\"result\"") {
                return Ok(line);
            }
        }
    }
}
