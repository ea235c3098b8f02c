//! The table of signals: what each signal that we get means.

use crate::core::event::{Request, Token};
use crate::error::Error;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Replace the serving generation.
    Upgrade,
    /// Start a generation beside the serving one, until the user has decided.
    StartAlongside,
    /// Stop every worker, then exit.
    Stop,
    /// The same, but workers get no signal from us: whoever stops us signals them too.
    Wait,
    /// Kill every worker, then exit.
    Kill,
    /// Kill the workers that drain.
    Hammer,
    /// Pass the signal of this number on to ready workers.
    Forward(i32),
    /// One worker more.
    More,
    /// One worker fewer.
    Fewer,
    /// Stop us and the workers as job control does.
    Suspend,
    /// Continue the workers.
    Resume,
    /// It is ignored.
    Ignore,
}

/// The rows that a user finds in the manual, in its order.
///
/// USR2 and HUP are the signals that start_server, unicorn, nginx and systemd's reload use.
/// USR1 and WINCH belong to the server (reopen logs, window size). TTIN, TTOU
/// and ALRM are unicorn's and einhorn's signals for more, fewer and hammer.
pub const DEFAULTS: [(Signal, Meaning); 12] = [
    (Signal::SIGUSR2, Meaning::Upgrade),
    (Signal::SIGHUP, Meaning::Upgrade),
    (Signal::SIGTERM, Meaning::Stop),
    (Signal::SIGINT, Meaning::Stop),
    (Signal::SIGQUIT, Meaning::Stop),
    (Signal::SIGUSR1, Meaning::Forward(libc::SIGUSR1)),
    (Signal::SIGWINCH, Meaning::Forward(libc::SIGWINCH)),
    (Signal::SIGTTIN, Meaning::More),
    (Signal::SIGTTOU, Meaning::Fewer),
    (Signal::SIGTSTP, Meaning::Suspend),
    (Signal::SIGCONT, Meaning::Resume),
    (Signal::SIGALRM, Meaning::Hammer),
];

/// Signals that are in no row, and whose default ends a process: of limits, timers, the power
/// supply, and those that ask for a core file. Real-time signals are alike; a container of systemd is stopped by one of them. They
/// would end us and leave the workers with the port.
const UNLISTED: [Signal; 10] = [
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
];

/// The signals of the terminal. A shell or nohup may start us with one of them ignored; it stays
/// ignored unless `--on` names it.
const TERMINAL: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals whose meaning is fixed, by the kernel or by us.
const FIXED: [Signal; 8] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGCHLD,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGPIPE,
];

/// The meaning of every signal that has one.
#[derive(Debug, Clone)]
pub struct Table {
    rows: BTreeMap<i32, Meaning>,
    /// Those that `--on` names.
    chosen: BTreeSet<i32>,
}

impl Table {
    /// The defaults, less the terminal's signals for which `ignored` holds, then
    /// changed by each `SIGNAL=MEANING`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown signal or meaning.
    pub fn new(changes: &[String], ignored: impl Fn(i32) -> bool) -> Result<Table, Error> {
        // What we were started to ignore does not end us.
        let unlisted = unlisted().filter(|signal| !ignored(*signal)).map(|signal| (signal, Meaning::Stop));
        let listed = DEFAULTS.into_iter().map(|(signal, meaning)| (signal as i32, meaning));
        let mut rows: BTreeMap<i32, Meaning> = unlisted.chain(listed).collect();
        for signal in TERMINAL.map(|signal| signal as i32) {
            if ignored(signal) {
                rows.insert(signal, Meaning::Ignore);
            }
        }
        let mut chosen = BTreeSet::new();
        for change in changes {
            let (signal, meaning) = parse_change(change)?;
            rows.insert(signal, meaning);
            chosen.insert(signal);
        }
        Ok(Table { rows, chosen })
    }

    /// The signals to catch, also those that are ignored, because their default would end us.
    pub fn signals(&self) -> impl Iterator<Item = i32> {
        self.rows.keys().copied()
    }

    /// Whether `--on` says what `signal` means.
    pub fn is_chosen(&self, signal: i32) -> bool {
        self.chosen.contains(&signal)
    }

    /// Whether `signal` is a stop only because its default would end us.
    pub fn is_unlisted(&self, signal: i32) -> bool {
        unlisted().any(|unlisted| unlisted == signal) && !self.is_chosen(signal)
    }

