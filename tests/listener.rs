//! Listeners of a process of their own: what depends on the pid, on descriptor
//! 3, on who we are and on how many files we may open.
//!
//! [`opener`] is that process: this program again, started through a shell
//! that prepares the descriptors, and telling by a file what came of it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use graceful_run::listener::{Bind, ListenFds, Listeners};
use tempfile::TempDir;

/// Opens the BINDs of the variable BINDS and writes to the file RESULT either
/// `fails STATUS: MESSAGE` or a line for each listener. It is the process that
/// the other tests start, and passes at once where they have not.
#[test]
fn opener() {
    let value = |key: &str| std::env::var_os(key);
    let Some(result) = value("RESULT") else { return };
    let (pid, fds, names) = (value("LISTEN_PID"), value("LISTEN_FDS"), value("LISTEN_FDNAMES"));
    let own = std::process::id();
    let opened =
        ListenFds::read(pid.as_deref(), fds.as_deref(), names.as_deref(), own).and_then(|listen_fds| {
            let binds = std::env::var("BINDS").unwrap_or_default();
            let binds: Vec<Bind> = binds.split_whitespace().map(|b| b.parse().unwrap()).collect();
            let warning = listen_fds.warning().map(|text| format!("warning: {text}\n"));
            let directory = std::env::current_dir().unwrap();
            let listeners = Listeners::open(listen_fds, &binds, &directory, 2, &[])?;
            Ok((warning.unwrap_or_default(), listeners))
        });
    let text = match &opened {
        Err(error) => format!("fails {}: {error}\n", error.status()),
        Ok((warning, listeners)) => {
            let mut text = warning.clone();
            for listener in listeners {
                let fd = listener.fd(0, 0).as_raw_fd();
                let (name, kind, address) = (listener.name(), listener.kind(), listener.address());
                writeln!(text, "{name} {kind} {address} fd={fd}").unwrap();
            }
            text
        }
    };
    // Room for one more file may be gone, so the listeners go first.
    drop(opened);
    fs::write(result, text).unwrap();
}

struct World {
    directory: TempDir,
    user: Option<u32>,
}

impl World {
    fn new() -> World {
        World { directory: tempfile::tempdir().unwrap(), user: None }
    }

    /// Runs `opener` after the shell has done `prepare`, with `stdin` as fd 0,
    /// and returns what it wrote.
    fn open(&self, prepare: &str, stdin: impl Into<Stdio>, variables: &[(&str, &str)]) -> String {
        let result = self.directory.path().join("result");
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!("{prepare}\nexec \"$0\" --exact opener --test-threads=1"))
            .arg(self.program())
            .current_dir(self.directory.path())
            .env("RESULT", &result)
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .envs(variables.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = self.user {
            command.gid(user).uid(user);
        }
        let status = command.status().unwrap();
        let text = fs::read_to_string(&result).unwrap_or_else(|_| format!("died: {status}"));
        let _ = fs::remove_file(result);
        text
    }

    /// Another user may be kept out of the directory that the program is in. The
    /// copy is written by a process of its own: a child that another test forks
    /// meanwhile would inherit our writing descriptor, and exec would say ETXTBSY.
    fn program(&self) -> OsString {
        let own = std::env::current_exe().unwrap();
        if self.user.is_none() {
            return own.into();
        }
        let copy = self.directory.path().join("program");
        assert!(Command::new("cp").arg(own).arg(&copy).status().unwrap().success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        copy.into()
    }

    fn is_left_empty(&self) -> bool {
        fs::read_dir(self.directory.path()).unwrap().all(|f| f.unwrap().file_name() == "program")
    }

    fn is_of_root(&self) -> bool {
        fs::metadata(self.directory.path()).unwrap().uid() == 0
    }
}

fn tcp() -> (String, OwnedFd) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    (socket.local_addr().unwrap().to_string(), socket.into())
}

const OURS: &str = "exec 3<&0 4<&0; export LISTEN_PID=$$";

#[test]
fn upstream_sockets_come_first_with_their_names() {
    let world = World::new();
    let (address, socket) = tcp();
    let binds = ("BINDS", "./s x=127.0.0.1:0");
    let variables = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http"), binds];
    let text = world.open(OURS, socket, &variables);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(&format!("http tcp {address} fd=")), "{text}");
    let path = world.directory.path().join("s");
    assert!(lines[1].starts_with(&format!("socket1 unix {} fd=", path.display())), "{text}");
    assert!(lines[2].starts_with("x tcp 127.0.0.1:"), "{text}");
    assert!(world.is_left_empty());
}

#[test]
fn upstream_sockets_without_names_are_unknown() {
    let (address, socket) = tcp();
    let text = World::new().open(OURS, socket, &[("LISTEN_FDS", "2")]);
    assert_eq!(text.matches(&format!("unknown tcp {address} fd=")).count(), 2, "{text}");
}

