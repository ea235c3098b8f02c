//! The log lines of an upgrade that is held.

use super::words::ms;
use crate::config::{duration_text, weight_text};
use crate::core::event::Report;
use crate::process::ProcessTable;
use log::{info, warn};

/// Why a weight cannot be set where the core knows of no reason of its own.
pub const CANNOT_WEIGH: &str =
    "both generations share the sockets (each -b has to be a TCP address with ,reuseport)";

pub(super) fn log(report: &Report, processes: &ProcessTable) {
    match *report {
        Report::Held { from, to, took, lasts } => {
            let then = lasts.map_or(String::new(), |lasts| {
                format!("; it goes on in {} if that worker is good (--canary)", duration_text(lasts))
            });
            info!(
                generation = to.0, took_ms = ms(took);
                "{to}: on hold after {}: {from} serves, and one worker of {to} beside it{then}", duration_text(took)
            );
        }
        Report::HoldPassed { to, after, verified } => {
            let how = match verified {
                0 => String::new(),
                1 => ", and --verify has found it good once".into(),
                times => format!(", and --verify has found it good {times} times"),
            };
            info!(generation = to.0; "{to}: its first worker has served for {}{how}: the upgrade goes on", duration_text(after));
        }
        Report::Weighed(to, weight) => {
            info!(generation = to.0; "{to}: gets {} of the new connections", weight_text(weight));
        }
        Report::NotWeighed(to, weight) => {
            let (weight, why) = (weight_text(weight), processes.upgrade_refusal());
            warn!(generation = to.0; "{to}: cannot be given {weight} of the new connections: {why}");
        }
        Report::CannotWeigh => warn!("cannot weigh the new connections: {CANNOT_WEIGH}"),
        Report::CannotHold => warn!(
            "cannot hold an upgrade: a generation cannot be on hold with --stop-first, --follow or --adopt"
        ),
        _ => {}
    }
}
