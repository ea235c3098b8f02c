//! The supervisor as a pure state machine.
