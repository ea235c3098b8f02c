//! The threads that turn what the system says into inputs of the loop.

use crate::ack::{Watcher, WorkerMessage};
use crate::config::signals::Table;
use crate::control::server::Message;
use crate::core::event::WorkerId;
use crate::dialect::GOAGAIN_SIGNAL;
use crate::error::{Error, reason};
use crate::reexec::quiesce::Quiesce;
use crate::sys::seccomp::{self, Call};
use crate::sys::tree::{self, Lineage};
use crate::sys::{inherited, process, sigint_count};
use crate::watch::{self, Fingerprints};
use crossbeam_channel::{Receiver, Sender, bounded};
use log::info;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::{WithOrigin, origin::Origin};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Inputs that wait for the loop. A worker that floods its notify socket holds
/// up the thread that reads it and nobody else.
const QUEUE: usize = 256;

/// The pause between two checks whether the threads are quiet.
const QUIET_CHECK: Duration = Duration::from_millis(1);

/// Signals that may come from a worker and mean something else then.
const TOLD_BY_WORKERS: [i32; 3] = [libc::SIGTERM, libc::SIGUSR1, GOAGAIN_SIGNAL];

/// What the threads send.
#[derive(Debug)]
pub enum Input {
    /// A signal reached us, by number (it may be a real-time one). Who sent it is
    /// known unless it was the kernel or somebody outside our pid namespace.
    Signal(i32, Option<tree::Sender>),
    /// A worker spoke.
    WorkerMessage(WorkerId, WorkerMessage),
    /// A process of the worker waits for an answer.
    Call(WorkerId, Call),
    /// No process of the worker is left that could call.
    CallsOver(WorkerId),
    /// The path of a listener may have gone.
    PathGone,
    /// A client of the control socket wants something.
    Control(Message),
    /// These paths lead to something else than before.
    Changed(Vec<PathBuf>),
}

/// The threads, as the loop sees them.
#[derive(Debug)]
pub struct Threads {
    /// Listens to the workers.
    pub watcher: Watcher,
    sender: Sender<Input>,
    quiesce: Quiesce,
    /// SIGINTs that have been told of.
    interrupts: Arc<AtomicU64>,
    /// What the paths lead to that are watched for changes.
    pub known: Fingerprints,
}

/// How long it may take until they do: they only have to be woken.
const PATIENCE: Duration = Duration::from_secs(1);

impl Threads {
    /// Has the threads stop, with every signal blocked, and gives what they sent
    /// until then. A signal that comes now waits in the kernel. The thread for the
    /// paths goes on: it has nothing that a look would not find.
    ///
    /// # Errors
    /// When they do not stop within a second; they go on then.
    pub fn pause(&self, inputs: &Receiver<Input>) -> Result<Vec<Input>, Vec<Input>> {
        self.quiesce.begin();
        // Only the thread for signals can get it.
        let _ = kill(Pid::this(), Signal::SIGCHLD);
        let mut sent = Vec::new();
        let until = Instant::now() + PATIENCE;
        loop {
            // What nobody takes would keep them from it.
            sent.extend(inputs.try_iter());
            let told = || self.interrupts.load(Ordering::SeqCst) >= sigint_count::caught();
            if self.quiesce.is_quiet() && told() {
                sent.extend(inputs.try_iter());
                return Ok(sent);
            }
            if Instant::now() > until {
                self.resume();
                return Err(sent);
            }
            sent.extend(inputs.recv_timeout(QUIET_CHECK));
        }
    }

    /// Starts a thread that hears of the calls of a worker, through `calls`, until nobody is
    /// left to make one.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn hear_calls(&self, id: WorkerId, calls: Arc<OwnedFd>) -> io::Result<()> {
        let (sender, quiesce) = (self.sender.clone(), self.quiesce.clone());
        let hear = move || {
            process::raise_priority();
            while seccomp::wait(calls.as_fd()).unwrap_or(false) {
                let _active = quiesce.activity();
                // It may have been interrupted while we rested, and nothing would come.
                if !seccomp::has_pending_call(calls.as_fd()) {
                    continue;
                }
                if let Ok(Some(call)) = seccomp::receive(calls.as_fd()) {
                    let _ = sender.send(Input::Call(id, call));
                }
            }
            let _ = sender.send(Input::CallsOver(id));
        };
        thread::Builder::new().name("calls".into()).stack_size(128 * 1024).spawn(hear).map(drop)
    }

    /// For other threads, which hold an [`ActivityGuard`](crate::reexec::quiesce::ActivityGuard)
    /// while they have read something that the loop does not know yet.
    pub fn quiesce(&self) -> &Quiesce {
        &self.quiesce
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.quiesce.end();
    }
}

