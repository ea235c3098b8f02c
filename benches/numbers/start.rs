//! From the start of the wrapper to the first act of the command.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, bare, wrapped};
use crate::{Result, TINY};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TURNS: usize = 40;
const PEER: &str = "systemd-socket-activate";

pub fn rows() -> Result<Vec<Row>> {
    let [mut ours, mut limit, mut peer] = [const { Sample::new() }; 3];
    let [mut over_peer, mut over_limit, mut added] = [const { Sample::new() }; 3];
    let [mut unadopted, mut adopted, mut over_unadopted] = [const { Sample::new() }; 3];
    let installed = Command::new(PEER).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let installed = installed.is_ok();
    for _ in 0..TURNS {
        let alone = acts(bare(TINY)?.stderr(Stdio::null()))?;
        let through_us = acts(wrapped(&["-b", "127.0.0.1:0"], TINY)?.stderr(Stdio::null()))?;
        limit.push(ms(alone));
        ours.push(ms(through_us));
        added.push(ms(through_us) - ms(alone));
        over_limit.push(ms(through_us) / ms(alone));
        let never = acts(wrapped(&["--adopt=never"], TINY)?.stderr(Stdio::null()))?;
        let auto = acts(wrapped(&[], TINY)?.stderr(Stdio::null()))?;
        unadopted.push(ms(never));
        adopted.push(ms(auto));
        over_unadopted.push(ms(auto) / ms(never));
        if installed {
            let through_peer = activated()?;
            peer.push(ms(through_peer));
            over_peer.push(ms(through_us) / ms(through_peer));
        }
    }
    let of_peer = Row::new(format!("start, beside {PEER}"), ours.show(2, "ms"), "≤ 1.00");
    let of_peer = match installed {
        true => of_peer.other(peer.show(2, "ms")).ratio(&over_peer).met(over_peer.median() <= 1.0),
        false => of_peer.other("not installed"),
    };
    let of_limit = Row::new("start, beside the bare command", ours.show(2, "ms"), "≤ bare + 2 ms")
        .other(format!("{}; added: {}", limit.show(2, "ms"), added.show(2, "ms")))
        .ratio(&over_limit)
        .met(added.median() <= 2.0);
    let of_unadopted = Row::new("start without a flag, beside --adopt=never", adopted.show(2, "ms"), "–")
        .other(unadopted.show(2, "ms"))
        .ratio(&over_unadopted);
    Ok(vec![of_peer, of_limit, of_unadopted])
}

fn acts(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let mut process = Process::spawn(command)?;
    process.first_act()?;
    Ok(start.elapsed())
}

/// The peer starts its command at the first connection, which we make once it says that it
/// listens. (From systemd 256 on there is `--now`; it saves the peer that connection.)
fn activated() -> Result<Duration> {
    // It wants a number, and has no way to say which it was given.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut command = Command::new(PEER);
    command.args(["-l", &free]).arg(std::env::current_exe()?).arg(TINY).stderr(Stdio::piped());
    let start = Instant::now();
    let mut process = Process::spawn(&mut command)?;
    let lines = process.lines()?;
    lines.wait_for("Listening on")?;
    let _connection = TcpStream::connect(&free)?;
    process.first_act()?;
    Ok(start.elapsed())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
