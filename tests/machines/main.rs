//! What lies in `examples` for systemd and Docker, on a real systemd and a real Docker daemon.
//!
//! Contract: clients that never retry ask all the time, and none of their requests fails over a
//! reload, a refused reload, a restart or a stop of the new kind; beside them are controls that must
//! lose requests. systemd is process 1 of a container that `systemd-nspawn` makes from this machine's
//! own /usr; the Docker daemon is the test's own, and its base image is made from this machine too.
//! Nothing of either is left. This needs root, control groups that may be made, and the packages
//! that `tests/all` installs. A machine that cannot do it is told of;
//! `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure.

#[allow(dead_code)] // keep-alive is the torture's alone
#[path = "../common/load.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code)] // what tests/all installs is looked for, nothing else
#[path = "../common/place.rs"]
mod place;

mod clients;
mod docker;
mod groups;
mod nspawn;
mod systemd;

use std::path::PathBuf;

/// The programs, if this machine has all of them and we are root; else it is told of, or a failure.
fn tools<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found = names.map(common::tool);
    if !common::am_root() {
        return cannot("this needs root");
    }
    found.iter().all(Option::is_some).then(|| found.map(Option::unwrap_or_default))
}

/// Tells why nothing is tried here; a failure where all must be there.
fn cannot<T>(why: &str) -> Option<T> {
    let required = std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "machines: {why}");
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "machines: nothing was tried: {why}");
    None
}
