//! Makes the [`Launch`] of a worker, a check or a hook, from its [`LaunchSpec`], the listeners and
//! the ack channels.

use super::binary_id::BinaryIds;
use super::hook::HookContext;
use super::{LaunchSpec, Refused, SHELL};
use crate::ack::Channels;
use crate::config;
use crate::core::event::{Generation, Refusal, Slot, WorkerId};
use crate::dialect::{Dialect, Exported, first_listener, spell};
use crate::error::RAISE_FILE_LIMIT;
use crate::listener::Listeners;
use crate::sys::child::Launch;
use crate::sys::fd;
use crate::sys::identity::Identity;
use crate::sys::inherited::worker_file_limit;
use crate::sys::seccomp::Filter;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

/// What all starts have in common.
#[derive(Debug)]
pub struct LaunchSettings {
    /// As the user configured it.
    pub worker: config::Worker,
    /// The user that it runs as, if it is not ours.
    pub identity: Option<Identity>,
    /// The listeners that are handed over.
    pub listeners: Listeners,
    /// The dialects in which they are passed.
    pub dialects: Vec<Dialect>,
    /// `--name`
    pub name: Option<String>,
    /// Our control socket.
    pub control: Option<String>,
    /// How often a worker has to send a watchdog ping.
    pub watchdog: Option<Duration>,
    /// The hash of the program, for the dialect overseer.
    pub binary_ids: BinaryIds,
    /// What makes us see the system calls of workers that bind their own sockets (`--adopt`).
    pub filter: Option<Filter>,
    /// Whether workers start their own successors (`--follow`); some execute their first argument.
    pub follow: bool,
    /// The signals that we send to workers: their stop signal, and that of `--follow`.
    pub signals: Vec<Signal>,
}

impl LaunchSettings {
    /// As `config` says; `control` is the path of our own socket.
    pub fn new(
        config: &config::Config,
        identity: Option<Identity>,
        listeners: Listeners,
        control: Option<&str>,
    ) -> LaunchSettings {
        LaunchSettings {
            worker: config.worker.clone(),
            identity,
            listeners,
            dialects: config.dialects.clone(),
            name: config.control.name.clone(),
            control: control.map(String::from),
            watchdog: config.policy.worker_watchdog,
            binary_ids: BinaryIds::default(),
            filter: None,
            follow: config.follow.is_some(),
            signals: [Some(config.stop_signal), config.follow].into_iter().flatten().collect(),
        }
    }

