//! Listeners that are added and taken away while workers serve.

use super::Run;
use crate::core::event::Report;
use crate::dialect::first_listener;
use crate::error::Error;
use crate::listener::Bind;
use log::info;

impl Run {
    /// Binds one more listener, which workers get from the next upgrade on: the name
    /// and the address that it got.
    ///
    /// # Errors
    /// Why not, as at the start; nothing has changed then.
    pub(super) fn bind(&mut self, spec: &str) -> Result<(String, String), String> {
        if self.config.follow.is_some() {
            return Err("with --follow the program binds its own sockets".into());
        }
        if self.config.adopt.is_some() {
            return Err("with --adopt the program binds its own sockets".into());
        }
        let bind: Bind = spec.parse().map_err(|error: Error| error.to_string())?;
        if let Some(first) = first_listener(&self.config.dialects) {
            let number = first + self.common.listeners.next().count() as i32;
            let asked = self.config.acks.fd_number.iter().chain(&self.config.worker.pass_fds);
            if asked.copied().any(|asked| asked == number) {
                return Err(format!("the worker has another descriptor {number} (--ack fd:N, --pass-fd)"));
            }
        }
        let added = self.common.listeners.add(bind, &self.around.directory, &self.config.dialects);
        let (listener, new) = added.map_err(|error| match error {
            // What was attempted, on what, whoever asked for it says.
            Error::Bind { why, next: Some(next), .. } => format!("{why} ({next})"),
            Error::Bind { why, next: None, .. } => why,
            error => error.to_string(),
        })?;
        match new {
            true => {
                info!("listening on {listener}, for the workers of the next upgrade");
                self.repair.add(listener);
            }
            false => info!("{listener} stays"),
        }
        Ok((listener.name().to_owned(), listener.address().to_owned()))
    }

    /// Takes the listener of this name away, from the next upgrade on: what that means.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub(super) fn unbind(&mut self, name: &str) -> Result<String, String> {
        let done = match self.common.listeners.withdraw(name, &self.config.dialects)? {
            Some(place) => {
                self.repair.remove(place);
                format!("{name} is closed: no worker had it")
            }
            None => format!("{name} is closed once the next upgrade has succeeded"),
        };
        info!("{done}");
        Ok(done)
    }

    /// What waited for an upgrade follows its fate.
    pub(super) fn change_listeners(&mut self, report: &Report) {
        match *report {
            Report::UpgradeStarted { to, .. } => self.common.listeners.begin(to.0),
            Report::UpgradeFailed { to, replaced: 0, .. } => {
                for place in self.common.listeners.undo(to.0) {
                    self.repair.remove(place);
                }
            }
            Report::UpgradeDone { to, .. } => {
                for place in self.common.listeners.close_for(to.0) {
                    self.repair.remove(place);
                }
            }
            _ => {}
        }
    }
}
