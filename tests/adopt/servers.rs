//! The table: servers that know nothing of inherited sockets, each upgraded under load.

use nix::sys::signal::Signal;

use crate::driver::upgrade_under_load;
use crate::place::{installed, leave_out, tell};
use crate::protocol::Protocol;
use crate::server::{Server, server};

pub const GO: &str = "go-plain 127.0.0.1:8000";
pub const NODE: &str = "node server.js 127.0.0.1:8000";

/// A server that does what its test says.
pub const SCENE: Server = server("scene", "python3 scene.py 127.0.0.1:8000");

#[test]
fn go() {
    upgrade_under_load(&server("go, static", GO));
}

#[test]
fn go_as_nobody() {
    upgrade_under_load(&server("go, static, as nobody", GO).as_nobody());
}

#[test]
fn node() {
    upgrade_under_load(&server("node", NODE));
}

#[test]
fn node_as_nobody() {
    upgrade_under_load(&server("node, as nobody", NODE).as_nobody());
}

#[test]
fn node_cluster() {
    upgrade_under_load(&server("node cluster", "node cluster.js 127.0.0.1:8000"));
}

#[test]
fn http_server() {
    let command = "python3 -m http.server --bind 127.0.0.1 8000";
    upgrade_under_load(&server("python3 -m http.server", command).of_files());
}

#[test]
fn http_server_with_a_slow_handler() {
    upgrade_under_load(&server("http.server, 30 ms", "python3 slow.py 127.0.0.1:8000"));
}

/// Debian's python, as the one of an environment may stand where nobody may not look.
#[test]
fn http_server_as_nobody() {
    let command = "/usr/bin/python3 slow.py 127.0.0.1:8000";
    upgrade_under_load(&server("http.server, as nobody", command).as_nobody());
}

#[test]
fn prefork() {
    upgrade_under_load(&server("pre-fork, 3 workers", "python3 prefork.py 127.0.0.1:8000"));
}

#[test]
fn gunicorn() {
    let command = "gunicorn --no-control-socket --preload -b 127.0.0.1:8000 -w 3 wsgi";
    upgrade_under_load(&server("gunicorn -w 3", command));
}

#[test]
fn uvicorn() {
    let command = "uvicorn --host 127.0.0.1 --port 8000 --no-access-log --lifespan off asgi:app";
    upgrade_under_load(&server("uvicorn", command));
}

#[test]
fn uvicorn_workers() {
    let command = "uvicorn --host 127.0.0.1 --port 8000 --no-access-log --lifespan off --workers 2 asgi:app";
    upgrade_under_load(&server("uvicorn --workers 2", command));
}

#[test]
fn nginx() {
    upgrade_under_load(&nginx_that_listens("nginx", "listen 127.0.0.1:8000"));
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

/// `tests/all` compiles it where there is a JDK.
#[test]
fn java() {
    if which::which("javac").is_err() {
        return tell("java: left out, this machine has no JDK");
    }
    if !installed().join("java/Plain.class").exists() {
        return leave_out("java");
    }
    upgrade_under_load(&server("java HttpServer", "java Plain 127.0.0.1:8000"));
}
