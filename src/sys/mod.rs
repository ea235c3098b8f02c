//! System calls and `/proc`: the only place where unsafe is allowed. Nothing here knows of
//! generations or upgrades.
#![allow(unsafe_code)]

pub mod child;
pub mod connections;
mod credentials;
mod diag;
pub mod exec;
mod exec_args;
pub mod fd;
pub mod fd_plan;
pub mod identity;
pub mod inherited;
pub mod listeners;
pub mod memory;
pub mod notify;
pub mod peer;
pub mod pidfd;
pub mod probe;
pub mod proc_fd;
pub mod process;
pub mod seccomp;
pub mod sigint_count;
pub mod steering;
pub mod tcp_diag;
pub mod terminal;
pub mod tree;
