//! The loop: what happens becomes an event, the core says what follows, and it
//! is done. Only this thread forks, signals and reaps.

mod adopt;
mod check_schedule;
mod clients;
mod clock;
mod control;
mod dispatch;
mod follow;
pub mod hook_queue;
mod hooks;
mod inputs;
mod listeners;
mod messages;
mod orphans;
mod pending;
mod probation;
mod probe;
mod reap;
mod reexec;
mod replies;
pub mod report;
mod saved_state;
mod signal_requests;
mod spawn;
mod startup;
mod status;

use crate::ack::{self, Watcher};
use crate::config::Config;
use crate::config::signals;
use crate::control::instance::Instance;
use crate::core::event::{Action, Ending, Event, Generation, Slot, Time, WorkerId};
use crate::core::{ShownStage, Supervisor};
use crate::error::{Error, reason};
use crate::launch::capture::Capture;
use crate::launch::start::Common;
use crate::launch::{Reading, Surroundings, descriptors};
use crate::listener::Repair;
use crate::listener::repair::Look;
use crate::process::ProcessTable;
use crate::profiles;
use crate::service::manager::ServiceManager;
use crate::service::pid_file::PidFile;
use crate::supervisor::clock::{Clock, HELD_UP};
use crate::supervisor::hook_queue::HookQueue;
use crate::supervisor::inputs::Input;
use crate::sys::identity::identity;
use crate::sys::{inherited, memory, process};
use crossbeam_channel::Receiver;
use log::{info, warn};
use nix::sys::signal::{Signal, raise};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// While somebody is leaving, the system is asked this often whether it has:
/// not every end is told (a process may have left its group, or its parent may
/// not reap it).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When nothing happens for so long, we are at rest.
const A_WHILE: Duration = Duration::from_millis(100);

/// What is left of workers that have gone has this long where a worker has for ever.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

pub use saved_state::State;

/// How it ended: our exit status and last line.
pub type Verdict = (u8, Option<String>);

struct Run {
    core: Supervisor,
    config: Config,
    around: Surroundings,
    common: Common,
    processes: ProcessTable,
    /// What each generation was first started from.
    readings: BTreeMap<Generation, Reading>,
    /// What was rolled back of late.
    rolled_back: probation::RolledBack,
    /// The listeners, by inode, on which the worker of a slot was seen to wait when the last
    /// upgrade began.
    waited: BTreeMap<Slot, BTreeSet<u64>>,
    /// The looks whether those that serve wait that are left, and when the next one is due.
    looking: Option<(u32, Time)>,
    /// When it was last looked whether what workers left behind accepts.
    remains_looked: Time,
    watcher: Watcher,
    threads: inputs::Threads,
    /// Looks after the listeners.
    repair: Repair,
    looks: check_schedule::Looks,
    /// Workers that have something to say.
    turns: messages::Turns,
    /// What workers bind themselves.
    adopted: Option<adopt::Adopted>,
    /// Hooks that run.
    hooks: HookQueue,
    /// The workers' stderr, where it is ours to read.
    capture: Option<Capture>,
    /// A start, an upgrade or a takeover is over: what only that needed can go.
    heavy: bool,
    /// Where notify sockets lie; after the watcher, which holds some.
    directory: ack::Directory,
    pid_file: Option<PidFile>,
    /// Events that actions brought about; they go before what the threads send.
    soon: VecDeque<Event>,
    ending: Option<Ending>,
    /// The service manager.
    service: ServiceManager,
    /// A failure of our own that made us stop.
    failure: Option<Error>,
    clock: Clock,
    reexec: reexec::Reexec,
    /// Last: the name is held until everything else of ours has gone.
    control: pending::Control,
}

