//! What the kernel counts for a process, from proc(5).

use crate::Result;
use std::fs;
use std::time::Duration;

/// A field of `/proc/PID/status` in kB, for memory.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    status(&format!("/proc/{pid}/status"), field)
}

/// Its memory in kB, where what several processes share is divided among them.
pub fn share_of_memory(pid: u32) -> Result<u64> {
    status(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

/// How often its threads have gone to sleep of their own accord; each time, something woke them.
pub fn wake_ups(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        sum += status(&format!("{}/status", task?.path().display()), "voluntary_ctxt_switches")?;
    }
    Ok(sum)
}

/// How many threads it has.
pub fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

/// The CPU time of its threads, its children left out. The scheduler counts nanoseconds, where
/// `/proc/PID/stat` has hundredths of a second.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// The user and the system part of it, in seconds.
pub fn user_and_system(pid: u32) -> Result<(f64, f64)> {
    /// USER_HZ, the same on every machine that Rust's Linux targets know.
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds = |index: usize| -> Result<f64> {
        Ok(fields.get(index).ok_or("no such field in stat")?.parse::<f64>()? / TICKS)
    };
    // utime and stime are fields 14 and 15; field 3 is the first behind the name.
    Ok((seconds(11)?, seconds(12)?))
}

fn status(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = value.and_then(|value| value.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("{path} has no {field}"))?.parse()?)
}