#[test]
fn upstream_sockets_of_another_process_are_ignored_with_a_warning() {
    let world = World::new();
    for pid in [":", "export LISTEN_PID=1", "export LISTEN_PID=$PPID", "export LISTEN_PID=x"] {
        for (count, warns) in [("0", false), ("1", true), ("2", true)] {
            let (_, socket) = tcp();
            let prepare = format!("exec 3<&0 4<&0; {pid}");
            let text = world.open(&prepare, socket, &[("LISTEN_FDS", count), ("BINDS", "./s")]);
            assert_eq!(text.starts_with("warning: LISTEN_FDS="), warns, "{pid} {count}: {text}");
            assert_eq!(text.matches("socket0 unix ").count(), 1, "{text}");
            assert!(!text.contains(" tcp "), "{text}");
        }
    }
}

#[test]
fn an_upstream_descriptor_that_cannot_be_served_on_is_named() {
    let world = World::new();
    let good = || tcp().1;
    let connected = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        OwnedFd::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    };
    let not_a_socket = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let second_is_a_file = "exec 3<&0 4</dev/null; export LISTEN_PID=$$";
    for (prepare, socket, why) in [
        (OURS, not_a_socket, "fd 3: it is not a socket"),
        (OURS, connected(), "fd 3: it is a stream socket that is not listening"),
        (second_is_a_file, good(), "fd 4: it is not a socket"),
    ] {
        let text = world.open(prepare, socket, &[("LISTEN_FDS", "2"), ("BINDS", "./s")]);
        assert!(text.starts_with(&format!("fails 125: cannot use inherited {why}")), "{text}");
        assert!(world.is_left_empty());
    }
    let text = world.open(OURS, good(), &[("LISTEN_FDS", "2000000000")]);
    assert!(text.starts_with("fails 125: cannot take over the sockets of LISTEN_FDS="), "{text}");
    let variables = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "one")];
    let text = world.open(OURS, good(), &variables);
    assert!(text.contains("LISTEN_FDNAMES has 1 names for 2 sockets"), "{text}");
    let text = world.open(OURS, good(), &[("LISTEN_FDS", "1"), ("BINDS", "fd://3")]);
    assert!(text.contains("fd 3: LISTEN_FDS passes it on already"), "{text}");
}

#[test]
fn a_udp_socket_from_upstream_is_passed_on() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let text = World::new().open(OURS, OwnedFd::from(socket), &[("LISTEN_FDS", "1")]);
    assert!(text.starts_with(&format!("unknown udp {address} ")), "{text}");
}

#[test]
fn a_socket_on_stdin_is_served_as_inetd_gives_it() {
    let (address, socket) = tcp();
    let text = World::new().open(":", socket, &[("BINDS", "web=fd://0")]);
    assert!(text.starts_with(&format!("web tcp {address} fd=")), "{text}");
    assert!(!text.contains("fd=0\n"), "{text}");
}

#[test]
fn no_socket_lands_on_a_standard_descriptor_that_was_closed() {
    let prepare = "exec 0<&- 1>&- 2>&-";
    let text = World::new().open(prepare, Stdio::null(), &[("BINDS", "127.0.0.1:0 ./s")]);
    let fds: Vec<u32> = text
        .lines()
        .map(|line| line.rsplit_once("fd=").unwrap_or_else(|| panic!("{text}")).1.parse().unwrap())
        .collect();
    assert_eq!(fds.len(), 2, "{text}");
    assert!(fds.iter().all(|fd| *fd > 2), "{text}");
}

#[test]
fn a_low_port_without_privilege_says_what_to_do() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if start.trim().parse::<u32>().unwrap() <= 80 {
        // Every port is everybody's on this machine: nothing can be refused.
        return;
    }
    let mut world = World::new();
    world.user = world.is_of_root().then_some(65534);
    let text = world.open(":", Stdio::null(), &[("BINDS", "./s 127.0.0.1:80")]);
    let expected = "fails 125: cannot bind 127.0.0.1:80: permission denied \
                    (run as root, or let systemd pass the socket)\n";
    assert_eq!(text, expected);
    assert!(world.is_left_empty());
}

#[test]
fn with_few_files_it_works_or_says_so() {
    let world = World::new();
    let binds = "./a ./b ./c ./d 127.0.0.1:0,reuseport 127.0.0.1:0 udp://127.0.0.1:0";
    let (mut worked, mut failed) = (0, 0);
    for limit in 8..=40 {
        let prepare = format!("ulimit -n {limit}");
        let text = world.open(&prepare, Stdio::null(), &[("BINDS", binds)]);
        if text.starts_with("fails 125: ") {
            assert!(text.contains("too many open files"), "{limit}: {text}");
            failed += 1;
        } else {
            assert!(text.starts_with("socket0 unix "), "{limit}: {text}");
            worked += 1;
        }
        assert!(world.is_left_empty(), "{limit}: {text}");
    }
    assert!(worked > 0 && failed > 0, "{worked} worked, {failed} failed");
}
