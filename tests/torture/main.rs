//! The zero-drop proof: upgrades under load, with sockets that are handed over and with
//! those of a server under `--adopt`, counted by clients that never retry
//! and by the kernel, beside two controls that must lose requests.
//!
//! Contract: exit status 0 means that every request was answered whole, that no
//! watched kernel counter of the run's own network namespace moved, that every
//! bad replacement was refused and every good one took over, that nothing was
//! left behind, and that both controls lost requests under the same clients. Any
//! other outcome, also a run that could prove nothing, is status 1.
//!
//! `TORTURE_UPGRADES` is the number of upgrades with sockets that are handed over
//! (50), `TORTURE_ADOPTED` with `--adopt` (20), `TORTURE_SEED` decides which
//! replacements are bad (1). Where the machine forbids network namespaces the
//! clients are the only witness, since the machine's own traffic moves its
//! counters; the run says so, and under `GRACEFUL_RUN_REQUIRE_SERVERS=1`, as CI
//! sets it, it fails.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a report is this program's product

mod clients;
mod controls;
mod counters;
mod driver;
mod gate;
mod ledger;
#[path = "../common/load.rs"]
mod load;
mod namespace;
mod way;
mod worker;
#[path = "../common/wrapper.rs"]
mod wrapper;

use std::env;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clients::Clients;
use controls::Control;
use counters::Snapshot;
use driver::{Driver, LIMIT, Outcome, Seed};
use gate::Gate;
use ledger::{Kind, Ledger};
use load::Failure;
use way::Way;
use worker::{Fate, Source};
use wrapper::Wrapper;

/// Files that the wrapper may hold for generations that still drain when the last
/// upgrade has ended. A leak would be one for each upgrade, or many.
const DRAINING: usize = 16;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("serve"), _) => serve(Source::Inherited),
        (Some("serve-bound"), Some(address)) => serve(Source::Bound(address.parse().expect("an address"))),
        (Some("serve-reuseport"), Some(address)) => {
            serve(Source::ReusePort(address.parse().expect("an address")))
        }
        (Some(way::CARELESS), _) => {
            let addresses = env::args().skip(2).map(|address| address.parse().expect("an address"));
            serve(Source::Careless(addresses.collect()))
        }
        // The rest are options of `cargo test`, of which none fits a single run.
        _ => torture(),
    }
}

