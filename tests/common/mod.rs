//! What the tests of real processes stand on.
//!
//! A [`Scene`] is a directory with the scripts of its puppets (`puppet.rs`); a [`Wrapper`] is a
//! `graceful-run` that plays them. Tests wait for what a puppet or the wrapper says, and every
//! wait has a watchdog that fails the test. When a scene ends, nothing may be left of it: no
//! process, no zombie, no file in [`Scene::run`], no panic in the log.
#![allow(dead_code, reason = "every test file is a crate of its own, and none needs all of this")]

pub mod says;
pub mod surroundings;

pub use nix::sys::signal::Signal;

use graceful_run::sys::inherited::ignored;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

/// How long any wait may take before the test has failed. Nothing depends on its length.
pub const WATCHDOG: Duration = Duration::from_secs(120);

/// The variable in whose value every process of a scene carries the scene's name. Ours begin with
/// GRACEFUL_RUN_, and are never passed on.
pub const MARK: &str = "SCENE_OF_A_TEST";

/// Answers on its listener, counts its signals, acks.
pub const SERVER: &str = "count-signals\nserve\nready notify\n";

/// Ends the clients of a test, also if the test fails.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One listener, and, unless `args` say otherwise, no soak that a test would have to wait for, and
/// no ack but those that a puppet gives: the default would also take it that it accepts, or two
/// seconds of life, and which comes first would be a matter of chance.
pub fn quick<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let unless = |said: &[&str], words: &'static [&'static str]| -> &'static [&'static str] {
        if said.iter().any(|word| args.contains(word)) { &[] } else { words }
    };
    let soak = unless(&["--soak"], &["--soak", "1ms"]);
    let ack = unless(&["--ack", "--export", "--follow"], &["--ack", "notify,fd"]);
    [&["-b", "127.0.0.1:0"], soak, ack, args].concat()
}

/// The wrapper's executable. `GRACEFUL_RUN_BINARY` names another build to test, such as one with a
/// planted fault.
pub fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> =
        LazyLock::new(|| std::env::var_os("GRACEFUL_RUN_BINARY").map_or(BUILT.into(), PathBuf::from));
    &BINARY
}

/// Copies it.
pub fn copy_binary(to: impl AsRef<OsStr>) {
    copy(binary(), to);
}

/// Copies a program. A process of its own does: what another test forks beside us would hold a file
/// that we write to, which could not be executed then.
pub fn copy(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp").success(), "the program is copied");
}

/// Executes a command that may not have netlink sockets, or may not call pidfd_getfd(2).
pub const DENY: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
socket, getfd = {'x86_64': (41, 438), 'aarch64': (198, 438)}[os.uname().machine]
def instruction(code, yes, no, k): return struct.pack('HBBI', code, yes, no, k)
load, equal, end = 0x20, 0x15, 0x06
allow, error = 0x7fff0000, 0x50000
EAFNOSUPPORT, EPERM, AF_NETLINK = 97, 1, 16
program = {
    'netlink': instruction(load, 0, 0, 0) + instruction(equal, 0, 3, socket) + instruction(load, 0, 0, 16)
        + instruction(equal, 0, 1, AF_NETLINK) + instruction(end, 0, 0, error | EAFNOSUPPORT),
    'getfd': instruction(load, 0, 0, 0) + instruction(equal, 0, 1, getfd) + instruction(end, 0, 0, error | EPERM),
}[sys.argv[1]] + instruction(end, 0, 0, allow)
code = ctypes.create_string_buffer(program)
class Program(ctypes.Structure): _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
filter = Program(len(program) // 8, ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
";

const BUILT: &str = env!("CARGO_BIN_EXE_graceful-run");

/// An example of this package, which `cargo test` builds beside the binary.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(BUILT).parent().expect("a directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

/// A program of somebody else's, from PATH or from where `tests/all` installs it. One that is
/// missing is told of, and fails the test where all must be there.
pub fn tool(name: &str) -> Option<PathBuf> {
    let ours = ["interop/venv/bin", "interop/npm/node_modules/.bin"];
    let installed = ours.map(|place| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(place));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = installed.into_iter().chain(std::env::split_paths(&path));
    let found = places.find_map(|place| Some(place.join(name)).filter(|file| file.is_file()));
    let required = std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(found.is_some() || !required, "{name} is missing: bash tests/all installs it");
    if found.is_none() {
        let _ = writeln!(io::stderr(), "{name} is missing: nothing was tried with it");
    }
    found
}

pub fn am_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A host that neither another test nor a client's own port can take: all of 127.0.0.0/8 is loopback.
/// For an address that has to be known before it is bound, or to which nobody else comes afterwards.
pub fn host() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}", 10 + COUNT.fetch_add(1, Ordering::Relaxed) % 80)
}