/// Starts the threads. ctrlc owns SIGINT, signal-hook every other signal;
/// `more` are listened for beside those of the table. The `paths` of listeners
/// are watched where that can be had, those that are `watched` for changes always.
/// They led to what is `known`, if that goes on from before. More inputs may be sent.
///
/// # Errors
/// When the system has no descriptor or thread to spare, or a path that is to be
/// watched cannot be.
pub fn start(
    signals: &Table,
    more: &[i32],
    paths: Vec<PathBuf>,
    watched: Vec<PathBuf>,
    known: Option<Vec<Option<u64>>>,
) -> Result<(Sender<Input>, Receiver<Input>, Threads), Error> {
    let (sender, inputs) = bounded(QUEUE);
    let quiesce = Quiesce::default();
    let known = Fingerprints::new(known);
    if !paths.is_empty() {
        let gone = sender.clone();
        if let Err(error) = watch::names(paths, move || gone.send(Input::PathGone).is_ok()) {
            let why = reason(&error);
            info!(
                "unix paths are not watched ({why}): one that goes comes back when a worker starts or ends"
            );
        }
    }
    if !watched.is_empty() {
        let shown: Vec<String> = watched.iter().map(|path| path.display().to_string()).collect();
        let changed = sender.clone();
        let tell = move |paths| changed.send(Input::Changed(paths)).is_ok();
        watch::changes(watched, known.clone(), &quiesce, tell).map_err(|error| Error::Cannot {
            attempt: format!("watch {}", shown.join(", ")),
            why: reason(&error),
            advice: watch::advice(&error).map(Into::into),
        })?;
    }
    let failed = |error: io::Error| Error::cannot("listen for signals", reason(&error));
    let (interrupted, interrupts) = (sender.clone(), Arc::<AtomicU64>::default());
    let told = Arc::clone(&interrupts);
    ctrlc::set_handler(move || {
        let _ = interrupted.send(Input::Signal(Signal::SIGINT as i32, None));
        told.fetch_add(1, Ordering::SeqCst);
    })
    .map_err(|error| Error::cannot("listen for signals", error))?;
    sigint_count::start_counting().map_err(failed)?;
    let others = signals.signals().filter(|signal| *signal != Signal::SIGINT).map(|signal| signal as i32);
    let all: Vec<i32> = others.chain([Signal::SIGCHLD as i32]).chain(more.iter().copied()).collect();
    let mut signals = SignalsInfo::<WithOrigin>::new(all).map_err(failed)?;
    let (heard, further, calls) = (sender.clone(), sender.clone(), sender.clone());
    let quiescing = quiesce.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let mut active = quiescing.activity();
            inherited::unblock_all_signals();
            process::raise_priority();
            let tell = |batch: Vec<Origin>| {
                let pid = |origin: &Origin| origin.process.as_ref().map(|process| process.pid);
                let wakers: Vec<Option<i32>> =
                    batch.iter().filter(|it| it.signal == Signal::SIGCONT as i32).map(pid).collect();
                for origin in batch {
                    // What waited while somebody had us stopped may be several in
                    // one, and only the first has left its name: it is nobody's.
                    let stopped = wakers.iter().any(|waker| *waker != pid(&origin));
                    let from = pid(&origin).filter(|&pid| pid > 0 && !stopped).map(Pid::from_raw);
                    // Read at once: a child that is sent to say it is soon gone.
                    let told = TOLD_BY_WORKERS.contains(&origin.signal);
                    let lineage = |pid| if told { tree::lineage(pid) } else { Lineage::default() };
                    let from = from.map(|pid| tree::Sender { pid, lineage: lineage(pid) });
                    let _ = sender.send(Input::Signal(origin.signal, from));
                }
            };
            loop {
                tell(signals.wait().collect());
                if quiescing.is_wanted() {
                    inherited::block_all_signals();
                    // What came just before.
                    tell(signals.pending().collect());
                    drop(active);
                    active = quiescing.activity();
                    inherited::unblock_all_signals();
                }
            }
        })
        .map_err(failed)?;
    let watcher = Watcher::start(quiesce.clone(), move |id, what| {
        let _ = heard.send(Input::WorkerMessage(id, what));
    })
    .map_err(|error| Error::cannot("listen for acks", reason(&error)))?;
    Ok((further, inputs, Threads { watcher, sender: calls, quiesce, interrupts, known }))
}
