//! A worker on strings: it does, in order, what a script says.
//!
//! `puppet DIR` reads `DIR/G.S`, else `DIR/G`, else `DIR/default` (G the generation and S the
//! slot that `graceful-run` gave it), one verb a line, so that every generation can behave in a
//! way of its own. `puppet DIR --run 'VERB;VERB'` is how it starts its own children. It tells
//! what it does in lines to the fifo `DIR/log`: `g1 s0 worker TEXT pid=123`.
//! At the end of its script it hangs. An orphan of a failed test ends itself after a while.

use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::socket::{Backlog, MsgFlags, Shutdown, accept, listen, send, shutdown};
use nix::unistd::{Pid, close, getpgid, getsid, setsid, tcgetpgrp};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// No test needs a puppet for as long as this.
const LIFETIME: Duration = Duration::from_secs(600);

/// What it does about a TERM.
#[derive(Clone)]
enum OnTerm {
    Exit,
    Ignore,
    ExitAfter(String),
}

#[derive(Clone)]
struct Puppet {
    dir: PathBuf,
    role: Arc<Mutex<String>>,
    on_term: Arc<Mutex<OnTerm>>,
    /// What it does before it exits for a TERM.
    last_act: Arc<Mutex<String>>,
    /// Held while a connection is answered: what was accepted is not thrown away.
    answering: Arc<Mutex<()>>,
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let dir = PathBuf::from(args.next().expect("usage: puppet DIR [--run VERBS]"));
    let run = args.next().filter(|word| word == "--run").and_then(|_| args.next());
    std::thread::spawn(|| {
        std::thread::park_timeout(LIFETIME);
        exit(99)
    });
    let puppet = Puppet {
        dir,
        role: Arc::new(Mutex::new("worker".to_owned())),
        on_term: Arc::new(Mutex::new(OnTerm::Exit)),
        last_act: Arc::default(),
        answering: Arc::default(),
    };
    let script = match run {
        Some(verbs) => verbs.to_string_lossy().replace(';', "\n"),
        None => puppet.script(),
    };
    puppet.play(&script);
    hang()
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

impl Puppet {
    fn script(&self) -> String {
        let generation = variable("GRACEFUL_RUN_GENERATION");
        let names = [format!("{generation}.{}", variable("GRACEFUL_RUN_SLOT")), generation];
        let read = |name: &String| std::fs::read_to_string(self.dir.join(name)).ok();
        names.iter().chain([&"default".to_owned()]).find_map(read).expect("no script")
    }

    /// A write of less than PIPE_BUF to a fifo is one piece. With nobody left who reads,
    /// nobody is left who wants this process either.
    fn say(&self, text: &str) {
        let line = format!(
            "g{} s{} {} {text} pid={}\n",
            variable("GRACEFUL_RUN_GENERATION"),
            variable("GRACEFUL_RUN_SLOT"),
            self.role.lock().unwrap(),
            std::process::id()
        );
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let log = options.open(self.dir.join("log"));
        if log.and_then(|mut log| log.write_all(line.as_bytes())).is_err() {
            exit(98);
        }
    }

    fn play(&self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            if let Err(error) = self.obey(verb, rest) {
                self.say(&format!("cannot {line}: {error}"));
            }
        }
    }