/// For what the system has no event to wait on: another process's end, a file's removal.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "watchdog: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// `*` stands for anything; the rest may be found anywhere in the line, in this order.
pub fn matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    })
}

/// Lines that a thread collects and tests wait for.
#[derive(Clone, Default)]
pub struct Lines(Arc<Said>);

#[derive(Default)]
struct Said {
    text: Mutex<Text>,
    news: Condvar,
    /// A pipe or fifo. It is read from with `text` locked, and only what is there.
    from: Option<fs::File>,
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    /// What has no end yet.
    begun: Vec<u8>,
    over: bool,
}

impl Text {
    /// Reads once.
    fn read(&mut self, mut from: &fs::File, name: &str) {
        let mut bytes = [0; 8192];
        match from.read(&mut bytes) {
            Ok(count @ 1..) => self.begun.extend_from_slice(&bytes[..count]),
            Err(error) if [ErrorKind::Interrupted, ErrorKind::WouldBlock].contains(&error.kind()) => {}
            _ => {
                self.over = true;
                if !self.begun.is_empty() {
                    self.begun.push(b'\n');
                }
            }
        }
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.begun[..end]).into_owned();
            self.begun.drain(..=end);
            if std::env::var_os("SCENE_TRACE").is_some() {
                let _ = writeln!(std::io::stdout(), "{name}: {line}");
            }
            self.lines.push(line);
        }
    }
}

/// Is there something to read, or the end? It is waited for, or not.
fn readable(from: &fs::File, wait: PollTimeout) -> bool {
    poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], wait).is_ok_and(|count| count > 0)
}

impl Lines {
    fn collect(name: &'static str, from: impl Into<OwnedFd>) -> Self {
        let from = Some(fs::File::from(from.into()));
        let lines = Self(Arc::new(Said { from, ..Said::default() }));
        let ours = lines.clone();
        std::thread::spawn(move || {
            let Said { text, news, from: Some(from) } = &*ours.0 else { return };
            let mut over = false;
            while !over {
                if readable(from, PollTimeout::NONE) {
                    let mut text = text.lock().unwrap();
                    text.read(from, name);
                    over = text.over;
                }
                news.notify_all();
            }
        });
        lines
    }

    /// What has been said by now: all that has been written.
    pub fn all(&self) -> Vec<String> {
        let Said { text, news, from } = &*self.0;
        let mut text = text.lock().unwrap();
        let start = Instant::now();
        while !text.over && from.as_ref().is_some_and(|from| readable(from, PollTimeout::ZERO)) {
            assert!(start.elapsed() < WATCHDOG, "watchdog: nobody reads");
            text = news.wait_timeout(text, Duration::from_millis(2)).unwrap().0;
        }
        text.lines.clone()
    }

    pub fn count(&self, pattern: &str) -> usize {
        self.all().iter().filter(|line| matches(pattern, line)).count()
    }

    pub fn has(&self, pattern: &str) -> bool {
        self.count(pattern) > 0
    }

    /// The first line that matches, now or later.
    pub fn wait(&self, pattern: &str) -> String {
        self.wait_nth(pattern, 1)
    }