    /// Whether `signal` is a stop in which workers get no signal from us.
    pub fn waits(&self, signal: i32) -> bool {
        self.rows.get(&signal) == Some(&Meaning::Wait)
    }

    /// Whether `signal` is ignored.
    pub fn ignores(&self, signal: i32) -> bool {
        self.rows.get(&signal) == Some(&Meaning::Ignore)
    }

    /// What the core is asked for when `signal` arrives. `shared` says that the workers are in our
    /// terminal's foreground group: a signal from the terminal was sent to them as well.
    pub fn request(&self, signal: i32, shared: bool) -> Option<Request> {
        Some(match self.rows.get(&signal)? {
            Meaning::Upgrade => Request::Upgrade,
            Meaning::StartAlongside => Request::Hold(None),
            meaning @ (Meaning::Stop | Meaning::Wait) if matches!(signal, libc::SIGINT | libc::SIGQUIT) => {
                Request::Interrupt { workers_signalled: shared || *meaning == Meaning::Wait }
            }
            Meaning::Stop => Request::Stop,
            Meaning::Wait => Request::StopSignalled,
            Meaning::Kill => Request::Kill,
            Meaning::Hammer => Request::Hammer,
            Meaning::Forward(to) => Request::Forward(Token(*to)),
            Meaning::More => Request::More,
            Meaning::Fewer => Request::Fewer,
            Meaning::Suspend => Request::Suspend,
            Meaning::Resume => Request::Resume,
            Meaning::Ignore => return None,
        })
    }
}