    fn obey(&self, verb: &str, rest: &str) -> io::Result<()> {
        match verb {
            "say" => self.say(rest),
            "role" => *self.role.lock().unwrap() = rest.to_owned(),
            "ready" => {
                match rest {
                    "notify" => notify(b"READY=1")?,
                    "fd" => write_ready_fd(b"\n")?,
                    _ => return Err(io::Error::other("ready notify|fd")),
                }
                self.say("ready");
            }
            "ready-by-helper" => {
                self.child("role helper;send READY=1;exit 0")?.wait()?;
                self.say("ready");
            }
            "send" => notify(rest.replace("\\n", "\n").as_bytes())?,
            "send-long" => notify(format!("READY=1\n{}", "X=1\n".repeat(2000)).as_bytes())?,
            "send-fds" => (0..rest.parse::<u32>().unwrap_or(1)).try_for_each(|_| send_fds())?,
            "store" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, "nothing"));
                let file = memfd(text)?;
                notify_with_fds(format!("FDSTORE=1\nFDNAME={name}").as_bytes(), &[file.as_raw_fd()])?;
            }
            "store-pipe" => {
                // Its other end goes with us.
                let (read, write) = io::pipe()?;
                notify_with_fds(
                    format!("FDSTORE=1\n{}", rest.replace("\\n", "\n")).as_bytes(),
                    &[read.as_raw_fd()],
                )?;
                std::mem::forget(write);
            }
            "store-many" => {
                for _ in 0..rest.parse::<u32>().unwrap_or(0) {
                    let files = (0..200).map(|_| memfd("")).collect::<io::Result<Vec<_>>>()?;
                    let numbers: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
                    notify_with_fds(b"FDSTORE=1\nFDNAME=many", &numbers)?;
                }
            }
            "remove" => notify(format!("FDSTOREREMOVE=1\nFDNAME={rest}").as_bytes())?,
            "tell-stored" => self.say(&format!("stored {}", stored())),
            "beat-until" => self.beat_until(rest)?,
            "flood" => (0..rest.parse::<u32>().unwrap_or(1)).try_for_each(|_| notify(b"STATUS=a flood"))?,
            "barrier" => {
                barrier()?;
                self.say("barrier done");
            }
            "write-ready-fd" => write_ready_fd(rest.replace("\\n", "\n").as_bytes())?,
            "close-ready-fd" => close(ready_fd()?)?,
            // One write: the wrapper writes lines of its own to the same stderr.
            "stderr" => {
                let line = rest.replace("\\e", "\x1b").replace("\\r", "\r") + "\n";
                io::stderr().write_all(line.as_bytes())?;
            }
            "wait" => self.wait(rest)?,
            "exit" => exit(rest.parse().unwrap_or(0)),
            "abort-signal" => {
                let signal: Signal = format!("SIG{rest}").parse()?;
                // At the first SEGV, Rust's own handler only gives way to the default.
                raise(signal)?;
                raise(signal)?;
            }
            "ignore-term" => {
                *self.on_term.lock().unwrap() = OnTerm::Ignore;
                self.count_signals()?;
            }
            "gate-term" => {
                *self.on_term.lock().unwrap() = OnTerm::ExitAfter(rest.to_owned());
                self.count_signals()?;
            }
            "count-signals" => self.count_signals()?,
            "hang" => hang(),
            "setsid" => drop(setsid()?),
            "fork-child" => {
                let rest: String = rest.split_whitespace().map(|verb| format!("{verb};")).collect();
                drop(self.child(&format!("role child;{rest}say up;hang"))?);
            }
            "fork-orphans" => {
                // Their parent leaves at once, so that they become somebody else's children.
                let inner = format!("role maker;fork-brood {rest};exit 0");
                self.child(&inner)?.wait()?;
                self.say("orphans left");
            }
            "fork-brood" => {
                for _ in 0..rest.parse::<u32>().unwrap_or(0) {
                    drop(self.child("role orphan;wait brood;exit 3")?);
                }
            }
            "daemonise" => {
                drop(self.child("role daemon;setsid;say up;hang")?);
                exit(0)
            }
            "stop-self" => raise(Signal::SIGSTOP)?,
            "term-supervisor" => {
                let supervisor = variable("GRACEFUL_RUN_PID").parse().map_err(io::Error::other)?;
                kill(Pid::from_raw(supervisor), Signal::SIGTERM)?;
                self.say("told TERM");
            }
            "kill-parent" => kill(Pid::parent(), format!("SIG{rest}").parse::<Signal>()?)?,
            "dump" => {
                let file = self.dir.join(rest);
                let fresh = self.dir.join(format!("{rest}.new"));
                std::fs::write(&fresh, dump().to_string())?;
                std::fs::rename(fresh, file)?;
                self.say(&format!("dump {rest}"));
            }
            "serve" => self.serve()?,
            "last-act" => *self.last_act.lock().unwrap() = rest.to_owned(),
            "unlink" => std::fs::remove_file(rest)?,
            "listen" => listen(&listener(3), Backlog::new(rest.parse().unwrap_or(0))?)?,
            "shutdown" => match shutdown(3, Shutdown::Both) {
                // A datagram socket says so, and is shut down all the same.
                Err(nix::errno::Errno::ENOTCONN) => {}
                done => done?,
            },
            "nonblock" => drop(fcntl(listener(3), F_SETFL(OFlag::O_NONBLOCK))?),
            "block" => drop(fcntl(listener(3), F_SETFL(OFlag::empty()))?),
            "accept-or-exit" => {
                if accept(3) == Err(nix::errno::Errno::EAGAIN) {
                    exit(11);
                }
            }
            "tell-socket" => {
                let flags = OFlag::from_bits_truncate(fcntl(listener(3), F_GETFL)?);
                let nonblock = flags.contains(OFlag::O_NONBLOCK);
                let backlog = graceful_run::sys::fd::tcp_backlog(listener(3))?.unwrap_or(0);
                self.say(&format!("socket backlog={backlog} nonblock={nonblock}"));
            }
            _ => return Err(io::Error::other("no such verb")),
        }
        Ok(())
    }

    fn child(&self, verbs: &str) -> io::Result<std::process::Child> {
        let me = std::env::current_exe()?;
        Command::new(me).arg(&self.dir).arg("--run").arg(verbs).spawn()
    }

    /// Blocks until the test lets one through. The test keeps the fifo open, so that it holds
    /// what was let through before anybody waited.
    fn wait(&self, gate: &str) -> io::Result<()> {
        std::fs::File::open(self.dir.join(gate))?.read_exact(&mut [0])
    }

    /// Says that it lives, as often as it is asked for, until the gate opens.
    fn beat_until(&self, gate: &str) -> io::Result<()> {
        if variable("WATCHDOG_PID") != std::process::id().to_string() {
            return Err(io::Error::other("WATCHDOG_PID is not mine"));
        }
        let micros = variable("WATCHDOG_USEC").parse().map_err(io::Error::other)?;
        let (hush, hushed) = std::sync::mpsc::channel();
        let (puppet, gate) = (self.clone(), gate.to_owned());
        std::thread::spawn(move || {
            let _ = puppet.wait(&gate);
            puppet.say("hushed");
            hush.send(())
        });
        std::thread::spawn(move || {
            while hushed.recv_timeout(Duration::from_micros(micros) / 8).is_err() {
                let _ = notify(b"WATCHDOG=1");
            }
        });
        Ok(())
    }

    /// One pipe a signal: each delivery is a byte, so that two in a row are told apart.
    fn count_signals(&self) -> io::Result<()> {
        use signal_hook::consts::*;
        let names = [
            (SIGTERM, "TERM"),
            (SIGINT, "INT"),
            (SIGQUIT, "QUIT"),
            (SIGHUP, "HUP"),
            (SIGUSR1, "USR1"),
            (SIGUSR2, "USR2"),
            (SIGWINCH, "WINCH"),
            (SIGCONT, "CONT"),
        ];
        for (signal, name) in names {
            let (mut read, write) = io::pipe()?;
            signal_hook::low_level::pipe::register(signal, write)?;
            let puppet = self.clone();
            std::thread::spawn(move || {
                while read.read_exact(&mut [0]).is_ok() {
                    puppet.say(name);
                    if signal == SIGTERM || signal == SIGINT || signal == SIGQUIT {
                        let on_term = puppet.on_term.lock().unwrap().clone();
                        match on_term {
                            OnTerm::Exit => {
                                let _nothing_is_answered = puppet.answering.lock();
                                let last_act = puppet.last_act.lock().unwrap().clone();
                                puppet.play(&last_act);
                                exit(0)
                            }
                            OnTerm::Ignore => {}
                            OnTerm::ExitAfter(gate) => {
                                let puppet = puppet.clone();
                                std::thread::spawn(move || {
                                    let _ = puppet.wait(&gate);
                                    exit(0)
                                });
                            }
                        }
                    }
                }
            });
        }
        Ok(())
    }

    /// One line for every connection, on every listener: who answers.
    fn serve(&self) -> io::Result<()> {
        let count: i32 = variable("LISTEN_FDS").parse().unwrap_or(0);
        let who = format!(
            "g{} s{} pid={}\n",
            variable("GRACEFUL_RUN_GENERATION"),
            variable("GRACEFUL_RUN_SLOT"),
            std::process::id()
        );
        for fd in 3..3 + count {
            let (who, answering) = (who.clone(), Arc::clone(&self.answering));
            std::thread::spawn(move || {
                let listener = listener(fd);
                // Another generation may be faster: none is to wait in accept.
                let _ = fcntl(listener, F_SETFL(OFlag::O_NONBLOCK));
                loop {
                    let mut wait = [PollFd::new(listener, PollFlags::POLLIN)];
                    let _ = poll(&mut wait, PollTimeout::NONE);
                    let _busy = answering.lock();
                    if let Ok(client) = accept(fd) {
                        let _ = send(client, who.as_bytes(), MsgFlags::MSG_NOSIGNAL);
                        let _ = close(client);
                    }
                }
            });
        }
        self.say(&format!("serving {}", variable("GRACEFUL_RUN_LISTENERS")));
        Ok(())
    }
}