    pub fn wait_nth(&self, pattern: &str, n: usize) -> String {
        let find = |lines: &[String]| lines.iter().filter(|line| matches(pattern, line)).nth(n - 1).cloned();
        let Said { text, news, .. } = &*self.0;
        let (text, _) = news
            .wait_timeout_while(text.lock().unwrap(), WATCHDOG, |text| {
                find(&text.lines).is_none() && !text.over
            })
            .unwrap();
        let found = find(&text.lines);
        let all = text.lines.join("\n");
        drop(text);
        found.unwrap_or_else(|| panic!("nobody said {pattern:?} {n} time(s). All that was said:\n{all}"))
    }

    /// All lines, once the other side has closed.
    pub fn wait_end(&self) -> Vec<String> {
        let Said { text, news, .. } = &*self.0;
        let (text, late) =
            news.wait_timeout_while(text.lock().unwrap(), WATCHDOG, |text| !text.over).unwrap();
        let all = text.lines.clone();
        drop(text);
        assert!(!late.timed_out(), "watchdog: the stream stays open:\n{}", all.join("\n"));
        all
    }
}

/// The pid at the end of a puppet's line.
pub fn pid_in(line: &str) -> i32 {
    let digits = line.rsplit_once("pid=").expect("a puppet's line").1;
    digits.trim().parse().expect("a pid")
}

/// A directory, its scripts and what its puppets say.
pub struct Scene {
    dir: tempfile::TempDir,
    pub mark: String,
    pub log: Lines,
    gates: Mutex<HashMap<String, fs::File>>,
}

fn fifo(path: &Path) -> fs::File {
    nix::unistd::mkfifo(path, Mode::empty()).expect("mkfifo");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("chmod");
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .expect("open a fifo")
}

/// Lets what we start receive what we ignore, under nohup(1) or in the background of a script: an
/// ignored signal stays ignored across execve(2), a handled one goes back to its default.
fn heed_all() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT].into_iter().filter(|it| ignored(*it)) {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).expect("a handler");
        }
    });
}

impl Scene {
    pub fn new() -> Self {
        heed_all();
        surroundings::has_own_run();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{count}", std::process::id());
        let dir = tempfile::Builder::new().prefix("graceful-run-").tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(dir.path().join("run")).expect("a directory");
        // Opened for both, it has no end.
        let log = Lines::collect("puppet", fifo(&dir.path().join("log")));
        Scene { dir, mark, log, gates: Mutex::default() }
    }

    /// A scene in which every generation plays `script`.
    pub fn of(script: &str) -> Self {
        let scene = Self::new();
        scene.script("default", script);
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("utf-8").to_owned()
    }

    /// Where the wrapper's own files go: it has to be empty at the end.
    pub fn run(&self) -> PathBuf {
        self.path("run")
    }

    /// The script of a generation (`2`), of one slot of it (`2.0`), or of all others (`default`).
    pub fn script(&self, name: &str, script: &str) {
        for line in script.lines().map(str::trim) {
            for verb in ["wait ", "gate-term ", "beat-until "] {
                if let Some(gate) = line.strip_prefix(verb) {
                    self.gate(gate);
                }
            }
        }
        let fresh = self.path(&format!("{name}.new"));
        fs::write(&fresh, script).expect("write a script");
        fs::rename(fresh, self.path(name)).expect("rename a script");
    }

    pub fn gate(&self, name: &str) {
        let mut gates = self.gates.lock().unwrap();
        gates.entry(name.to_owned()).or_insert_with(|| fifo(&self.path(name)));
    }

    /// Lets `count` puppets through, whether they wait already or not.
    pub fn release(&self, gate: &str, count: usize) {
        let gates = self.gates.lock().unwrap();
        (&gates[gate]).write_all(&vec![b'.'; count]).expect("release a gate");
    }

    /// A copy of the puppet: one that can be renamed, truncated or written to.
    pub fn puppet_copy(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::copy(example("puppet"), &path).expect("copy the puppet");
        path
    }

    pub fn puppet(&self) -> Vec<String> {
        vec![example("puppet").to_str().expect("utf-8").to_owned(), self.arg("")]
    }

