//! The threads that turn what the system says into inputs of the loop.

use crate::ack::{Heard, Watcher};
use crate::control::server::Message;
use crate::core::event::WorkerId;
use crate::error::{Error, reason};
use crate::export::GOAGAIN_SIGNAL;
use crate::signals::Table;
use crate::sys::tree::{self, Lineage};
use crate::sys::{inherited, process};
use crate::watch;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::info;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::{WithOrigin, origin::Origin};
use std::io;
use std::path::PathBuf;

/// Inputs that wait for the loop. A worker that floods its notify socket holds
/// up the thread that reads it and nobody else.
const QUEUE: usize = 256;

/// Signals that may come from a worker and mean something else then.
const TOLD_BY_WORKERS: [i32; 3] = [libc::SIGTERM, libc::SIGUSR1, GOAGAIN_SIGNAL];

/// What the threads send.
#[derive(Debug)]
pub enum Input {
    /// A signal reached us, by number (it may be a real-time one). Who sent it is
    /// known unless it was the kernel or somebody outside our pid namespace.
    Signal(i32, Option<tree::Sender>),
    /// A worker spoke.
    Heard(WorkerId, Heard),
    /// The path of a listener may have gone.
    PathGone,
    /// A client of the control socket wants something.
    Control(Message),
    /// These paths lead to something else than before.
    Changed(Vec<PathBuf>),
}

/// Starts the threads. ctrlc owns SIGINT, signal-hook every other signal;
/// `more` are listened for beside those of the table. The `paths` of listeners
/// are watched where that can be had, those that are `watched` for changes always.
/// More inputs may be sent.
///
/// # Errors
/// When the system has no descriptor or thread to spare, or a path that is to be
/// watched cannot be.
pub fn start(
    signals: &Table,
    more: &[i32],
    paths: Vec<PathBuf>,
    watched: Vec<PathBuf>,
) -> Result<(Sender<Input>, Receiver<Input>, Watcher), Error> {
    let (sender, inputs) = bounded(QUEUE);
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
        watch::changes(watched, move |paths| changed.send(Input::Changed(paths)).is_ok()).map_err(
            |error| Error::Cannot {
                attempt: format!("watch {}", shown.join(", ")),
                why: reason(&error),
                next: watch::advice(&error),
            },
        )?;
    }
    let failed = |error: io::Error| Error::cannot("listen for signals", reason(&error));
    let interrupts = sender.clone();
    ctrlc::set_handler(move || {
        let _ = interrupts.send(Input::Signal(Signal::SIGINT as i32, None));
    })
    .map_err(|error| Error::cannot("listen for signals", error))?;
    let others = signals.signals().filter(|signal| *signal != Signal::SIGINT).map(|signal| signal as i32);
    let all: Vec<i32> = others.chain([Signal::SIGCHLD as i32]).chain(more.iter().copied()).collect();
    let mut signals = SignalsInfo::<WithOrigin>::new(all).map_err(failed)?;
    let (heard, further) = (sender.clone(), sender.clone());
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            inherited::unblock_all();
            process::hurry();
            loop {
                let batch: Vec<Origin> = signals.wait().collect();
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
            }
        })
        .map_err(failed)?;
    let watcher = Watcher::start(move |id, what| {
        let _ = heard.send(Input::Heard(id, what));
    })
    .map_err(|error| Error::cannot("listen for acks", reason(&error)))?;
    Ok((further, inputs, watcher))
}
