//! What every image of ours makes of the command line before it begins, the first
//! and those that take over.

use crate::config::Config;
use crate::config::readiness::has_listeners;
use crate::dialect::GOAGAIN_SIGNAL;
use crate::listener::Listeners;

/// What depends on whether there are listeners, and on their kind.
pub(super) fn fit(config: &mut Config, listeners: &Listeners) {
    config.policy.least_workers = match listeners.iter().any(|listener| listener.reuseport()) {
        // The queue of a slot's own socket would have nobody to serve it.
        true => config.policy.workers,
        false => 1,
    };
    let own = config.follow.is_some() || config.adopt.is_some();
    config.policy.listeners = !listeners.is_empty() && !own;
    if config.policy.listeners || config.follow.is_some() {
        has_listeners(&mut config.policy.readiness);
    }
    if listeners.is_empty() && !own {
        config.acks.accepting = false;
        if config.acks.exec.is_none() {
            config.policy.readiness.probe = None;
        }
    }
}

/// The command, as messages name it.
pub(super) fn command(config: &Config) -> String {
    config.worker.command.first().map(|name| name.to_string_lossy().into()).unwrap_or_default()
}

/// Signals that are listened for beside those of the table.
pub(super) fn more_signals(config: &Config) -> &'static [i32] {
    if config.acks.goagain() { &[GOAGAIN_SIGNAL] } else { &[] }
}
