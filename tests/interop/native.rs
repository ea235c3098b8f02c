//! Servers in C: nginx, haproxy, lighttpd, h2o.

use crate::driver::upgrade_under_load;
use crate::server::{server, unlisted};

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

#[test]
fn nginx() {
    upgrade_under_load(
        &unlisted("-b 127.0.0.1:8000,nonblock -E NGINX=3; --ack accepting --stop-signal QUIT -- nginx -p . -c nginx.conf")
            .answers_from_files(),
    );
}

#[test]
fn h2o() {
    upgrade_under_load(
        &unlisted(
            "-b 127.0.0.1:8000 -E SERVER_STARTER_PORT=127.0.0.1:8000=3 --ack accepting -- h2o -c h2o.conf",
        )
        .answers_from_files(),
    );
}
