//! Dialects: how listeners are spelled in a worker's environment. Pure; the
//! descriptors themselves are placed by [`sys::child`](crate::sys::child).
//!
//! `listen-fds` is sd_listen_fds(3): descriptors from 3 on in order, LISTEN_FDS,
//! LISTEN_FDNAMES and, written after the fork, LISTEN_PID and LISTEN_PIDFDID.

/// The first descriptor of a listener (SD_LISTEN_FDS_START).
pub const FIRST_FD: i32 = 3;

/// A listener as far as a dialect spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address as bound.
    pub address: &'a str,
}

/// Variables of any dialect that must not reach a worker from outside: they
/// would tell it about sockets, or a parent, that it does not have.
pub fn is_foreign(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 13] = [
        b"NOTIFY_FD",
        b"WATCHDOG_PID",
        b"WATCHDOG_USEC",
        b"MAINPID",
        b"FDSTORE",
        b"SERVER_STARTER_PORT",
        b"SERVER_STARTER_GENERATION",
        b"NGINX",
        b"UNICORN_FD",
        b"FPM_SOCKETS",
        b"LISTENER",
        b"CRANK_NAME",
        b"HYPNOTOAD_PID",
    ];
    const PREFIXES: [&[u8]; 10] = [
        b"EINHORN_",
        b"ENDLESS_",
        b"OVERSEER_",
        b"GOAGAIN_",
        b"GUNICORN_FD",
        b"GUNICORN_PID",
        b"PUMA_INHERIT_",
        b"TABLEFLIP_",
        b"ECDYSIS_RUST_",
        b"OXY_",
    ];
    let named = NAMES.contains(&variable) || PREFIXES.iter().any(|prefix| variable.starts_with(prefix));
    named || is_ours(variable)
}

/// Variables that we alone set: no file and no option may take a worker's
/// sockets away from it.
pub fn is_ours(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] = [
        b"LISTEN_PID",
        b"LISTEN_PIDFDID",
        b"LISTEN_FDS",
        b"LISTEN_FDNAMES",
        b"LISTEN_FDS_FIRST_FD",
        b"NOTIFY_SOCKET",
        b"READY_FD",
    ];
    NAMES.contains(&variable) || variable.starts_with(b"GRACEFUL_RUN_")
}

/// The variables of `listen-fds`, less the two that hold the worker's own
/// number. Without listeners there are none: a reader takes LISTEN_FDS=0 for an
/// error.
pub fn listen_fds(listeners: &[Exported]) -> Vec<(String, String)> {
    if listeners.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = listeners.iter().map(|listener| listener.name).collect();
    vec![("LISTEN_FDS".into(), listeners.len().to_string()), ("LISTEN_FDNAMES".into(), names.join(":"))]
}

/// The value of GRACEFUL_RUN_LISTENERS: `name=address`, separated by spaces.
pub fn listener_list(listeners: &[Exported]) -> String {
    let pairs: Vec<String> =
        listeners.iter().map(|listener| format!("{}={}", listener.name, listener.address)).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Exported; 2] = [
        Exported { name: "http", address: "[::]:5001" },
        Exported { name: "socket1", address: "/run/app.sock" },
    ];

    #[test]
    fn listen_fds_is_spelled_as_systemd_spells_it() {
        assert_eq!(
            listen_fds(&TWO),
            [("LISTEN_FDS".into(), "2".into()), ("LISTEN_FDNAMES".into(), "http:socket1".into())]
        );
        assert_eq!(listen_fds(&[]), []);
    }

    #[test]
    fn addresses_are_listed_by_name() {
        assert_eq!(listener_list(&TWO), "http=[::]:5001 socket1=/run/app.sock");
    }

    #[test]
    fn other_dialects_do_not_leak_in() {
        for name in ["LISTEN_PID", "NOTIFY_SOCKET", "EINHORN_FD_0", "PUMA_INHERIT_3", "GRACEFUL_RUN_PID"] {
            assert!(is_foreign(name.as_bytes()), "{name}");
        }
        for name in ["PATH", "LISTEN", "LISTENERS", "NGINX_CONF", "XNOTIFY_SOCKET"] {
            assert!(!is_foreign(name.as_bytes()), "{name}");
        }
    }
}
