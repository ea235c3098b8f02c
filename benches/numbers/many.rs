//! What a large upgrade costs us: all of many workers replaced, with many listeners handed over.
//!
//! Our threads alone are counted. The fork of a worker is ours, its exec and its life are not.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, wrapped};
use crate::{Result, TINY, proc};
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::Instant;

const WORKERS: usize = 200;
const LISTENERS: usize = 100;
const UPGRADES: usize = 3;

pub fn rows() -> Result<Vec<Row>> {
    let number = WORKERS.to_string();
    let mut options = vec!["-n", &number, "--ack", "notify"];
    options.extend(["-b", "127.0.0.1:0"].repeat(LISTENERS));
    let mut wrapper = Process::spawn(wrapped(&options, TINY)?.stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    lines.wait_for("serving")?;

    let pid = wrapper.id();
    let [mut each, mut took] = [const { Sample::new() }; 2];
    let (user, system) = proc::user_and_system(pid)?;
    for _ in 0..UPGRADES {
        let (cpu, start) = (proc::cpu(pid)?, Instant::now());
        wrapper.signal(Signal::SIGUSR2)?;
        lines.wait_for("serves after")?;
        for _ in 0..WORKERS {
            lines.wait_for("was ended by signal")?;
        }
        each.push((proc::cpu(pid)? - cpu).as_secs_f64() * 1e3 / WORKERS as f64);
        took.push(start.elapsed().as_secs_f64());
    }
    let (user_after, system_after) = proc::user_and_system(pid)?;
    let share = |before: f64, after: f64| (after - before) * 1e3 / (UPGRADES * WORKERS) as f64;
    let split =
        format!("user {:.2} ms, system {:.2} ms", share(user, user_after), share(system, system_after));
    Ok(vec![
        Row::new(
            format!("CPU a worker, upgrade of {WORKERS} workers with {LISTENERS} listeners"),
            each.show(2, "ms"),
            "< 1 ms",
        )
        .other(format!("{split}; the upgrade took {}", took.show(2, "s")))
        .met(each.median() < 1.0),
    ])
}
