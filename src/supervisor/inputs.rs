//! The threads that turn what the system says into inputs of the loop.

use crate::ack::{Watcher, WorkerMessage};
use crate::adopt::Names;
use crate::config::signals::Table;
use crate::control::server::Message;
use crate::core::event::{Generation, LaunchSource, Slot, WorkerId};
use crate::dialect::GOAGAIN_SIGNAL;
use crate::error::{Error, reason};
use crate::reexec::quiesce::Quiesce;
use crate::sys::arrivals::Arrivals;
use crate::sys::seccomp::{self, Answer, Call, Woken};
use crate::sys::tree::{self, Lineage, Origin};
use crate::sys::{inherited, process, sigint};
use crate::watch::{self, Fingerprints};
use crossbeam_channel::{Receiver, Sender, bounded};
use log::info;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin as Caught};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many inputs may wait for the loop. A worker that floods its notify socket blocks
/// the thread that reads it and nothing else.
const QUEUE: usize = 256;

/// The pause between two checks whether the threads are quiet.
const QUIET_CHECK: Duration = Duration::from_millis(1);

/// Signals that a worker may send us; from a worker they mean something else.
const SENT_BY_WORKERS: [i32; 3] = [libc::SIGTERM, libc::SIGUSR1, GOAGAIN_SIGNAL];

/// What the threads send.
#[derive(Debug)]
pub enum Input {
    /// A signal reached us, by number (it may be a real-time one).
    Signal(i32, Origin),
    /// A worker has sent a message.
    WorkerMessage(WorkerId, WorkerMessage),
    /// A process of the worker waits for the answer to a call.
    Call(WorkerId, Call),
    /// No process of the worker is left that could call.
    CallsEnded(WorkerId),
    /// A connection has come to a socket that a worker has bound itself.
    Arrival,
    /// The path of a listener may have gone.
    PathGone,
    /// What the start of this worker needs has been read.
    Read(WorkerId, Generation, Slot, LaunchSource),
    /// A message of the control socket.
    Control(Message),
    /// The control socket, or the lock of our name, was removed.
    ControlGone,
    /// These paths lead to other files than before.
    Changed(Vec<PathBuf>),
}

/// The threads, as the loop sees them.
#[derive(Debug)]
pub struct Threads {
    /// Reads the ack channels of the workers.
    pub watcher: Watcher,
    sender: Sender<Input>,
    quiesce: Quiesce,
    /// How many SIGINTs have been sent to the loop.
    interrupts: Arc<AtomicU64>,
    /// The files that the watched paths lead to.
    pub known: Fingerprints,
}

/// How long the threads may take to stop: they only have to be woken.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Threads {
    /// Stops the threads, with every signal blocked, and returns what they sent until
    /// then. A signal that comes now stays pending in the kernel. The thread for the
    /// paths goes on: a check of the listeners finds whatever it would send.
    ///
    /// # Errors
    /// When they do not stop within a second; they are resumed then.
    pub fn pause(&self, inputs: &Receiver<Input>) -> Result<Vec<Input>, Vec<Input>> {
        self.quiesce.begin();
        // Wakes the thread for signals: no other one can get it.
        let _ = kill(Pid::this(), Signal::SIGCHLD);
        let mut sent = Vec::new();
        let until = Instant::now() + PAUSE_TIMEOUT;
        loop {
            // A thread that waits for room in the queue could not stop.
            sent.extend(inputs.try_iter());
            let interrupts_sent = || self.interrupts.load(Ordering::SeqCst) >= sigint::caught();
            if self.quiesce.is_quiet() && interrupts_sent() {
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

    /// Starts a thread that receives the calls of a worker, through `calls`, until no process is
    /// left that could make one. It also notices connections. A call about a file that is none of
    /// `names` is left to the kernel.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn receive_calls(
        &self,
        id: WorkerId,
        calls: Arc<OwnedFd>,
        arrivals: Option<Arc<Arrivals>>,
        names: Arc<Names>,
    ) -> io::Result<()> {
        let (sender, quiesce) = (self.sender.clone(), self.quiesce.clone());
        let receive = move || {
            process::raise_priority();
            let arriving = arrivals.as_ref().map(|arrivals| arrivals.as_fd());
            loop {
                let woken = seccomp::wait(calls.as_fd(), arriving).unwrap_or(Woken::Ended);
                if woken == Woken::Ended {
                    break;
                }
                let _active = quiesce.activity();
                // Of several threads one finds the report.
                if woken == Woken::Other {
                    if arrivals.as_ref().is_some_and(|arrivals| arrivals.take()) {
                        let _ = sender.send(Input::Arrival);
                    }
                    continue;
                }
                // The call may have been interrupted while this thread was stopped: receiving
                // would block.
                if !seccomp::has_pending_call(calls.as_fd()) {
                    continue;
                }
                let Ok(call) = seccomp::receive(calls.as_fd()) else { continue };
                let _ = match names.concerns(&call) {
                    true => sender.send(Input::Call(id, call)).is_ok(),
                    false => seccomp::answer(calls.as_fd(), call.id, Answer::Continue).is_ok(),
                };
            }
            let _ = sender.send(Input::CallsEnded(id));
        };
        thread::Builder::new().name("calls".into()).stack_size(128 * 1024).spawn(receive).map(drop)
    }

    /// Starts a thread that reads something, and then sends this input.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn read(&self, read: impl FnOnce() + Send + 'static, then: Input) -> io::Result<()> {
        let (sender, quiesce) = (self.sender.clone(), self.quiesce.clone());
        let run = move || {
            let _active = quiesce.activity();
            read();
            let _ = sender.send(then);
        };
        thread::Builder::new().name("reader".into()).spawn(run).map(drop)
    }

    /// For other threads, which hold an [`ActivityGuard`](crate::reexec::quiesce::ActivityGuard)
    /// while they have read something that the loop does not know yet.
    pub fn quiesce(&self) -> &Quiesce {
        &self.quiesce
    }

    /// For the threads of the control socket.
    pub fn to_loop(&self) -> impl Fn(Message) -> bool + Clone + Send + 'static {
        let sender = self.sender.clone();
        move |message| sender.send(Input::Control(message)).is_ok()
    }

    /// For the thread that watches the control socket.
    pub fn tell_control_gone(&self) -> impl FnOnce() + Send + 'static {
        let sender = self.sender.clone();
        move || drop(sender.send(Input::ControlGone))
    }

    /// Resumes the threads.
    pub fn resume(&self) {
        self.quiesce.end();
    }
}

