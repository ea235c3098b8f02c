//! How workers are asked to stop, and how long they may take.

use super::signals;
use super::value::{invalid, timeout};
use crate::dialect::Dialect;
use crate::error::Error;
use nix::sys::signal::Signal;
use std::time::Duration;

/// The default of `--stop-timeout`.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The default of `--stop-timeout` for a worker that acks by parent-term, as grace does: it waits
/// 60 s for requests, and 60 s after it has cut them.
pub(super) const PARENT_TERM_STOP_TIMEOUT: Duration = Duration::from_secs(121);

/// The stop signal of the user, or of the dialects that have one, if they agree.
pub(super) fn stop_signal(given: Option<&str>, dialects: &[Dialect]) -> Result<Option<Signal>, Error> {
    if let Some(name) = given {
        let signal = signals::signal_by_name(name);
        return signal
            .map(Some)
            .ok_or_else(|| invalid("--stop-signal", name, "no such signal (write TERM, QUIT, INT or USR1)"));
    }
    // Clients of einhorn handle USR2 only. If other dialects are given too, the program may be of
    // any of them, and most handle TERM.
    if dialects == [Dialect::Einhorn] {
        return Ok(Some(Signal::SIGUSR2));
    }
    let mut owners = dialects.iter().filter_map(|dialect| Some((dialect, dialect.stop_signal()?)));
    let Some((first, signal)) = owners.next() else { return Ok(None) };
    if let Some((other, _)) = owners.find(|(_, other)| *other != signal) {
        return Err(Error::Usage(format!(
            "cannot choose between the stop signals of {} and {} (say --stop-signal)",
            first.name(),
            other.name()
        )));
    }
    let signal = Signal::try_from(signal);
    signal.map(Some).map_err(|errno| Error::cannot("name the stop signal", errno))
}

/// How long a worker may take to stop, and how long one that acks by parent-term.
pub(super) fn stop_timeouts(
    given: Option<String>,
    dialects: &[Dialect],
) -> Result<(Option<Duration>, Option<Duration>), Error> {
    if let Some(text) = given {
        let timeout = timeout("--stop-timeout", &text)?;
        return Ok((timeout, timeout));
    }
    let own = dialects.iter().filter_map(|dialect| dialect.stop_timeout()).max();
    let parent_term = if dialects.contains(&Dialect::Endless) { own } else { None };
    Ok((Some(own.unwrap_or(STOP_TIMEOUT)), Some(parent_term.unwrap_or(PARENT_TERM_STOP_TIMEOUT))))
}
