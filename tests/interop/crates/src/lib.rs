//! What every server here has in common: the one answer that it gives, and what
//! it tells a test of itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// open(2), on Linux.
const O_NONBLOCK: i32 = 0o4000;

/// The generation that answers and the supervisor that it was told of.
pub fn answer() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!(
        "generation {} supervisor {}\n",
        variable("GRACEFUL_RUN_GENERATION"),
        variable("GRACEFUL_RUN_PID")
    )
}

/// A line to the fifo `log` of this directory, where tests/conventions listens.
pub fn say(text: &str) {
    let generation = std::env::var("GRACEFUL_RUN_GENERATION").unwrap_or_default();
    let line = format!("g{generation} {text} pid={}\n", std::process::id());
    if let Ok(mut log) = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open("log") {
        // A test that has ended hears nothing more.
        let _ = log.write_all(line.as_bytes());
    }
}

/// Whether `--wrong GENERATION:KIND`, the last two arguments, asks this of us.
pub fn wrong(kind: &str) -> bool {
    let generation = std::env::var("GRACEFUL_RUN_GENERATION").unwrap_or_default();
    let arguments: Vec<String> = std::env::args().collect();
    arguments.ends_with(&["--wrong".to_owned(), format!("{generation}:{kind}")])
}
