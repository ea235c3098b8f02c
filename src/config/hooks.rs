//! The user's hooks (`--hook`): commands that run at events of a worker's life.

use super::value::{duration, invalid};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Occasion {
    /// Before an upgrade begins, which it can refuse.
    PreUpgrade,
    /// Before a worker is started, which it can refuse.
    PreStart,
    /// A worker has become ready.
    PostReady,
    /// Before a worker that was ready is asked to stop.
    PreStop,
    /// A worker has ended.
    PostStop,
    /// An upgrade was undone.
    UpgradeFailed,
    /// A worker is on hold: `--verify` says whether it is good.
    Verify,
}

impl Occasion {
    /// Those of `--hook`, in the order of a worker's life.
    pub const ALL: [Occasion; 6] = [
        Occasion::PreUpgrade,
        Occasion::PreStart,
        Occasion::PostReady,
        Occasion::PreStop,
        Occasion::PostStop,
        Occasion::UpgradeFailed,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Occasion::PreUpgrade => "pre-upgrade",
            Occasion::PreStart => "pre-start",
            Occasion::PostReady => "post-ready",
            Occasion::PreStop => "pre-stop",
            Occasion::PostStop => "post-stop",
            Occasion::UpgradeFailed => "upgrade-failed",
            Occasion::Verify => "verify",
        }
    }
}

/// Every hook, in the order given.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    commands: Vec<(Occasion, String)>,
    /// The check of the server's own configuration, which goes before an upgrade as a hook does.
    own_check: Option<String>,
    /// `--verify`
    verify: Option<String>,
    /// How long one may run.
    pub timeout: Duration,
}

impl Hooks {
    /// The hooks of each `EVENT=CMD`, and the command of `--verify`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown event, and for an empty command.
    pub(super) fn new(given: &[String], timeout: &str, verify: Option<String>) -> Result<Hooks, Error> {
        let commands = given.iter().map(|text| hook(text)).collect::<Result<_, Error>>()?;
        let limit = duration("--hook-timeout", timeout)?;
        if limit.is_zero() {
            return Err(invalid("--hook-timeout", timeout, "a hook that hangs would never be given up"));
        }
        Ok(Hooks { commands, own_check: None, verify, timeout: limit })
    }

    /// The commands of one event.
    pub fn of(&self, occasion: Occasion) -> impl Iterator<Item = &str> {
        let own = self.own_check.as_deref().filter(|_| occasion == Occasion::PreUpgrade);
        let verify = self.verify.as_deref().filter(|_| occasion == Occasion::Verify);
        let users = self.commands.iter().filter(move |(on, _)| *on == occasion);
        users.map(|(_, command)| command.as_str()).chain(own).chain(verify)
    }

    /// The server checks its own configuration by this command before each upgrade.
    pub fn set_own_check(&mut self, command: String) {
        self.own_check = Some(command);
    }

    /// Whether the server checks its own configuration.
    pub fn has_own_check(&self) -> bool {
        self.own_check.is_some()
    }

    /// Whether this command of `occasion` is the server's own check.
    pub fn is_own_check(&self, occasion: Occasion, command: &str) -> bool {
        occasion == Occasion::PreUpgrade && self.own_check.as_deref() == Some(command)
    }

    /// How long the hooks of one event may take together.
    pub fn longest(&self, occasion: Occasion) -> Duration {
        self.timeout * self.of(occasion).count() as u32
    }

    /// Whether there is any for this event.
    pub fn has(&self, occasion: Occasion) -> bool {
        self.of(occasion).next().is_some()
    }
}

fn hook(text: &str) -> Result<(Occasion, String), Error> {
    let events = Occasion::ALL.map(Occasion::name).join(", ");
    let wrong = |why: &str| invalid("--hook", text, &format!("{why} (write EVENT=CMD; EVENT is {events})"));
    let (event, command) = text.split_once('=').ok_or_else(|| wrong("there is no '='"))?;
    let occasion = Occasion::ALL.into_iter().find(|occasion| occasion.name() == event);
    let occasion = occasion.ok_or_else(|| wrong("no such event"))?;
    match command.trim().is_empty() {
        true => Err(wrong("the command is empty")),
        false => Ok((occasion, command.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_is_not_valid_lists_the_events() {
        for wrong in ["", "pre-stop", "prestop=true", "=true", "pre-stop=", "pre-stop= "] {
            let error = Hooks::new(&[wrong.into()], "30s", None).unwrap_err();
            assert_eq!(error.status(), 2, "{wrong}");
            let listed = "pre-upgrade, pre-start, post-ready, pre-stop, post-stop, upgrade-failed)";
            assert!(error.to_string().contains(listed), "{error}");
        }
        assert!(Hooks::new(&[], "0", None).unwrap_err().to_string().contains("'0' for '--hook-timeout'"));
    }

    #[test]
    fn hooks_of_an_event_keep_their_order() {
        let given = ["post-ready=a=b", "pre-stop=c", "post-ready=d"].map(String::from);
        let hooks = Hooks::new(&given, "1s", Some("v".into())).unwrap();
        assert_eq!(hooks.of(Occasion::PostReady).collect::<Vec<_>>(), ["a=b", "d"]);
        assert!(hooks.has(Occasion::PreStop) && !hooks.has(Occasion::PostStop));
        assert_eq!(hooks.of(Occasion::Verify).collect::<Vec<_>>(), ["v"]);
        let mut hooks = hooks;
        hooks.set_own_check("server -t".into());
        assert_eq!(hooks.of(Occasion::PreUpgrade).collect::<Vec<_>>(), ["server -t"]);
        assert!(hooks.is_own_check(Occasion::PreUpgrade, "server -t"));
        assert!(!hooks.is_own_check(Occasion::PreStop, "c"));
    }
}