fn listener(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: sd_listen_fds(3) makes this descriptor ours, and nothing else closes it.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(fd)
    }
}

/// Sends one datagram to the supervisor, also an empty one.
fn notify(message: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let path = variable("NOTIFY_SOCKET");
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

/// sd_notify_barrier(3): done when the receiver has closed the fd, that is after whatever was
/// sent before.
fn barrier() -> io::Result<()> {
    let (mut read, write) = io::pipe()?;
    notify_with_fds(b"BARRIER=1", &[write.as_raw_fd()])?;
    drop(write);
    read.read(&mut [0]).map(drop)
}

/// A file without a name.
fn memfd(text: &str) -> io::Result<std::fs::File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let mut file = std::fs::File::from(memfd_create("puppet", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// What we were given beside the listener: the names, and what files hold.
fn stored() -> String {
    let names = variable("LISTEN_FDNAMES");
    let own = variable("LISTEN_PID") == std::process::id().to_string();
    let count: usize = variable("LISTEN_FDS").parse().unwrap_or(0);
    let given: Vec<&str> = names.split(':').filter(|_| own && !names.is_empty()).collect();
    assert_eq!(given.len(), count, "{names}");
    let told = given.iter().enumerate().skip(1).map(|(index, name)| {
        let path = format!("/proc/self/fd/{}", index + 3);
        let target = std::fs::read_link(&path).map(|target| target.to_string_lossy().into_owned());
        let text = match target {
            Ok(target) if target.starts_with("/memfd:") => std::fs::read_to_string(&path).unwrap_or_default(),
            Ok(target) => target.split(':').next().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        };
        format!("{name}={text}")
    });
    told.collect::<Vec<_>>().join(" ")
}

/// As many descriptors as one message can carry.
fn send_fds() -> io::Result<()> {
    notify_with_fds(b"FDSTORE=1\nFDNAME=bomb", &[2; 253])
}

fn notify_with_fds(message: &[u8], fds: &[i32]) -> io::Result<()> {
    use nix::sys::socket::*;
    let path = variable("NOTIFY_SOCKET");
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path.as_str())?,
    };
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let message = [io::IoSlice::new(message)];
    let control = [ControlMessage::ScmRights(fds)];
    sendmsg(socket.as_raw_fd(), &message, &control, MsgFlags::empty(), Some(&address))?;
    Ok(())
}

fn ready_fd() -> io::Result<i32> {
    variable("READY_FD").parse().map_err(io::Error::other)
}

fn write_ready_fd(bytes: &[u8]) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", ready_fd()?);
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes)
}

