//! What the generations were started from, across an execve(2).

use super::LaunchSpec;
use crate::core::event::Generation;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

/// Readings by generation, each with the descriptor of its program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved(Vec<(Generation, LaunchSpec, Option<Fd>)>);

impl Saved {
    /// Lists the descriptors and copies the other values.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(readings: &BTreeMap<Generation, LaunchSpec>, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let save = |(&generation, reading): (&Generation, &LaunchSpec)| {
            let program = transfer.add_some(reading.held().map(AsRef::as_ref))?;
            Ok((generation, reading.clone(), program))
        };
        readings.iter().map(save).collect::<io::Result<_>>().map(Saved)
    }

    /// The readings as they were.
    pub fn restore(self, fds: &mut InheritedFds) -> BTreeMap<Generation, LaunchSpec> {
        let restore = |(generation, mut reading, program): (Generation, LaunchSpec, Option<Fd>)| {
            if let Some(program) = fds.take_some(program) {
                reading.hold(program);
            }
            (generation, reading)
        };
        self.0.into_iter().map(restore).collect()
    }
}
