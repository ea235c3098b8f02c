//! We are replaced by the binary at our path. While it shows, in a child, that it
//! can take over, everything goes on; then the threads rest, what they sent is
//! done, and the state of that moment is left to the new image.

use super::pending::Control;
use super::saved_state::State;
use super::{Run, Verdict};
use crate::ack::{self, Directory};
use crate::config::Config;
use crate::control::protocol::Reply;
use crate::core::event::{AckKind, Event, Exit, Time};
use crate::core::{Phase, Shown, ShownStage};
use crate::error::{Error, reason};
use crate::launch::Surroundings;
use crate::launch::capture::Capture;
use crate::launch::start::Common;
use crate::listener::repair::Look;
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds, give_up};
use crate::reexec::{self, envelope, program};
use crate::service::manager::ServiceManager;
use crate::service::pid_file::PidFile;
use crate::supervisor::clock::Clock;
use crate::supervisor::inputs::{self, Input};
use crate::supervisor::report::event;
use crate::sys::child::{self, Launch};
use crate::sys::{inherited, process};
use crate::{launch, listener, logger, process as process_table};
use crossbeam_channel::Receiver;
use log::{info, warn};
use nix::errno::Errno;
use nix::fcntl::{F_SETFL, OFlag, fcntl, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, execve, pipe2, read};
use serde_json::json;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long the new binary may take to say that it can take over.
const PATIENCE: Duration = Duration::from_secs(5);
/// A binary that is being written to is tried so often again, with such pauses.
const BUSY_TRIES: u32 = 4;
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// The descriptor of the state in the child.
const STATE_FD: i32 = 3;
/// How much of what it says is read.
const LONGEST_ANSWER: usize = 4096;

/// What is known of a replacement of ourselves.
#[derive(Debug, Default)]
pub(super) struct Reexec {
    /// Where the binary lies; None where it cannot be found out.
    program: Option<PathBuf>,
    check: Option<Check>,
    /// The check is done: this version takes over next.
    due: Option<(program::Look, String)>,
}

/// A child that is asked whether it could take over.
#[derive(Debug)]
struct Check {
    pid: Pid,
    said: OwnedFd,
    digest: envelope::Digest,
    look: program::Look,
    until: Time,
    late: bool,
}

impl Reexec {
    /// Finds out where we lie, as long as it can be.
    pub(super) fn new(around: &Surroundings) -> Reexec {
        let first = std::env::args_os().next().unwrap_or_default();
        let path = around.environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value);
        Reexec { program: program::find(&first, &around.directory, path), ..Reexec::default() }
    }

    /// When the check is given up.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.check.as_ref().filter(|check| !check.late).map(|check| check.until)
    }

    fn is_under_way(&self) -> bool {
        self.check.is_some() || self.due.is_some()
    }
}

impl Run {
    /// Begins to replace ourselves, unless that is under way.
    pub(super) fn begin_reexec(&mut self) {
        if self.reexec.is_under_way() {
            return;
        }
        match self.check_successor() {
            Ok(check) => {
                self.processes.hooks.insert(check.pid);
                self.reexec.check = Some(check);
            }
            Err(why) => self.refuse_reexec(&why),
        }
    }

    fn refuse_reexec(&mut self, why: &str) {
        self.reexec.due = None;
        let version = env!("CARGO_PKG_VERSION");
        warn!("cannot replace ourselves: {why}; version {version} goes on");
        self.control.reexecuted(&Reply::failed(format!("{why}; version {version} goes on")));
    }

    fn successor(&self) -> Result<&Path, String> {
        let none = || "where our binary lies cannot be found out".to_owned();
        self.reexec.program.as_deref().ok_or_else(none)
    }

