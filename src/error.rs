//! Every failure of our own: its message and its exit status, in one list.
//!
//! A message is lower case and says what was attempted, on what, why it failed and, in brackets,
//! what the reader can do. `main` puts `graceful-run: ` before it.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::fmt;

/// What to do about a limit of descriptors that is too low.
pub const RAISE_FILE_LIMIT: &str = "raise ulimit -n, or LimitNOFILE= of the unit";

/// A failure that ends `graceful-run` before a worker served, or that refuses
/// to start one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A bad option or a bad BIND. Nothing was bound, started or written.
    Usage(String),
    /// A socket could not be made, or a path belongs to somebody else.
    Bind {
        /// The BIND as it was given, or the address that came out of it.
        bind: String,
        /// Why it failed: `permission denied`, `address already in use`.
        why: String,
        /// What the reader can do about it, without brackets.
        advice: Option<String>,
    },
    /// A descriptor that we were started with is not what it should be.
    Inherited {
        /// Its number.
        fd: i32,
        /// What is wrong with it.
        why: String,
    },
    /// Another instance holds our name.
    NameTaken {
        /// The name.
        name: String,
        /// The pid of the holder, if it is known.
        pid: Option<i32>,
    },
    /// A failure whose message is complete.
    Failed(String),
    /// Any other failed attempt of ours.
    Cannot {
        /// What was attempted, on what: `write pid file /run/web.pid`.
        attempt: String,
        /// Why it failed.
        why: String,
        /// What the reader can do about it, without brackets.
        advice: Option<String>,
    },
}

impl Error {
    /// Shorthand for [`Error::Cannot`] without advice.
    pub fn cannot(attempt: impl Into<String>, why: impl fmt::Display) -> Self {
        Error::Cannot { attempt: attempt.into(), why: why.to_string(), advice: None }
    }

    /// Exit status: 2 for usage, 100 for a name that is taken, 125 for a failure of
    /// our own.
    pub fn status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::NameTaken { .. } => 100,
            Error::Bind { .. } | Error::Inherited { .. } | Error::Failed(_) | Error::Cannot { .. } => 125,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self {
            Error::Usage(message) | Error::Failed(message) => return f.write_str(message),
            Error::Bind { bind, why, advice } => {
                write!(f, "cannot bind {bind}: {why}")?;
                advice
            }
            Error::NameTaken { name, pid } => {
                let holder = pid.map_or("another instance".into(), |pid| format!("pid {pid}"));
                return write!(
                    f,
                    "cannot take the name '{name}': {holder} holds it (stop that one, or choose another name)"
                );
            }
            Error::Inherited { fd, why } => return write!(f, "cannot use inherited fd {fd}: {why}"),
            Error::Cannot { attempt, why, advice } => {
                write!(f, "cannot {attempt}: {why}")?;
                advice
            }
        };
        match advice {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The text of an errno as the C library spells it, in lower case. Of our own limit of descriptors
/// it says how high that is, and how it is raised.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
            format!("too many open files (the limit is {limit}: {RAISE_FILE_LIMIT})")
        }
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string().to_lowercase(),
    }
}
