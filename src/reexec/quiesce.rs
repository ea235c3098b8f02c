//! Quiescing the input threads before an execve(2): each stops at a point where all that it
//! has read from the system is on the channel. So nothing is lost in the execve(2), which
//! ends every thread but the main one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the threads share with the loop.
#[derive(Debug, Clone, Default)]
pub struct Quiesce {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    busy: usize,
}

/// Held by a thread from before it reads an input until that input is on the channel.
#[derive(Debug)]
pub struct ActivityGuard {
    quiesce: Quiesce,
}

impl Quiesce {
    /// The loop asks the threads to stop reading.
    pub fn begin(&self) {
        self.state().wanted = true;
    }

    /// Lets the threads continue.
    pub fn end(&self) {
        self.state().wanted = false;
        self.shared.over.notify_all();
    }

    /// Whether all threads have stopped.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.wanted && state.busy == 0
    }

    /// Whether the threads are asked to stop, for one that holds an [`ActivityGuard`] all the time.
    pub fn is_wanted(&self) -> bool {
        self.state().wanted
    }

    /// Called by a thread before it reads an input. It returns once the threads need not stop.
    pub fn activity(&self) -> ActivityGuard {
        let mut state = self.state();
        while state.wanted {
            state = self.shared.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        ActivityGuard { quiesce: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.quiesce.state().busy -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn all_is_quiet_once_no_guard_is_held_until_the_end() {
        let quiesce = Quiesce::default();
        let busy = quiesce.activity();
        quiesce.begin();
        assert!(!quiesce.is_quiet() && quiesce.is_wanted());
        drop(busy);
        assert!(quiesce.is_quiet());
        let (theirs, (done, is_done)) = (quiesce.clone(), channel());
        std::thread::spawn(move || {
            let busy = theirs.activity();
            let _ = done.send(busy);
        });
        assert!(quiesce.is_quiet(), "nobody begins anything meanwhile");
        quiesce.end();
        drop(is_done.recv().unwrap());
        assert!(!quiesce.is_quiet());
    }
}