    /// `graceful-run ARGS -- puppet DIR`
    pub fn start(&self, args: &[&str]) -> Wrapper {
        let command = self.puppet();
        self.start_command(args, &command)
    }

    /// [`start`](Self::start) with [`quick`], once the first generation is ready.
    pub fn ready(&self, args: &[&str]) -> Wrapper {
        let wrapper = self.start(&quick(args));
        wrapper.log.wait(&says::ready(1));
        wrapper
    }

    /// `graceful-run ARGS -- COMMAND`
    pub fn start_command<S: AsRef<OsStr>>(&self, args: &[&str], command: &[S]) -> Wrapper {
        let mut wrapper = self.command();
        wrapper.args(args).arg("--").args(command);
        self.spawn(wrapper)
    }

    /// `graceful-run`, with the scene's environment.
    pub fn command(&self) -> Command {
        self.mark(Command::new(binary()))
    }

    /// A launcher that becomes `graceful-run`, or anything else, with the scene's environment.
    pub fn mark(&self, mut command: Command) -> Command {
        surroundings::surround(&mut command, &self.run());
        command.env(MARK, &self.mark).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self, mut command: Command) -> Wrapper {
        let marked = command.get_envs().any(|(name, value)| name == MARK && value.is_some());
        assert!(marked, "the command has not the scene's environment (Scene::mark)");
        let mut child = command.spawn().expect("start graceful-run");
        let pid = Pid::from_raw(child.id().cast_signed());
        let log = child.stderr.take().map(|pipe| Lines::collect("wrapper", pipe));
        let (tell, ended) = channel();
        std::thread::spawn(move || tell.send(child.wait().expect("wait for graceful-run")));
        Wrapper { pid, log: log.unwrap_or_default(), ended, status: None }
    }

    /// Where control sockets and locks lie.
    pub fn control(&self) -> PathBuf {
        self.run().join("graceful-run")
    }

    /// `graceful-run ctl ARGS`, to its end.
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_command(args).output().expect("start ctl")
    }

    /// `graceful-run ctl ARGS`, in the background.
    pub fn ctl_started(&self, args: &[&str]) -> Child {
        self.ctl_command(args).spawn().expect("start ctl")
    }

    pub fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = self.with_own_run(binary());
        command.arg("ctl").args(args).stdout(Stdio::piped());
        command
    }

    /// A program that asks for running instances: it finds none of the machine's. Who is not root
    /// can have a /run of one's own in a user namespace alone, where there may be one.
    pub fn with_own_run(&self, program: impl AsRef<OsStr>) -> Command {
        const AS_ROOT_OF_OUR_OWN: [&str; 4] = ["--user", "--map-root-user", "--mount", "sh"];
        static MAY: LazyLock<bool> = LazyLock::new(|| {
            let mut tried = Command::new("unshare");
            tried.args(AS_ROOT_OF_OUR_OWN).args(["-c", "mount -t tmpfs none /run"]).stderr(Stdio::null());
            tried.status().is_ok_and(|status| status.success())
        });
        if surroundings::has_own_run() || am_root() || !*MAY {
            return self.mark(Command::new(program));
        }
        let mut command = Command::new("unshare");
        command.args(AS_ROOT_OF_OUR_OWN).args(["-c", "mount -t tmpfs none /run && exec \"$@\"", "sh"]);
        command.arg(program);
        self.mark(command)
    }

    /// `ctl status --json`
    pub fn status(&self) -> serde_json::Value {
        let output = self.ctl(&["status", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a puppet wrote with `dump NAME`.
    pub fn dump(&self, name: &str) -> serde_json::Value {
        let text = fs::read_to_string(self.path(name)).expect("a dump");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The live processes of this scene, zombies not among them: by their environment, or, where
    /// that was cleared, by their arguments.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark);
        let dir = self.arg("");
        let has =
            |bytes: Vec<u8>, item: &str| bytes.split(|byte| *byte == 0).any(|bytes| bytes == item.as_bytes());
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let read = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
                has(read("environ"), &mark) || has(read("cmdline"), &dir)
            })
            .collect()
    }

    pub fn wait_gone(&self, pid: i32) {
        until(&format!("process {pid} is still there"), || !self.processes().contains(&pid));
    }

    /// For a wrapper that was killed: it could not take its own files with it.
    pub fn forget_files(&self) {
        fs::remove_dir_all(self.run()).expect("remove run");
        fs::create_dir(self.run()).expect("a directory");
    }

    /// Ends what the scene started, one by one.
    pub fn clear(&self) {
        until("processes that KILL does not end", || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            left.is_empty()
        });
    }
}

