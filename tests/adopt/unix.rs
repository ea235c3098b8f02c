//! Servers on unix sockets that they bind themselves, each upgraded under load: nothing is lost, and the
//! path keeps its inode, whatever they unlink.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

use crate::client::Target;
use crate::driver::{Running, upgrades};
use crate::protocol::Protocol;
use crate::server::{Server, server};
use crate::servers::nginx_that_listens;

/// The server is upgraded under load, loses nothing, and its path leads to the same file.
fn upgrade_under_load(server: &Server) {
    let Some(mut running) = Running::start(&server.at("s.sock"), &[]) else { return };
    let Target::Unix(path) = running.prepared.targets[0].clone() else { unreachable!("it is a path") };
    let inode = || path.metadata().expect("it is there").ino();
    let first = inode();
    let mut load = running.load();
    running.upgrade_under(&mut load, upgrades());
    running.await_gone(upgrades());
    assert_eq!(inode(), first, "{}: the path leads to the same socket", server.name);
    running.lost_nothing(load);
    running.stop(|_, _| ());
}

/// It neither removes the path nor handles TERM.
#[test]
fn go() {
    upgrade_under_load(&server("go, unix", "go-plain ./s.sock"));
}

/// It removes the path before it binds it, and handles no signal.
#[test]
fn node() {
    upgrade_under_load(&server("node, unix", "node server.js ./s.sock"));
}

/// It removes the path before it binds it, and at its end.
#[test]
fn gunicorn() {
    let command = "gunicorn --no-control-socket --preload -w 2 -b unix:s.sock wsgi";
    upgrade_under_load(&server("gunicorn, unix", command).borrows(&["wsgi.py"]));
}

/// It removes the path at its end alone.
#[test]
fn nginx() {
    upgrade_under_load(&nginx_that_listens("nginx, unix", "listen unix:../s.sock"));
}

/// It connects to the path before it removes and binds it.
#[test]
fn php_fpm() {
    let fpm = server("php-fpm, unix", "php-fpm8.2 -n -p . -y php-fpm.conf")
        .borrows(&["php-fpm.conf", "answer.php"]);
    let fpm = fpm.with("listen = 127.0.0.1:8000", "listen = s.sock").stopped_by(Signal::SIGQUIT);
    upgrade_under_load(&fpm.speaks(Protocol::FastCgi("answer.php")));
}

/// It looks for its stop signal ten times a second, and accepts meanwhile.
#[test]
fn redis() {
    let command = "redis-server --port 0 --unixsocket s.sock --save ";
    upgrade_under_load(&server("redis-server, unix", command).speaks(Protocol::Redis));
}
