//! The only place where unsafe is allowed: what the kernel is asked for, and
//! nothing about workers, generations or upgrades.
#![allow(unsafe_code)]

pub mod borrow;
mod change;
pub mod child;
pub mod connections;
mod diag;
pub mod fd;
pub mod flows;
pub mod identity;
mod image;
pub mod inherited;
pub mod interrupts;
pub mod listening;
pub mod memory;
pub mod notify;
pub mod peer;
pub mod probe;
pub mod proc_fd;
pub mod process;
pub mod remap;
pub mod replace;
pub mod seccomp;
pub mod steering;
pub mod terminal;
pub mod tree;
