//! Servers that know nothing of inherited sockets, each upgraded under load: those that
//! `tests/interop` has no command line for, and three whose supervisor is nobody, beside a
//! control.

use nix::sys::signal::Signal;

use crate::driver::{upgrade_beside_a_control, upgrade_under_load};
use crate::protocol::Protocol;
use crate::server::{Server, server};

pub const GO: &str = "go-plain 127.0.0.1:8000";
pub const NODE: &str = "node server.js 127.0.0.1:8000";

/// A server that does what its test says.
pub const SCENE: Server = server("scene", "python3 scene.py 127.0.0.1:8000");

#[test]
fn go_as_nobody() {
    upgrade_beside_a_control(&server("go, static, as nobody", GO).as_nobody());
}

#[test]
fn node_as_nobody() {
    upgrade_beside_a_control(&server("node, as nobody", NODE).as_nobody());
}

/// Debian's python, as the one of an environment may stand where nobody may not look.
#[test]
fn http_server_as_nobody() {
    let command = "/usr/bin/python3 slow.py 127.0.0.1:8000";
    upgrade_beside_a_control(&server("http.server, 30 ms, as nobody", command).as_nobody());
}

#[test]
fn prefork() {
    upgrade_under_load(&server("pre-fork, 3 workers", "python3 prefork.py 127.0.0.1:8000"));
}

#[test]
fn nginx_reuseport() {
    upgrade_under_load(&nginx_that_listens("nginx, reuseport", "listen 127.0.0.1:8000 reuseport"));
}

/// nginx with another `listen`.
pub fn nginx_that_listens(name: &'static str, listen: &'static str) -> Server {
    let nginx = server(name, "nginx -p . -c ../nginx.conf").of_files();
    nginx.stopped_by(Signal::SIGQUIT).with("listen 127.0.0.1:8000", listen)
}

/// Of its data each generation has its own. What `--save` is told is nothing at all.
#[test]
fn redis() {
    let command = "redis-server --bind 127.0.0.1 --port 8000 --save  --hz 100";
    upgrade_under_load(&server("redis-server", command).speaks(Protocol::Redis));
}
