//! What makes a worker ready, from `--ack` and the dialects.

use super::value::{duration, invalid};
use crate::ack::{self, Acks};
use crate::core::event::AckKind;
use crate::core::policy::Readiness;
use crate::dialect::Dialect;
use crate::error::Error;
use std::time::Duration;

/// A program that gives no sign at all is taken for ready after this long.
pub const AUTO_TIMER: Duration = Duration::from_secs(2);
/// The same where it has listeners, on which it may yet be seen to wait: many take seconds
/// to load before they do.
pub const AUTO_TIMER_OF_LISTENERS: Duration = Duration::from_secs(10);
/// Looking into /proc is cheap: soon, then rarely.
const PROBE_LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The user's own check costs a process.
const PROBE_EXEC: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The channels and the kinds that count.
///
/// # Errors
/// [`Error::Usage`], quoting the value.
pub(super) fn readiness(
    said: Vec<String>,
    dialects: &[Dialect],
    adopt: bool,
) -> Result<(Acks, Readiness), Error> {
    let kinds = if said.is_empty() { own_acks(dialects) } else { said };
    parse(&kinds, dialects, adopt)
}

/// The kinds that count where the user names none. Only where every dialect has
/// an ack of its own can that be insisted on; einhorn's is up to the program.
fn own_acks(dialects: &[Dialect]) -> Vec<String> {
    let own = |dialect: &Dialect| match dialect {
        // Workers of another user cannot send TERM, and two may become one.
        Dialect::Endless => Some("parent-term,accepting".into()),
        Dialect::Einhorn => None,
        dialect => ack::kind(*dialect).map(|_| dialect.name().into()),
    };
    let own = dialects.iter().map(own).collect::<Option<Vec<String>>>();
    own.filter(|kinds| !kinds.is_empty()).unwrap_or_else(|| vec!["auto".into()])
}

/// `exec:` takes the rest of its value, commas included, because a command may
/// well contain some.
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
            match kind {
                "listen" if adopt => readiness.kinds.push(AckKind::Listen),
                "listen" => return Err(invalid("--ack", value, "a listen is only seen with --adopt")),
                "accepting" if adopt => {
                    return Err(invalid(
                        "--ack",
                        value,
                        "with --adopt the worker has its own listeners (write listen)",
                    ));
                }
                _ => ack_kind(kind, value, &mut acks, &mut readiness)?,
            }
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
    let seen = [AckKind::ParentTerm, AckKind::Timer];
    let look = adopt || acks.accepting || seen.iter().any(|kind| readiness.kinds.contains(kind));
    readiness.probe = match (&acks.exec, look) {
        (Some(_), _) => Some(PROBE_EXEC),
        (None, true) => Some(PROBE_LOOK),
        (None, false) => None,
    };
    Ok((acks, readiness))
}

/// The program has listeners, on which it may be seen to wait.
pub fn has_listeners(readiness: &mut Readiness) {
    let named = readiness.kinds.contains(&AckKind::Timer);
    if readiness.auto && !named && readiness.timer.is_some() {
        readiness.timer = Some(AUTO_TIMER_OF_LISTENERS);
    }
}

fn ack_kind(kind: &str, value: &str, acks: &mut Acks, readiness: &mut Readiness) -> Result<(), Error> {
    let bad = |why: &str| invalid("--ack", value, why);
    let (name, argument) = kind.split_once(':').map_or((kind, None), |(name, rest)| (name, Some(rest)));
    let kind = match (name, argument) {
        ("auto", None) => {
            readiness.auto = true;
            return Ok(());
        }
        ("notify", None) => {
            acks.notify = true;
            AckKind::Notify
        }
        ("fd", None) => {
            acks.fd = true;
            AckKind::Fd
        }
        ("fd", Some(number)) => {
            let number = number.parse().ok().filter(|number| (3..1 << 16).contains(number));
            acks.fd = true;
            acks.fd_number = Some(number.ok_or_else(|| bad("fd:N takes a descriptor from 3 to 65535"))?);
            AckKind::Fd
        }
        ("einhorn", None) => {
            acks.einhorn = true;
            AckKind::Einhorn
        }
        ("parent-term", None) => AckKind::ParentTerm,
        ("endless", None) => return Err(bad("the ack of endless is called parent-term")),
        (name, None) if Dialect::by_name(name).and_then(ack::kind).is_some() => {
            let dialect = Dialect::by_name(name).filter(|dialect| acks.dialects.contains(dialect));
            dialect.and_then(ack::kind).ok_or_else(|| {
                bad(&format!("'{name}' is the ack of the dialect of that name (say --export {name})"))
            })?
        }
        ("accepting", None) => {
            acks.accepting = true;
            AckKind::Accepting
        }
        ("exec", None | Some("")) => return Err(bad("exec needs a command: exec:CMD")),
        ("exec", Some(command)) => {
            acks.exec = Some(command.into());
            AckKind::Exec
        }
        ("timer", None | Some("")) => return Err(bad("timer needs a duration: timer:2s")),
        ("timer", Some(length)) => {
            readiness.timer = Some(duration("--ack timer", length)?);
            AckKind::Timer
        }
        _ => {
            let others = |kind: &AckKind| !matches!(kind, AckKind::Einhorn | AckKind::ParentTerm);
            let own = |dialect: &Dialect| ack::kind(*dialect).filter(others).is_some();
            let own: Vec<&str> = Dialect::ALL.into_iter().filter(own).map(Dialect::name).collect();
            return Err(bad(&format!(
                "no such kind as '{kind}', nor does --export bring one of that name, as it brings {} (write auto, notify, fd, fd:N, einhorn, parent-term, accepting, exec:CMD or timer:DUR)",
                own.join(", ")
            )));
        }
    };
    readiness.kinds.push(kind);
    Ok(())
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
    fn what_is_missing_or_could_be_had_is_said() {
        for (wrong, why) in [
            ("timer", "timer needs a duration: timer:2s"),
            ("timer:", "timer needs a duration: timer:2s"),
            ("exec", "exec needs a command: exec:CMD"),
            ("exec:", "exec needs a command: exec:CMD"),
            ("ready", "as it brings goagain, crank, tableflip, ecdysis, shellflip (write auto, "),
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
