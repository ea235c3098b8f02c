//! The environment variables of each dialect. Those of its ack channel come from
//! [`ack`](crate::ack). LISTEN_PID and LISTEN_PIDFDID are known only in the worker's own process,
//! and are written after the fork.

use super::{Dialect, Exported, GOAGAIN_SIGNAL, Kind, first_listener};

/// What a dialect needs to know beside the listeners.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Our process id: the parent that some programs look for.
    pub supervisor: u32,
    /// The generation of the worker.
    pub generation: u32,
    /// Its slot.
    pub slot: u32,
    /// Our name, or the base name of COMMAND.
    pub name: &'a str,
    /// The path of the program.
    pub program: &'a str,
    /// SHA-1 of the program's file, in hexadecimal.
    pub binary_id: &'a str,
    /// The names of the stored descriptors, which follow the listeners.
    pub stored: &'a [String],
}

/// The variables of one dialect.
type Variables = Vec<(String, String)>;

/// The variables of all `dialects`; listeners are numbered in order.
pub fn environment(dialects: &[Dialect], listeners: &[Exported], start: &Start) -> Variables {
    let first = first_listener(dialects).unwrap_or(0);
    let numbered: Vec<(i32, Exported)> = (first..).zip(listeners.iter().copied()).collect();
    dialects.iter().flat_map(|&dialect| variables_of(dialect, &numbered, start)).collect()
}

/// The value of GRACEFUL_RUN_LISTENERS: `name=address`, separated by spaces.
pub fn listener_list(listeners: &[Exported]) -> String {
    let pairs: Vec<String> =
        listeners.iter().map(|listener| format!("{}={}", listener.name, listener.address)).collect();
    pairs.join(" ")
}

fn variables_of(dialect: Dialect, listeners: &[(i32, Exported)], start: &Start) -> Variables {
    let count = listeners.len();
    let numbers = |separator: &str| joined(listeners, separator, |number, _| number.to_string());
    match dialect {
        // Programs take LISTEN_FDS=0 for an error.
        Dialect::ListenFds | Dialect::Crank | Dialect::Shellflip if count + start.stored.len() == 0 => {
            Vec::new()
        }
        Dialect::ListenFds | Dialect::Shellflip => {
            let names = listeners.iter().map(|(_, listener)| listener.name);
            let names: Vec<&str> = names.chain(start.stored.iter().map(String::as_str)).collect();
            pairs([("LISTEN_FDS", names.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))])
        }
        Dialect::Crank => pairs([("LISTEN_FDS", count.to_string()), ("CRANK_NAME", start.name.into())]),
        Dialect::Einhorn => einhorn(listeners, start),
        Dialect::ServerStarter => pairs([
            ("SERVER_STARTER_PORT", joined(listeners, ";", server_starter_pair)),
            ("SERVER_STARTER_GENERATION", start.generation.to_string()),
        ]),
        // endless numbers several sockets in this order; a single one needs none.
        Dialect::Endless if count > 1 => pairs([
            ("ENDLESS_CONTINUE", "1".into()),
            ("ENDLESS_SOCKET_ORDER", joined(listeners, ",", |_, listener| listener.written.into())),
        ]),
        Dialect::Endless => pairs([("ENDLESS_CONTINUE", "1".into())]),
        Dialect::Overseer => pairs([
            ("OVERSEER_IS_SLAVE", "1".into()),
            ("OVERSEER_NUM_FDS", count.to_string()),
            ("OVERSEER_SLAVE_ID", start.generation.to_string()),
            // The same two, by the names that its newest release reads first.
            ("OVERSEER_IS_WORKER", "1".into()),
            ("OVERSEER_WORKER_ID", start.generation.to_string()),
            ("OVERSEER_BIN_ID", start.binary_id.into()),
            ("OVERSEER_BIN_PATH", start.program.into()),
        ]),
        Dialect::ListenerJson => pairs([("LISTENER", joined(listeners, "", listener_json))]),
        Dialect::Goagain => pairs([
            ("GOAGAIN_FD", numbers("")),
            ("GOAGAIN_NAME", joined(listeners, "", |_, listener| go_name(listener))),
            ("GOAGAIN_PPID", start.supervisor.to_string()),
            ("GOAGAIN_SIGNAL", GOAGAIN_SIGNAL.to_string()),
        ]),
        // Every number is followed by its semicolon: nginx refuses the last one without.
        Dialect::Nginx => pairs([("NGINX", joined(listeners, "", |number, _| format!("{number};")))]),
        Dialect::Unicorn => pairs([("UNICORN_FD", numbers(","))]),
        Dialect::Gunicorn => {
            pairs([("GUNICORN_FD", numbers(",")), ("GUNICORN_PID", start.supervisor.to_string())])
        }
        Dialect::PhpFpm => pairs([("FPM_SOCKETS", joined(listeners, ",", php_fpm_pair))]),
        Dialect::Puma => puma(listeners),
        Dialect::Tableflip => pairs([("TABLEFLIP_HAS_PARENT_7DIU3", "yes".into())]),
        Dialect::Ecdysis => pairs([("ECDYSIS_RUST_UPGRADE", "yes".into())]),
        Dialect::Stdin => Vec::new(),
    }
}

fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Variables {
    pairs.map(|(name, value)| (name.into(), value)).into()
}

fn joined(listeners: &[(i32, Exported)], separator: &str, text: impl Fn(i32, &Exported) -> String) -> String {
    let texts: Vec<String> = listeners.iter().map(|(number, listener)| text(*number, listener)).collect();
    texts.join(separator)
}

/// Programs older than einhorn 1.0 read EINHORN_FDS; those that cannot ask the socket for its
/// family read EINHORN_FD_FAMILY_n.
fn einhorn(listeners: &[(i32, Exported)], start: &Start) -> Variables {
    let mut variables = pairs([
        ("EINHORN_MASTER_PID", start.supervisor.to_string()),
        ("EINHORN_CHILD_INDEX", start.slot.to_string()),
        ("EINHORN_FD_COUNT", listeners.len().to_string()),
        ("EINHORN_FDS", joined(listeners, " ", |number, _| number.to_string())),
    ]);
    for (index, (number, listener)) in listeners.iter().enumerate() {
        let family = match listener.inet {
            Some(address) if address.is_ipv6() => "AF_INET6",
            Some(_) => "AF_INET",
            None => "AF_UNIX",
        };
        variables.push((format!("EINHORN_FD_{index}"), number.to_string()));
        variables.push((format!("EINHORN_FD_FAMILY_{index}"), family.into()));
    }
    variables
}

/// start_server writes an address as it was given: the port alone if no host was given.
fn server_starter_pair(number: i32, listener: &Exported) -> String {
    let written = match listener.inet {
        Some(_) => listener.written.strip_prefix(':').unwrap_or(listener.written),
        None => listener.written,
    };
    format!("{written}={number}")
}

/// php-fpm identifies a socket by its numeric address, without brackets.
fn php_fpm_pair(number: i32, listener: &Exported) -> String {
    match listener.inet {
        Some(inet) => format!("{}:{}={number}", inet.ip(), inet.port()),
        None => format!("{}={number}", listener.address),
    }
}

/// `PUMA_INHERIT_n=fd:url`, with the url of puma's own `bind`.
fn puma(listeners: &[(i32, Exported)]) -> Variables {
    let url = |listener: &Exported| match listener.inet {
        Some(_) if listener.written.starts_with(':') => format!("tcp://{}", listener.address),
        Some(_) => format!("tcp://{}", listener.written),
        None => format!("unix://{}", listener.address),
    };
    let variable = |(index, (number, listener)): (usize, &(i32, Exported))| {
        (format!("PUMA_INHERIT_{index}"), format!("{number}:{}", url(listener)))
    };
    listeners.iter().enumerate().map(variable).collect()
}

fn listener_json(number: i32, listener: &Exported) -> String {
    let (addr, name) = (json_string(listener.written), json_string(&go_name(listener)));
    format!(r#"{{"addr":{addr},"fd":{number},"filename":{name}}}"#)
}

/// The file name that Go gives to a listener.
fn go_name(listener: &Exported) -> String {
    format!("{}:{}->", network(listener.kind), listener.address)
}

/// The name of the network in Go.
pub(super) fn network(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "tcp",
        Kind::Udp => "udp",
        Kind::Unix => "unix",
        Kind::UnixDatagram => "unixgram",
        Kind::UnixSeqpacket => "unixpacket",
    }
}

