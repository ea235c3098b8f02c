//! Real servers under graceful-run: each is upgraded ten times under load.
//!
//! Contract: the command lines are those of `src/profiles/servers`, word for word, and
//! the profile gives what they do not say. Every upgrade succeeds, no client is ever
//! refused, and no more requests fail than the server itself loses when it is asked to
//! leave. A release that is broken is refused, and the one before serves. After the stop
//! nothing is left and the status is 0. The files that the lines name are samples in
//! `servers/`. A server that this machine does not have is left out, and said so;
//! `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure. `tests/all` installs them all.
//! A line that does not say `tested = true` is tried with `-- --ignored NAME`.

#[allow(dead_code)] // keep-alive and ends in step are the torture's alone
#[path = "../common/load.rs"]
mod client;
mod driver;
mod load;
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code)] // docs need the rest
#[path = "../common/profiles.rs"]
mod profiles;
mod protocol;
mod server;
#[path = "../common/wrapper.rs"]
mod wrapper;

mod cases;
mod follow;
mod line;
mod nobody;
mod unknown;

/// One test for each command line of a profile, which the build script wrote.
mod lines {
    include!(concat!(env!("OUT_DIR"), "/lines.rs"));
}
