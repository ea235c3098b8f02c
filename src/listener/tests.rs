use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::{fs, io};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::SockRef;
use tempfile::TempDir;

use super::*;
use crate::error::Error;
use crate::sys::{connections, fd};

mod paths;

fn open_in(directory: &Path, binds: &[&str], slots: u32) -> Result<Listeners, Error> {
    let binds: Vec<Bind> = binds.iter().map(|bind| bind.parse().unwrap()).collect();
    Listeners::open(ListenFds::default(), &binds, directory, slots, &[])
}

fn open(binds: &[&str]) -> Result<Listeners, Error> {
    open_in(Path::new("/"), binds, 1)
}

fn refused(directory: &Path, binds: &[&str]) -> String {
    let error = open_in(directory, binds, 1).expect_err("it was bound");
    assert_eq!(error.status(), 125, "{error}");
    error.to_string()
}

fn port(listener: &Listener) -> u16 {
    listener.inet.unwrap().port()
}

fn files(directory: &TempDir) -> usize {
    fs::read_dir(directory.path()).unwrap().count()
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_bare_port_is_dual_stack_and_v6only_is_not() {
    let listeners = open(&[":0", "[::]:0", "[::]:0,v6only"]).unwrap();
    for (listener, v6only) in listeners.iter().zip([false, false, true]) {
        assert_eq!(listener.address(), format!("[::]:{}", port(listener)));
        assert_ne!(port(listener), 0);
        assert_eq!(SockRef::from(&listener.fd(0, 0)).only_v6().unwrap(), v6only);
        TcpStream::connect(("::1", port(listener))).unwrap();
        assert_eq!(TcpStream::connect(("127.0.0.1", port(listener))).is_err(), v6only);
    }
    assert_eq!(listeners.iter().map(Listener::name).collect::<Vec<_>>(), ["socket0", "socket1", "socket2"]);
}

#[test]
fn what_waits_at_a_listener_is_counted() {
    let temporary = directory();
    let binds = ["127.0.0.1:0,backlog=7", "./s,backlog=7", "@graceful-run-test-queue", "udp://127.0.0.1:0"];
    let listeners = open_in(temporary.path(), &binds, 1).unwrap();
    let list: Vec<&Listener> = listeners.iter().collect();
    let _tcp = TcpStream::connect(list[0].inet.unwrap()).unwrap();
    let _unix = [temporary.path().join("s"), temporary.path().join("s")]
        .map(|path| UnixStream::connect(path).unwrap());
    assert_eq!(list[0].queue(), Some(fd::Queue { length: 1, backlog: 7 }));
    let waiting = |listener: &Listener| {
        connections::unix_queues(&listener.unix_inodes()).into_values().collect::<Vec<u32>>()
    };
    assert_eq!((list[1].queue(), waiting(list[1])), (None, vec![2]));
    assert_eq!(waiting(list[2]), [0]);
    assert_eq!((list[3].queue(), waiting(list[3])), (None, vec![]));
    let listen_ports = listeners.listen_ports();
    assert_eq!(listen_ports.ipv4_ports, BTreeSet::from([port(list[0])]));
    assert!(listen_ports.unix_names.contains(&b"\0graceful-run-test-queue"[..]), "{listen_ports:?}");
    assert_eq!(listen_ports.unix_names.len(), 2);
}

#[test]
fn only_a_machine_without_ipv6_falls_back_to_ipv4() {
    let bind: Bind = ":7".parse().unwrap();
    let any = inet::resolve(&bind, &address::Host::Any, 7).unwrap();
    assert_eq!(any.iter().map(ToString::to_string).collect::<Vec<_>>(), ["[::]:7", "0.0.0.0:7"]);
    for (errno, falls_back) in [
        (libc::EAFNOSUPPORT, true),
        (libc::EADDRNOTAVAIL, true),
        (libc::EADDRINUSE, false),
        (libc::EACCES, false),
    ] {
        let result = inet::with_available_address(&any, |address| match address.is_ipv6() {
            true => Err(io::Error::from_raw_os_error(errno)),
            false => Ok(address),
        });
        assert_eq!(result.is_ok(), falls_back, "{errno}");
    }
    for text in [":7,v6only", "[::]:7"] {
        let bind: Bind = text.parse().unwrap();
        let address::Address::Tcp { host, port } = &bind.address else { panic!("{text}") };
        assert_eq!(inet::resolve(&bind, host, *port).unwrap().len(), 1, "{text}");
    }
}

#[test]
fn sockets_are_blocking_close_on_exec_and_above_the_standard_three() {
    let directory = directory();
    let binds = ["127.0.0.1:0", "udp://127.0.0.1:0,nonblock", "./s", "unix-seqpacket:q,nonblock"];
    let listeners = open_in(directory.path(), &binds, 1).unwrap();
    for (listener, nonblock) in listeners.iter().zip([false, true, false, true]) {
        let socket = listener.fd(0, 0);
        assert!(socket.as_raw_fd() > 2);
        let flags = FdFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        let status = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL).unwrap());
        assert_eq!(status.contains(OFlag::O_NONBLOCK), nonblock, "{}", listener.address());
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", listener.inode(0, 0)));
    }
}

