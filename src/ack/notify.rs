//! The messages on a worker's `NOTIFY_SOCKET`: the sd_notify(3) protocol, as far as we act on it.

use std::time::Duration;

/// The longest message that counts, in bytes; systemd has the same limit.
const LONGEST: usize = 4096;

/// The meaning of one datagram; what it does not mention is false or None.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`.
    pub ready: bool,
    /// `EXTEND_TIMEOUT_USEC=`: how much time it asks for, from now on.
    pub extend: Option<Duration>,
    /// `BARRIER=1` and nothing else: the one descriptor that came with it is to
    /// be closed once everything before has been handled.
    pub barrier: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=` as it came: escape it before printing.
    pub status: Option<String>,
    /// `WATCHDOG=1`.
    pub watchdog: bool,
    /// Whether the descriptors that came with it are stored, or stored ones removed.
    pub store: Option<Change>,
    /// `FDNAME=`, as it is.
    pub name: Option<String>,
    /// `FDPOLL=0`: what is stored is kept even when its other end is closed.
    pub unpolled: bool,
}

/// A change of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `FDSTORE=1`.
    Add,
    /// `FDSTOREREMOVE=1`, which takes precedence.
    Remove,
}

/// A worker's status as it is shown: this many bytes at most.
const LONGEST_STATUS: usize = 256;

/// A worker's status for people, in one line.
pub fn shown(status: &str) -> String {
    let mut line = String::new();
    for c in status.trim().chars() {
        let piece: String = if c.is_control() { c.escape_default().collect() } else { c.into() };
        if line.len() + piece.len() > LONGEST_STATUS {
            break;
        }
        line.push_str(&piece);
    }
    line
}

/// Reads a datagram. Lines that are no assignment, unknown keys and values that
/// are not valid are skipped; of two lines with one key the last counts. A text
/// that is longer than 4096 bytes, is not UTF-8 or holds a NUL means nothing at
/// all; one NUL at its very end is allowed, as in systemd.
pub fn parse(text: &[u8]) -> Message {
    let mut message = Message::default();
    if text.len() > LONGEST {
        return message;
    }
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let Ok(text) = std::str::from_utf8(text) else {
        return message;
    };
    if text.contains('\0') {
        return message;
    }
    for (key, value) in text.split('\n').filter_map(|line| line.split_once('=')) {
        match (key, value) {
            ("READY", "1") => message.ready = true,
            ("STOPPING", "1") => message.stopping = true,
            ("STATUS", status) => message.status = Some(status.to_owned()),
            ("WATCHDOG", "1") => message.watchdog = true,
            ("FDSTOREREMOVE", "1") => message.store = Some(Change::Remove),
            ("FDSTORE", "1") => message.store = message.store.or(Some(Change::Add)),
            ("FDNAME", name) => message.name = Some(name.to_owned()),
            ("FDPOLL", "0") => message.unpolled = true,
            ("EXTEND_TIMEOUT_USEC", number) => {
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                let number = number.parse().ok().filter(|_| digits);
                message.extend = number.map(Duration::from_micros);
            }
            _ => {}
        }
    }
    message.barrier = text.trim_end_matches('\n') == "BARRIER=1";
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_assignment_is_understood() {
        let text = b"STATUS=two of three\nREADY=1\nEXTEND_TIMEOUT_USEC=1500000\nSTOPPING=1\n";
        let all = Message {
            ready: true,
            extend: Some(Duration::from_millis(1500)),
            barrier: false,
            stopping: true,
            status: Some("two of three".to_owned()),
            ..Message::default()
        };
        assert_eq!(parse(text), all);
        let named = |store, unpolled| Message {
            store: Some(store),
            name: Some("db".into()),
            unpolled,
            ..Message::default()
        };
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=db\nFDPOLL=0"), named(Change::Add, true));
        assert_eq!(parse(b"FDSTOREREMOVE=1\nFDNAME=db\nFDSTORE=1"), named(Change::Remove, false));
        assert_eq!(parse(b"WATCHDOG=1"), Message { watchdog: true, ..Message::default() });
        assert_eq!(parse(b"BARRIER=1"), Message { barrier: true, ..Message::default() });
        assert_eq!(parse(b"READY=1\0"), Message { ready: true, ..Message::default() });
    }

    #[test]
    fn what_is_not_understood_is_skipped() {
        let ready = Message { ready: true, ..Message::default() };
        assert_eq!(
            parse(b"X_MINE=1\nREADY=1\nMAINPID=1\nno assignment\n\n=\nFDSTORE=2\nWATCHDOG=trigger"),
            ready
        );
        assert_eq!(parse(b"READY=1\nEXTEND_TIMEOUT_USEC=+5"), ready);
        assert_eq!(parse(b"READY=1\nEXTEND_TIMEOUT_USEC=99999999999999999999"), ready);
        assert_eq!(parse(b"READY=1\nBARRIER=1"), ready);
        for text in ["", "\0", "READY", "READY=", "READY=0", "READY=11", " READY=1", "ready=1"] {
            assert_eq!(parse(text.as_bytes()), Message::default(), "{text:?}");
        }
    }

    #[test]
    fn a_status_is_one_short_line() {
        assert_eq!(shown(" two of\rthree \u{1b}[31m "), "two of\\rthree \\u{1b}[31m");
        assert_eq!(shown(&"é".repeat(200)).len(), 256);
        assert_eq!(shown(&format!("{}\u{1b}", "x".repeat(255))).len(), 255);
    }

    #[test]
    fn a_message_with_nul_bad_utf8_or_too_many_keys_means_nothing() {
        for text in [&b"READY=1\nSTATUS=\xff"[..], b"READY=1\0STATUS=x", b"READY=1\0\0"] {
            assert_eq!(parse(text), Message::default(), "{text:?}");
        }
        let mut many: Vec<u8> = (0..10_000).flat_map(|n| format!("K{n}=1\n").into_bytes()).collect();
        many.extend(b"READY=1");
        assert_eq!(parse(&many), Message::default());
        let longest = [&b"READY=1\nSTATUS="[..], &[b'a'; LONGEST - 15]].concat();
        assert!(longest.len() == LONGEST && parse(&longest).ready);
        assert!(!parse(&[&longest[..], b"a"].concat()).ready);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let message = parse(&text);
            prop_assert!(!message.ready || text.windows(7).any(|part| part == b"READY=1"));
        }

        #[test]
        fn it_agrees_with_a_naive_splitter(
            lines in proptest::collection::vec("(READY|STOPPING|STATUS|X)?=?[01a]{0,2}", 0..8),
        ) {
            let message = parse(lines.join("\n").as_bytes());
            prop_assert_eq!(message.ready, lines.iter().any(|line| line == "READY=1"));
            prop_assert_eq!(message.stopping, lines.iter().any(|line| line == "STOPPING=1"));
            let status = lines.iter().rev().find_map(|line| line.strip_prefix("STATUS="));
            prop_assert_eq!(message.status.as_deref(), status);
        }
    }
}
