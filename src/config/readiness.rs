//! What makes a worker ready, from `--ack` and the dialects.

use super::value::{duration, invalid};
use crate::ack::Acks;
use crate::ack::kind::{self, Spelling};
use crate::core::event::AckKind;
use crate::core::policy::Readiness;
use crate::dialect::Dialect;
use crate::error::Error;
use std::time::Duration;

/// After this time `--ack auto` counts a program as ready that gives no sign at all.
pub const AUTO_TIMER: Duration = Duration::from_secs(2);
/// As [`AUTO_TIMER`], for a program that has listeners: many programs load for seconds before they
/// wait on them.
pub const AUTO_TIMER_OF_LISTENERS: Duration = Duration::from_secs(10);
/// The first pause and the longest pause between probes of /proc, which are cheap.
const PROBE_PROC: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// As [`PROBE_PROC`], for the user's own check, which costs a process.
const PROBE_EXEC: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The channels that a worker is given, and the kinds that count.
///
/// # Errors
/// [`Error::Usage`], quoting the value.
pub(super) fn readiness(
    values: Vec<String>,
    dialects: &[Dialect],
    adopt: bool,
) -> Result<(Acks, Readiness), Error> {
    let values = if values.is_empty() { default_kinds(dialects) } else { values };
    parse(&values, dialects, adopt)
}

/// The kinds that count where the user names none. An ack can be required only where every
/// dialect has one of its own; whether a program of einhorn acks is up to the program.
fn default_kinds(dialects: &[Dialect]) -> Vec<String> {
    let own = |dialect: &Dialect| match dialect {
        // A worker of another user cannot send us TERM, and two pending TERMs become one.
        Dialect::Endless => Some("parent-term,accepting".into()),
        Dialect::Einhorn => None,
        dialect => kind::of_dialect(*dialect).map(|kind| kind::name(kind).into()),
    };
    let own = dialects.iter().map(own).collect::<Option<Vec<String>>>();
    own.filter(|kinds| !kinds.is_empty()).unwrap_or_else(|| vec!["auto".into()])
}

/// `exec:` takes the rest of its value, commas included, because a command may contain some.
fn parse(values: &[String], dialects: &[Dialect], adopt: bool) -> Result<(Acks, Readiness), Error> {
    let mut acks = Acks {
        einhorn: dialects.contains(&Dialect::Einhorn),
        dialects: dialects.to_vec(),
        ..Acks::default()
    };
    let mut readiness = Readiness { auto: false, kinds: Vec::new(), timer: None, probe: None };
    for value in values {
        let mut rest = Some(value.as_str());
        while let Some(text) = rest {
            let (kind, after) = match text.starts_with("exec:") {
                true => (text, None),
                false => text.split_once(',').map_or((text, None), |(kind, after)| (kind, Some(after))),
            };
            add_kind(kind, value, adopt, &mut acks, &mut readiness)?;
            rest = after;
        }
    }
    if readiness.auto {
        acks.notify = true;
        acks.fd = true;
        acks.accepting = !adopt;
        if !adopt {
            readiness.timer.get_or_insert(AUTO_TIMER);
        }
    }
    let probed = [AckKind::ParentTerm, AckKind::Timer];
    let probed = adopt || acks.accepting || probed.iter().any(|kind| readiness.kinds.contains(kind));
    readiness.probe = match (&acks.exec, probed) {
        (Some(_), _) => Some(PROBE_EXEC),
        (None, true) => Some(PROBE_PROC),
        (None, false) => None,
    };
    Ok((acks, readiness))
}

/// Notes that the program has listeners, on which it may be seen to wait.
pub fn has_listeners(readiness: &mut Readiness) {
    let named = readiness.kinds.contains(&AckKind::Timer);
    if readiness.auto && !named && readiness.timer.is_some() {
        readiness.timer = Some(AUTO_TIMER_OF_LISTENERS);
    }
    if readiness.believes_workers() {
        readiness.probe.get_or_insert(PROBE_PROC);
    }
}