#[test]
fn options_reach_the_kernel() {
    let bind = "127.0.0.1:0,backlog=7,defer-accept=3,fastopen=5,rcvbuf=20000,sndbuf=30000,nodelay";
    let listeners = open(&[bind, "203.0.113.7:0,freebind", "127.0.0.1:0"]).unwrap();
    let list: Vec<&Listener> = listeners.iter().collect();
    let socket = list[0].fd(0, 0);
    assert_eq!((fd::tcp_backlog(socket).unwrap(), list[0].backlog()), (Some(7), 7));
    assert_eq!(getsockopt(&socket, sockopt::RcvBuf).unwrap(), 40000);
    assert_eq!(getsockopt(&socket, sockopt::SndBuf).unwrap(), 60000);
    assert!(SockRef::from(&socket).tcp_nodelay().unwrap());
    assert!(fd::tcp_option(socket, libc::TCP_DEFER_ACCEPT).unwrap() >= 3);
    assert_eq!(fd::tcp_option(socket, libc::TCP_FASTOPEN).unwrap(), 5);
    assert!(list[1].address().starts_with("203.0.113.7:"));
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    assert_eq!(list[2].backlog().to_string(), somaxconn.trim());
    assert_eq!(fd::tcp_backlog(list[2].fd(0, 0)).unwrap(), Some(list[2].backlog()));
}

#[test]
fn reuseport_makes_one_socket_a_slot_once() {
    let listeners = open_in(Path::new("/"), &["127.0.0.1:0,reuseport", "127.0.0.1:0"], 3).unwrap();
    let [many, one] = &listeners.list[..] else { panic!("two listeners") };
    let inodes: BTreeSet<u64> = (0..3).map(|slot| many.inode(0, slot)).collect();
    assert_eq!((inodes.len(), many.reuseport(), one.reuseport()), (3, true, false));
    assert_eq!(many.inode(0, 4), many.inode(0, 1));
    assert_eq!(one.inode(0, 0), one.inode(0, 2));
    for slot in 0..3 {
        let local = SockRef::from(&many.fd(0, slot)).local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local, many.inet.unwrap());
    }
}

#[test]
fn reuseport_does_not_share_an_address_with_a_stranger() {
    let other = open_in(Path::new("/"), &["127.0.0.1:0,reuseport"], 1).unwrap();
    let bind = format!("{},reuseport", other.list[0].inet.unwrap());
    assert!(refused(Path::new("/"), &[&bind]).contains("address already in use"));
}

#[test]
fn a_port_in_use_is_refused_and_leaves_nothing() {
    let directory = directory();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let free = open(&["127.0.0.1:0"]).unwrap().list[0].inet.unwrap();
    let message =
        refused(directory.path(), &["./s", "unix-dgram:d", &free.to_string(), &address.to_string()]);
    let start = format!("cannot bind {address}: address already in use (ss ");
    assert!(message.starts_with(&start), "{message}");
    assert_eq!(files(&directory), 0);
    let error = TcpStream::connect(free).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let message = refused(directory.path(), &[&format!("udp://{}", held.local_addr().unwrap())]);
    assert!(message.contains("address already in use"), "{message}");
}

