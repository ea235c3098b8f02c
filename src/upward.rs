//! What the service manager above us is told (sd_notify(3)), by us alone: a
//! worker never sees its socket. Without NOTIFY_SOCKET, and when it is dead,
//! nothing happens.

use sd_notify::{NotifyState, notify};

/// A generation serves, or an upgrade was undone and the old one still does.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// An upgrade begins; `Type=notify-reload` wants the time of it.
pub fn reloading(status: &str) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]);
    }
}

/// The stop begins; the last word.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = notify(states) {
        log::debug!("cannot tell the service manager: {error}");
    }
}
