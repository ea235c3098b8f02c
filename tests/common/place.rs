//! Where a real server is found, and where it listens.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// A host of 127.0.0.0/8, all of which is loopback: neither another test nor a
/// client's own port can take an address there.
pub fn host_of_our_own() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(100);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// What `tests/all` installs comes first, then what the machine has, then where
/// Debian puts daemons.
pub fn path() -> OsString {
    let place = installed();
    let installed =
        ["venv/bin", "crates/release", "go", "npm/node_modules/.bin"].map(|part| place.join(part));
    let machine = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let all = installed.into_iter().chain(std::env::split_paths(&machine)).chain(daemons);
    std::env::join_paths(all).expect("no directory has a colon")
}

/// Where `tests/all` puts what is not a package.
pub fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop")
}

/// Where a program is; `None` leaves its test out, if it may be left out.
pub fn find(program: &str) -> Option<PathBuf> {
    let found = which::which_in(program, Some(path()), "/").ok();
    if found.is_none() {
        leave_out(program);
    }
    found
}

/// Tells that nothing is tried with this program, which `tests/all` installs; a
/// failure where all must be there.
pub fn leave_out(program: &str) {
    assert!(
        std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
        "{program} is not installed (tests/all installs it)"
    );
    tell(&format!("{program}: left out, it is not installed (tests/all installs it)"));
}

/// A line that the test harness does not swallow when the test passes.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}: {line}", env!("CARGO_CRATE_NAME"));
}
