//! Listeners.

pub mod address;
pub mod options;