    /// The listeners of a generation, as the dialects see them.
    pub fn exported(&self, generation: Generation) -> Vec<Exported<'_>> {
        self.listeners.of(generation.0).map(|listener| listener.exported()).collect()
    }

    /// The variables about ourselves, which checks and hooks are given too.
    fn own_variables(&self, generation: Generation, slot: Slot) -> Vec<(String, String)> {
        let mut variables = vec![
            ("GRACEFUL_RUN_GENERATION".into(), generation.0.to_string()),
            ("GRACEFUL_RUN_SLOT".into(), slot.0.to_string()),
            ("GRACEFUL_RUN_PID".into(), std::process::id().to_string()),
        ];
        variables.extend(self.control.iter().map(|path| ("GRACEFUL_RUN_CONTROL".into(), path.clone())));
        let exported = self.exported(generation);
        if !exported.is_empty() {
            variables.push(("GRACEFUL_RUN_LISTENERS".into(), spell::listener_list(&exported)));
        }
        variables
    }

    /// Whether workers can be given descriptors that earlier ones have stored: only where
    /// LISTEN_FDS may count more than the listeners.
    pub fn stores(&self) -> bool {
        let dialects = &self.dialects;
        dialects.contains(&Dialect::ListenFds) && !dialects.contains(&Dialect::Crank) && !self.follow
    }

    /// The start of a worker, which is given the `stored` descriptors after the listeners.
    ///
    /// # Errors
    /// [`Refused`] when the directory cannot be entered or a variable cannot be
    /// spelled.
    pub fn worker(
        &self,
        spec: &LaunchSpec,
        channels: &Channels,
        stored: &[(String, OwnedFd)],
        id: WorkerId,
        generation: Generation,
        slot: Slot,
    ) -> Result<Launch, Refused> {
        let exported = self.exported(generation);
        let mut variables = self.own_variables(generation, slot);
        variables.push(("GRACEFUL_RUN_START".into(), id.0.to_string()));
        let names: Vec<String> = stored.iter().map(|(name, _)| name.clone()).collect();
        variables.extend(self.dialect_variables(spec, &exported, &names, generation, slot)?);
        variables.extend(channels.environment());
        let micros = self.watchdog.map(|every| every.as_micros().to_string());
        variables.extend(micros.map(|micros| ("WATCHDOG_USEC".into(), micros)));
        let sources =
            || self.listeners.of(generation.0).map(|listener| listener.fd(generation.0, slot.0).as_raw_fd());
        let mut fds: Vec<(RawFd, RawFd)> = match first_listener(&self.dialects) {
            Some(first) => {
                let stored = stored.iter().map(|(_, fd)| fd.as_raw_fd());
                sources().chain(stored).zip(first..).collect()
            }
            None => Vec::new(),
        };
        if self.dialects.contains(&Dialect::Stdin) {
            fds.extend(sources().map(|source| (source, 0)));
        }
        fds.extend(channels.descriptors());
        fds.extend(self.worker.pass_fds.iter().map(|&fd| (fd, fd)));
        self.check_file_limit(spec, &fds)?;
        let mut command = spec.command().unwrap_or(&self.worker.command).to_vec();
        if self.follow
            && let Some(name) = command.first_mut().filter(|name| !name.as_bytes().contains(&b'/'))
        {
            // nginx does so without searching PATH.
            *name = spec.program().into();
        }
        let mut launch = self.launch(spec, spec.program(), &command, variables)?;
        let given = exported.len() + stored.len();
        launch.listen = given > 0 && self.dialects.iter().any(|dialect| dialect.passes_pid());
        launch.watchdog = self.watchdog.is_some();
        launch.fds = fds;
        launch.own_group = !self.worker.foreground_tty;
        launch.default_signals = self.signals.iter().map(|&signal| signal as i32).collect();
        launch.filter = self.filter.clone();
        if let Some(image) = spec.image() {
            let above = launch.fds.iter().map(|&(_, target)| target + 1).max().unwrap_or(0);
            launch.program_fd = Some(fd::duplicate_above(image.as_fd(), above).map_err(|error| Refused {
                refusal: Refusal::Other,
                message: format!("cannot keep the program: {}", crate::error::reason(&error)),
            })?);
        }
        Ok(launch)
    }

    /// A worker whose descriptors take up all that it may have open could not even load its
    /// libraries.
    fn check_file_limit(&self, spec: &LaunchSpec, fds: &[(RawFd, RawFd)]) -> Result<(), Refused> {
        let limit = worker_file_limit();
        let below = |&fd: &RawFd| u64::try_from(fd).is_ok_and(|fd| fd < limit);
        let taken: BTreeSet<RawFd> = (0..3).chain(fds.iter().map(|&(_, target)| target)).collect();
        if (taken.iter().copied().filter(below).count() as u64) < limit {
            return Ok(());
        }
        Err(Refused {
            refusal: Refusal::Other,
            message: format!(
                "cannot start {}: it gets {} descriptors and may have {limit} open, so that none is left for its own files ({RAISE_FILE_LIMIT})",
                spec.program().display(),
                taken.len()
            ),
        })
    }

    fn dialect_variables(
        &self,
        spec: &LaunchSpec,
        listeners: &[Exported],
        stored: &[String],
        generation: Generation,
        slot: Slot,
    ) -> Result<Vec<(String, String)>, Refused> {
        let program = spec.real_program();
        let binary_id = match self.dialects.contains(&Dialect::Overseer) {
            true => self.binary_ids.of(program)?,
            false => String::new(),
        };
        let command = self.worker.command.first().map(Path::new).and_then(Path::file_name);
        let command = command.unwrap_or_default().to_string_lossy();
        let start = spell::Start {
            supervisor: std::process::id(),
            generation: generation.0,
            slot: slot.0,
            name: self.name.as_deref().unwrap_or(&command),
            program: &program.to_string_lossy(),
            binary_id: &binary_id,
            stored,
        };
        Ok(spell::environment(&self.dialects, listeners, &start))
    }

    /// The start of the user's own check of the worker `pid`: a shell, in the worker's environment
    /// but without its descriptors.
    ///
    /// # Errors
    /// As for a worker.
    pub fn check(
        &self,
        spec: &LaunchSpec,
        command: &str,
        generation: Generation,
        slot: Slot,
        pid: i32,
    ) -> Result<Launch, Refused> {
        let mut variables = self.own_variables(generation, slot);
        variables.push(("GRACEFUL_RUN_WORKER".into(), pid.to_string()));
        self.shell(spec, command, variables)
    }

    /// The start of a hook, as of a check, with the variables of the `context`.
    ///
    /// # Errors
    /// As for a worker.
    pub fn hook(&self, spec: &LaunchSpec, command: &str, context: &HookContext) -> Result<Launch, Refused> {
        let mut variables = self.own_variables(context.generation, context.slot.unwrap_or(Slot(0)));
        variables.retain(|(name, _)| context.slot.is_some() || name != "GRACEFUL_RUN_SLOT");
        variables.push(("GRACEFUL_RUN_EVENT".into(), context.occasion.name().into()));
        let worker = context.worker.map(|pid| ("GRACEFUL_RUN_WORKER".into(), pid.to_string()));
        let reason = context.reason.clone().map(|reason| ("GRACEFUL_RUN_REASON".into(), reason));
        variables.extend(worker.into_iter().chain(reason));
        self.shell(spec, command, variables)
    }

    /// The start of the server's own check, as of a hook, with the sockets of a worker: a server
    /// that is told of sockets looks for them while it reads its configuration.
    ///
    /// # Errors
    /// As for a worker.
    pub fn own_check(
        &self,
        spec: &LaunchSpec,
        command: &str,
        context: &HookContext,
    ) -> Result<Launch, Refused> {
        let (generation, slot) = (context.generation, context.slot.unwrap_or(Slot(0)));
        let mut variables = self.own_variables(generation, slot);
        let exported = self.exported(generation);
        variables.extend(self.dialect_variables(spec, &exported, &[], generation, slot)?);
        variables.push(("GRACEFUL_RUN_EVENT".into(), context.occasion.name().into()));
        let mut launch = self.shell(spec, command, variables)?;
        launch.listen = !exported.is_empty() && self.dialects.iter().any(|dialect| dialect.passes_pid());
        let sources =
            self.listeners.of(generation.0).map(|listener| listener.fd(generation.0, slot.0).as_raw_fd());
        launch.fds =
            first_listener(&self.dialects).map_or(Vec::new(), |first| sources.zip(first..).collect());
        Ok(launch)
    }

    fn shell(
        &self,
        spec: &LaunchSpec,
        command: &str,
        variables: Vec<(String, String)>,
    ) -> Result<Launch, Refused> {
        let arguments = ["sh", "-c", command].map(OsString::from);
        self.launch(spec, Path::new(SHELL), &arguments, variables)
    }

    fn launch(
        &self,
        spec: &LaunchSpec,
        program: &Path,
        arguments: &[OsString],
        ours: Vec<(String, String)>,
    ) -> Result<Launch, Refused> {
        let mut variables = spec.environment().clone();
        variables.extend(ours.into_iter().map(|(name, value)| (name.into(), value.into())));
        let env = variables.into_iter().map(|(name, value)| {
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend(value.into_vec());
            c_string(pair)
        });
        Ok(Launch {
            program: c_string(program.as_os_str().as_bytes())?,
            argv: arguments.iter().map(|word| c_string(word.as_bytes())).collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            listen: false,
            watchdog: false,
            directory: spec.open_directory()?,
            fds: Vec::new(),
            own_group: true,
            umask: self.worker.umask,
            identity: self.identity.clone(),
            // A shell that ignores it does not learn how its children have ended.
            default_signals: vec![libc::SIGCHLD],
            no_new_privs: self.worker.no_new_privs,
            death_signal: self.worker.dies_with_us.then_some(Signal::SIGTERM as i32),
            filter: None,
            program_fd: None,
        })
    }
}

fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString, Refused> {
    CString::new(bytes).map_err(|error| Refused {
        refusal: Refusal::Other,
        message: format!(
            "cannot pass '{}' to the worker: it has a NUL byte",
            String::from_utf8_lossy(&error.into_vec()).escape_default()
        ),
    })
}
