//! Servers in C: nginx, haproxy, lighttpd, h2o.

use crate::driver::upgrade_under_load;
use crate::server::server;

#[test]
fn lighttpd() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack accepting --stop-signal INT -- lighttpd -D -f lighttpd.conf")
            .answers_from_files(),
    );
}

#[test]
fn haproxy() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack accepting --stop-signal USR1 -- haproxy -db -f haproxy.cfg",
    ));
}

#[test]
fn haproxy_master() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack notify --stop-signal USR1 -- haproxy -Ws -f haproxy.cfg",
    ));
}

/// Each generation has a pid file of its own.
#[test]
fn nginx() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --export nginx -- sh -c 'exec nginx -p . -c nginx.conf -g \"pid nginx.$GRACEFUL_RUN_GENERATION.pid;\"'",
        )
        .answers_from_files(),
    );
}

#[test]
fn h2o() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --export server-starter -- h2o -c h2o.conf").answers_from_files(),
    );
}
