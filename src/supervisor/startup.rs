//! Starts the supervisor: for a first worker, or with the state of the image before an
//! execve(2). Both ways end in [`assemble`].

use super::adopt::Adoption;
use super::adoption;
use super::clock::Clock;
use super::context::Context;
use super::control::Control;
use super::event_loop::EventLoop;
use super::follow::Follow;
use super::halts::Halts;
use super::hangup::Hangup;
use super::held::Held;
use super::hook_queue::HookQueue;
use super::hooks::Hooks;
use super::inputs::{self, Input, Threads};
use super::interrupts::Interrupts;
use super::launcher::Launcher;
use super::listening::Listening;
use super::orphans::Orphans;
use super::profile;
use super::readiness::Readiness;
use super::reexec::Reexec;
use super::repeats::Repeats;
use super::report::event;
use super::rollback::RolledBack;
use super::saved_state::State;
use super::service::{Service, start_limit};
use super::signals::warn_of_impossible_term;
use super::workers::Workers;
use crate::ack::Directory;
use crate::config::Config;
use crate::config::hooks::Occasion;
use crate::config::readiness::has_listeners;
use crate::config::signals;
use crate::control::instance::Instance;
use crate::control::protocol::Reply;
use crate::core::Supervisor;
use crate::core::event::{Event, Generation, Slot};
use crate::dialect::GOAGAIN_SIGNAL;
use crate::error::{Error, reason};
use crate::launch::capture::Capture;
use crate::launch::start::LaunchSettings;
use crate::launch::{InheritedContext, LaunchSpec, descriptors};
use crate::listener::Listeners;
use crate::listener::repair;
use crate::process::ProcessTable;
use crate::reexec as image;
use crate::reexec::fd_transfer::{InheritedFds, abandon};
use crate::service::ServiceManager;
use crate::service::pid_file::PidFile;
use crate::sys::identity::{Identity, find_identity};
use crate::sys::proc::{self, Shows};
use crate::sys::{inherited, process};
use crossbeam_channel::Receiver;
use log::{info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Binds the sockets and starts the threads: everything before the first worker.
///
/// # Errors
/// Whatever keeps us from starting the first worker; nothing is left behind then.
pub(super) fn start(config: Config) -> Result<(EventLoop, Receiver<Input>), Error> {
    let surroundings = InheritedContext::read();
    let mut config = adoption::choose(config, &surroundings)?;
    inherited::default_sigchld();
    inherited::ignore_hidden_signals();
    inherited::raise_file_limit();
    let identity = match &config.worker.user {
        Some(user) => Some(find_identity(user).map_err(Error::Failed)?),
        None => None,
    };
    let identity = identity.filter(|identity| !identity.is_ours());
    let instance = Instance::take(&config.control, &surroundings.environment, &surroundings.directory)?;
    let listeners = descriptors::open_listeners(&config, &surroundings)?;
    adjust_to_listeners(&mut config, &listeners);
    if config.policy.canary.is_some_and(|canary| canary.weight.is_some())
        && !config.policy.weighs
        && let Some(why) = listeners.unweighable()
    {
        return Err(Error::Usage(format!("--canary cannot have a weight: {why}")));
    }
    add_own_check(&mut config);
    let pid_file = match &config.pid_file {
        Some(path) => Some(PidFile::prepare(&surroundings.directory.join(path))?),
        None => None,
    };
    let socket = instance.open()?;
    log_startup(&config, &listeners, &surroundings.directory);
    // Before we leave the directory: our name may be relative to it.
    let reexec = Reexec::new(&surroundings);
    // Otherwise our working directory would keep its file system busy.
    std::env::set_current_dir("/").map_err(|error| Error::cannot("enter /", reason(&error)))?;
    become_subreaper();
    warn_of_foreign_proc();
    let directory = Directory::new(&surroundings.environment, identity.is_some());
    let mut manager = ServiceManager::new(&surroundings.environment);
    manager.starting(start_limit(&config, Duration::ZERO).filter(|_| !config.policy.retry_start));
    warn_of_impossible_term(&config.policy.readiness.kinds, identity.is_some());
    let watched = config.watch.iter().map(|path| surroundings.directory.join(path)).collect();
    let more = more_signals(&config);
    let (sender, inputs, threads) = inputs::start(&config.signals, more, listeners.paths(), watched, None)?;
    let send = move |message| sender.send(Input::Control(message)).is_ok();
    let control = Control::start(socket, instance, threads.quiesce(), send)?;
    let capture = config.worker.capture_stderr.then(|| Capture::start(threads.quiesce())).transpose()?;
    let adoption = Adoption::start(&config, &listeners)?;
    leave_room()?;
    let event_loop = assemble(Parts {
        core: Supervisor::new(config.policy.clone()),
        processes: ProcessTable::new(command(&config), config.follow.is_some()),
        clock: Clock::new(),
        surroundings,
        identity,
        specs: BTreeMap::new(),
        listeners,
        directory,
        capture,
        waited: BTreeMap::new(),
        hooks: HookQueue::default(),
        rolled_back: RolledBack::default(),
        held: Held::default(),
        adoption,
        service: Service { manager, pid_file },
        reexec,
        threads,
        control,
        config,
    });
    Ok((event_loop, inputs))
}

/// What has to be free before the first worker. Seven were too few for a restart after a crash, with
/// `--capture-stderr`; sixteen were enough for an upgrade too at each limit that the tests try.
const ROOM: usize = 16;

/// Whether a worker can be started again. A start is refused otherwise: what ran would not come back
/// after a crash.
fn leave_room() -> Result<(), Error> {
    let room: io::Result<Vec<File>> = (0..ROOM).map(|_| File::open("/dev/null")).collect();
    match room {
        Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => {
            Err(Error::cannot("open what a worker needs", reason(&error)))
        }
        _ => Ok(()),
    }
}

fn log_startup(config: &Config, listeners: &Listeners, directory: &Path) {
    info!(pid = std::process::id(); "pid {}: HUP or USR2 upgrades, TERM stops", std::process::id());
    profile::log(config, directory, !listeners.is_empty() && config.adopt.is_none());
    match config.follow {
        Some(signal) => {
            info!("no listener is held: an upgrade sends {} to the worker", signals::name(signal as i32))
        }
        None if config.adopt.is_some() => info!("{}", adoption::line(config)),
        None if listeners.is_empty() && config.unadoptable => {
            info!("no listener is held or handed over (give one with -b)");
        }
        None if listeners.is_empty() => info!(
            "no listener is held or handed over (give one with -b, or have what the server binds adopted: --adopt)"
        ),
        None => {}
    }
    for listener in listeners.iter() {
        info!("listening on {} ({})", listener.address(), listener.name());
    }
    log_check(config);
    let stays_ignored =
        |signal: &Signal| config.signals.ignores(*signal as i32) && inherited::ignored(*signal as i32);
    if stays_ignored(&Signal::SIGHUP) {
        info!(
            "HUP stays ignored, because it was when we were started (nohup): upgrade with USR2, or say --on HUP=upgrade"
        );
    }
    // A shell without job control starts `COMMAND &` so.
    let stops: Vec<Signal> = [Signal::SIGINT, Signal::SIGQUIT].into_iter().filter(stays_ignored).collect();
    if !stops.is_empty() {
        let names: Vec<String> = stops.iter().map(|&signal| signals::name(signal as i32)).collect();
        let names = names.join(" and ");
        info!(
            "{names}: ignored, because they were when we were started (COMMAND & of a script): stop with TERM or ctl stop, or say --on INT=stop"
        );
    }
    let sent = [Some(config.stop_signal), config.follow].into_iter().flatten();
    for signal in sent.filter(|&signal| inherited::ignored(signal as i32)) {
        let name = signals::name(signal as i32);
        info!(
            "{name} was ignored when we were started; workers do not ignore it, because we send it to them"
        );
    }
    // TERM is for a worker that was never ready.
    let sent: BTreeSet<i32> = [Some(config.stop_signal), config.follow, Some(Signal::SIGTERM)]
        .into_iter()
        .flatten()
        .map(|signal| signal as i32)
        .filter(|&signal| inherited::blocked(signal))
        .collect();
    if !sent.is_empty() {
        let names: Vec<String> = sent.into_iter().map(signals::name).collect();
        warn!(
            "blocked when we were started: {}; workers inherit that, and one that does not unblock it cannot hear it when we send it, and is killed after --stop-timeout (whoever starts us has to unblock it before exec; for example python3 -c 'import os, signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, []); os.execvp(sys.argv[1], sys.argv[1:])' graceful-run …)",
            names.join(" and ")
        );
    }
}

/// With --stop-first: who finds a wrong configuration before the old worker is stopped for it.
fn log_check(config: &Config) {
    let own = |command: &&str| config.hooks.is_own_check(Occasion::PreUpgrade, command);
    if let Some(check) = config.hooks.of(Occasion::PreUpgrade).find(own) {
        info!(
            "before an upgrade the server checks its own configuration: {check} (--hook pre-upgrade=CMD runs CMD instead)"
        );
    } else if config.policy.stop_first && !config.hooks.has(Occasion::PreUpgrade) {
        info!(
            "nothing checks a release before the old worker is stopped for it (--hook pre-upgrade=CMD): one that does not start is an outage"
        );
    }
}

/// Continues with the state of the image before this one.
///
/// Any failure here ends us: see [`abandon`].
pub(super) fn resume(mut config: Config, state: State) -> (EventLoop, Receiver<Input>) {
    if state.adopt.is_none() {
        config = config.without_adoption();
    }
    if state.arguments_left_out.unwrap_or(true) {
        config.leave_out_optional();
    }
    let mut surroundings = InheritedContext { directory: state.directory, ..InheritedContext::read() };
    surroundings.environment.retain(|(key, _)| key != image::VARIABLE);
    let mut fds = InheritedFds::new(&state.descriptors).unwrap_or_else(|why| abandon(&why));
    let more = more_signals(&config);
    let watched = config.watch.iter().map(|path| surroundings.directory.join(path)).collect();
    let known = Some(state.watched);
    let started = inputs::start(&config.signals, more, state.listeners.paths(), watched, known);
    let (sender, inputs, threads) = started.unwrap_or_else(|error| abandon(&error.to_string()));
    become_subreaper();
    let capture = state.capture.map(|saved| (saved, Capture::start(threads.quiesce())));
    let capture =
        capture.map(|(saved, started)| (saved, started.unwrap_or_else(|error| abandon(&error.to_string()))));
    let send = move |message| sender.send(Input::Control(message)).is_ok();
    let control = Control::restore(state.control, &mut fds, threads.quiesce(), send);
    let control = control.unwrap_or_else(|error| abandon(&reason(&error)));
    let listeners = state.listeners.restore(&mut fds);
    adjust_to_listeners(&mut config, &listeners);
    add_own_check(&mut config);
    let directory = Directory::new(&surroundings.environment, state.identity.is_some());
    state.acks.restore(&threads.watcher, &directory, &mut fds);
    let capture = capture.map(|(saved, capture)| {
        capture.restore(saved, &mut fds);
        capture
    });
    let clock = Clock::restore(state.clock);
    let pid_file = state.pid_file.map(|saved| PidFile::restore(saved, &mut fds));
    let manager = ServiceManager::restore(&surroundings.environment, state.service);
    let mut event_loop = assemble(Parts {
        core: state.core.with_policy(config.policy.clone()),
        processes: state.processes.restore(command(&config), config.follow.is_some(), &mut fds),
        held: Held::new(state.adopt.clone().filter(|_| config.adopt.is_none()), &mut fds, clock.now()),
        adoption: Adoption::restore(&config, state.adopt, &mut fds, clock.now()),
        clock,
        surroundings,
        identity: state.identity,
        specs: state.specs.restore(&mut fds),
        listeners,
        directory,
        capture,
        waited: state.waited,
        hooks: state.hooks,
        rolled_back: state.rolled_back,
        service: Service { manager, pid_file },
        reexec: Reexec::at(Some(state.program)),
        threads,
        control,
        config,
    });
    drop(fds);
    event_loop.take_over(&state.version);
    (event_loop, inputs)
}

fn become_subreaper() {
    if let Err(errno) = process::become_subreaper() {
        warn!("cannot take in the processes that workers leave behind: {errno}");
    }
}

fn warn_of_foreign_proc() {
    if let Shows::Others(there) = proc::shows() {
        warn!(
            "/proc shows another pid namespace, where we are pid {there}: it counts as absent, so it is not seen whether workers wait on their listeners, nor what they leave behind (unshare --mount-proc, or mount -t proc proc /proc)"
        );
    }
}

/// What differs between a first start and a later image of ourselves.
struct Parts {
    config: Config,
    core: Supervisor,
    processes: ProcessTable,
    clock: Clock,
    surroundings: InheritedContext,
    identity: Option<Identity>,
    specs: BTreeMap<Generation, LaunchSpec>,
    listeners: Listeners,
    directory: Directory,
    capture: Option<Capture>,
    waited: BTreeMap<Slot, BTreeSet<u64>>,
    hooks: HookQueue,
    rolled_back: RolledBack,
    held: Held,
    adoption: Option<Adoption>,
    service: Service,
    reexec: Reexec,
    threads: Threads,
    control: Control,
}

fn assemble(parts: Parts) -> EventLoop {
    let Parts { config, surroundings, threads, control, .. } = parts;
    let settings = LaunchSettings::new(&config, parts.identity, parts.listeners, control.path());
    let mut processes = parts.processes;
    processes.server = config.server;
    let watchdog = config.policy.worker_watchdog;
    EventLoop {
        follow: config.follow.map(Follow::new),
        held: parts.held,
        ctx: Context {
            core: parts.core,
            config,
            clock: parts.clock,
            processes,
            launcher: Launcher { settings, surroundings, specs: parts.specs },
            events: [Event::Tick].into(),
        },
        workers: Workers::new(threads.watcher.clone(), parts.capture, parts.directory, watchdog),
        readiness: Readiness::new(parts.waited),
        halts: Halts::new(),
        orphans: Orphans::new(),
        listening: Listening::new(),
        hooks: Hooks::new(parts.hooks),
        interrupts: Interrupts::default(),
        hangup: Hangup::new(),
        rolled_back: parts.rolled_back,
        repeats: Repeats::default(),
        adoption: parts.adoption,
        service: parts.service,
        reexec: parts.reexec,
        threads,
        trim_text: false,
        ending: None,
        failure: None,
        control,
    }
}

impl EventLoop {
    /// The first step of a new image: it reports that it has taken over, and checks what has
    /// happened since the image before it stopped its threads.
    fn take_over(&mut self, before: &str) {
        self.trim_text = true;
        if let Some(adoption) = &self.adoption {
            adoption.receive_all_calls(&self.threads);
        }
        self.held.receive_all_calls(&self.threads);
        let (version, workers) = (env!("CARGO_PKG_VERSION"), self.ctx.processes.count());
        info!(
            "version {version} has taken over from version {before}, with {workers} worker{}",
            if workers == 1 { "" } else { "s" }
        );
        let pending = &mut self.control.pending;
        pending.send_event(&event::named("reexec", json!({"from": before, "version": version})));
        let done = format!("version {version} has taken over from version {before}");
        pending.resolve_reexec(&Reply::done(done));
        self.reap();
        // The core runs it again: what it had written was read by the image before.
        self.hooks.end_verify();
        self.find_lost_exits();
        self.halts.look(&mut self.ctx);
        self.listening.check(repair::Occasion::path_removed(&self.ctx.core), &mut self.ctx);
    }
}

/// Adjusts the settings that depend on the listeners.
fn adjust_to_listeners(config: &mut Config, listeners: &Listeners) {
    config.policy.least_workers = match listeners.iter().any(|listener| listener.reuseport()) {
        // Each slot has a socket of its own: without a worker nothing would serve its queue.
        true => config.policy.workers,
        false => 1,
    };
    let own = config.follow.is_some() || config.adopt.is_some();
    config.policy.listeners = !listeners.is_empty() && !own;
    let apart = config.policy.steers() || !own && listeners.can_be_apart();
    config.policy.weighs = config.policy.can_hold() && apart;
    if config.policy.listeners || config.follow.is_some() {
        has_listeners(&mut config.policy.readiness);
    }
    if listeners.is_empty() && !own {
        config.acks.accepting = false;
        if config.acks.exec.is_none() {
            config.policy.readiness.probe = None;
        }
    }
}

/// With --stop-first a configuration that is wrong is an outage. A known server checks it before each
/// upgrade, unless a hook of the user does.
fn add_own_check(config: &mut Config) {
    if !config.policy.stop_first || config.hooks.has(Occasion::PreUpgrade) {
        return;
    }
    let applied = config.applied.as_ref();
    if let Some(check) = applied.and_then(|applied| applied.own_check(&config.worker.command)) {
        config.hooks.set_own_check(check);
        config.policy.pre_upgrade = true;
    }
}

/// The name of the command in messages.
fn command(config: &Config) -> String {
    config.worker.command.first().map(|name| name.to_string_lossy().into()).unwrap_or_default()
}

/// Signals that are handled beside those of the table.
fn more_signals(config: &Config) -> &'static [i32] {
    if config.acks.goagain() { &[GOAGAIN_SIGNAL] } else { &[] }
}
