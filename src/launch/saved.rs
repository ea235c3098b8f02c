//! What the generations were started from, across an execve(2).

use super::LaunchSpec;
use crate::core::event::Generation;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

/// What each generation was started from, each with the descriptor of its program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved(Vec<(Generation, LaunchSpec, Option<Fd>)>);

impl Saved {
    /// Lists the descriptors and copies the other values.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(specs: &BTreeMap<Generation, LaunchSpec>, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let save = |(&generation, spec): (&Generation, &LaunchSpec)| {
            let program = transfer.add_some(spec.open_program().map(AsRef::as_ref))?;
            Ok((generation, spec.clone(), program))
        };
        specs.iter().map(save).collect::<io::Result<_>>().map(Saved)
    }

    /// What each generation was started from, as it was.
    pub fn restore(self, fds: &mut InheritedFds) -> BTreeMap<Generation, LaunchSpec> {
        let restore = |(generation, mut spec, program): (Generation, LaunchSpec, Option<Fd>)| {
            if let Some(program) = fds.take_some(program) {
                spec.restore_program(program);
            }
            (generation, spec)
        };
        self.0.into_iter().map(restore).collect()
    }
}
