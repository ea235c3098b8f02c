//! What the wrapper's log says, in one place: its wording may change, its facts may not.
//! In a pattern, `*` stands for anything.

/// A worker of generation `n` was started.
pub fn started(n: u32) -> String {
    format!("generation {n}: started pid ")
}

/// Every worker of generation `n` is ready and has survived its soak: it serves.
pub fn ready(n: u32) -> String {
    format!("generation {n}: serv")
}

/// A worker of generation `n` is ready, by this kind of ack.
pub fn ready_by(n: u32, kind: &str) -> String {
    format!("generation {n}: ready after * ({kind}")
}

/// The upgrade to generation `n` failed.
pub fn failed(n: u32) -> String {
    format!("upgrade to generation {n} failed: ")
}

/// A worker of generation `n` exited with `status`.
pub fn exited(n: u32, status: i32) -> String {
    format!("generation {n}: pid * exited with status {status}")
}

/// A worker of generation `n` was ended by signal `signal`.
pub fn killed(n: u32, signal: i32) -> String {
    format!("generation {n}: pid * was ended by signal {signal}")
}