/// A JSON string (RFC 8259).
fn json_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: Exported = Exported {
        name: "http",
        address: "[::]:5001",
        written: ":5001",
        kind: Kind::Tcp,
        inet: Some(std::net::SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 5001)),
    };
    const LOCAL: Exported = Exported {
        name: "admin",
        address: "127.0.0.1:4242",
        written: "localhost:4242",
        kind: Kind::Tcp,
        inet: Some(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4242)),
    };
    const PATH: Exported = Exported {
        name: "socket2",
        address: "/run/app.sock",
        written: "./app.sock",
        kind: Kind::Unix,
        inet: None,
    };
    const START: Start = Start {
        supervisor: 71,
        generation: 3,
        slot: 1,
        name: "server",
        program: "/srv/server",
        binary_id: "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        stored: &[],
    };

    fn spelled(dialect: &str, listeners: &[Exported]) -> Vec<String> {
        let dialect = Dialect::by_name(dialect).unwrap();
        let variables = environment(&[dialect], listeners, &START);
        variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn every_dialect_is_spelled_as_its_readers_read_it() {
        let three = [HTTP, LOCAL, PATH];
        let table: [(&str, &[Exported], &[&str]); 22] = [
            ("listen-fds", &three, &["LISTEN_FDS=3", "LISTEN_FDNAMES=http:admin:socket2"]),
            ("listen-fds", &[], &[]),
            (
                "einhorn",
                &three,
                &[
                    "EINHORN_MASTER_PID=71",
                    "EINHORN_CHILD_INDEX=1",
                    "EINHORN_FD_COUNT=3",
                    "EINHORN_FDS=3 4 5",
                    "EINHORN_FD_0=3",
                    "EINHORN_FD_FAMILY_0=AF_INET6",
                    "EINHORN_FD_1=4",
                    "EINHORN_FD_FAMILY_1=AF_INET",
                    "EINHORN_FD_2=5",
                    "EINHORN_FD_FAMILY_2=AF_UNIX",
                ],
            ),
            (
                "server-starter",
                &three,
                &["SERVER_STARTER_PORT=5001=3;localhost:4242=4;./app.sock=5", "SERVER_STARTER_GENERATION=3"],
            ),
            ("endless", &three[..1], &["ENDLESS_CONTINUE=1"]),
            ("endless", &three[..2], &["ENDLESS_CONTINUE=1", "ENDLESS_SOCKET_ORDER=:5001,localhost:4242"]),
            (
                "overseer",
                &three[..2],
                &[
                    "OVERSEER_IS_SLAVE=1",
                    "OVERSEER_NUM_FDS=2",
                    "OVERSEER_SLAVE_ID=3",
                    "OVERSEER_IS_WORKER=1",
                    "OVERSEER_WORKER_ID=3",
                    "OVERSEER_BIN_ID=da39a3ee5e6b4b0d3255bfef95601890afd80709",
                    "OVERSEER_BIN_PATH=/srv/server",
                ],
            ),
            (
                "listener-json",
                &three[..1],
                &[r#"LISTENER={"addr":":5001","fd":3,"filename":"tcp:[::]:5001->"}"#],
            ),
            (
                "goagain",
                &three[1..2],
                &[
                    "GOAGAIN_FD=3",
                    "GOAGAIN_NAME=tcp:127.0.0.1:4242->",
                    "GOAGAIN_PPID=71",
                    "GOAGAIN_SIGNAL=37",
                ],
            ),
            ("nginx", &three[..1], &["NGINX=3;"]),
            ("nginx", &three, &["NGINX=3;4;5;"]),
            ("unicorn", &three, &["UNICORN_FD=3,4,5"]),
            ("gunicorn", &three, &["GUNICORN_FD=3,4,5", "GUNICORN_PID=71"]),
            ("php-fpm", &three, &["FPM_SOCKETS=:::5001=3,127.0.0.1:4242=4,/run/app.sock=5"]),
            (
                "puma",
                &three,
                &[
                    "PUMA_INHERIT_0=3:tcp://[::]:5001",
                    "PUMA_INHERIT_1=4:tcp://localhost:4242",
                    "PUMA_INHERIT_2=5:unix:///run/app.sock",
                ],
            ),
            ("crank", &three[..1], &["LISTEN_FDS=1", "CRANK_NAME=server"]),
            ("tableflip", &three, &["TABLEFLIP_HAS_PARENT_7DIU3=yes"]),
            ("ecdysis", &three, &["ECDYSIS_RUST_UPGRADE=yes"]),
            ("shellflip", &three, &["LISTEN_FDS=3", "LISTEN_FDNAMES=http:admin:socket2"]),
            ("shellflip", &[], &[]),
            ("stdin", &three[..1], &[]),
            ("unicorn", &three[..1], &["UNICORN_FD=3"]),
        ];
        for (dialect, listeners, expected) in table {
            assert_eq!(spelled(dialect, listeners), expected, "{dialect}");
        }
    }

    #[test]
    fn beside_tableflip_listeners_are_numbered_from_five() {
        let variables = environment(&[Dialect::Tableflip, Dialect::Unicorn], &[HTTP, LOCAL], &START);
        assert!(variables.contains(&("UNICORN_FD".into(), "5,6".into())), "{variables:?}");
    }

    #[test]
    fn addresses_are_listed_by_name() {
        assert_eq!(listener_list(&[HTTP, PATH]), "http=[::]:5001 socket2=/run/app.sock");
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json_string("a\"b\\c\u{1}é"), r#""a\"b\\c\u0001é""#);
    }
}
