//! Whether a worker that has ended was one that looks whether its unix path is free: nothing is left of
//! such a look, so it is a guess. It is tried once, and taken back if the next worker does not look.

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Guess {
    /// There was no reason.
    #[default]
    None,
    /// The worker is started again.
    Tried,
    /// A worker has looked since.
    Right,
    /// None has.
    Wrong,
}

impl Guess {
    /// A worker has ended that may have looked. True once.
    pub(super) fn may_be_tried(&mut self) -> bool {
        let is_first = *self == Guess::None;
        if is_first {
            *self = Guess::Tried;
        }
        is_first
    }

    /// A worker was seen to look.
    pub(super) fn is_right(&mut self) {
        *self = Guess::Right;
    }

    /// A worker has ended before it was ready. True if none has looked since the guess, once.
    pub(super) fn is_taken_back(&mut self) -> bool {
        let wrong = *self == Guess::Tried;
        if wrong {
            *self = Guess::Wrong;
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_tried_once_and_taken_back_if_nobody_looks() {
        let mut guess = Guess::default();
        assert!(!guess.is_taken_back());
        assert!(guess.may_be_tried() && !guess.may_be_tried());
        assert!(guess.is_taken_back() && !guess.is_taken_back() && !guess.may_be_tried());
        let mut guess = Guess::default();
        assert!(guess.may_be_tried());
        guess.is_right();
        assert!(!guess.is_taken_back() && !guess.may_be_tried());
    }
}
