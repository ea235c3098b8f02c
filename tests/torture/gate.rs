//! Where workers report to the harness, and where held requests wait.
//!
//! Contract: a worker connects and sends one line. `up G` says that generation G
//! serves. `held G` says that it has a request in its hands, and the worker
//! answers that request when its connection to the gate ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    newest_up: u64,
    held: Vec<(u64, UnixStream)>,
    open: bool,
}

/// The harness's side of the gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    /// Starts to take reports at `path`, until the process ends.
    pub fn at(path: &Path) -> Result<Self, String> {
        let listener =
            UnixListener::bind(path).map_err(|error| format!("cannot bind {}: {error}", path.display()))?;
        let gate = Gate::default();
        let books = gate.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                books.admit(stream);
            }
        });
        Ok(gate)
    }

    fn admit(&self, stream: UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(&stream);
        if reader.read_line(&mut line).is_err() {
            return;
        }
        let Some((what, generation)) = line.trim_end().split_once(' ') else {
            return;
        };
        let Ok(generation) = generation.parse() else {
            return;
        };
        let mut state = self.0.0.lock().expect("the gate's state is whole");
        match what {
            "up" => state.newest_up = state.newest_up.max(generation),
            "held" if !state.open => state.held.push((generation, stream)),
            _ => {}
        }
        self.0.1.notify_all();
    }

    fn await_state(
        &self,
        what: &str,
        limit: Duration,
        reached: impl Fn(&State) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        let mut state = self.0.0.lock().expect("the gate's state is whole");
        while !reached(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited {limit:?} for {what}"));
            }
            state = self.0.1.wait_timeout(state, left).expect("the gate's state is whole").0;
        }
        Ok(())
    }

    /// Waits until generation `generation` has said that it serves.
    pub fn await_up(&self, generation: u64, limit: Duration) -> Result<(), String> {
        self.await_state(&format!("generation {generation} to serve"), limit, |state| {
            state.newest_up >= generation
        })
    }

    /// Waits until `n` requests are being held.
    pub fn await_held(&self, n: usize, limit: Duration) -> Result<(), String> {
        self.await_state(&format!("{n} requests to be held"), limit, |state| state.held.len() >= n)
    }

    /// Lets the requests go that generations before `generation` hold; returns
    /// how many there were.
    pub fn release_before(&self, generation: u64) -> usize {
        let mut state = self.0.0.lock().expect("the gate's state is whole");
        let before = state.held.len();
        state.held.retain(|(of, _)| *of >= generation);
        before - state.held.len()
    }

    /// Lets everything go, now and from now on.
    pub fn open(&self) {
        let mut state = self.0.0.lock().expect("the gate's state is whole");
        state.open = true;
        state.held.clear();
    }
}

/// The worker's side: sends one line.
pub fn report(path: &Path, line: &str) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "{line}")?;
    Ok(stream)
}

/// The worker's side: waits until the harness lets go.
pub fn wait(mut stream: UnixStream) {
    let _ = stream.read(&mut [0]);
}
