//! From USR2 to the first act of the replacement, in turns with a start of the same program.
//!
//! The bare start is std's, which is posix_spawn(3): faster than fork(2), so the harder to match.

use crate::table::{Row, Sample};
use crate::wrapper::{Process, bare, wrapped};
use crate::{Result, TINY, proc};
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::Instant;

const TURNS: usize = 40;

pub fn rows() -> Result<Vec<Row>> {
    let options = ["-b", "127.0.0.1:0", "--ack", "notify", "--soak", "1ms"];
    let mut wrapper = Process::spawn(wrapped(&options, TINY)?.stderr(Stdio::piped()))?;
    let lines = wrapper.lines()?;
    wrapper.first_act()?;
    lines.wait_for("serving")?;
    let [mut ours, mut limit, mut ratio] = [const { Sample::new() }; 3];
    let before = proc::memory(wrapper.id(), "RssAnon")?;
    for _ in 0..TURNS {
        let start = Instant::now();
        let mut alone = Process::spawn(bare(TINY)?.stderr(Stdio::null()))?;
        alone.first_act()?;
        let bare = start.elapsed().as_secs_f64() * 1e3;
        drop(alone);

        let start = Instant::now();
        wrapper.signal(Signal::SIGUSR2)?;
        wrapper.first_act()?;
        let replaced = start.elapsed().as_secs_f64() * 1e3;
        // The old worker's end would disturb the next turn.
        lines.wait_for("was ended by signal")?;

        ours.push(replaced);
        limit.push(bare);
        ratio.push(replaced / bare);
    }
    let after = proc::memory(wrapper.id(), "RssAnon")?;
    let upgrade = Row::new("USR2 to the replacement's first act", ours.show(2, "ms"), "≤ 1.50")
        .other(limit.show(2, "ms"))
        .ratio(&ratio)
        .met(ratio.median() <= 1.5);
    let grown = Row::new(format!("RssAnon after {TURNS} upgrades"), format!("{after} kB"), "–")
        .other(format!("before: {before} kB"));
    Ok(vec![upgrade, grown])
}
