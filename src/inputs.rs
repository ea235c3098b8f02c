//! The threads that turn what the system says into inputs of the loop.

use crate::ack::{Heard, Watcher};
use crate::core::event::WorkerId;
use crate::error::{Error, reason};
use crate::signals::Table;
use crate::sys::inherited;
use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::Signal;

/// Inputs that wait for the loop. A worker that floods its notify socket holds
/// up the thread that reads it and nobody else.
const QUEUE: usize = 256;
/// What the threads send.
#[derive(Debug, Clone, Copy)]
pub enum Input {
    /// A signal reached us.
    Signal(Signal),
    /// A worker spoke.
    Heard(WorkerId, Heard),
}

/// Starts the threads. ctrlc owns SIGINT, signal-hook every other signal.
///
/// # Errors
/// When the system has no descriptor or thread to spare.
pub fn start(signals: &Table) -> Result<(Receiver<Input>, Watcher), Error> {
    let (sender, inputs) = bounded(QUEUE);
    let failed = |error: std::io::Error| Error::cannot("listen for signals", reason(&error));
    let interrupts = sender.clone();
    ctrlc::set_handler(move || {
        let _ = interrupts.send(Input::Signal(Signal::SIGINT));
    })
    .map_err(|error| Error::cannot("listen for signals", error))?;
    let others = signals.signals().filter(|signal| *signal != Signal::SIGINT).map(|signal| signal as i32);
    let all: Vec<i32> = others.chain([Signal::SIGCHLD as i32]).collect();
    let mut signals = signal_hook::iterator::Signals::new(all).map_err(failed)?;
    let heard = sender.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            inherited::unblock_all();
            for signal in signals.forever() {
                if let Ok(signal) = Signal::try_from(signal) {
                    let _ = sender.send(Input::Signal(signal));
                }
            }
        })
        .map_err(failed)?;
    let watcher = Watcher::start(move |id, what| {
        let _ = heard.send(Input::Heard(id, what));
    })
    .map_err(|error| Error::cannot("listen for acks", reason(&error)))?;
    Ok((inputs, watcher))
}
