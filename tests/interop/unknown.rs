//! Servers of Debian that no profile names, picked at random: each under
//! `graceful-run -- COMMAND`, as it comes.

use std::net::TcpListener;

use crate::driver::upgrade_under_load;
use crate::protocol::Protocol;
use crate::server::{Server, unlisted};

/// What a server answers on port 8000 of the sample host.
fn bare(name: &str, command: &str, files: &[&str], protocol: Protocol) {
    at("127.0.0.1:8000", name, command, files, protocol);
}

/// The same for a server that cannot be told the host.
fn on_any_host(name: &str, command: &str, files: &[&str], protocol: Protocol) {
    let free = TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr());
    let port = free.expect("a port is free").port().to_string();
    at(&format!("127.0.0.1:{port}"), name, &command.replace("8000", &port), files, protocol);
}

fn at(address: &str, name: &str, command: &str, files: &[&str], protocol: Protocol) {
    let server = Server {
        address: Some(address.into()),
        files: Some(files.iter().map(ToString::to_string).collect()),
        ..unlisted(&format!("-- {command}")).speaks(protocol)
    };
    upgrade_under_load(name, &server);
}

/// A process for each connection, which keeps the listener open.
#[test]
fn vsftpd() {
    bare("vsftpd", "vsftpd vsftpd.conf", &["vsftpd.conf"], Protocol::Plain("", "220 "));
}

#[test]
fn prosody() {
    let ask = "<stream:stream to='shop.test' xmlns='jabber:client' \
               xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
    let protocol = Protocol::Plain(ask, "<?xml version='1.0'?>");
    bare("prosody", "prosody -F --config prosody.cfg.lua", &["prosody.cfg.lua"], protocol);
}

#[test]
fn weborf() {
    let protocol = Protocol::Plain("GET /answer.txt HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n");
    bare("weborf", "weborf -i 127.0.0.1 -p 8000 -b .", &["answer.txt"], protocol);
}

/// A process for each connection, which greets whoever connects.
#[test]
fn rsync() {
    let command = "rsync --daemon --no-detach --config=rsyncd.conf --address=127.0.0.1 --port=8000";
    bare("rsync", command, &["rsyncd.conf"], Protocol::Plain("", "@RSYNCD: "));
}

#[test]
fn jamnntpd() {
    on_any_host("jamnntpd", "jamnntpd -p 8000 -m 100", &[], Protocol::Plain("QUIT\r\n", "2"));
}
