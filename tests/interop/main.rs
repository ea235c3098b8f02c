//! Real servers under graceful-run: each is upgraded ten times under load.
//!
//! Contract: every upgrade succeeds, no client is ever refused, and no more
//! requests fail than the server itself loses when it is asked to leave. After
//! the stop nothing is left and the status is 0. A server that this machine does
//! not have is left out, and said so; `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that
//! a failure. `tests/all` installs them all.

#[allow(dead_code)] // unix sockets, keep-alive and ends in step are the torture's alone
#[path = "../common/load.rs"]
mod client;
mod follow;
mod load;
#[path = "../common/wrapper.rs"]
mod wrapper;

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Failure, Target};
use load::Load;
use nix::sys::signal::Signal;
use wrapper::{Verdict, Wrapper};

/// Upgrades of each server.
const UPGRADES: u64 = 10;

/// Replies that must come from the new generation before the next upgrade.
const PROGRESS: u32 = 30;

/// Nothing here takes this long on a sound machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A real server and what is known of it.
struct Server {
    name: &'static str,
    /// The program, found as the shell would or by path.
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Options of graceful-run that this server needs.
    options: &'static [&'static str],
    /// Requests that the server itself may lose in all upgrades together:
    /// accepted, then closed unanswered. Another supervisor would see the same.
    allowed: u64,
}

/// Runs the server through its upgrades, or leaves it out.
fn upgrade_under_load(server: &Server) {
    let Ok(program) = which::which(&server.program) else {
        leave_out(server.name, &format!("{} is not installed", server.program.display()));
        return;
    };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let address = address_of_our_own(server.name);
    let mut wrapper = Wrapper::start(env!("CARGO_BIN_EXE_graceful-run"), directory.path(), |command| {
        command.args(["-b", &address.to_string()]).args(server.options).arg("--");
        command.arg(&program).args(&server.arguments);
        command.env("PYTHONPATH", servers()).env("PYTHONDONTWRITEBYTECODE", "1");
    });
    let pid = wrapper.pid();
    let outcome = wrapper.await_first_ready(LIMIT).and_then(|()| {
        let mut load = Load::on(Target::Tcp(address), pid);
        let upgraded = upgrade(&mut wrapper, &mut load);
        load.finish()?;
        upgraded.map(|()| load)
    });
    let load = outcome.unwrap_or_else(|why| panic!("{}: {why}\n{}", server.name, wrapper.tail()));
    let status = wrapper.stop(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", server.name));

    let failed: u64 = load.failures.values().sum();
    let never = [Failure::Refused, Failure::Exhausted, Failure::Timeout, Failure::BadBody];
    tell(&format!(
        "{}: {UPGRADES} upgrades, {} requests, {failed} failed {:?}, of its own {} allowed",
        server.name,
        load.ok + failed,
        load.failures,
        server.allowed
    ));
    for class in never {
        assert_eq!(load.failures.get(&class), None, "{}: {}", server.name, class.name());
    }
    assert!(failed <= server.allowed, "{}: {failed} requests failed: {:?}", server.name, load.failures);
    assert!(status.success(), "{}: {}\n{}", server.name, wrapper::in_words(status), wrapper.tail());
    let left = wrapper::left_in(directory.path());
    assert!(left.is_empty(), "{}: left behind: {}", server.name, left.join(", "));
    let suspicious = wrapper.suspicious();
    assert!(suspicious.is_empty(), "{}: {}", server.name, suspicious.join("\n"));
}

fn upgrade(wrapper: &mut Wrapper, load: &mut Load) -> Result<(), String> {
    let mut serving = load.await_replies(1, PROGRESS, LIMIT)?;
    let mut descriptors = 0;
    for number in 1..=UPGRADES {
        let signal = if number % 2 == 1 { Signal::SIGUSR2 } else { Signal::SIGHUP };
        wrapper.signal(signal);
        if let Verdict::Refused(why) = wrapper.await_verdict(LIMIT)? {
            return Err(format!("upgrade {number} ({signal}) was refused: {why}"));
        }
        serving = load.await_replies(serving + 1, PROGRESS, LIMIT)?;
        if number == 1 {
            descriptors = wrapper.descriptors();
        }
    }
    if serving != UPGRADES + 1 {
        return Err(format!("generation {serving} serves after {UPGRADES} upgrades"));
    }
    let now = wrapper.descriptors();
    // An old generation that still drains holds a few.
    if now > descriptors + 8 {
        return Err(format!("the wrapper's open files grew from {descriptors} to {now}"));
    }
    Ok(())
}

/// An address that neither another test nor a client's own port can take: all of
/// 127.0.0.0/8 is loopback.
fn address_of_our_own(name: &str) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let server = 100 + name.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) % 100;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, server, high, low)), 5001)
}

fn servers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/servers")
}

/// What `tests/all` installs goes beside what cargo builds.
fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop").join(name)
}

fn leave_out(name: &str, why: &str) {
    assert!(
        std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
        "{name}: {why} (tests/all installs it)"
    );
    tell(&format!("{name}: left out, {why} (tests/all installs it)"));
}

/// A line that the test harness does not swallow when the test passes.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "interop: {line}");
}

/// It says READY=1 before it imports the application: the soak covers that.
#[test]
fn gunicorn() {
    upgrade_under_load(&Server {
        name: "gunicorn",
        program: installed("venv/bin/gunicorn"),
        arguments: ["--no-control-socket", "-w", "2", "wsgi:app"].map(OsString::from).into(),
        options: &["--ack", "notify", "--soak", "1500ms"],
        allowed: 0,
    });
}

/// It acks nothing, so the default kind has to see that it accepts.
#[test]
fn uvicorn() {
    upgrade_under_load(&Server {
        name: "uvicorn",
        program: installed("venv/bin/uvicorn"),
        arguments: ["--fd", "3", "--no-access-log", "asgi:app"].map(OsString::from).into(),
        options: &[],
        allowed: 2 * UPGRADES,
    });
}

/// The process that accepts is a child of the one that was started.
#[test]
fn hypercorn() {
    upgrade_under_load(&Server {
        name: "hypercorn",
        program: installed("venv/bin/hypercorn"),
        arguments: ["-b", "fd://3", "asgi:app"].map(OsString::from).into(),
        options: &["--ack", "accepting"],
        allowed: 2 * UPGRADES,
    });
}

#[test]
fn node() {
    upgrade_under_load(&Server {
        name: "node",
        program: "node".into(),
        arguments: vec![servers().join("server.js").into()],
        options: &["--ack", "accepting"],
        allowed: 0,
    });
}

#[test]
fn go_systemd() {
    upgrade_under_load(&Server {
        name: "go_systemd",
        program: installed("go-server"),
        arguments: Vec::new(),
        options: &["--ack", "notify"],
        allowed: 0,
    });
}

/// In cluster mode, as without it puma's own TERM cuts what is in flight.
#[test]
fn puma() {
    upgrade_under_load(&Server {
        name: "puma",
        program: "puma".into(),
        arguments: [
            "--config",
            "-",
            "--bind-to-activated-sockets",
            "only",
            "--workers",
            "2",
            "--threads",
            "2:4",
        ]
        .map(OsString::from)
        .into_iter()
        .chain([servers().join("config.ru").into()])
        .collect(),
        options: &["--ack", "notify"],
        allowed: 1,
    });
}
