//! `--canary` and `--verify`: what they mean, and the options that they cannot be combined with.

use super::adopt::Adopt;
use super::value::{duration, invalid, weight};
use crate::cli::Cli;
use crate::core::event::Weight;
use crate::core::policy;
use crate::error::Error;
use crate::listener::Bind;
use crate::listener::address::Address;
use std::time::Duration;

/// The parts of the core's policy.
pub(super) struct Canary {
    /// Every upgrade is held.
    pub(super) policy: Option<policy::Canary>,
    /// The pause between two runs of `--verify`, if there is one.
    pub(super) verify: Option<Duration>,
}

/// # Errors
/// [`Error::Usage`], naming the argument and what it cannot go with.
pub(super) fn canary(
    cli: &Cli,
    adopt: Option<&Adopt>,
    follows: bool,
    binds: &[Bind],
) -> Result<Canary, Error> {
    let given = &cli.canary;
    let policy = given.canary.as_deref().map(hold).transpose()?;
    let option = if policy.is_some() { "--canary" } else { "--verify" };
    let against = [
        (cli.stop_first, "--stop-first", "two generations have to serve at the same time"),
        (follows, "--follow", "the server decides itself when its predecessor leaves"),
    ];
    if policy.is_some() || given.verify.is_some() {
        if let Some((_, other, why)) = against.iter().find(|(given, ..)| *given) {
            return Err(Error::Usage(format!("{option} cannot go with {other}: {why}")));
        }
    }
    if policy.is_some_and(|policy| policy.weight.is_some()) {
        let given = given.canary.as_deref().unwrap_or_default();
        match adopt {
            Some(adopt) if adopt.share => {
                return Err(invalid("--canary", given, "with --adopt=share both generations share a socket"));
            }
            Some(_) => {}
            None => check_sockets(given, binds)?,
        }
    }
    if given.verify.as_deref().is_some_and(|command| command.trim().is_empty()) {
        return Err(invalid("--verify", "", "the command is empty"));
    }
    let pause = duration("--verify-interval", &given.verify_interval)?;
    if pause.is_zero() {
        return Err(invalid("--verify-interval", &given.verify_interval, "it would run all the time"));
    }
    Ok(Canary { policy, verify: given.verify.as_ref().map(|_| pause) })
}

/// `DUR[,PCT%]`
fn hold(text: &str) -> Result<policy::Canary, Error> {
    let (lasts, part) = match text.split_once(',') {
        Some((lasts, part)) => (lasts, Some(part)),
        None => (text, None),
    };
    let lasts = duration("--canary", lasts)?;
    if lasts.is_zero() {
        return Err(invalid("--canary", text, "a hold of no time proves nothing"));
    }
    let named: Option<Weight> = part.map(weight).transpose().map_err(|why| invalid("--canary", text, why))?;
    Ok(policy::Canary { lasts, weight: named })
}

/// A weight needs sockets that the generations do not share.
fn check_sockets(given: &str, binds: &[Bind]) -> Result<(), Error> {
    let apart = |bind: &&Bind| matches!(bind.address, Address::Tcp { .. }) && bind.options.reuseport;
    if binds.is_empty() {
        return Err(invalid("--canary", given, "a weight needs --adopt, or -b ADDRESS,reuseport"));
    }
    match binds.iter().find(|bind| !apart(bind)) {
        Some(bind) => Err(invalid(
            "--canary",
            given,
            &format!(
                "both generations share the socket of -b {bind}, so connections cannot be weighed there (a TCP address with ,reuseport)"
            ),
        )),
        None => Ok(()),
    }
}
