//! The numbers of the descriptors that a worker is given: the listeners, from the first number of
//! their dialect on, then those that the user names. They are checked before anything is bound.

use super::InheritedContext;
use crate::config::Config;
use crate::core::event::AckKind;
use crate::dialect::{FIRST_FD, first_listener};
use crate::error::Error;
use crate::listener::{ListenFds, Listeners};
use crate::sys::fd;
use log::warn;
use std::collections::BTreeSet;

/// Opens the listeners, after checking that every number is given to the worker once.
///
/// # Errors
/// [`Error::Usage`] for a number that is given twice; the error of a listener that cannot be
/// opened.
pub fn open_listeners(config: &Config, surroundings: &InheritedContext) -> Result<Listeners, Error> {
    let variable = |name: &str| {
        surroundings.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    };
    let listen_fds = ListenFds::read(
        variable("LISTEN_PID"),
        variable("LISTEN_FDS"),
        variable("LISTEN_FDNAMES"),
        std::process::id(),
    )?;
    if let Some(warning) = listen_fds.warning() {
        warn!("{warning}");
    }
    if config.follow.is_some() && listen_fds.count() > 0 {
        return Err(Error::Usage(
            "--follow cannot go with sockets from LISTEN_FDS: the program binds its own sockets".into(),
        ));
    }
    let end = match first_listener(&config.dialects) {
        Some(first) => first + (listen_fds.count() + config.binds.len()) as i32,
        None => FIRST_FD,
    };
    let mut taken = BTreeSet::new();
    let numbers = config.acks.fd_number.into_iter().chain(config.worker.pass_fds.iter().copied());
    for number in numbers {
        if number < end || !taken.insert(number) {
            return Err(Error::Usage(format!(
                "descriptor {number} cannot be given to the worker twice (0 to {} are taken by the standard streams and the listeners)",
                end - 1
            )));
        }
    }
    for &number in &config.worker.pass_fds {
        if fd::duplicate(number).is_err() {
            return Err(Error::Inherited { fd: number, why: "it is not open (--pass-fd)".into() });
        }
    }
    if config.policy.readiness.kinds.contains(&AckKind::Accepting)
        && listen_fds.count() + config.binds.len() == 0
        && config.follow.is_none()
    {
        return Err(Error::Usage("--ack accepting needs a listener to look for (give one with -b)".into()));
    }
    Listeners::open(
        listen_fds,
        &config.binds,
        &surroundings.directory,
        config.policy.workers,
        &config.dialects,
    )
}
