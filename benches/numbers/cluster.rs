//! Several workers of a server that binds its own address: what they serve together, how soon an
//! upgrade of all of them switches, and how soon one that has died gets no connection any more.

use crate::adopt::{ADOPT, free_address, monotonic};
use crate::table::{Row, Sample};
use crate::wrapper::{Process, wrapped};
use crate::{BOUND, Result};
use graceful_run::core::policy::LISTEN_GRACE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Clients, each with a connection for each request.
const CLIENTS: usize = 12;
const PAIRS: usize = 7;
const TURN: Duration = Duration::from_millis(1500);
const UPGRADES: usize = 10;
const PAUSE: Duration = Duration::from_millis(600);
const DEATHS: usize = 20;

/// Servers of one process whose requests take a millisecond of the processor.
const SERVERS: [(&str, &str, &str); 2] = [
    (
        "python3",
        "server.py",
        "import http.server, sys, time\n\
         class H(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_GET(self):\n\
         \x20       end = time.thread_time() + 0.001\n\
         \x20       while time.thread_time() < end: pass\n\
         \x20       self.wfile.write(b'HTTP/1.0 200 OK\\r\\n\\r\\n.')\n\
         \x20   def log_message(self, *args): pass\n\
         class S(http.server.HTTPServer): request_queue_size = 128\n\
         host, port = sys.argv[1].split(':')\n\
         S((host, int(port)), H).serve_forever()\n",
    ),
    (
        "node",
        "server.js",
        "const [host, port] = process.argv[2].split(':');\n\
         require('http').createServer((request, response) => {\n\
         \x20 const start = process.cpuUsage();\n\
         \x20 let used;\n\
         \x20 do { used = process.cpuUsage(start); } while (used.user + used.system < 1000);\n\
         \x20 response.setHeader('Connection', 'close');\n\
         \x20 response.end('.');\n\
         }).listen(port, host);\n",
    ),
];

pub fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (program, file, text) in SERVERS {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        std::fs::write(&path, text)?;
        rows.push(together(program, &path)?);
    }
    rows.extend([switch(4, 5.0, "< 5 ms")?, switch(64, 20.0, "< 20 ms")?, death()?]);
    Ok(rows)
}

/// Two workers beside one bare server, in turns.
fn together(program: &str, path: &PathBuf) -> Result<Row> {
    let (ours, theirs) = (free_address()?, free_address()?);
    let mut command = Command::new(crate::wrapper::BINARY);
    command.args(ADOPT).args(["-n", "2", "--", program]).arg(path).arg(&ours);
    let mut wrapper = Process::spawn(command.stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    lines.wait_for("serving")?;
    let _server = Process::spawn(Command::new(program).arg(path).arg(&theirs).stderr(Stdio::null()))?;
    let start = Instant::now();
    while TcpStream::connect(&theirs).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("{program} does not listen").into());
        }
    }
    let [mut two, mut one, mut ratio] = [const { Sample::new() }; 3];
    for _ in 0..PAIRS {
        let (with, without) = (rate(&ours)?, rate(&theirs)?);
        two.push(with);
        one.push(without);
        ratio.push(with / without);
    }
    Ok(Row::new(format!("requests a second, {program}, -n 2 to one"), two.show(0, ""), "≥ 1.7")
        .other(one.show(0, ""))
        .ratio(&ratio)
        .met(ratio.median() >= 1.7))
}

/// Requests a second that are answered at `address`.
fn rate(address: &str) -> Result<f64> {
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let client = || -> std::io::Result<usize> {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            count += usize::from(answer.ends_with(b"."));
        }
        Ok(count)
    };
    let count: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        std::thread::sleep(TURN);
        over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .map(|client| client.join().expect("a client panicked"))
            .sum::<std::io::Result<usize>>()
    })?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// From the last listen(2) of the new workers, as they saw it, to our line that they serve, as that is
/// read.
fn switch(workers: usize, limit: f64, target: &'static str) -> Result<Row> {
    let (address, number) = (free_address()?, workers.to_string());
    let options: Vec<&str> = ADOPT.into_iter().chain(["-n", &number]).collect();
    let mut wrapper = Process::spawn(wrapped(&options, BOUND)?.arg(&address).stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    lines.wait_for("serving")?;
    let last = |wrapper: &mut Process| -> Result<f64> {
        let mut last = f64::MIN;
        for _ in 0..workers {
            last = last.max(wrapper.number()?);
        }
        Ok(last)
    };
    last(&mut wrapper)?;
    let mut beyond = Sample::new();
    for _ in 0..UPGRADES {
        std::thread::sleep(PAUSE);
        wrapper.signal(Signal::SIGUSR2)?;
        lines.wait_for("serves after")?;
        let switched = monotonic()?;
        beyond.push((switched - LISTEN_GRACE).as_secs_f64() * 1e3 - last(&mut wrapper)?);
        for _ in 0..workers {
            lines.wait_for("exited")?;
        }
    }
    let what = format!("from the last listen to the switch, {workers} workers, beyond settling");
    Ok(Row::new(what, beyond.show(1, "ms"), target).met(beyond.median() < limit))
}

/// The age of a death at which a connection last came to the worker that had died: one that is not
/// answered until another worker has taken its socket over.
fn death() -> Result<Row> {
    let address = free_address()?;
    let options: Vec<&str> = ADOPT.into_iter().chain(["-n", "4"]).collect();
    let mut wrapper = Process::spawn(wrapped(&options, BOUND)?.arg(&address).stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    lines.wait_for("serving")?;
    let mut last = Sample::new();
    for _ in 0..DEATHS {
        std::thread::sleep(PAUSE);
        let victim = children(wrapper.id())?.pop().ok_or("no worker")?;
        let start = Instant::now();
        kill(Pid::from_raw(victim), Signal::SIGKILL)?;
        let mut waiting = Vec::new();
        while start.elapsed() < Duration::from_millis(20) {
            let came = start.elapsed();
            let mut stream = TcpStream::connect(&address)?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.set_read_timeout(Some(Duration::from_millis(8)))?;
            if stream.read(&mut [0; 64]).is_err() {
                waiting.push(came);
            }
        }
        last.push(waiting.last().map_or(0.0, |came| came.as_secs_f64() * 1e3));
        lines.wait_for("ready after")?;
    }
    Ok(Row::new("age of a death when a connection last came to it", last.show(1, "ms"), "< 5 ms")
        .met(last.median() < 5.0))
}

fn children(pid: u32) -> Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}
