//! What we hold and do while nothing happens.

use crate::table::Row;
use crate::wrapper::{Process, wrapped};
use crate::{Result, TINY, proc};
use std::process::Stdio;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(2);

pub fn rows() -> Result<Vec<Row>> {
    let mut wrapper = Process::spawn(wrapped(&["-b", "127.0.0.1:0"], TINY)?.stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    wrapper.first_act()?;
    lines.wait_for("serving")?;
    let pid = wrapper.id();
    settle(pid)?;

    let (wake_ups, cpu) = (proc::wake_ups(pid)?, proc::cpu(pid)?);
    std::thread::sleep(WINDOW);
    let (wake_ups, cpu) = (proc::wake_ups(pid)? - wake_ups, proc::cpu(pid)? - cpu);

    let [rss, anon, file] = ["VmRSS", "RssAnon", "RssFile"].map(|field| proc::memory(pid, field));
    let (rss, anon, file, threads) = (rss?, anon?, file?, proc::threads(pid)?);
    let share = proc::share_of_memory(pid)?;
    let memory = Row::new("memory at rest (VmRSS)", format!("{:.2} MB", rss as f64 / 1e3), "≤ 3 MB")
        .other(format!("RssAnon {anon} kB, RssFile {file} kB, Pss {share} kB, {threads} threads"))
        .met(rss <= 3000);
    let seconds = WINDOW.as_secs();
    let woken =
        Row::new(format!("wake-ups at rest in {seconds} s"), wake_ups.to_string(), "0").met(wake_ups == 0);
    let used = Row::new(format!("CPU time at rest in {seconds} s"), format!("{} µs", cpu.as_micros()), "0")
        .met(cpu.is_zero());
    Ok(vec![memory, woken, used])
}

/// Waits until no thread has moved for a moment: the start has an end that nothing tells.
fn settle(pid: u32) -> Result<()> {
    let start = Instant::now();
    let mut last = proc::wake_ups(pid)?;
    while start.elapsed() < WINDOW {
        std::thread::sleep(Duration::from_millis(200));
        let now = proc::wake_ups(pid)?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(())
}