/// Starts the threads. ctrlc owns SIGINT, signal-hook every other signal; `more` are
/// signals beside those of the table. The `paths` of listeners are watched if that is
/// possible; the `watched` paths have to be. `known` is what those led to before an
/// execve(2). The sender is for further inputs.
///
/// # Errors
/// When there is no descriptor or thread to be had, or a path cannot be watched.
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
            let why = watch::reason(&error);
            info!(
                "unix paths are not watched ({why}): one that goes comes back when a worker starts or ends"
            );
        }
    }
    if !watched.is_empty() {
        let shown: Vec<String> = watched.iter().map(|path| path.display().to_string()).collect();
        let changed = sender.clone();
        let send = move |paths| changed.send(Input::Changed(paths)).is_ok();
        watch::changes(watched, known.clone(), &quiesce, send).map_err(|error| Error::Cannot {
            attempt: format!("watch {}", shown.join(", ")),
            why: watch::reason(&error),
            advice: watch::advice(&error).map(Into::into),
        })?;
    }
    let failed = |error: io::Error| Error::cannot("listen for signals", reason(&error));
    let (interrupted, interrupts) = (sender.clone(), Arc::<AtomicU64>::default());
    let counter = Arc::clone(&interrupts);
    ctrlc::set_handler(move || {
        let number = counter.load(Ordering::SeqCst);
        let _ = interrupted.send(Input::Signal(Signal::SIGINT as i32, sigint::origin(number)));
        counter.store(number + 1, Ordering::SeqCst);
    })
    .map_err(|error| Error::cannot("listen for signals", error))?;
    sigint::start_recording().map_err(failed)?;
    let unlisted: Vec<i32> = signals.signals().filter(|signal| signals.is_unlisted(*signal)).collect();
    let others = signals.signals().filter(|signal| *signal != libc::SIGINT);
    let all: Vec<i32> = others.chain([Signal::SIGCHLD as i32]).chain(more.iter().copied()).collect();
    let mut signals = SignalsInfo::<WithOrigin>::new(all).map_err(failed)?;
    let (messages, further, calls) = (sender.clone(), sender.clone(), sender.clone());
    let quiescing = quiesce.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let mut active = quiescing.activity();
            inherited::unblock_all_signals();
            process::raise_priority();
            let send = |batch: Vec<Caught>| {
                let pid = |caught: &Caught| caught.process.as_ref().map(|process| process.pid);
                let continuers: Vec<Option<i32>> =
                    batch.iter().filter(|it| it.signal == Signal::SIGCONT as i32).map(pid).collect();
                for caught in batch {
                    // Several signals that came while we were stopped may be merged into
                    // one, which names only the first sender: it counts as nobody's.
                    let stopped = continuers.iter().any(|continuer| *continuer != pid(&caught));
                    let from = pid(&caught).filter(|&pid| pid > 0 && !stopped).map(Pid::from_raw);
                    // Read at once: a child that is started to send it soon ends.
                    let from_worker =
                        SENT_BY_WORKERS.contains(&caught.signal) || unlisted.contains(&caught.signal);
                    let lineage = |pid| if from_worker { tree::lineage(pid) } else { Lineage::default() };
                    let origin = match (caught.cause, from) {
                        (Cause::Kernel, _) => Origin::Kernel,
                        (_, Some(pid)) => Origin::Process(tree::Sender { pid, lineage: lineage(pid) }),
                        (_, None) => Origin::Unknown,
                    };
                    let _ = sender.send(Input::Signal(caught.signal, origin));
                }
            };
            loop {
                send(signals.wait().collect());
                if quiescing.is_wanted() {
                    inherited::block_all_signals();
                    // Signals that came just before.
                    send(signals.pending().collect());
                    drop(active);
                    active = quiescing.activity();
                    inherited::unblock_all_signals();
                }
            }
        })
        .map_err(failed)?;
    let watcher = Watcher::start(quiesce.clone(), move |id, what| {
        let _ = messages.send(Input::WorkerMessage(id, what));
    })
    .map_err(|error| Error::cannot("listen for acks", reason(&error)))?;
    Ok((further, inputs, Threads { watcher, sender: calls, quiesce, interrupts, known }))
}
