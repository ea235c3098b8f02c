//! Servers that know nothing of graceful-run, adopted: their listeners are seen, and connections
//! are steered to the generation that serves.

pub mod drain;