/// Runs the command until it is over; goes on from what an image before this one
/// has `left`.
///
/// # Errors
/// Whatever keeps us from starting the first worker; nothing is left behind
/// then.
pub fn run(mut config: Config, left: Option<State>) -> Result<Verdict, Error> {
    if let Some(state) = left {
        return reexec::take_over(config, state);
    }
    let around = Surroundings::look();
    inherited::hear_of_children();
    inherited::raise_file_limit();
    let identity = match &config.worker.user {
        Some(user) => Some(identity(user).map_err(Error::Failed)?),
        None => None,
    };
    let identity = identity.filter(|identity| !identity.is_ours());
    let instance = Instance::take(&config.control, &around.environment, &around.directory)?;
    let listeners = descriptors::open_listeners(&config, &around)?;
    startup::fit(&mut config, &listeners);
    let pid_file = match &config.pid_file {
        Some(path) => Some(PidFile::prepare(&around.directory.join(path))?),
        None => None,
    };
    let socket = instance.open()?;
    info!(pid = std::process::id(); "pid {}: HUP or USR2 upgrades, TERM stops", std::process::id());
    match config.follow {
        Some(signal) => {
            info!("no listener is held: an upgrade sends {} to the worker", signals::name(signal as i32))
        }
        None if config.adopt.is_some() => info!("whatever the worker binds is adopted"),
        None if listeners.is_empty() => info!("no listener is held or handed over (give one with -b)"),
        None => {}
    }
    for listener in listeners.iter() {
        info!("listening on {} ({})", listener.address(), listener.name());
    }
    let command = startup::command(&config);
    if let Some(cut) = profiles::cut_by_term(&command).filter(|_| !config.stop_signal_chosen) {
        warn!("{cut}");
    }
    if config.signals.ignores(Signal::SIGHUP) && inherited::ignored(Signal::SIGHUP as i32) {
        info!("HUP stays ignored, as we were started (nohup): upgrade with USR2, or say --on HUP=upgrade");
    }
    // As long as its name leads to it from here.
    let reexec = reexec::Reexec::new(&around);
    // A directory of ours would keep its file system busy.
    std::env::set_current_dir("/").map_err(|error| Error::cannot("enter /", reason(&error)))?;
    if let Err(errno) = process::become_subreaper() {
        warn!("cannot adopt what workers leave behind: {errno}");
    }
    let directory = ack::Directory::new(&around.environment, identity.is_some());
    let mut service = ServiceManager::new(&around.environment);
    service.starting(dispatch::start_limit(&config, Duration::ZERO).filter(|_| !config.policy.retry_start));
    signal_requests::warn_of_silence(&config.policy.readiness.kinds, identity.is_some());
    let watched = config.watch.iter().map(|path| around.directory.join(path)).collect();
    let more = startup::more_signals(&config);
    let (sender, inputs, threads) = inputs::start(&config.signals, more, listeners.paths(), watched, None)?;
    let tell = move |message| sender.send(Input::Control(message)).is_ok();
    let control = pending::Control::start(socket, instance, threads.rest(), tell)?;
    let processes = ProcessTable::new(command, config.follow.is_some());
    let capture = config.worker.capture_stderr.then(|| Capture::start(threads.rest())).transpose()?;
    let adopted = adopt::start(&config, &listeners)?;
    let run = Run {
        core: Supervisor::new(config.policy.clone()),
        repair: Repair::new(&listeners),
        looks: check_schedule::Looks::default(),
        turns: messages::Turns::default(),
        hooks: HookQueue::default(),
        adopted,
        common: Common::new(&config, identity, listeners, control.path()),
        config,
        around,
        processes,
        readings: BTreeMap::new(),
        rolled_back: probation::RolledBack::default(),
        waited: BTreeMap::new(),
        looking: None,
        remains_looked: Time::ZERO,
        capture,
        heavy: false,
        watcher: threads.watcher.clone(),
        threads,
        directory,
        pid_file,
        soon: VecDeque::from([Event::Tick]),
        ending: None,
        service,
        failure: None,
        clock: Clock::new(),
        reexec,
        control,
    };
    run.live(&inputs)
}

