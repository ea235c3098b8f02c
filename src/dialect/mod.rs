//! Dialects: the conventions by which listeners are passed to a worker. Pure;
//! [`sys::child`](crate::sys::child) duplicates the descriptors to their numbers, and
//! [`ack`](crate::ack) makes the ack channels.
//!
//! This file has the properties of each dialect; [`spell`] makes the variables, [`wire`] the two
//! binary messages, and [`check`] refuses what a dialect cannot pass.

pub(crate) mod check;
pub(crate) mod spell;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::time::Duration;

/// The first descriptor of a listener (SD_LISTEN_FDS_START).
pub const FIRST_FD: i32 = 3;
/// The first descriptor of a listener with tableflip, whose pipes are 3 and 4.
const FIRST_FD_AFTER_PIPES: i32 = 5;

/// The real-time signal by which a goagain program says that it is ready: 37,
/// which no C library keeps for itself.
pub const GOAGAIN_SIGNAL: i32 = 37;

/// A convention for handing listeners over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// sd_listen_fds(3): systemd, facebookgo/grace, listenfd, most servers.
    ListenFds,
    /// Stripe's einhorn.
    Einhorn,
    /// Perl's Server::Starter: Starlet, Starman, h2o.
    ServerStarter,
    /// fvbock/endless.
    Endless,
    /// jpillora/overseer.
    Overseer,
    /// The sample program that reads `LISTENER={"addr":...,"fd":3,...}`.
    ListenerJson,
    /// rcrowley/goagain.
    Goagain,
    /// nginx.
    Nginx,
    /// unicorn.
    Unicorn,
    /// gunicorn's own re-execution.
    Gunicorn,
    /// php-fpm.
    PhpFpm,
    /// puma's own re-execution.
    Puma,
    /// Phusion's crank.
    Crank,
    /// cloudflare/tableflip.
    Tableflip,
    /// cloudflare/ecdysis.
    Ecdysis,
    /// cloudflare/shellflip.
    Shellflip,
    /// inetd: the listener is descriptor 0.
    Stdin,
}

impl Dialect {
    /// Every dialect, in the order of the manual.
    pub const ALL: [Dialect; 17] = [
        Dialect::ListenFds,
        Dialect::Einhorn,
        Dialect::ServerStarter,
        Dialect::Endless,
        Dialect::Overseer,
        Dialect::ListenerJson,
        Dialect::Goagain,
        Dialect::Nginx,
        Dialect::Unicorn,
        Dialect::Gunicorn,
        Dialect::PhpFpm,
        Dialect::Puma,
        Dialect::Crank,
        Dialect::Tableflip,
        Dialect::Ecdysis,
        Dialect::Shellflip,
        Dialect::Stdin,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::ListenFds => "listen-fds",
            Dialect::Einhorn => "einhorn",
            Dialect::ServerStarter => "server-starter",
            Dialect::Endless => "endless",
            Dialect::Overseer => "overseer",
            Dialect::ListenerJson => "listener-json",
            Dialect::Goagain => "goagain",
            Dialect::Nginx => "nginx",
            Dialect::Unicorn => "unicorn",
            Dialect::Gunicorn => "gunicorn",
            Dialect::PhpFpm => "php-fpm",
            Dialect::Puma => "puma",
            Dialect::Crank => "crank",
            Dialect::Tableflip => "tableflip",
            Dialect::Ecdysis => "ecdysis",
            Dialect::Shellflip => "shellflip",
            Dialect::Stdin => "stdin",
        }
    }

    /// The dialect of that name.
    pub fn by_name(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// The signal that asks its programs to stop and lets them finish, by number;
    /// None where it is TERM.
    pub fn stop_signal(self) -> Option<i32> {
        const INT: i32 = 2;
        const QUIT: i32 = 3;
        const USR2: i32 = 12;
        match self {
            Dialect::Nginx | Dialect::Unicorn | Dialect::PhpFpm | Dialect::Goagain => Some(QUIT),
            Dialect::ListenerJson => Some(INT),
            Dialect::Overseer => Some(USR2),
            _ => None,
        }
    }

    /// How long its programs take to stop by their own timeout; None where it is unknown or short.
    pub fn stop_timeout(self) -> Option<Duration> {
        match self {
            // overseer's TerminateTimeout is 30 s; endless ends its requests after 60 s.
            Dialect::Overseer => Some(Duration::from_secs(31)),
            Dialect::Endless => Some(Duration::from_secs(61)),
            _ => None,
        }
    }

    /// Whether its programs need non-blocking listeners and do not set that themselves.
    pub fn nonblock(self) -> bool {
        self == Dialect::Nginx
    }

    /// Whether it can pass one listener only.
    fn single(self) -> bool {
        matches!(self, Dialect::ListenerJson | Dialect::Goagain | Dialect::Crank | Dialect::Stdin)
    }

    /// Whether its variables mislead a program that is given no listener; those of the others let
    /// it ack without one.
    fn needs_listener(self) -> bool {
        !matches!(
            self,
            Dialect::ListenFds
                | Dialect::Einhorn
                | Dialect::Overseer
                | Dialect::Tableflip
                | Dialect::Ecdysis
                | Dialect::Shellflip
        )
    }

    /// Whether it passes the worker's own process id (LISTEN_PID).
    pub fn passes_pid(self) -> bool {
        matches!(self, Dialect::ListenFds | Dialect::Shellflip)
    }

    /// Whether its readers count from descriptor 3.
    fn counts_from_three(self) -> bool {
        matches!(
            self,
            Dialect::ListenFds | Dialect::Endless | Dialect::Overseer | Dialect::Crank | Dialect::Shellflip
        )
    }
}

