//! The receiving end of sd_notify, under hostile senders. Descriptors are
//! counted, so the tests take turns.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use graceful_run::sys::notify::NotifySocket;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use nix::unistd::{Pid, Uid};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").expect("listed").count()
}

fn sender() -> OwnedFd {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("socket")
}

fn send(from: &OwnedFd, to: &NotifySocket, text: &[u8], fds: &[RawFd]) {
    let name = to.address().strip_prefix('@').expect("an abstract address");
    let address = UnixAddr::new_abstract(name.as_bytes()).expect("short enough");
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let sent = sendmsg(from.as_raw_fd(), &[IoSlice::new(text)], rights, MsgFlags::empty(), Some(&address));
    assert_eq!(sent, Ok(text.len()));
}

#[test]
fn a_message_comes_with_its_sender_and_its_descriptors() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    assert!(socket.receive().expect("asked").is_none(), "it does not block");
    let file = File::open("/dev/null").expect("opens");
    send(&sender(), &socket, b"READY=1", &[file.as_raw_fd()]);
    let got = socket.receive().expect("received").expect("a message");
    assert_eq!((got.pid, got.uid), (Pid::this().as_raw(), Uid::effective().as_raw()));
    assert_eq!(got.text, b"READY=1");
    assert_eq!(got.fds.len(), 1);
    assert_eq!(fcntl(&got.fds[0], FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
    assert!(socket.receive().expect("asked").is_none());
}

#[test]
fn addresses_cannot_be_guessed() {
    let _turn = turn();
    let [one, two] = [(); 2].map(|()| NotifySocket::new().expect("bound"));
    assert_ne!(one.address(), two.address());
    let random = one.address().strip_prefix("@graceful-run/").expect("our prefix");
    assert!(random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn another_process_is_known_by_its_pid_even_when_it_is_gone() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    let code = "import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'READY=1', '\\0' + os.environ['NOTIFY_SOCKET'][1:])
print(os.getpid())";
    let output = Command::new("python3").args(["-c", code]).env("NOTIFY_SOCKET", socket.address()).output();
    let pid = String::from_utf8(output.expect("python3 is needed").stdout).expect("a pid");
    let got = socket.receive().expect("received").expect("a message");
    assert_eq!((got.pid.to_string(), &got.text[..]), (pid.trim().to_owned(), &b"READY=1"[..]));
}

#[test]
fn an_empty_datagram_stops_nothing() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    let from = sender();
    send(&from, &socket, b"", &[]);
    send(&from, &socket, b"READY=1", &[]);
    assert_eq!(socket.receive().expect("received").expect("the empty one").text, b"");
    assert_eq!(socket.receive().expect("received").expect("the other").text, b"READY=1");
}

#[test]
fn a_message_that_is_too_long_is_dropped_whole() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    let from = sender();
    let before = open_fds();
    let file = File::open("/dev/null").expect("opens");
    let mut text = b"READY=1\n".to_vec();
    text.resize(4096, b'a');
    send(&from, &socket, &text, &[]);
    text.push(b'a');
    send(&from, &socket, &text, &[file.as_raw_fd()]);
    drop(file);
    assert_eq!(socket.receive().expect("received").expect("fits").text.len(), 4096);
    let dropped = socket.receive().expect("received").expect("one more");
    assert!(dropped.text.is_empty() && dropped.fds.is_empty());
    assert_eq!(open_fds(), before);
}

#[test]
fn ten_thousand_bombs_of_descriptors_leave_none() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    let from = sender();
    let file = File::open("/dev/null").expect("opens");
    let bomb = [file.as_raw_fd(); 253];
    let before = open_fds();
    for _ in 0..10_000 {
        send(&from, &socket, b"FDSTORE=1", &bomb);
        let got = socket.receive().expect("received").expect("a message");
        assert_eq!((got.fds.len(), &got.text[..]), (253, &b"FDSTORE=1"[..]));
    }
    assert_eq!(open_fds(), before);
}

#[test]
fn descriptors_beyond_our_limit_drop_the_message_and_leak_none() {
    let _turn = turn();
    let socket = NotifySocket::new().expect("bound");
    let from = sender();
    let file = File::open("/dev/null").expect("opens");
    let before = open_fds();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    send(&from, &socket, b"READY=1", &[file.as_raw_fd(); 253]);
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).expect("lowered");
    let got = socket.receive();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("restored");
    let got = got.expect("received").expect("a message");
    assert!(got.text.is_empty() && got.fds.is_empty());
    assert_eq!(open_fds(), before);
    send(&from, &socket, b"READY=1", &[]);
    assert_eq!(socket.receive().expect("received").expect("a message").text, b"READY=1");
}
