//! One convention from its first start to its end, under load.

use crate::client::Target;
use crate::common::{Scene, Signal, WATCHDOG, Wrapper, says};
use crate::load::Load;
use crate::protocol::Protocol;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Upgrades that must go well, each under load.
const UPGRADES: u32 = 10;

/// Replies that must come from the new generation before the next upgrade.
const PROGRESS: u32 = 30;

/// The worker in Go, as `tests/all` builds it.
pub const GO: &str = "conventions";

/// The worker in Python.
pub const PYTHON: &str = "python3";

/// How a server is started, tells that it is ready and is stopped.
pub struct Convention<'a> {
    /// The dialect.
    pub export: &'static str,
    /// The program: [`GO`], [`PYTHON`], or a path below what `tests/all` builds.
    pub worker: &'static str,
    /// What it is told; `ADDRESS` stands for the one that is bound.
    pub arguments: &'a [&'a str],
    /// The kind of ack that the log must name.
    pub ack: &'static str,
    /// What each generation must have said by its end; `GENERATION` and `ADDRESS` stand for its own.
    pub says: &'static [&'static str],
    /// Whether the dialect alone decides on that kind.
    pub brings_its_ack: bool,
    /// The signal that each worker must be left with. None where the worker cannot say.
    pub stop: &'static str,
}

impl<'a> Convention<'a> {
    /// A dialect without an ack of its own, whose servers leave on TERM.
    pub fn of(export: &'static str) -> Self {
        Convention {
            export,
            worker: "",
            arguments: &[],
            ack: "accepting",
            says: &[],
            brings_its_ack: false,
            stop: "TERM",
        }
    }

    /// The command; `wrong` says which generations misbehave, `2:exit`. None if it is not built.
    fn command(&self, address: &str, wrong: &[String]) -> Option<Vec<String>> {
        let program = program(self.worker)?;
        let wrong = |flag: &str| wrong.iter().flat_map(|one| [flag.to_owned(), one.clone()]).collect();
        let arguments = self.arguments.iter().map(|argument| argument.replace("ADDRESS", address));
        let (before, after): (Vec<String>, Vec<String>) = match self.worker {
            GO => (wrong("-wrong"), Vec::new()),
            PYTHON => ([vec![worker_py()], wrong("--wrong")].concat(), Vec::new()),
            _ => (Vec::new(), wrong("--wrong")),
        };
        Some([program].into_iter().chain(before).chain(arguments).chain(after).collect())
    }
}

/// Ten upgrades, replacements that fail in every way that the worker knows, and a stop.
pub fn keeps_its_word(convention: &Convention<'_>) {
    let name = [&[convention.export, convention.worker], convention.arguments].concat().join(" ");
    let scene = Scene::new();
    let address = address_of_our_own(&name);
    let serves = UPGRADES + 1;
    // One that is ready by accepting and then dies takes what it has accepted with it.
    let dies = convention.worker == GO && convention.ack != "accepting";
    let ways: &[&str] = if dies { &["exit", "mute", "dies"] } else { &["exit", "mute"] };
    let failing: Vec<(u32, &str)> = (serves + 1..).zip(ways.iter().copied()).collect();
    let last = serves + 1 + failing.len() as u32;
    let mut wrong: Vec<String> =
        failing.iter().map(|(generation, way)| format!("{generation}:{way}")).collect();
    if convention.worker == GO {
        // To ack twice is to ack.
        wrong.push("2:twice".to_owned());
    }
    let Some(command) = convention.command(&address.to_string(), &wrong) else { return };
    let bind = address.to_string();
    // One that dies right after its ack may do so a little later on a busy machine.
    let soak = if dies { "1s" } else { "50ms" };
    let args = ["-b", &bind, "--export", convention.export, "--soak", soak, "--ack-timeout", "10s"];
    // What is not its dialect's own has to be asked for: the default kind would also take a
    // start of two seconds, on a busy machine, for a sign.
    let ack: &[&str] = if convention.brings_its_ack { &[] } else { &["--ack", convention.ack] };
    let mut wrapper = scene.start_command(&[&args, ack].concat(), &command);
    wrapper.log.wait(&says::ready_by(1, convention.ack));
    wrapper.log.wait(&says::ready(1));
    let mut load = Load::on(4, &[Target::Tcp(address)], Protocol::Http, wrapper.pid.as_raw().unsigned_abs());
    load.await_replies(1, PROGRESS, WATCHDOG).unwrap();
    for next in 2..=serves {
        replaced(&wrapper, next, convention.ack, next - 1);
        load.await_replies(next.into(), PROGRESS, WATCHDOG).unwrap();
    }
    for (generation, way) in failing {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::failed(generation));
        load.await_replies(serves.into(), PROGRESS, WATCHDOG).unwrap();
        assert_eq!(scene.log.count(&format!("g{serves} got ")), 0, "{name}, {way}: {:?}", scene.log.all());
    }
    replaced(&wrapper, last, convention.ack, serves);
    load.await_replies(last.into(), PROGRESS, WATCHDOG).unwrap();
    load.finish().unwrap();
    wrapper.signal(Signal::SIGTERM);
    let status = wrapper.exit_status();
    let log = wrapper.log.all().join("\n");
    assert_eq!(status, 0, "{name}:\n{log}");
    assert_eq!(load.failures, [].into(), "{name}: {} answered:\n{log}", load.ok);
    for generation in (1..=serves).chain([last]) {
        let heard = scene.log.count(&format!("g{generation} got "));
        let meant = scene.log.count(&format!("g{generation} got {}", convention.stop));
        let wanted = usize::from(!convention.stop.is_empty());
        assert_eq!((heard, meant), (wanted, wanted), "{name}: {:?}\n{log}", scene.log.all());
        wrapper.log.wait(&says::exited(generation, 0));
        for line in convention.says {
            let line = line.replace("GENERATION", &generation.to_string()).replace("ADDRESS", &bind);
            scene.log.wait(&format!("g{generation} {line} "));
        }
    }
    tell(&format!("{name}: {} upgrades, {} requests, none failed", UPGRADES + 1, load.ok));
}

/// One upgrade that has to succeed by that ack, to its very end.
fn replaced(wrapper: &Wrapper, next: u32, ack: &str, old: u32) {
    let signal = if next.is_multiple_of(2) { Signal::SIGUSR2 } else { Signal::SIGHUP };
    wrapper.signal(signal);
    wrapper.log.wait(&says::ready_by(next, ack));
    wrapper.log.wait(&says::ready(next));
    wrapper.log.wait(&says::exited(old, 0));
}

/// The program, or None, said, if it is not there.
pub fn program(worker: &str) -> Option<String> {
    if worker == PYTHON {
        return Some("python3".to_owned());
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop").join(worker);
    if path.exists() {
        return Some(path.to_str().expect("utf-8").to_owned());
    }
    let required = std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "{} is missing (tests/all builds it)", path.display());
    tell(&format!("left out, {} is missing (tests/all builds it)", path.display()));
    None
}

/// The script of [`PYTHON`].
pub fn worker_py() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conventions/workers/worker.py");
    path.to_str().expect("utf-8").to_owned()
}

/// An address that neither another test nor a client's own port can take: all of 127.0.0.0/8 is
/// loopback. Conventions compare addresses, so it has to be known before it is bound.
pub fn address_of_our_own(name: &str) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let port =
        5000 + name.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 20_000;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 90 + high % 10, high, low)), port)
}

/// A line that the test harness does not swallow when the test passes.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "conventions: {line}");
}
