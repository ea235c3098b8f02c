//! What workers are launched from: what all starts have in common, and what each
//! generation was first started from.
//!
//! Contract: what a generation was started from is kept until the core says that it
//! is not needed ([`Action::Forget`](crate::core::event::Action::Forget)), so that
//! its workers can be started again as they were.

use crate::core::event::{Generation, LaunchSource};
use crate::launch::pin::FileId;
use crate::launch::start::LaunchSettings;
use crate::launch::{InheritedContext, LaunchSpec, Refused};
use crate::process::ChangedFile;
use log::warn;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) struct Launcher {
    /// What every start has in common, with the listeners.
    pub(super) settings: LaunchSettings,
    /// The directory and environment that we were started in.
    pub(super) surroundings: InheritedContext,
    /// What each generation was first started from.
    pub(super) specs: BTreeMap<Generation, LaunchSpec>,
}

impl Launcher {
    /// What a worker of `generation` is to be started from.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be read, or when it has changed and `source` asks for exactly
    /// the same.
    pub(super) fn spec(&self, generation: Generation, source: LaunchSource) -> Result<LaunchSpec, Refused> {
        let before = self.specs.get(&generation).filter(|_| source != LaunchSource::Anew);
        let mut spec = match before {
            Some(spec) if source == LaunchSource::Exactly => spec.exactly()?,
            Some(spec) => spec.as_before(),
            None => self.read_now()?,
        };
        if !self.specs.contains_key(&generation) {
            spec.pin(&self.settings.worker.command);
        }
        Ok(spec)
    }

    /// Keeps what the first worker of a generation was started from, and warns of what is odd there.
    pub(super) fn keep(&mut self, generation: Generation, spec: LaunchSpec) {
        self.specs.entry(generation).or_insert_with(|| {
            for odd in spec.odd_variables() {
                warn!(generation = generation.0; "{odd}; it is passed on as it is");
            }
            spec
        });
    }

    /// Keeps what is installed now, for a generation whose first worker is started by another
    /// worker.
    pub(super) fn keep_installed(&mut self, generation: Generation) {
        if self.specs.contains_key(&generation) {
            return;
        }
        if let Ok(mut spec) = self.read_now() {
            spec.pin(&self.settings.worker.command);
            self.specs.insert(generation, spec);
        }
    }

    /// What a hook of this generation is run from.
    ///
    /// # Errors
    /// [`Refused`] when a file cannot be read.
    pub(super) fn hook_spec(&self, generation: Generation) -> Result<LaunchSpec, Refused> {
        match self.specs.get(&generation) {
            Some(spec) => Ok(spec.clone()),
            None => LaunchSpec::for_hook(
                &self.settings.worker,
                &self.surroundings,
                self.settings.identity.as_ref(),
            ),
        }
    }

    fn read_now(&self) -> Result<LaunchSpec, Refused> {
        LaunchSpec::read(&self.settings.worker, &self.surroundings, self.settings.identity.as_ref())
    }

    /// Files of a generation that have changed: another start of it would get the new ones.
    pub(super) fn lost(&self, generation: Generation) -> Vec<String> {
        self.changed(generation).into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    /// The same files, as they are now.
    pub(super) fn changed(&self, generation: Generation) -> Vec<ChangedFile> {
        let lost = self.specs.get(&generation).map(|spec| spec.lost()).unwrap_or_default();
        lost.into_iter().map(|path| (path.clone(), FileId::of(&path))).collect()
    }

    /// Notes that a worker of this generation writes to a file: its changes are no sign of
    /// another release.
    pub(super) fn forget_written(&mut self, generation: Generation, path: &Path) {
        if let Some(spec) = self.specs.get_mut(&generation) {
            spec.forget_written(path);
        }
    }
}