impl Run {
    fn live(mut self, inputs: &Receiver<Input>) -> Result<Verdict, Error> {
        let ending = self.until_the_end(inputs);
        self.end_slow_check(true);
        self.end_hooks(inputs);
        self.end_strays(inputs);
        for id in self.processes.gone(|_| false) {
            self.end_check(id);
        }
        let limit = self.config.policy.stop_timeout;
        let holds = !self.common.listeners.is_empty() && self.adopted.is_none();
        let words = report::last_words(ending, &self.processes, limit, self.core.has_served(), holds);
        let verdict = match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(words),
        };
        self.control.end(&verdict);
        verdict
    }

    fn until_the_end(&mut self, inputs: &Receiver<Input>) -> Ending {
        loop {
            self.hear_news();
            self.look_waiting();
            self.work_off();
            if let Some(ending) = self.ending {
                return ending;
            }
            self.end_late_hooks();
            self.look_if_due(inputs.is_empty());
            self.look_closed();
            self.reexec_if_due(inputs);
            self.service.turn();
            let input = self.next(inputs);
            self.clock.begin();
            self.heed_input(input);
            self.end_slow_check(false);
        }
    }

    fn heed_input(&mut self, input: Option<Input>) {
        match input {
            Some(Input::Signal(libc::SIGCHLD, _)) => self.reap(),
            Some(Input::Signal(signal, from)) => self.heed(signal, from),
            Some(Input::Heard(id, heard)) => self.hear(id, heard),
            Some(Input::Changed(paths)) => self.changed(&paths),
            Some(Input::Control(message)) => self.control(message),
            Some(Input::Call(id, call)) => self.call(id, &call),
            Some(Input::CallsOver(id)) => self.calls_over(id),
            Some(Input::PathGone) => self.look(Look::at_paths(&self.core)),
            None => self.soon.push_back(Event::Tick),
        }
    }

    /// What actions brought about, and what follows from that.
    fn work_off(&mut self) {
        while let Some(event) = self.soon.pop_front() {
            self.step(event);
        }
    }

    /// The next input, or nothing once the core's deadline has come.
    fn next(&mut self, inputs: &Receiver<Input>) -> Option<Input> {
        let before = self.clock.now();
        let deadlines = [self.core.deadline(), self.hooks.deadline(), self.reexec.deadline()];
        let due = deadlines.into_iter().flatten().min().map(|deadline| deadline.saturating_sub(before));
        let leaves = self.somebody_leaves().then_some(LOOK_AGAIN);
        let waits = [due, leaves, self.service.wait(), self.turns.wait(before), self.look_closed_in()];
        let looks = self.looking.map(|(_, at)| at.saturating_sub(before));
        let wait = waits.into_iter().chain([looks]).flatten().min();
        if self.heavy && inputs.is_empty() && wait.is_none_or(|wait| wait > A_WHILE) {
            self.heavy = false;
            memory::let_go_of_text();
        }
        let Some(wait) = wait else { return inputs.recv().ok() };
        let input = inputs.recv_timeout(wait).ok();
        let slept = self.clock.now() - before;
        if slept > wait + HELD_UP {
            // What was waited for may have happened meanwhile and not been told.
            self.clock.forget(slept);
        }
        if input.is_none() && leaves.is_some() && due.is_none_or(|due| wait < due) {
            self.reap();
        }
        input
    }

    fn somebody_leaves(&self) -> bool {
        self.core.workers().any(|shown| matches!(shown.stage, ShownStage::Draining | ShownStage::Killed))
    }

    fn step(&mut self, event: Event) {
        if let Event::Request(request) = event {
            self.overrule(request);
        }
        let actions = self.core.step(self.clock.go_on(), event);
        for action in actions {
            self.perform(action);
        }
        // At the end the processes are read once more, for the last words.
        if self.ending.is_none() && self.core.workers().count() < self.processes.count() {
            self.close_books();
        }
        self.settle_control();
    }

    fn close_books(&mut self) {
        let lives: BTreeSet<WorkerId> = self.core.workers().map(|shown| shown.worker).collect();
        for id in self.processes.gone(|id| lives.contains(&id)) {
            self.end_check(id);
            self.watcher.forget(id);
            self.turns.forget(id);
            if let Some(capture) = &self.capture {
                capture.forget(id);
            }
            self.processes.close(id);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, generation, slot, reading } => {
                self.pre_start(worker, generation, slot, reading)
            }
            Action::RequestHandover { worker, of, generation, slot } => {
                self.succeed(worker, of, generation, slot)
            }
            Action::TakeSuccessor { worker, of, generation, slot } => {
                self.adopt(worker, of, generation, slot)
            }
            Action::Probe(id) => self.probe(id),
            Action::Switch(to) => self.switch(to),
            Action::LookDrained(id) => self.look_drained(id),
            Action::LookAlive => {
                self.reap();
                self.look_for_takeovers();
                self.soon.push_back(Event::LookedAlive);
            }
            Action::LookWaiting => {
                self.waited.clear();
                self.looking = Some((probe::LOOKS, self.clock.now()));
            }
            Action::PreUpgrade(to) => self.pre_upgrade(to),
            Action::PreStop(id) => self.pre_stop(id),
            Action::Stop(id) => {
                self.processes.signal(id, self.config.stop_signal as i32);
                // A stopped process keeps the signal until it is continued.
                self.processes.signal(id, Signal::SIGCONT as i32);
            }
            Action::Kill(id) => self.processes.signal_group(id, Signal::SIGKILL),
            Action::DrainRemains(id) => self.drain_remains(id),
            Action::StopRemains(id) => self.processes.end_remains(id, Signal::SIGTERM),
            Action::KillRemains(id) => self.processes.end_remains(id, Signal::SIGKILL),
            Action::Forward(id, token) => self.processes.signal(id, token.0),
            Action::Suspend(id) => self.processes.signal_group(id, Signal::SIGSTOP),
            Action::Resume(id) => self.processes.signal_group(id, Signal::SIGCONT),
            Action::SuspendSelf => self.suspend(),
            Action::Forget(generation) => drop(self.readings.remove(&generation)),
            Action::Report(report) => self.report(&report),
            Action::Exit(ending) => self.ending = Some(ending),
        }
    }

    /// SIGSTOP cannot be missed and ends here when somebody continues us.
    fn suspend(&mut self) {
        let before = self.clock.now();
        if let Err(errno) = raise(Signal::SIGSTOP) {
            warn!("cannot stop ourselves: {errno}");
        }
        let asleep = self.clock.now().saturating_sub(before);
        self.clock.forget(asleep);
    }

    fn is_wanted(&self, id: WorkerId) -> bool {
        let mut shown = self.core.workers().filter(|shown| shown.worker == id);
        shown.any(|shown| matches!(shown.stage, ShownStage::Starting | ShownStage::Ready))
    }
}