    /// Starts the new binary as a child that only reads the state.
    fn check_successor(&self) -> Result<Check, String> {
        if self.core.phase() == Phase::Stopping {
            return Err("we are stopping".into());
        }
        let path = self.successor()?;
        let look = program::look(path)?;
        let bytes = envelope::wrap(&self.leave(&mut FdTransfer::default(), true)?.encode()?);
        let (_, digest) = envelope::unwrap(&bytes)?;
        let state = envelope::seal(&bytes)?;
        let failed = |errno: Errno| format!("cannot ask {}: {}", path.display(), reason(&errno.into()));
        let (said, answer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        fcntl(&said, F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        let root = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut arguments = self.arguments()?;
        arguments.insert(1, c_string(reexec::CHECK.into())?);
        let launch = Launch {
            program: c_string(path.into())?,
            argv: arguments,
            env: self.environment(STATE_FD)?,
            listen: false,
            watchdog: false,
            directory: open("/", root, Mode::empty()).map_err(failed)?,
            fds: vec![(answer.as_raw_fd(), 1), (answer.as_raw_fd(), 2), (state.as_raw_fd(), STATE_FD)],
            own_group: true,
            umask: None,
            identity: None,
            no_new_privs: false,
            death_signal: Some(Signal::SIGKILL as i32),
            filter: None,
            image: None,
        };
        let child = unless_busy(|| child::spawn(&launch), |error| error.errno).map_err(|error| {
            let why = reason(&io::Error::from(error.errno));
            format!("cannot execute {}: {why}", path.display())
        })?;
        info!("pid {} is asked whether {} can take over", child.pid, path.display());
        let until = self.clock.now() + PATIENCE;
        Ok(Check { pid: child.pid, said, digest, look, until, late: false })
    }

    /// The arguments that we were started with.
    fn arguments(&self) -> Result<Vec<CString>, String> {
        std::env::args_os().map(c_string).collect()
    }

    /// The environment that we were started with, and where the state is.
    fn environment(&self, state: i32) -> Result<Vec<CString>, String> {
        let pair = |name: OsString, value: OsString| {
            c_string(OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat()))
        };
        let value = reexec::spell(std::process::id(), state);
        // One that we were started with is somebody else's, and would come first.
        let ours = self.around.environment.iter().filter(|(name, _)| name != reexec::VARIABLE).cloned();
        ours.chain([(reexec::VARIABLE.into(), value.into())]).map(|(name, value)| pair(name, value)).collect()
    }

    /// A child has ended: true if it was the one that was asked.
    pub(super) fn is_check_of_successor(&mut self, pid: Pid, exit: process::Exit) -> bool {
        let Some(check) = self.reexec.check.take_if(|check| check.pid == pid) else { return false };
        self.processes.hooks.remove(&pid);
        match judge(&check, exit) {
            Ok(version) => self.reexec.due = Some((check.look, version)),
            Err(why) => self.refuse_reexec(&why),
        }
        true
    }

    /// Ends a check that takes too long, or that nobody waits for any more.
    pub(super) fn end_slow_check(&mut self, stopping: bool) {
        let now = self.clock.now();
        if let Some(check) = self.reexec.check.as_mut().filter(|check| stopping || check.until <= now)
            && !std::mem::replace(&mut check.late, true)
        {
            let _ = process::signal_group(check.pid, Signal::SIGKILL as i32);
        }
    }

    /// Replaces ourselves if it is time to; returns if that was not to be.
    pub(super) fn reexec_if_due(&mut self, inputs: &Receiver<Input>) {
        // A look takes a moment, and its answer is waited for.
        if self.awaits_a_term() || self.looking.is_some() {
            return;
        }
        if let Some((look, version)) = self.reexec.due.take() {
            let Err(why) = self.make_way(inputs, look, &version);
            self.threads.resume();
            self.refuse_reexec(&why);
        }
    }

    /// Whether a TERM that comes now may be an ack of a process that is gone when it
    /// is read, and would be taken for a stop then: it waits across an execve(2).
    fn awaits_a_term(&self) -> bool {
        let starts = |shown: Shown| shown.stage == ShownStage::Starting;
        self.config.policy.readiness.kinds.contains(&AckKind::ParentTerm) && self.core.workers().any(starts)
    }

    fn make_way(
        &mut self,
        inputs: &Receiver<Input>,
        look: program::Look,
        version: &str,
    ) -> Result<Infallible, String> {
        let sent = self.threads.pause(inputs);
        let rests = sent.is_ok();
        for input in sent.unwrap_or_else(|sent| sent) {
            self.heed_input(Some(input));
        }
        self.reap();
        self.look_if_due(true);
        self.work_off();
        self.hear_all_news();
        if !rests {
            return Err("our threads do not come to rest".into());
        }
        if self.core.phase() == Phase::Stopping || self.ending.is_some() {
            return Err("we are stopping".into());
        }
        let path = self.successor()?.to_owned();
        if program::look(&path)? != look {
            return Err(format!("{} was replaced while it was looked at (try again)", path.display()));
        }
        info!("version {} makes way for version {version} ({})", env!("CARGO_PKG_VERSION"), path.display());
        logger::flush_briefly();
        let sent = self.service.flush();
        let mut transfer = FdTransfer::default();
        let state = envelope::seal(&envelope::wrap(&self.leave(&mut transfer, sent)?.encode()?))?;
        let failed = |error: io::Error| format!("cannot keep a descriptor: {}", reason(&error));
        transfer.add(&state).map_err(failed)?;
        let (arguments, environment) = (self.arguments()?, self.environment(state.as_raw_fd())?);
        let program = c_string(path.clone().into())?;
        let kept = transfer.keep(true);
        let errno = match kept {
            Ok(()) => {
                let executed = unless_busy(|| execve(&program, &arguments, &environment), |errno| *errno);
                executed.map_or_else(|errno| errno, |never| match never {})
            }
            Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        };
        let _ = transfer.keep(false);
        Err(format!("cannot execute {}: {}", path.display(), reason(&errno.into())))
    }

    /// Ends that somebody has seen who was this process between two images: a shell
    /// that was installed in our place reaps whatever has ended by then.
    fn look_for_lost(&mut self) {
        let hooks: Vec<Pid> = self.hooks.running().map(|running| Pid::from_raw(running.pid)).collect();
        for hook in hooks.into_iter().filter(|hook| !process::is_child(*hook)) {
            // It cannot be known whether it said yes.
            self.hook_ended(hook, process::Exit::Signal(0));
        }
        for worker in self.processes.gone(|_| false) {
            let Some(process) = self.processes.get_mut(worker).and_then(|entry| entry.process.as_mut())
            else {
                continue;
            };
            process.check.take_if(|check| !process::is_child(*check));
            if process.adopted || process.reaped || process::is_child(process.pid) {
                continue;
            }
            self.processes.reaped(worker, self.clock.now());
            let remains = self.processes.remains(worker);
            self.soon.push_back(Event::Exited { worker, exit: Exit::Unseen, remains });
        }
    }

    /// Everything that the next image has to know, at this moment. `sent` says that
    /// the service manager has been told everything.
    fn leave(&self, transfer: &mut FdTransfer, sent: bool) -> Result<State, String> {
        let failed = |error: io::Error| format!("cannot write the state: {}", reason(&error));
        let mut save = || -> io::Result<State> {
            Ok(State {
                version: env!("CARGO_PKG_VERSION").into(),
                program: self.reexec.program.clone().unwrap_or_default(),
                given: inherited::given(),
                directory: self.around.directory.clone(),
                clock: self.clock.save(),
                core: self.core.clone(),
                processes: process_table::Saved::new(&self.processes, transfer)?,
                readings: launch::Saved::new(&self.readings, transfer)?,
                rolled_back: self.rolled_back.clone(),
                waited: self.waited.clone(),
                identity: self.common.identity.clone(),
                listeners: listener::Saved::new(&self.common.listeners, &self.repair, transfer)?,
                acks: ack::Saved::new(&self.watcher, &self.directory, transfer)?,
                hooks: self.hooks.clone(),
                control: self.control.save(transfer)?,
                watched: self.threads.known.save(),
                adopt: self.adopted.as_ref().map(|adopted| adopted.save(transfer)).transpose()?,
                capture: self.capture.as_ref().map(|capture| capture.save(transfer)).transpose()?,
                service: self.service.save(sent),
                pid_file: self.pid_file.as_ref().map(|file| file.save(transfer)).transpose()?,
                descriptors: Vec::new(),
            })
        };
        let state = save().map_err(failed)?;
        Ok(State { descriptors: transfer.listed().to_vec(), ..state })
    }
}

/// Tries again, for a moment: whoever has just installed a binary may have forked
/// before it was closed, and a child holds it open until it executes something.
fn unless_busy<T, E>(attempt: impl Fn() -> Result<T, E>, errno: impl Fn(&E) -> Errno) -> Result<T, E> {
    for _ in 0..BUSY_TRIES {
        match attempt() {
            Err(error) if errno(&error) == Errno::ETXTBSY => thread::sleep(BUSY_PAUSE),
            result => return result,
        }
    }
    attempt()
}

/// The version of the new binary, if it can take over.
fn judge(check: &Check, exit: process::Exit) -> Result<String, String> {
    let mut said = vec![0; LONGEST_ANSWER];
    let length = read(&check.said, &mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    let last = said.lines().last().unwrap_or_default().trim_start_matches("graceful-run: ");
    let words = if last.is_empty() { String::new() } else { format!(": {last}") };
    match exit {
        _ if check.late => Err(format!("the new binary did not answer within {} s", PATIENCE.as_secs())),
        process::Exit::Code(0) => reexec::version(&said, &check.digest)
            .ok_or_else(|| format!("the new binary is no graceful-run that knows how{words}")),
        process::Exit::Code(code) => Err(format!("the new binary refused with status {code}{words}")),
        process::Exit::Signal(signal) => Err(format!("the new binary was ended by signal {signal}{words}")),
    }
}

fn c_string(text: OsString) -> Result<CString, String> {
    CString::new(text.into_vec()).map_err(|_| "there is a NUL byte in it".into())
}

/// Goes on where the image before this one stopped.
pub(super) fn take_over(mut config: Config, state: State) -> Result<Verdict, Error> {
    let around = Surroundings { directory: state.directory, ..Surroundings::look() };
    let environment = around.environment.into_iter().filter(|(key, _)| key != reexec::VARIABLE).collect();
    let around = Surroundings { environment, ..around };
    let mut fds = InheritedFds::new(&state.descriptors).unwrap_or_else(|why| give_up(&why));
    let more = super::startup::more_signals(&config);
    let watched = config.watch.iter().map(|path| around.directory.join(path)).collect();
    let known = Some(state.watched);
    let started = inputs::start(&config.signals, more, state.listeners.paths(), watched, known);
    let (sender, inputs, threads) = started.unwrap_or_else(|error| give_up(&error.to_string()));
    if let Err(errno) = process::become_subreaper() {
        warn!("cannot adopt what workers leave behind: {errno}");
    }
    let capture = state.capture.map(|saved| (saved, Capture::start(threads.rest())));
    let capture =
        capture.map(|(saved, started)| (saved, started.unwrap_or_else(|error| give_up(&error.to_string()))));
    let tell = move |message| sender.send(Input::Control(message)).is_ok();
    let control = Control::restore(state.control, &mut fds, threads.rest(), tell);
    let control = control.unwrap_or_else(|error| give_up(&reason(&error)));
    let (listeners, repair) = state.listeners.restore(&mut fds);
    super::startup::fit(&mut config, &listeners);
    let command = super::startup::command(&config);
    let directory = Directory::new(&around.environment, state.identity.is_some());
    state.acks.restore(&threads.watcher, &directory, &mut fds);
    let capture = capture.map(|(saved, capture)| {
        capture.restore(saved, &mut fds);
        capture
    });
    let clock = Clock::restore(state.clock);
    let adopted = super::adopt::Adopted::restore(&config, state.adopt, &mut fds, clock.now());
    let mut run = Run {
        core: state.core.with_policy(config.policy.clone()),
        repair,
        looks: super::check_schedule::Looks::default(),
        turns: super::messages::Turns::default(),
        hooks: state.hooks,
        common: Common::new(&config, state.identity, listeners, control.path()),
        processes: state.processes.restore(command, config.follow.is_some(), &mut fds),
        config,
        readings: state.readings.restore(&mut fds),
        rolled_back: state.rolled_back,
        waited: state.waited,
        looking: None,
        remains_looked: Time::ZERO,
        watcher: threads.watcher.clone(),
        threads,
        directory,
        pid_file: state.pid_file.map(|saved| PidFile::restore(saved, &mut fds)),
        soon: [Event::Tick].into(),
        ending: None,
        adopted,
        capture,
        heavy: true,
        service: ServiceManager::restore(&around.environment, state.service),
        failure: None,
        clock,
        reexec: Reexec { program: Some(state.program), ..Reexec::default() },
        around,
        control,
    };
    drop(fds);
    run.hear_all_calls();
    let (version, before, workers) = (env!("CARGO_PKG_VERSION"), state.version, run.processes.count());
    info!(
        "version {version} has taken over from version {before}, with {workers} worker{}",
        if workers == 1 { "" } else { "s" }
    );
    let fields = json!({"from": before, "version": version});
    run.control.tell(&event::named("reexec", fields));
    run.control.reexecuted(&Reply::done(format!("version {version} has taken over from version {before}")));
    // What happened between the two images: nobody told of it.
    run.reap();
    run.look_for_lost();
    run.look(Look::at_paths(&run.core));
    run.live(&inputs)
}