/// All that a process can see of what it was given.
fn dump() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let link =
        |path: &Path| std::fs::read_link(path).map(|target| target.to_string_lossy().into_owned()).ok();
    let mut fds = BTreeMap::new();
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .map(|dir| dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .map(Iterator::collect)
        .unwrap_or_default();
    for name in names {
        // The directory that was read to find the names is closed again, and has no target.
        if let Some(target) = link(&Path::new("/proc/self/fd").join(&name)) {
            let info = read(&format!("/proc/self/fdinfo/{name}"));
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = i32::from_str_radix(flags.unwrap_or("0").trim(), 8).unwrap_or(0);
            fds.insert(
                name,
                serde_json::json!({
                    "target": target,
                    "cloexec": flags & OFlag::O_CLOEXEC.bits() != 0,
                    "nonblock": flags & OFlag::O_NONBLOCK.bits() != 0,
                }),
            );
        }
    }
    let environment: BTreeMap<_, _> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
        .collect();
    let status: BTreeMap<_, _> = read("/proc/self/status")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    serde_json::json!({
        "fds": fds,
        "environment": environment,
        "status": status,
        "limits": read("/proc/self/limits"),
        "directory": std::env::current_dir().ok(),
        "program": link(Path::new("/proc/self/exe")),
        "arguments": std::env::args().collect::<Vec<_>>(),
        "pid": std::process::id(),
        "parent": Pid::parent().as_raw(),
        "group": getpgid(None).map(Pid::as_raw).ok(),
        "session": getsid(None).map(Pid::as_raw).ok(),
        "foreground": tcgetpgrp(io::stdin()).map(Pid::as_raw).ok(),
    })
}
