//! At any time at most one generation is starting; the one that serves gets no
//! signal until every worker of the next has been ready and is alive.
//!
//! That is the promise of graceful-run, and the simulator in `tests/sim` checks
//! it after every step. (`--stop-first` and a bounded `--surge` are the user's
//! own exceptions, slot by slot.) Threads turn what the system says into events
//! on one channel; the main thread asks the [`core`], a pure state machine, what
//! follows, and does it. Modules stand in order of dependence: each uses those
//! above it. What is `pub` is what `main`, the tests and the benchmarks call.
// The documentation is for those who read the source: `cargo doc --document-private-items`.
#![allow(rustdoc::private_intra_doc_links)]

pub mod error;

pub mod core;
pub mod sys;

pub mod cli;
pub mod logger;

pub mod dialect;
pub mod reexec;
pub(crate) mod watch;

pub mod listener;

pub(crate) mod ack;
pub mod config;

pub mod adopt;
pub(crate) mod launch;
pub(crate) mod process;
pub(crate) mod profiles;
pub(crate) mod service;

pub(crate) mod control;
pub mod ctl;
pub mod doctor;

pub mod here;
pub mod supervisor;

pub mod plan;
