//! How the threads that make inputs are brought to rest before we are replaced:
//! each at a point at which whatever it has read from the system is on the
//! channel. Then nothing is lost in an execve(2), which ends every thread but the
//! main one.

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

/// Held by a thread while it has something in its hands.
#[derive(Debug)]
pub struct ActivityGuard {
    rest: Quiesce,
}

impl Quiesce {
    /// The loop wants the threads to rest.
    pub fn begin(&self) {
        self.state().wanted = true;
    }

    /// Lets them go on.
    pub fn end(&self) {
        self.state().wanted = false;
        self.shared.over.notify_all();
    }

    /// Whether all of them rest.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.wanted && state.busy == 0
    }

    /// Whether a thread that holds a [`ActivityGuard`] for good is to let go of it.
    pub fn is_wanted(&self) -> bool {
        self.state().wanted
    }

    /// Called by a thread before it reads something: returns once no rest is
    /// wanted.
    pub fn activity(&self) -> ActivityGuard {
        let mut state = self.state();
        while state.wanted {
            state = self.shared.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        ActivityGuard { rest: self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        self.rest.state().busy -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn rest_comes_when_hands_are_empty_and_ends_for_all() {
        let rest = Quiesce::default();
        let busy = rest.activity();
        rest.begin();
        assert!(!rest.is_quiet() && rest.is_wanted());
        drop(busy);
        assert!(rest.is_quiet());
        let (theirs, (done, is_done)) = (rest.clone(), channel());
        std::thread::spawn(move || {
            let busy = theirs.activity();
            let _ = done.send(busy);
        });
        assert!(rest.is_quiet(), "nobody begins anything meanwhile");
        rest.end();
        drop(is_done.recv().unwrap());
        assert!(!rest.is_quiet());
    }
}
