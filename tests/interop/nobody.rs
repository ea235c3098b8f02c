//! Servers without any flag, and without any privilege: they are adopted all the same.

use crate::line::run_as_nobody;

#[test]
fn http_server_of_python() {
    run_as_nobody("http.server");
}

#[test]
fn lighttpd() {
    run_as_nobody("lighttpd");
}

#[test]
fn memcached() {
    run_as_nobody("memcached");
}