fn serve(source: Source) -> ExitCode {
    match worker::run(source) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("torture worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn torture() -> ExitCode {
    let isolated = match namespace::enter() {
        Ok(()) => true,
        Err(why) if env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_none() => {
            println!("torture: {why}; the kernel's counters are left out (run as root)");
            false
        }
        Err(why) => {
            println!("torture: {why} (run as root or allow user namespaces)");
            println!("torture: 0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let mut checks = Checks::default();
    if let Err(why) = run(isolated, &mut checks) {
        checks.check(&why, false);
    }
    println!("torture: {} passed, {} failed", checks.passed, checks.failed);
    if checks.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What was held against the run, line by line.
#[derive(Default)]
struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    fn check(&mut self, what: &str, holds: bool) {
        println!("  {} {what}", if holds { "ok    " } else { "FAILED" });
        *(if holds { &mut self.passed } else { &mut self.failed }) += 1;
    }
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    match env::var(name) {
        Ok(value) => value.parse().map_err(|_| format!("{name}={value} is not a number")),
        Err(_) => Ok(default),
    }
}

/// A port for every address. In a namespace of our own any will do.
fn port(isolated: bool) -> Result<u16, String> {
    if isolated {
        return Ok(5001);
    }
    TcpListener::bind("[::]:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("cannot find a free port: {error}"))
}

fn run(isolated: bool, checks: &mut Checks) -> Result<(), String> {
    let upgrades = number("TORTURE_UPGRADES", 50)?;
    let seed = number("TORTURE_SEED", 1)?;
    let directory = tempfile::tempdir().map_err(|error| format!("cannot make a directory: {error}"))?;
    let adopted = number("TORTURE_ADOPTED", 20)?;
    for (way, upgrades) in [(Way::Handed, upgrades), (Way::Adopted, adopted)] {
        println!("torture: {}, {upgrades} upgrades, seed {seed}", way.name());
        let place = directory.path().join(way.name());
        std::fs::create_dir(&place).map_err(|error| format!("cannot make a directory: {error}"))?;
        proof(way, isolated, upgrades, seed, &place, checks)?;
    }

    for control in [Control::StopAndStart, Control::ReusePort] {
        let before = Snapshot::take()?;
        let ledger = control.run(port(isolated)?, directory.path())?;
        let (ok, failed) = ledger.total();
        println!(
            "control: {}, {} restarts: {} requests, {failed} failed{}",
            control.name(),
            controls::RESTARTS,
            ok + failed,
            classes(&ledger)
        );
        println!("  kernel: {}", in_words(&Snapshot::take()?.since(&before)));
        let lost: u64 =
            ledger.failures().iter().filter(|(class, _)| **class != Failure::Exhausted).map(|(_, n)| n).sum();
        checks.check("this control loses requests (or the load would show no drop at all)", lost > 0);
    }
    Ok(())
}

fn proof(
    way: Way,
    isolated: bool,
    upgrades: u64,
    seed: u64,
    directory: &Path,
    checks: &mut Checks,
) -> Result<(), String> {
    let started = Instant::now();
    let port = port(isolated)?;
    let path = directory.join("app.sock");
    let unix = way.has_unix().then_some(&*path);
    let fate = directory.join("fate");
    let gate_path = directory.join("gate");
    let myself = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let gate = Gate::at(&gate_path)?;
    let ledger = Arc::new(Ledger::default());
    worker::decide(&fate, Fate::Serve)?;

    let before = Snapshot::take()?;
    let mut wrapper = Wrapper::start(directory, |command| {
        way.wrap(command, &myself, port, &path).env(worker::GATE, &gate_path).env(worker::FATE, &fate);
    });
    wrapper.await_first_ready(LIMIT)?;
    let clients = Clients::start(clients::all(port, unix), &ledger);
    let descriptors = wrapper.descriptors();
    let driven = Driver { wrapper: &mut wrapper, ledger: &ledger, gate: &gate, fate, unix }
        .run(upgrades, &mut Seed::new(seed));
    gate.open();
    ledger.upgrades_are_over();
    clients.finish();
    let descriptors_after = wrapper.descriptors();
    let ended = wrapper.stop(LIMIT);
    let deltas = Snapshot::take()?.since(&before);

    report(&ledger, &driven, started);
    println!("  kernel: {}", in_words(&deltas));

    let (ok, failed) = ledger.total();
    match &driven {
        Ok(_) => checks.check("every good replacement took over, every bad one was refused", true),
        Err(why) => checks.check(&format!("{why}\n{}", wrapper.tail()), false),
    }
    checks.check("no request failed", failed == 0 && ok > 0);
    if isolated {
        checks.check("the kernel reset, dropped and sent again nothing", deltas.iter().all(|(_, n)| *n == 0));
    }
    match ended {
        Ok(status) => {
            checks.check(&format!("the wrapper ended with {}", wrapper::in_words(status)), status.success());
        }
        Err(why) => checks.check(&why, false),
    }
    let left = wrapper::left_in(directory, wrapper.pid());
    checks.check(&format!("no process is left {}", left.join(", ")), left.is_empty());
    checks.check("the unix socket's file is gone", !path.exists());
    checks.check(
        &format!("the wrapper's open files did not grow ({descriptors}, then {descriptors_after})"),
        descriptors_after <= descriptors + DRAINING,
    );
    let suspicious = wrapper.suspicious();
    checks.check(&format!("nothing alarming in the log {}", suspicious.join("; ")), suspicious.is_empty());
    Ok(())
}

fn report(ledger: &Ledger, driven: &Result<Outcome, String>, started: Instant) {
    if let Ok(outcome) = driven {
        let refused: u64 = outcome.refused.values().sum();
        let by_fault: Vec<String> =
            outcome.refused.iter().map(|(fate, n)| format!("{} {n}", fate.name())).collect();
        println!(
            "  upgrades: {} done, {refused} refused ({}) in {:.1} s; {} requests held across one",
            outcome.upgraded,
            by_fault.join(", "),
            started.elapsed().as_secs_f64(),
            outcome.held
        );
    }
    for kind in Kind::ALL {
        let (ok, failed) = ledger.count(kind);
        if ok + failed == 0 {
            continue;
        }
        println!("  {:<15} {:>9} requests, {failed} failed", kind.name(), ok + failed);
    }
    let (ok, failed) = ledger.total();
    println!(
        "  {:<15} {:>9} requests, {failed} failed{}; slowest {} ms",
        "in all",
        ok + failed,
        classes(ledger),
        ledger.slowest().as_millis()
    );
    if failed == 0 && ok > 0 {
        // The rule of three: no failure in n trials.
        println!("  95 % upper bound: {:.2e} of requests fail (3/{ok})", 3.0 / ok as f64);
        if let Ok(outcome) = driven {
            let n = outcome.upgraded + outcome.refused.values().sum::<u64>();
            println!("  95 % upper bound: {:.2e} of upgrades lose one (3/{n})", 3.0 / n as f64);
        }
    }
}

fn classes(ledger: &Ledger) -> String {
    let classes: Vec<String> =
        ledger.failures().iter().map(|(class, n)| format!("{} {n}", class.name())).collect();
    if classes.is_empty() { String::new() } else { format!(" ({})", classes.join(", ")) }
}

fn in_words(deltas: &[(&'static str, u64)]) -> String {
    let words: Vec<String> =
        deltas.iter().map(|(name, n)| format!("{} {n}", name.rsplit('.').next().unwrap_or(name))).collect();
    words.join(", ")
}