/// Adds the kind that `text` names, with its argument. Errors quote the whole `value`.
fn add_kind(
    text: &str,
    value: &str,
    adopt: bool,
    acks: &mut Acks,
    readiness: &mut Readiness,
) -> Result<(), Error> {
    let bad = |why: &str| invalid("--ack", value, why);
    let (name, argument) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
    match (name, argument) {
        ("auto", None) => {
            readiness.auto = true;
            return Ok(());
        }
        ("endless", None) => return Err(bad("the ack of endless is called parent-term")),
        _ => {}
    }
    let takes_argument =
        |kind| matches!(kind::row(kind).spelling, Spelling::Optional(_) | Spelling::Argument(_));
    let kind = kind::by_name(name).filter(|&kind| argument.is_none() || takes_argument(kind));
    let kind = kind.ok_or_else(|| bad(&no_such_kind(text)))?;
    let row = kind::row(kind);
    let exported = row.dialect.is_some_and(|dialect| acks.dialects.contains(&dialect));
    if row.spelling == Spelling::WithDialect && !exported {
        return Err(bad(&format!("'{name}' is the ack of the dialect of that name (say --export {name})")));
    }
    match (kind, argument) {
        (AckKind::Notify, _) => acks.notify = true,
        (AckKind::Fd, None) => acks.fd = true,
        (AckKind::Fd, Some(number)) => {
            let number = number.parse().ok().filter(|number| (3..1 << 16).contains(number));
            acks.fd = true;
            acks.fd_number = Some(number.ok_or_else(|| bad("fd:N takes a descriptor from 3 to 65535"))?);
        }
        (AckKind::Einhorn, _) => acks.einhorn = true,
        (AckKind::Accepting, _) if adopt => {
            return Err(bad("with --adopt the worker has its own listeners (write listen)"));
        }
        (AckKind::Accepting, _) => acks.accepting = true,
        (AckKind::Listen, _) if !adopt => return Err(bad("a listen is only seen with --adopt")),
        (AckKind::Exec, None | Some("")) => return Err(bad("exec needs a command: exec:CMD")),
        (AckKind::Exec, Some(command)) => acks.exec = Some(command.into()),
        (AckKind::Timer, None | Some("")) => return Err(bad("timer needs a duration: timer:2s")),
        (AckKind::Timer, Some(length)) => readiness.timer = Some(duration("--ack timer", length)?),
        _ => {}
    }
    readiness.kinds.push(kind);
    Ok(())
}

fn no_such_kind(text: &str) -> String {
    let own = kind::names_with_dialect().join(", ");
    let mut forms = kind::forms();
    let last = forms.pop().unwrap_or_default();
    format!(
        "'{text}' is no ack kind, and no --export has one of that name: its kinds are {own} (write auto, {} or {last})",
        forms.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_is_named_keeps_its_length() {
        for (value, length) in [("auto", AUTO_TIMER), ("auto,timer:3s", Duration::from_secs(3))] {
            let (_, mut readiness) = parse(&[value.into()], &[], false).unwrap();
            assert_eq!(readiness.timer, Some(length));
            has_listeners(&mut readiness);
            let now = if value == "auto" { AUTO_TIMER_OF_LISTENERS } else { length };
            assert_eq!(readiness.timer, Some(now));
        }
    }

    #[test]
    fn a_check_keeps_its_commas() {
        let (acks, readiness) = parse(&["notify,exec:test a,b".into()], &[], false).unwrap();
        assert_eq!(acks.exec.as_deref(), Some("test a,b"));
        assert_eq!(readiness.kinds, [AckKind::Notify, AckKind::Exec]);
        assert_eq!(readiness.probe, Some(PROBE_EXEC));
    }

    #[test]
    fn auto_watches_every_channel() {
        let (acks, readiness) = parse(&["auto".into()], &[], false).unwrap();
        assert!(acks.notify && acks.fd && acks.accepting && readiness.kinds.is_empty());
        assert_eq!(readiness.timer, Some(AUTO_TIMER));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        for (wrong, why) in [
            ("timer", "timer needs a duration: timer:2s"),
            ("timer:", "timer needs a duration: timer:2s"),
            ("exec", "exec needs a command: exec:CMD"),
            ("exec:", "exec needs a command: exec:CMD"),
            ("ready", "its kinds are goagain, crank, tableflip, ecdysis, shellflip (write auto, "),
        ] {
            let message = parse(&[wrong.into()], &[], false).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn bad_kinds_are_named() {
        for wrong in [
            "endless", "crank", "", "notify,", "ready", "fd:2", "fd:x", "exec:", "timer", "timer:x",
            "notify:1",
        ] {
            assert_eq!(parse(&[wrong.into()], &[], false).unwrap_err().status(), 2, "{wrong}");
        }
    }
}
