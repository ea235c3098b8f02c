//! Arguments, configuration, run, exit.

fn main() {}
