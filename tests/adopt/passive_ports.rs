//! An FTP server opens a port for each transfer, and closes it again. Such a port belongs to the
//! generation that has opened it, and holds up no upgrade.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::client::{Connection, Failure, Target};
use crate::driver::{LIMIT, Running};
use crate::place::{find, leave_out};
use crate::server::server;

/// More than the kernel takes at once: the server still has to send when the upgrade begins.
const LENGTH: usize = 16 << 20;

struct Client {
    control: BufReader<TcpStream>,
    /// What the server has said first.
    banner: String,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let control = TcpStream::connect(address).expect("connect");
        control.set_read_timeout(Some(LIMIT)).expect("a watchdog");
        let mut client = Client { control: BufReader::new(control), banner: String::new() };
        client.banner = client.reply("220");
        client.ask("USER anonymous", "331");
        client.ask("PASS it", "230");
        client.ask("TYPE I", "200");
        client
    }

    fn reply(&mut self, code: &str) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(code), "{line}");
        line
    }

    fn ask(&mut self, what: &str, code: &str) -> String {
        let control = self.control.get_mut();
        control.write_all(format!("{what}\r\n").as_bytes()).expect("it is sent");
        self.reply(code)
    }

    /// The address of the port that is opened for a transfer.
    fn passive(&mut self) -> SocketAddr {
        let reply = self.ask("EPSV", "229");
        let port = reply.split('|').nth(3).and_then(|port| port.parse().ok()).expect("a port");
        SocketAddr::new(self.control.get_ref().peer_addr().expect("connected").ip(), port)
    }

    fn open(&mut self, passive: SocketAddr) -> TcpStream {
        let data = TcpStream::connect(passive).expect("it is open");
        data.set_read_timeout(Some(LIMIT)).expect("a watchdog");
        self.ask("RETR file", "1");
        data
    }

    fn finish(&mut self, mut data: TcpStream) {
        let mut file = Vec::new();
        data.read_to_end(&mut file).expect("the file");
        assert_eq!(file.len(), LENGTH);
        self.reply("226");
    }

    fn transfer(&mut self) {
        let passive = self.passive();
        let data = self.open(passive);
        self.finish(data);
        assert_eq!(Connection::open(&Target::Tcp(passive)).err(), Some(Failure::Refused), "it was closed");
    }
}

#[test]
fn transfers_go_on_before_during_and_after_an_upgrade() {
    let pyftpdlib = server("pyftpdlib", "python3 ftp.py 127.0.0.1:8000");
    let Some(python) = find("python3") else { return };
    let known = Command::new(python).args(["-c", "import pyftpdlib"]).stderr(Stdio::null()).status();
    if !known.expect("python3").success() {
        return leave_out("pyftpdlib");
    }
    let Some(mut running) = Running::start(&pyftpdlib, &["--idle", "1s"]) else { return };
    fs::write(running.path("file"), vec![7; LENGTH]).expect("it is ours");
    let Target::Tcp(address) = running.prepared.targets[0] else { unreachable!("it is TCP") };
    let mut before = Client::connect(address);
    before.transfer();
    before.transfer();
    let (mut under_way, mut waiting) = (Client::connect(address), Client::connect(address));
    let passive = under_way.passive();
    let data = under_way.open(passive);
    let opened = waiting.passive();
    running.wrapper.signal(Signal::SIGHUP);
    running.await_upgraded();
    let late = waiting.open(opened);
    waiting.finish(late);
    under_way.finish(data);
    let mut after = Client::connect(address);
    assert_ne!(after.banner, before.banner, "it is another process");
    after.transfer();
    drop((before, under_way, waiting, after));
    running.await_gone(1);
    running.stop(|_, _| ());
}
