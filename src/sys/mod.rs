//! System calls and `/proc`: the only place where unsafe is allowed. Nothing here knows of
//! generations or upgrades.
#![allow(unsafe_code)]

pub(crate) mod arrivals;
pub(crate) mod bound;
pub mod caller_path;
pub mod child;
pub(crate) mod connections;
mod credentials;
mod diag;
pub(crate) mod exec;
mod exec_args;
pub mod fd;
pub(crate) mod fd_plan;
pub(crate) mod file_privileges;
pub mod halted;
pub(crate) mod held;
pub mod identity;
pub mod inherited;
pub(crate) mod listeners;
pub(crate) mod memory;
pub mod notify;
pub(crate) mod peer;
pub mod pidfd;
mod port_filter;
pub(crate) mod probe;
pub mod proc;
pub(crate) mod proc_fd;
pub(crate) mod proc_tcp;
pub mod process;
pub mod seccomp;
pub(crate) mod sigint;
pub mod steering;
pub(crate) mod tcp_diag;
pub(crate) mod terminal;
pub mod tree;
