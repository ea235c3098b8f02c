//! What workers are launched from: what all starts have in common, and what each
//! generation was first started from.
//!
//! Contract: what a generation was started from is kept until the core says that it
//! is not needed ([`Action::Forget`](crate::core::event::Action::Forget)), so that
//! its workers can be started again as they were.

use crate::core::event::{Generation, LaunchSource as From};
use crate::launch::start::LaunchSettings;
use crate::launch::{InheritedContext, LaunchSpec, Refused};
use std::collections::BTreeMap;
use std::path::Path;

pub(super) struct Launcher {
    /// What every start has in common, the listeners among it.
    pub(super) settings: LaunchSettings,
    /// The directory and environment that we were started in.
    pub(super) surroundings: InheritedContext,
    /// What each generation was first started from.
    pub(super) readings: BTreeMap<Generation, LaunchSpec>,
}

impl Launcher {
    /// What a worker of `generation` is to be started from.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be had, or not exactly as it was where that is asked for.
    pub(super) fn reading(&self, generation: Generation, from: From) -> Result<LaunchSpec, Refused> {
        let before = self.readings.get(&generation).filter(|_| from != From::Anew);
        let mut reading = match before {
            Some(reading) if from == From::Exactly => reading.exactly()?,
            Some(reading) => reading.as_before(),
            None => self.anew()?,
        };
        if !self.readings.contains_key(&generation) {
            reading.pin(&self.settings.worker.command);
        }
        Ok(reading)
    }

    /// Keeps what the first worker of a generation was started from.
    pub(super) fn keep(&mut self, generation: Generation, reading: LaunchSpec) {
        self.readings.entry(generation).or_insert(reading);
    }

    /// Keeps what is installed now for a generation whose first worker another worker starts.
    pub(super) fn keep_installed(&mut self, generation: Generation) {
        if self.readings.contains_key(&generation) {
            return;
        }
        if let Ok(mut reading) = self.anew() {
            reading.pin(&self.settings.worker.command);
            self.readings.insert(generation, reading);
        }
    }

    /// What a hook about this generation is run with.
    ///
    /// # Errors
    /// [`Refused`] when a file cannot be read.
    pub(super) fn reading_of_hook(&self, generation: Generation) -> Result<LaunchSpec, Refused> {
        match self.readings.get(&generation) {
            Some(reading) => Ok(reading.clone()),
            None => LaunchSpec::of_hook(
                &self.settings.worker,
                &self.surroundings,
                self.settings.identity.as_ref(),
            ),
        }
    }

    fn anew(&self) -> Result<LaunchSpec, Refused> {
        LaunchSpec::anew(&self.settings.worker, &self.surroundings, self.settings.identity.as_ref())
    }

    /// Files of a generation that another start would not have as they were.
    pub(super) fn lost(&self, generation: Generation) -> Vec<String> {
        let lost = self.readings.get(&generation).map(|reading| reading.lost()).unwrap_or_default();
        lost.into_iter().map(|path| path.display().to_string()).collect()
    }

    /// Notes that a worker of this generation writes to a file: that the file changes says
    /// nothing of the release.
    pub(super) fn is_written(&mut self, generation: Generation, path: &Path) {
        if let Some(reading) = self.readings.get_mut(&generation) {
            reading.is_written(path);
        }
    }
}
