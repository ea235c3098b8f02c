//! What the profile of a known server has changed in a command line.

use crate::profiles::{self, Profile, quote};
use std::ffi::OsString;
use std::ops::Range;

/// What a profile has changed.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The profile.
    pub profile: &'static Profile,
    /// Where arguments are added to the command; None: nowhere.
    pub(super) at: Option<usize>,
    /// The options that it stands for, as they are written.
    pub options: Vec<String>,
    /// The variables that the worker is given unless it gets them from the user.
    pub environment: Vec<(OsString, OsString)>,
    /// The arguments that were added, as they are written.
    pub added: Vec<String>,
    /// Arguments that the user has to add.
    pub to_add: Vec<String>,
    /// Where.
    pub where_to_add: &'static str,
    /// What to know about the command line.
    pub warnings: Vec<String>,
    /// Which arguments of the command were added, and can be left out.
    pub(super) optional: Vec<Range<usize>>,
    /// The server has refused them.
    pub(super) refused: bool,
    /// Why it was not applied.
    pub left_out: Option<String>,
}

impl Applied {
    /// What was done, as one line.
    pub fn line(&self) -> String {
        let name = self.profile.name;
        if let Some(why) = &self.left_out {
            return format!("profile {name} is not applied: {why} (--profile {name} applies it)");
        }
        let mut done = self.options.join(" ");
        let also = |done: &mut String, text: String| {
            let comma = if done.is_empty() { "" } else { ", " };
            *done = format!("{done}{comma}{text}");
        };
        if !self.added.is_empty() {
            also(&mut done, format!("adds {}", self.added.join(" ")));
        }
        if !self.to_add.is_empty() {
            also(&mut done, format!("write {} {}", self.to_add.join(" "), self.where_to_add));
        }
        if done.is_empty() {
            return format!("profile {name}: there is nothing to change");
        }
        format!("profile {name}: {done} (--profile none leaves it alone)")
    }

    /// How the server of `command` checks its own configuration, as a command for the shell. What the
    /// profile is not applied to may do anything.
    pub fn own_check(&self, command: &[OsString]) -> Option<String> {
        self.left_out.is_none().then(|| profiles::own_check(self.profile, command, self.at)).flatten()
    }

    /// Whether these arguments were added.
    pub(super) fn has_added(&self, arguments: &str) -> bool {
        self.added.join(" ").contains(arguments)
    }

    /// Whether the command is certainly a server that binds sockets.
    pub fn listens(&self) -> bool {
        self.left_out.is_none() && self.profile.listens
    }

    /// Whether the server has refused arguments that were added.
    pub fn has_left_out(&self) -> bool {
        self.refused
    }

    /// Whether arguments were added that the server may refuse.
    pub fn has_optional(&self) -> bool {
        !self.optional.is_empty()
    }

    /// The arguments of `command` that were added and that the server may refuse, as they are written.
    pub fn optional(&self, command: &[OsString]) -> Vec<String> {
        let words = self.optional.iter().filter_map(|range| command.get(range.clone())).flatten();
        words.map(|word| quote(word)).collect()
    }

    /// Leaves the arguments out of `command` that the server may have refused. Returns them.
    pub fn leave_out_optional(&mut self, command: &mut Vec<OsString>) -> Vec<String> {
        let mut left_out = Vec::new();
        self.refused |= self.has_optional();
        for range in std::mem::take(&mut self.optional).into_iter().rev() {
            left_out.splice(0..0, command.drain(range).map(|word| quote(&word)));
        }
        self.added.retain(|word| !left_out.contains(word));
        left_out
    }
}