/// The directory of control sockets stays, with the locks of names in it.
fn may_stay(entry: &fs::DirEntry) -> bool {
    let lock = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "lock");
    entry.file_name() == "graceful-run"
        && fs::read_dir(entry.path()).is_ok_and(|inside| inside.flatten().all(lock))
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.clear();
        }
        let start = Instant::now();
        while !self.processes().is_empty() {
            if start.elapsed() > WATCHDOG {
                let left = self.processes();
                self.clear();
                panic!("processes are left: {left:?}; said:\n{}", self.log.all().join("\n"));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        let left: Vec<_> =
            fs::read_dir(self.run()).expect("run").flatten().filter(|it| !may_stay(it)).collect();
        assert!(left.is_empty(), "files are left: {left:?}");
        if surroundings::has_own_run() {
            let ours =
                |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"graceful-run");
            let left: Vec<_> = fs::read_dir("/run").expect("/run").flatten().filter(ours).collect();
            assert!(left.is_empty(), "files are left in /run: {left:?}");
        }
    }
}

/// A running `graceful-run`.
pub struct Wrapper {
    pub pid: Pid,
    /// Its stderr, which its workers share.
    pub log: Lines,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Wrapper {
    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "graceful-run has ended");
        kill(self.pid, signal).expect("signal graceful-run");
    }

    fn wait(&mut self) -> ExitStatus {
        let ended = &self.ended;
        *self.status.get_or_insert_with(|| match ended.recv_timeout(WATCHDOG) {
            Ok(status) => status,
            Err(_) => {
                let _ = kill(self.pid, Signal::SIGKILL);
                let _ = ended.recv();
                panic!("watchdog: graceful-run does not end:\n{}", self.log.all().join("\n"))
            }
        })
    }

    /// Its exit status; -n if signal n ended it.
    pub fn exit_status(&mut self) -> i32 {
        let status = self.wait();
        status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
    }

    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.ended.try_recv().ok();
        }
        self.status.is_some()
    }

    /// TERM, and the end that every test expects of it.
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.exit_status();
        assert_eq!(status, 0, "exit status after TERM:\n{}", self.log.all().join("\n"));
    }

    /// Its children, by /proc, with their state letters.
    pub fn children(&self) -> Vec<(i32, char)> {
        let stats = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let state = fields.next()?.chars().next()?;
            let parent: i32 = fields.next()?.parse().ok()?;
            (parent == self.pid.as_raw()).then_some((pid, state))
        });
        stats.collect()
    }

    pub fn fd_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("its fds").count()
    }

    /// Its state letter: `T` for stopped.
    pub fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')
    }

    /// Its last line, which says why it ended.
    pub fn last_line(&self) -> String {
        self.log.wait_end().pop().unwrap_or_default()
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.ended.recv_timeout(WATCHDOG);
        }
        if !std::thread::panicking() {
            let all = self.log.all();
            assert!(!all.iter().any(|line| line.contains("panicked")), "{}", all.join("\n"));
        }
    }
}

/// The address in a puppet's `serving socket0=127.0.0.1:1234` line.
pub fn address_in(line: &str) -> String {
    let value = line.split('=').nth(1).expect("an address");
    value.split_whitespace().next().expect("an address").to_owned()
}

/// Who answers there: the line that `serve` sends.
pub fn who(address: &str) -> String {
    let mut client = TcpStream::connect(address).expect("connect");
    client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}
