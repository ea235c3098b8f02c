//! At any time at most one generation is starting; the one that serves gets no
//! signal until every worker of the next has been ready and is alive.

pub mod core;
pub mod error;
pub mod listener;
pub mod sys;