/// The numbers of the signals that are in no row, and whose default ends a process.
fn unlisted() -> impl Iterator<Item = i32> {
    UNLISTED.into_iter().map(|signal| signal as i32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

fn parse_change(change: &str) -> Result<(i32, Meaning), Error> {
    let bad = |why: &str| {
        Error::Usage(format!(
            "invalid value '{change}' for '--on': {why} (write SIGNAL=upgrade, start-alongside, stop, wait, kill, hammer, forward, forward:SIG, more, fewer or ignore)"
        ))
    };
    let (signal, meaning) = change.split_once('=').ok_or_else(|| bad("there is no '='"))?;
    let signal = number_by_name(signal).ok_or_else(|| bad("no such signal"))?;
    if FIXED.iter().any(|fixed| *fixed as i32 == signal) {
        return Err(bad("the meaning of this signal cannot be changed"));
    }
    let meaning = match meaning {
        "upgrade" => Meaning::Upgrade,
        "start-alongside" => Meaning::StartAlongside,
        "stop" => Meaning::Stop,
        "wait" => Meaning::Wait,
        "kill" => Meaning::Kill,
        "hammer" => Meaning::Hammer,
        "forward" => Meaning::Forward(signal),
        "more" => Meaning::More,
        "fewer" => Meaning::Fewer,
        "ignore" => Meaning::Ignore,
        other => match other.strip_prefix("forward:").map(number_by_name) {
            Some(Some(to)) => Meaning::Forward(to),
            Some(None) => return Err(bad("no such signal to forward")),
            None => return Err(bad("no such meaning")),
        },
    };
    Ok((signal, meaning))
}

/// A signal by its name, with or without SIG, in any case, or by its number. It is none of the
/// real-time signals.
pub fn signal_by_name(name: &str) -> Option<Signal> {
    number_by_name(name).and_then(|number| Signal::try_from(number).ok())
}

/// The number of a signal by its name, as [`signal_by_name`], or of a real-time signal (`RTMIN+3`,
/// `RTMAX-1`).
fn number_by_name(name: &str) -> Option<i32> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    if let Ok(number) = name.parse::<i32>() {
        return (real_time.contains(&number) || Signal::try_from(number).is_ok()).then_some(number);
    }
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let from = |limit: &str, base: i32| {
        let distance = short.strip_prefix(limit)?;
        let distance = if distance.is_empty() { 0 } else { distance.parse::<i32>().ok()? };
        base.checked_add(distance).filter(|number| real_time.contains(number))
    };
    let listed = || Some(format!("SIG{short}").parse::<Signal>().ok()? as i32);
    from("RTMIN", libc::SIGRTMIN()).or_else(|| from("RTMAX", libc::SIGRTMAX())).or_else(listed)
}

/// The name without SIG; of a real-time signal its distance from the first; else the number.
pub fn name(number: i32) -> String {
    match (Signal::try_from(number), number - libc::SIGRTMIN()) {
        (Ok(signal), _) => signal.as_str().trim_start_matches("SIG").to_string(),
        (_, 0) => "RTMIN".to_string(),
        (_, distance @ 1..) if number <= libc::SIGRTMAX() => format!("RTMIN+{distance}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_every_spelling() {
        for spelling in ["USR2", "SIGUSR2", "usr2", "sigusr2", "12"] {
            assert_eq!(signal_by_name(spelling), Some(Signal::SIGUSR2), "{spelling}");
        }
        for wrong in ["", "SIG", "USR3", "0", "-1", "999"] {
            assert_eq!(signal_by_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn real_time_signals_have_names_too() {
        let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        for (name, number) in
            [("RTMIN", first), ("sigrtmin+3", first + 3), ("RTMAX-2", last - 2), ("SIGRTMAX", last)]
        {
            assert_eq!(number_by_name(name), Some(number), "{name}");
            assert_eq!(number_by_name(&super::name(number)), Some(number), "{name}");
            assert_eq!(number_by_name(&number.to_string()), Some(number), "{name}");
        }
        for wrong in ["RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN3x", "RT", "32", "33"] {
            assert_eq!(number_by_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_would_end_us_is_a_stop_unless_it_was_ignored() {
        let table = Table::new(&["PWR=hammer".into()], |signal| signal == libc::SIGXFSZ).unwrap();
        for signal in [libc::SIGXCPU, libc::SIGVTALRM, libc::SIGRTMIN() + 3, libc::SIGRTMAX()] {
            assert_eq!(table.request(signal, false), Some(Request::Stop), "{signal}");
            assert!(table.is_unlisted(signal), "{signal}");
        }
        assert_eq!(table.request(libc::SIGPWR, false), Some(Request::Hammer));
        assert!(!table.is_unlisted(libc::SIGPWR) && !table.is_unlisted(libc::SIGTERM));
        assert_eq!(table.request(libc::SIGXFSZ, false), None);
        assert_eq!(table.request(libc::SIGSEGV, false), None);
    }

    #[test]
    fn a_change_replaces_its_row_alone() {
        let table = Table::new(&["HUP=forward:USR1".into()], |_| false).unwrap();
        assert_eq!(table.request(libc::SIGHUP, false), Some(Request::Forward(Token(Signal::SIGUSR1 as i32))));
        assert_eq!(table.request(libc::SIGUSR2, false), Some(Request::Upgrade));
    }

    #[test]
    fn a_stop_may_leave_the_signal_to_whoever_sends_it() {
        let table = Table::new(&["TERM=wait".into(), "INT=wait".into()], |_| false).unwrap();
        assert_eq!(table.request(libc::SIGTERM, false), Some(Request::StopSignalled));
        let interrupt = Request::Interrupt { workers_signalled: true };
        assert_eq!(table.request(libc::SIGINT, false), Some(interrupt));
    }

    #[test]
    fn a_generation_can_be_started_alongside() {
        let table = Table::new(&["USR2=start-alongside".into()], |_| false).unwrap();
        assert_eq!(table.request(libc::SIGUSR2, false), Some(Request::Hold(None)));
        assert_eq!(table.request(libc::SIGHUP, false), Some(Request::Upgrade));
    }

    #[test]
    fn what_nohup_ignores_stays_ignored_unless_it_is_named() {
        let hup = |signal| signal == Signal::SIGHUP as i32;
        let table = Table::new(&[], hup).unwrap();
        assert_eq!(table.request(libc::SIGHUP, false), None);
        let table = Table::new(&["HUP=upgrade".into()], hup).unwrap();
        assert_eq!(table.request(libc::SIGHUP, false), Some(Request::Upgrade));
    }

    #[test]
    fn a_stop_signal_works_even_if_it_was_ignored_at_the_start() {
        let table = Table::new(&[], |_| true).unwrap();
        assert_eq!(table.request(libc::SIGTERM, false), Some(Request::Stop));
    }

    #[test]
    fn a_bad_change_is_quoted() {
        for wrong in ["HUP", "HUP=", "HUP=restart", "FOO=stop", "KILL=stop", "CHLD=ignore", "HUP=forward:X"] {
            let error = Table::new(&[wrong.into()], |_| false).unwrap_err();
            assert_eq!(error.status(), 2);
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
