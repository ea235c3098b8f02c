//! Random worlds around the core, on a clock that only the test moves.
//!
//! Each seed is one world: a policy, workers with scripts of their own, requests
//! at any moment, lost and late ticks, doubled events. After every step a
//! [`Model`](model::Model) of the core checks what was done.
//!
//! `SIM_WORLDS=n` sets how many worlds are run, `SIM_SEED=n` replays one of them
//! and prints its log.

mod actions;
mod canary;
mod course;
mod coverage;
mod facts;
mod halts;
mod invariants;
mod model;
mod policies;
mod probation;
mod processes;
mod reports;
mod rng;
mod rollout;
mod script;
mod steering;
mod transitions;
mod worker;
mod world;

use coverage::Coverage;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use world::{Log, World};

const WORLDS: u64 = 100_000;
/// Fewer worlds than this need not have seen everything.
const ENOUGH: u64 = 20_000;

#[test]
fn every_world_keeps_the_promise() {
    if let Some(seed) = number("SIM_SEED") {
        let (log, outcome) = run(seed, &mut Coverage::default());
        let _ = writeln!(std::io::stderr(), "{log}");
        outcome.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        return;
    }
    let worlds = number("SIM_WORLDS").unwrap_or(WORLDS);
    let coverage = run_all(worlds);
    let _ = writeln!(std::io::stderr(), "sim: {worlds} worlds: {coverage}");
    let (undocumented, unseen) = coverage.transitions.undocumented_and_unseen();
    assert_eq!(undocumented, Vec::<String>::new(), "these are missing in the tables of src/core/mod.rs");
    if worlds >= ENOUGH {
        assert_eq!(
            unseen,
            Vec::<String>::new(),
            "these rows of the tables of src/core/mod.rs never happened"
        );
        assert_eq!(
            coverage.never(),
            Vec::<String>::new(),
            "these never happened, so nothing was shown of them"
        );
    }
}

fn run_all(worlds: u64) -> Coverage {
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let work = || {
            let mut coverage = Coverage::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= worlds {
                    return coverage;
                }
                let (log, outcome) = run(seed, &mut coverage);
                if let Err(wrong) = outcome {
                    next.store(worlds, Ordering::Relaxed);
                    panic!("{log}\nseed {seed}: {wrong}\n(SIM_SEED={seed} replays it)");
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a world went wrong, see above")).sum()
    })
}

/// One world from its beginning to its end; its log survives a panic of the core.
fn run(seed: u64, coverage: &mut Coverage) -> (Log, Result<(), String>) {
    let mut log = Log::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed, &mut log, coverage).run()));
    (log, outcome.unwrap_or_else(|_| Err("the core panicked".into())))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}
