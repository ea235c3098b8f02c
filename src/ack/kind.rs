//! The table of ack kinds: the name of each, how `--ack` spells it, the dialect whose programs
//! send it, and the channel on which it arrives.
//!
//! What a kind proves about the program is decided by the core:
//! [`AckKind::strength`](crate::core::policy).

use crate::core::event::AckKind;
use crate::dialect::{Dialect, GOAGAIN_SIGNAL};

/// A kind as the rest of the program needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name in `--ack`, in messages and in events.
    pub name: &'static str,
    /// How the command line spells it.
    pub spelling: Spelling,
    /// The dialect whose programs send it.
    pub dialect: Option<Dialect>,
    /// The channel on which it arrives.
    pub channel: Channel,
}

/// How the command line spells a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Its name.
    Name,
    /// Its name, which may be followed by a colon and this argument.
    Optional(&'static str),
    /// Its name, a colon and this argument.
    Argument(&'static str),
    /// Its name, together with `--export` of its dialect.
    WithDialect,
    /// Its name, together with `--adopt`.
    WithAdopt,
    /// It cannot be asked for.
    Never,
}

/// The channel on which an ack arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The worker's notify socket (sd_notify(3)).
    NotifySocket,
    /// A pipe, or a pair of datagram sockets, to which the worker writes `word`. It finds the
    /// number of its descriptor in `variable`; without one, the number is fixed.
    Descriptor {
        /// The environment variable.
        variable: Option<&'static str>,
        /// The bytes that are the ack.
        word: &'static [u8],
    },
    /// einhorn's control socket.
    Einhorn,
    /// A signal of this number, which the worker sends to us.
    Signal(i32),
    /// None: we read in /proc, or see by `--adopt`, what the worker does.
    Inspection,
    /// The exit status of the user's command.
    Check,
    /// None: the ack is an event of our own.
    Internal,
}

/// Every kind, in the order of the manual.
pub const ALL: [AckKind; 15] = [
    AckKind::Notify,
    AckKind::Fd,
    AckKind::Einhorn,
    AckKind::ParentTerm,
    AckKind::Goagain,
    AckKind::Crank,
    AckKind::Tableflip,
    AckKind::Ecdysis,
    AckKind::Shellflip,
    AckKind::Accepting,
    AckKind::Exec,
    AckKind::Timer,
    AckKind::Listen,
    AckKind::Takeover,
    AckKind::Timeout,
];

/// The row of a kind.
pub const fn row(kind: AckKind) -> Row {
    use Channel::{Check, Inspection, Internal, NotifySocket, Signal};
    use Spelling::{Argument, Name, Never, Optional, WithAdopt, WithDialect};
    const TERM: i32 = 15;
    match kind {
        AckKind::Notify => Row::new("notify", Name, None, NotifySocket),
        AckKind::Fd => Row::new("fd", Optional("N"), None, written(Some("READY_FD"), b"\n")),
        AckKind::Einhorn => Row::new("einhorn", Name, Some(Dialect::Einhorn), Channel::Einhorn),
        AckKind::ParentTerm => Row::new("parent-term", Name, Some(Dialect::Endless), Signal(TERM)),
        AckKind::Goagain => Row::new("goagain", WithDialect, Some(Dialect::Goagain), Signal(GOAGAIN_SIGNAL)),
        AckKind::Crank => {
            Row::new("crank", WithDialect, Some(Dialect::Crank), written(Some("NOTIFY_FD"), b"READY=1"))
        }
        AckKind::Tableflip => {
            Row::new("tableflip", WithDialect, Some(Dialect::Tableflip), written(None, &[42]))
        }
        AckKind::Ecdysis => Row::new(
            "ecdysis",
            WithDialect,
            Some(Dialect::Ecdysis),
            written(Some("ECDYSIS_RUST_PIPE_READY"), b"OK"),
        ),
        AckKind::Shellflip => Row::new(
            "shellflip",
            WithDialect,
            Some(Dialect::Shellflip),
            written(Some("OXY_NOTIFY_SOCKET"), b"1"),
        ),
        AckKind::Accepting => Row::new("accepting", Name, None, Inspection),
        AckKind::Exec => Row::new("exec", Argument("CMD"), None, Check),
        AckKind::Timer => Row::new("timer", Argument("DUR"), None, Internal),
        AckKind::Listen => Row::new("listen", WithAdopt, None, Inspection),
        AckKind::Takeover => Row::new("takeover", Never, None, Internal),
        AckKind::Timeout => Row::new("timeout", Never, None, Internal),
    }
}

const fn written(variable: Option<&'static str>, word: &'static [u8]) -> Channel {
    Channel::Descriptor { variable, word }
}

impl Row {
    const fn new(name: &'static str, spelling: Spelling, dialect: Option<Dialect>, channel: Channel) -> Row {
        Row { name, spelling, dialect, channel }
    }

    /// The forms that `--ack` takes without another option.
    fn forms(self) -> Vec<String> {
        let name = self.name;
        match self.spelling {
            Spelling::Name => vec![name.into()],
            Spelling::Optional(argument) => vec![name.into(), format!("{name}:{argument}")],
            Spelling::Argument(argument) => vec![format!("{name}:{argument}")],
            Spelling::WithDialect | Spelling::WithAdopt | Spelling::Never => Vec::new(),
        }
    }
}

/// The name of a kind.
pub const fn name(kind: AckKind) -> &'static str {
    row(kind).name
}

/// The kind of that name, if it can be asked for.
pub fn by_name(name: &str) -> Option<AckKind> {
    let asked = |kind: &AckKind| row(*kind).spelling != Spelling::Never;
    ALL.into_iter().filter(asked).find(|kind| row(*kind).name == name)
}

/// The kind that programs of a dialect send.
pub fn of_dialect(dialect: Dialect) -> Option<AckKind> {
    ALL.into_iter().find(|kind| row(*kind).dialect == Some(dialect))
}

/// The variable in which the worker finds the descriptor that this kind is written to.
pub(super) const fn variable(kind: AckKind) -> Option<&'static str> {
    match row(kind).channel {
        Channel::Descriptor { variable, .. } => variable,
        _ => None,
    }
}

/// The bytes that are the ack, of a kind that is written to a descriptor.
pub(super) const fn word(kind: AckKind) -> Option<&'static [u8]> {
    match row(kind).channel {
        Channel::Descriptor { word, .. } => Some(word),
        _ => None,
    }
}

/// Every form that `--ack` takes without another option, for messages.
pub fn forms() -> Vec<String> {
    ALL.into_iter().flat_map(|kind| row(kind).forms()).collect()
}

/// The names of the kinds that need `--export` of their dialect, for messages.
pub fn names_with_dialect() -> Vec<&'static str> {
    let rows = ALL.into_iter().map(row).filter(|row| row.spelling == Spelling::WithDialect);
    rows.map(|row| row.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_can_be_asked_for_is_found_by_its_name() {
        for kind in ALL {
            let found = by_name(name(kind));
            let never = row(kind).spelling == Spelling::Never;
            assert_eq!(found, (!never).then_some(kind), "{kind:?}");
        }
    }

    #[test]
    fn a_kind_of_a_dialect_has_the_dialect_s_name_where_it_needs_it() {
        for kind in ALL.into_iter().filter(|kind| row(*kind).spelling == Spelling::WithDialect) {
            let dialect = row(kind).dialect.unwrap();
            assert_eq!((dialect.name(), of_dialect(dialect)), (name(kind), Some(kind)));
        }
    }
}