/// The kind of socket that a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of IP.
    Tcp,
    /// Datagrams of IP.
    Udp,
    /// A unix stream.
    Unix,
    /// Unix datagrams.
    UnixDatagram,
    /// A unix stream of records.
    UnixSeqpacket,
}

/// A listener, as a dialect describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address as bound: `[::]:5001`, `/run/app.sock`, `@name`.
    pub address: &'a str,
    /// Its address as the user wrote it, with the real port: `:5001`,
    /// `localhost:5001`. Programs that compare texts compare with this one.
    pub written: &'a str,
    /// The kind of its socket.
    pub kind: Kind,
    /// Its IP address, if it has one.
    pub inet: Option<SocketAddr>,
}

/// The number of the first listener for these dialects; None where only descriptor 0 is used.
pub fn first_listener(dialects: &[Dialect]) -> Option<i32> {
    if dialects.is_empty() || dialects == [Dialect::Stdin] {
        return None;
    }
    let pipes = dialects.contains(&Dialect::Tableflip);
    Some(if pipes { FIRST_FD_AFTER_PIPES } else { FIRST_FD })
}

/// Whether a variable of some dialect must not be inherited by a worker: it would describe sockets,
/// or a parent, that the worker does not have.
pub fn is_foreign(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 18] = [
        b"NOTIFY_FD",
        b"WATCHDOG_PID",
        b"WATCHDOG_USEC",
        b"MAINPID",
        b"FDSTORE",
        b"SERVER_STARTER_PORT",
        b"SERVER_STARTER_GENERATION",
        b"NGINX",
        b"UNICORN_FD",
        b"GUNICORN_FD",
        b"GUNICORN_PID",
        b"FPM_SOCKETS",
        b"LISTENER",
        b"CRANK_NAME",
        b"HYPNOTOAD_PID",
        b"RESTART_EPOCH",
        b"CADDY__UPGRADE",
        b"SYSTEMFD_SOCKET_SERVER",
    ];
    const PREFIXES: [&[u8]; 10] = [
        b"EINHORN_",
        b"ENDLESS_",
        b"OVERSEER_",
        b"GOAGAIN_",
        b"PUMA_INHERIT_",
        b"TABLEFLIP_",
        b"ECDYSIS_RUST_",
        b"OXY_",
        b"HANDOFF_",
        b"HUPTIME_",
    ];
    let named = NAMES.contains(&variable) || PREFIXES.iter().any(|prefix| variable.starts_with(prefix));
    named || is_ours(variable)
}

/// Whether only we may set a variable: no file and no option may override it, because the worker
/// would lose its sockets.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_found_by_its_name() {
        for dialect in Dialect::ALL {
            assert_eq!(Dialect::by_name(dialect.name()), Some(dialect));
        }
        assert_eq!(Dialect::by_name("listen_fds"), None);
    }

    #[test]
    fn listeners_make_room_for_pipes_and_for_nothing_else() {
        assert_eq!(first_listener(&[Dialect::ListenFds, Dialect::Stdin]), Some(3));
        assert_eq!(first_listener(&[Dialect::Tableflip, Dialect::Nginx]), Some(5));
        assert_eq!(first_listener(&[Dialect::Stdin]), None);
        assert_eq!(first_listener(&[]), None, "with --adopt nothing is handed over");
    }

    #[test]
    fn other_dialects_do_not_leak_in() {
        for name in ["LISTEN_PID", "NOTIFY_SOCKET", "EINHORN_FD_0", "PUMA_INHERIT_3", "GRACEFUL_RUN_PID"] {
            assert!(is_foreign(name.as_bytes()), "{name}");
        }
        for name in ["PATH", "LISTEN", "LISTENERS", "NGINX_CONF", "XNOTIFY_SOCKET", "GUNICORN_CMD_ARGS"] {
            assert!(!is_foreign(name.as_bytes()), "{name}");
        }
    }
}
