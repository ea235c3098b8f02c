//! Sockets that a convention cannot carry are a mistake of usage, found before anything is bound.

use crate::common::{Scene, matches};
use std::net::{TcpStream, UdpSocket};

/// Exit status 2, a last line that says why, no process and nothing at `address`.
fn refused(args: &[&str], why: &str) {
    let scene = Scene::of("say started\nexit 0");
    let mut wrapper = scene.start(args);
    let status = wrapper.exit_status();
    let line = wrapper.last_line();
    let log = wrapper.log.all().join("\n");
    assert_eq!(status, 2, "{args:?}: {log}");
    assert!(line.starts_with("graceful-run: ") && matches(why, &line), "{args:?}: {line}");
    assert!(!scene.log.has("started"), "{args:?}: something was started");
    assert!(!scene.path("s.sock").exists() && !scene.path("t.sock").exists(), "{args:?}: a path is left");
}

const TCP: &str = "127.0.0.1:0";

#[test]
fn conventions_of_one_socket() {
    for export in ["goagain", "listener-json", "crank", "stdin"] {
        refused(&["-b", TCP, "-b", TCP, "--export", export], export);
        refused(&["--export", export], export);
    }
}

#[test]
fn conventions_of_stream_sockets() {
    for export in ["goagain", "listener-json", "endless", "overseer"] {
        refused(&["-b", "udp://127.0.0.1:0", "--export", export], export);
        refused(&["-b", "unix-dgram:s.sock", "--export", export], export);
    }
}

#[test]
fn endless_and_overseer_have_no_unix_sockets() {
    for export in ["endless", "overseer"] {
        refused(&["-b", "unix:s.sock", "--export", export], export);
    }
}

/// tableflip has its pipes at 3 and 4, where the others have their first sockets.
#[test]
fn tableflip_shares_descriptor_3_with_nobody() {
    for export in ["listen-fds,tableflip", "endless,tableflip", "overseer,tableflip", "tableflip,crank"] {
        refused(&["-b", TCP, "--export", export], "tableflip");
    }
}

#[test]
fn what_separates_cannot_be_in_a_path() {
    refused(&["-b", "unix:s;t.sock", "--export", "server-starter"], "server-starter");
    refused(&["-b", "unix:s=t.sock", "--export", "server-starter"], "server-starter");
    refused(&["-b", "unix:s=t.sock", "--export", "php-fpm"], "php-fpm");
}

#[test]
fn conventions_that_do_not_exist() {
    refused(&["-b", TCP, "--export", "graze"], "graze");
    refused(&["-b", TCP, "--export", ""], "");
    refused(&["-b", TCP, "--ack", "parent-int"], "parent-int");
}

/// The first -b of a refused command line was not bound for a moment either: a socket that is
/// there already would have been the failure.
#[test]
fn nothing_is_bound_before_the_refusal() {
    let taken = UdpSocket::bind(TCP).expect("a socket");
    let address = taken.local_addr().expect("its address").to_string();
    let udp = format!("udp://{address}");
    refused(&["-b", &udp, "--export", "endless"], "endless");
    assert!(TcpStream::connect(&address).is_err());
}