#[test]
fn two_of_our_own_that_clash_are_both_named() {
    let directory = directory();
    let port = port(&open(&[":0"]).unwrap().list[0]);
    let specs = ["127.0.0.1", "*", "", "[::1]", "[::]"].map(|host| format!("{host}:{port}"));
    for (first, second) in [(0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (3, 4)] {
        for scheme in ["tcp://", "udp://"] {
            let (one, two) = (format!("{scheme}{}", specs[first]), format!("{scheme}{}", specs[second]));
            let message = refused(directory.path(), &[&one, &two]);
            let one: Bind = one.parse().unwrap();
            assert!(message.contains("address already in use"), "{message}");
            assert!(message.contains(&format!("({one} of this command line holds it)")), "{message}");
        }
    }
    open(&[&format!("[::]:{port},v6only"), &format!("*:{port}")]).unwrap();
    // SO_REUSEPORT alone would let the kernel take them all, in either order.
    for (first, second) in [(0, 1), (1, 0), (0, 4), (4, 0), (1, 4), (4, 1)] {
        let [one, two] = [first, second].map(|index| format!("{},reuseport", specs[index]));
        let message = refused(directory.path(), &[&one, &two]);
        let one: Bind = one.parse().unwrap();
        assert!(message.contains(&format!("({one} of this")), "{message}");
    }
    let twice = format!("127.0.0.1:{port},reuseport");
    assert!(refused(directory.path(), &[&twice, &twice]).contains(&format!("({twice} of this")));
    let message = refused(directory.path(), &["./s", "unix-dgram:./s"]);
    assert!(message.contains("/s: address already in use (./s of this command line"), "{message}");
    let name = format!("@{}", directory.path().display());
    assert!(refused(directory.path(), &[&name, &name]).contains(&format!("({name} of this")));
    assert_eq!(files(&directory), 0);
}

#[test]
fn a_host_name_is_bound_only_if_it_is_one_address() {
    let listeners = open_in(Path::new("/"), &["localhost:0"], 1);
    if let Ok(listeners) = listeners {
        assert!(listeners.list[0].inet.unwrap().ip().is_loopback());
    }
    let bind: Bind = "localhost:5001".parse().unwrap();
    let addresses = ["127.0.0.1:5001", "[::1]:5001"].map(|text| text.parse().unwrap());
    let [v4, v6] = addresses;
    assert_eq!(inet::single_address(&bind, "localhost", [v4, v4].into_iter()), Ok(v4));
    let error = inet::single_address(&bind, "localhost", [v4, v6].into_iter()).unwrap_err();
    assert_eq!(error.status(), 2);
    assert!(error.to_string().contains("localhost has several addresses: 127.0.0.1, ::1 ("), "{error}");
    assert_eq!(inet::single_address(&bind, "localhost", [].into_iter()).unwrap_err().status(), 125);
}

#[test]
fn an_address_of_no_interface_hints_at_freebind() {
    let message = refused(Path::new("/"), &["203.0.113.7:5001"]);
    assert!(message.starts_with("cannot bind 203.0.113.7:5001: cannot assign"), "{message}");
    assert!(message.contains("freebind"), "{message}");
}

#[test]
fn accounts_and_interfaces_are_looked_up_before_anything_is_bound() {
    let directory = directory();
    let held = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (bad, why) in [
        ("./t,user=no-such-user-1", "unknown user no-such-user-1"),
        ("./t,group=no-such-group-1", "unknown group no-such-group-1"),
        ("[fe80::1%nosuch0]:1", "there is no interface nosuch0"),
        ("no-such-host.invalid:1", "cannot resolve no-such-host.invalid"),
    ] {
        let message = refused(directory.path(), &[&held, "./s", bad]);
        assert!(message.contains(why), "{message}");
        assert_eq!(files(&directory), 0);
    }
    let long = format!("unix:{}", "p".repeat(107));
    let error = open_in(directory.path(), &["./s", &long], 1).unwrap_err();
    assert_eq!(error.status(), 2);
    assert!(error.to_string().contains("107"), "{error}");
    assert_eq!(files(&directory), 0);
}

#[test]
fn abstract_sockets_of_each_type_are_bound() {
    let name = format!("graceful-run-test-{}", std::process::id());
    let binds = [format!("@{name}"), format!("unix-dgram:@{name}-d")];
    let listeners = open(&[&binds[0], &binds[1]]).unwrap();
    let shown: Vec<_> = listeners.iter().map(|l| (l.kind(), l.address().to_owned())).collect();
    assert_eq!(shown, [("unix", binds[0].clone()), ("unix-dgram", format!("@{name}-d"))]);
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    UnixStream::connect_addr(&address).unwrap();
}

#[test]
fn a_given_socket_is_copied_and_served_on() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let binds =
        [format!("web=fd://{},nonblock,backlog=9", tcp.as_raw_fd()), format!("fd://{}", udp.as_raw_fd())];
    let listeners = open(&[&binds[0], &binds[1]]).unwrap();
    let [web, dns] = &listeners.list[..] else { panic!("two listeners") };
    assert_eq!((web.name(), web.kind(), web.backlog()), ("web", "tcp", 9));
    assert_eq!((dns.name(), dns.kind(), dns.backlog()), ("socket1", "udp", 0));
    assert_eq!(web.address(), tcp.local_addr().unwrap().to_string());
    assert_ne!(web.fd(0, 0).as_raw_fd(), tcp.as_raw_fd());
    assert_eq!(fd::tcp_backlog(tcp.as_fd()).unwrap(), Some(9));
    let status = OFlag::from_bits_truncate(fcntl(&tcp, FcntlArg::F_GETFL).unwrap());
    assert!(status.contains(OFlag::O_NONBLOCK));
    let message = refused(Path::new("/"), &[&binds[0], web.address()]);
    assert!(message.contains("fd://"), "{message}");
    let bind = format!("fd://{},backlog=9", udp.as_raw_fd());
    assert_eq!(open(&[&bind]).unwrap_err().status(), 2);
}

#[test]
fn a_descriptor_that_cannot_be_served_on_is_named() {
    let (pipe, _writer) = io::pipe().unwrap();
    let not_listening = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let unbound = UnixDatagram::unbound().unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    for (fd, why) in [
        (pipe.as_raw_fd(), "it is not a socket"),
        (not_listening.as_raw_fd(), "it is a stream socket that is not listening"),
        (pair.as_raw_fd(), "it is a stream socket that is not listening"),
        (unbound.as_raw_fd(), "it is not bound to an address"),
        (9999, "it is not open"),
        (i32::MAX, "it is not open"),
    ] {
        let message = refused(Path::new("/"), &[&format!("fd://{fd}")]);
        assert_eq!(message, format!("cannot use inherited fd {fd}: {why}"));
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!("fd://{}", tcp.as_raw_fd());
    assert!(refused(Path::new("/"), &[&bind, &bind]).contains("given twice"));
}
