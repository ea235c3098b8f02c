//! Everything that the next image has to know, as plain data: reading it changes
//! nothing, so a new binary can be checked before it is executed.
//!
//! A field that is added later has a `#[serde(default)]`, so that an older state
//! is still read; an unknown field is ignored. A descriptor is a
//! [`Fd`].

use super::clock;
use super::control;
use super::hook_queue::HookQueue;
use super::rollback::RolledBack;
use crate::ack;
use crate::adopt;
use crate::core::Supervisor;
use crate::core::event::Slot;
use crate::launch;
use crate::launch::capture;
use crate::listener;
use crate::process;
use crate::reexec::fd_transfer::{Fd, path};
use crate::service::manager;
use crate::service::pid_file;
use crate::sys::identity::Identity;
use crate::sys::inherited::Inherited;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The state for the next image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The version that wrote it.
    pub version: String,
    /// The path of our binary.
    #[serde(with = "path")]
    pub program: PathBuf,
    /// Signals and limits that workers are given.
    pub inherited: Inherited,
    /// The directory that we were started in, by the user's name for it.
    #[serde(with = "path")]
    pub directory: PathBuf,
    /// The core's time.
    pub clock: clock::Saved,
    /// The state machine.
    pub core: Supervisor,
    /// Its workers' processes.
    pub processes: process::Saved,
    /// What each generation was first started from.
    pub specs: launch::Saved,
    /// The generation that was rolled back last.
    pub rolled_back: RolledBack,
    /// The listeners on which workers were seen to wait.
    pub waited: BTreeMap<Slot, BTreeSet<u64>>,
    /// The user that workers run as, if it is not ours.
    pub identity: Option<Identity>,
    /// The sockets.
    pub listeners: listener::Saved,
    /// The ack channels of the workers.
    pub acks: ack::Saved,
    /// Hooks under way.
    pub hooks: HookQueue,
    /// The control socket and its clients.
    pub control: control::Saved,
    /// What the paths of `--watch` lead to.
    pub watched: Vec<Option<u64>>,
    /// `--adopt`.
    #[serde(default)]
    pub adopt: Option<adopt::Saved>,
    /// Whether arguments of a profile were left out, because the server refused them. None: the image
    /// before had no profiles.
    #[serde(default)]
    pub arguments_left_out: Option<bool>,
    /// Whether the whole profile was left out, because the program is a script of the shell.
    #[serde(default)]
    pub profile_left_out: Option<bool>,
    /// `--capture-stderr`.
    pub capture: Option<capture::Saved>,
    /// The service manager.
    pub service: manager::Saved,
    /// `--pid-file`.
    pub pid_file: Option<pid_file::Saved>,
    /// Every descriptor of the above.
    pub descriptors: Vec<Fd>,
}

impl State {
    /// As text.
    ///
    /// # Errors
    /// In words; none that is known.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| format!("cannot write the state: {error}"))
    }

    /// From text; the addresses of the listeners are checked as well.
    ///
    /// # Errors
    /// In words: what is missing or not known.
    pub fn decode(text: &[u8]) -> Result<State, String> {
        let failed = |error: serde_json::Error| format!("cannot read the state: {error}");
        let state: State = serde_json::from_slice(text).map_err(failed)?;
        state.listeners.check()?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ack::{Directory, Watcher};
    use crate::control::instance::Instance;
    use crate::core::event::Event;
    use crate::core::policy::Policy;
    use crate::listener::Listeners;
    use crate::process::ProcessTable;
    use crate::reexec::fd_transfer::FdTransfer;
    use crate::reexec::quiesce::Quiesce;
    use crate::service::manager::ServiceManager;
    use crate::sys::inherited;
    use proptest::prelude::*;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// The text of a small state.
    fn text() -> &'static [u8] {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        TEXT.get_or_init(|| {
            let mut transfer = FdTransfer::default();
            let mut core = Supervisor::new(Policy { workers: 2, ..Policy::default() });
            let mut processes = ProcessTable::new("server".into(), false);
            for action in core.step(Duration::ZERO, Event::Tick) {
                if let crate::core::event::Action::Spawn { worker, generation, .. } = action {
                    processes.open(worker, generation, Slot(0));
                }
            }
            let listeners = Listeners::default();
            let watcher = Watcher::start(Quiesce::default(), |_, _| {}).unwrap();
            let instance = Instance::take(&crate::config::Control::default(), &[], "/".as_ref()).unwrap();
            let control = control::Control::start(None, instance, &Quiesce::default(), |_| true).unwrap();
            let state = State {
                version: "0.1.0".into(),
                program: "/usr/bin/graceful-run".into(),
                inherited: inherited::inherited(),
                directory: "/".into(),
                clock: clock::Clock::new().save(),
                core,
                processes: process::Saved::new(&processes, &mut transfer).unwrap(),
                specs: launch::Saved::new(&BTreeMap::new(), &mut transfer).unwrap(),
                rolled_back: RolledBack::default(),
                waited: BTreeMap::new(),
                identity: None,
                listeners: listener::Saved::new(&listeners, &mut transfer).unwrap(),
                acks: ack::Saved::new(&watcher, &Directory::new(&[], false), &mut transfer).unwrap(),
                hooks: HookQueue::default(),
                control: control.save(&mut transfer).unwrap(),
                watched: vec![None, Some(7)],
                adopt: None,
                arguments_left_out: None,
                profile_left_out: None,
                capture: None,
                service: ServiceManager::new(&[]).save(true),
                pid_file: None,
                descriptors: transfer.listed().to_vec(),
            };
            state.encode().unwrap()
        })
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let state = State::decode(text()).unwrap();
        assert_eq!(String::from_utf8(state.encode().unwrap()), String::from_utf8(text().to_vec()));
    }

    #[test]
    fn fields_of_a_later_version_are_ignored() {
        let mut value: serde_json::Value = serde_json::from_slice(text()).unwrap();
        value["later"] = 1.into();
        value["processes"]["later"] = 1.into();
        State::decode(&serde_json::to_vec(&value).unwrap()).unwrap();
        value["core"] = 1.into();
        assert!(State::decode(&serde_json::to_vec(&value).unwrap()).is_err());
    }

    proptest! {
        /// The digest does not protect: whoever can change the state can change that too.
        #[test]
        fn a_state_that_was_tampered_with_is_read_or_refused(
            at in any::<prop::sample::Index>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..8),
            cut in 0_usize..8,
        ) {
            let mut tampered = text().to_vec();
            let at = at.index(tampered.len());
            let end = (at + cut).min(tampered.len());
            tampered.splice(at..end, bytes);
            let _ = State::decode(&tampered);
        }
    }
}
