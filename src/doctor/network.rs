//! Checks of the network settings for listeners: their queues, and the ports that may be bound.

use super::check::{Check, Subject};
use super::machine::{Machine, NET_BIND_SERVICE};

const BACKLOG: &Subject = &Subject("somaxconn", "-b");
const HANDSHAKES: &Subject = &Subject("tcp_syncookies", "-b, --adopt");
const MIGRATION: &Subject = &Subject("tcp_migrate_req", "--adopt");
const LOW_PORTS: Subject = Subject("ports below 1024", "-b");

/// A shorter queue may be filled by a burst while a worker is replaced. The default before Linux
/// 5.4 was 128.
const SHORT_BACKLOG: u64 = 1024;

/// All checks of the network.
pub fn checks(machine: &Machine) -> Vec<Check> {
    let ipv4 = |name: &str| machine.number(&format!("proc/sys/net/ipv4/{name}"));
    let backlog = machine.number("proc/sys/net/core/somaxconn");
    vec![
        somaxconn(backlog),
        handshakes(ipv4("tcp_syncookies"), ipv4("tcp_max_syn_backlog"), backlog),
        migration(ipv4("tcp_migrate_req")),
        low_ports(ipv4("ip_unprivileged_port_start"), machine.can(NET_BIND_SERVICE)),
    ]
}

fn somaxconn(value: Option<u64>) -> Check {
    const RAISE: &str = "sysctl net.core.somaxconn=4096; docker run --sysctl net.core.somaxconn=4096";
    match value {
        None => BACKLOG.note("cannot be read", "look with sysctl net.core.somaxconn"),
        Some(value) if value < SHORT_BACKLOG => {
            BACKLOG.note(format!("{value}: few connections can wait while a worker is replaced"), RAISE)
        }
        Some(value) => BACKLOG.ok(format!("{value}, the backlog of a listener unless it has another")),
    }
}

/// With SYN cookies the kernel does not use tcp_max_syn_backlog. Without them, its last quarter is
/// kept for clients that the kernel knows.
fn handshakes(cookies: Option<u64>, queue: Option<u64>, backlog: Option<u64>) -> Check {
    match (cookies, queue) {
        (Some(0), Some(queue)) if queue < backlog.unwrap_or(SHORT_BACKLOG) => HANDSHAKES.note(
            format!("0: a burst of new connections is cut to tcp_max_syn_backlog, {queue}"),
            "sysctl net.ipv4.tcp_syncookies=1, or a larger net.ipv4.tcp_max_syn_backlog",
        ),
        (Some(0), Some(queue)) => HANDSHAKES.ok(format!("0, with a tcp_max_syn_backlog of {queue}")),
        (Some(cookies), _) => {
            HANDSHAKES.ok(format!("{cookies}: a burst of new connections is not cut to tcp_max_syn_backlog"))
        }
        (None, _) => HANDSHAKES.note("cannot be read", "look with sysctl net.ipv4.tcp_syncookies"),
    }
}

fn migration(value: Option<u64>) -> Check {
    const ALLOW: &str = "sysctl net.ipv4.tcp_migrate_req=1, a second safety, which --adopt does not need";
    match value {
        None => MIGRATION.note("cannot be read, or this is older than Linux 5.14", ALLOW),
        Some(0) => MIGRATION.note(
            "0: what still waits at an old listener when that is closed is reset, and not moved",
            ALLOW,
        ),
        Some(value) => MIGRATION
            .ok(format!("{value}: the kernel moves what waits at a listener that is closed to another")),
    }
}

fn low_ports(first: Option<u64>, can: Option<bool>) -> Check {
    const ADVICE: &str = "AmbientCapabilities=CAP_NET_BIND_SERVICE or a socket unit in systemd; \
        sysctl net.ipv4.ip_unprivileged_port_start=80; start as root with --user";
    let first = first.unwrap_or(1024);
    match can {
        Some(true) => LOW_PORTS.ok("may be bound (CAP_NET_BIND_SERVICE)"),
        _ if first <= 1 => LOW_PORTS.ok("may be bound by everybody (ip_unprivileged_port_start)"),
        Some(false) => LOW_PORTS.note(format!("may be bound from {first} on"), ADVICE),
        None => LOW_PORTS.note(format!("from {first} on; our capabilities cannot be read"), ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::super::machine::tests::machine;
    use super::*;

    #[test]
    fn short_queues_are_reported() {
        assert_eq!(somaxconn(Some(4096)).state, State::Ok);
        assert_eq!(somaxconn(Some(128)).state, State::Note);
        assert_eq!(somaxconn(None).state, State::Note);
        assert_eq!(handshakes(Some(1), Some(128), Some(4096)).state, State::Ok);
        assert_eq!(handshakes(Some(0), Some(128), Some(4096)).state, State::Note);
        assert_eq!(handshakes(Some(0), Some(4096), Some(4096)).state, State::Ok);
        assert_eq!(handshakes(None, None, None).state, State::Note);
    }

    #[test]
    fn what_is_only_recommended_is_never_missing() {
        for value in [None, Some(0)] {
            let check = migration(value);
            assert_eq!(check.state, State::Note);
            assert!(check.advice.unwrap().contains("tcp_migrate_req=1"));
        }
        assert_eq!(migration(Some(1)).state, State::Ok);
    }

    #[test]
    fn low_ports_are_for_who_may() {
        assert_eq!(low_ports(Some(1024), Some(true)).state, State::Ok);
        assert_eq!(low_ports(Some(0), Some(false)).state, State::Ok);
        assert!(low_ports(Some(80), Some(false)).found.contains("from 80 on"));
        assert_eq!(low_ports(None, None).state, State::Note);
    }

    #[test]
    fn numbers_come_from_files() {
        let (_root, machine) = machine(
            &[
                ("proc/sys/net/core/somaxconn", "512\n"),
                ("proc/sys/net/ipv4/tcp_syncookies", "2\n"),
                ("proc/sys/net/ipv4/tcp_migrate_req", "1\n"),
                ("proc/sys/net/ipv4/ip_unprivileged_port_start", "443\n"),
                ("proc/self/status", "CapEff:\t0\n"),
            ],
            &[],
        );
        let found: Vec<String> = checks(&machine).into_iter().map(|check| check.to_string()).collect();
        assert!(found[0].starts_with("note     somaxconn: 512"), "{found:?}");
        assert!(found[1].starts_with("ok       tcp_syncookies: 2"), "{found:?}");
        assert!(found[2].starts_with("ok       tcp_migrate_req: 1"), "{found:?}");
        assert!(found[3].contains("from 443 on"), "{found:?}");
    }
}
