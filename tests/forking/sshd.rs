//! A real sshd: it forks for each connection, and the child becomes a new sshd in a session of its
//! own. What is below it is known by its place in the tree alone: it writes over its environment.

use crate::common::{Scene, Signal, Wrapper, host, says};
use crate::ssh::{Logins, Ssh};
use crate::stage::{Sockets, UPGRADES, tell};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SSHD: &str = "/usr/sbin/sshd";

/// Clients at a time. A login takes some tens of milliseconds of a processor.
const CLIENTS: usize = 4;

/// Logins by the new generation before the next upgrade.
const PROGRESS: u32 = 4;

/// Its own host key, and no file or account of the machine's is touched: no pid file, no PAM, no
/// lastlog. StrictModes is off, as the directory
/// of temporary files belongs to all.
const SERVER: &str = "\
ListenAddress HOST:2222
HostKey DIRECTORY/host_key
AuthorizedKeysFile DIRECTORY/key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintLastLog no
PermitUserRC no
MaxStartups 100
";

const CLIENT: &str = "\
Host it
HostName HOST
Port 2222
IdentityFile DIRECTORY/key
IdentitiesOnly yes
HostKeyAlias it
UserKnownHostsFile DIRECTORY/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
ControlMaster no
ControlPath none
ConnectionAttempts 1
";

/// sshd wants a directory of root's at a fixed place. It gets one in a mount namespace of its own.
const WITH_ITS_DIRECTORY: &str = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec \"$@\"";

/// A variable of each session says which generation let it in.
const SERVE: &str = "exec /usr/sbin/sshd -D -e -f sshd_config -o SetEnv=GENERATION=$GRACEFUL_RUN_GENERATION";

/// sshd under graceful-run.
struct Running {
    wrapper: Wrapper,
    ssh: Ssh,
    _scene: Scene,
}

impl Running {
    /// `None`: this machine has no sshd, or gives us no mount namespace, and has been told.
    fn start(sockets: Sockets, options: &[&str]) -> Option<Running> {
        if !Path::new(SSHD).exists() {
            let required = std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_some_and(|value| value == "1");
            assert!(!required, "{SSHD} is missing (tests/all installs it)");
            tell("sshd: left out, it is not installed (tests/all installs it)");
            return None;
        }
        let apart = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        if !apart.is_ok_and(|status| status.success()) {
            tell("sshd: left out, a mount namespace of its own wants root here");
            return None;
        }
        let scene = Scene::new();
        let host = host();
        let own = |text: &str| {
            text.replace("HOST", &host).replace("DIRECTORY", scene.arg("").trim_end_matches('/'))
        };
        fs::write(scene.path("sshd_config"), own(SERVER)).expect("it is ours");
        fs::write(scene.path("ssh_config"), own(CLIENT)).expect("it is ours");
        for key in ["host_key", "key"] {
            let mut generate = Command::new("ssh-keygen");
            generate.args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"]).arg(scene.path(key));
            assert!(generate.status().expect("ssh-keygen").success());
        }
        let public = fs::read_to_string(scene.path("host_key.pub")).expect("a key");
        fs::write(scene.path("known_hosts"), format!("it {public}")).expect("it is ours");

        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", WITH_ITS_DIRECTORY, "sh"]).arg(crate::common::binary());
        let bind = format!("{host}:2222");
        match sockets {
            Sockets::Adopted => command.arg("--adopt"),
            _ => command.args(["-b", &bind, "--ack", "notify"]),
        };
        command.args(options).args(["--", "sh", "-c", SERVE]);
        let wrapper = scene.spawn(scene.mark(command));
        let ssh = Ssh { config: scene.path("ssh_config"), mark: scene.mark.clone() };
        let running = Running { wrapper, ssh, _scene: scene };
        running.wrapper.log.wait(&says::ready(1));
        Some(running)
    }

    fn upgrade(&self, to: u32) {
        self.wrapper.signal(if to.is_multiple_of(2) { Signal::SIGUSR2 } else { Signal::SIGHUP });
        self.wrapper.log.wait(&says::ready(to));
    }

    fn log(&self) -> String {
        self.wrapper.log.all().join("\n")
    }

    /// What made a session of its own was let be.
    fn none_was_asked(&self) {
        assert!(!self.wrapper.log.has(", left behind*, is "), "{}", self.log());
    }

    /// Asks it to stop; nothing of it may be left.
    fn stop(mut self) {
        let below = descendants(self.wrapper.pid.as_raw());
        assert!(!below.is_empty(), "sshd is below us");
        self.wrapper.signal(Signal::SIGTERM);
        let status = self.wrapper.exit_status();
        assert_eq!(status, 0, "{}", self.log());
        let left: Vec<_> = below.into_iter().filter(lives).collect();
        assert_eq!(left, [], "{}", self.log());
    }
}

impl Drop for Running {
    /// The scene would not recognise what a failed test leaves.
    fn drop(&mut self) {
        if std::thread::panicking() && !self.wrapper.has_ended() {
            for (pid, _) in descendants(self.wrapper.pid.as_raw()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// A process and its birth.
type Process = (i32, String);

/// The parent and the birth of a process that lives.
fn stat(pid: i32) -> Option<(i32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let lives = !["Z", "X"].contains(fields.first()?);
    Some((fields.get(1)?.parse().ok()?, (*fields.get(19)?).to_owned())).filter(|_| lives)
}

fn lives((pid, born): &Process) -> bool {
    stat(*pid).is_some_and(|(_, now)| now == *born)
}

/// All below this process.
fn descendants(of: i32) -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<(i32, i32, String)> =
        pids.filter_map(|pid| stat(pid).map(|(parent, born)| (pid, parent, born))).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut next = vec![of];
    while let Some(parent) = next.pop() {
        for (pid, _, born) in all.iter().filter(|(_, its, _)| *its == parent) {
            next.push(*pid);
            found.push((*pid, born.clone()));
        }
    }
    found
}

/// Nobody who logs in notices thirty upgrades.
fn logins_go_on(sockets: Sockets) {
    let Some(running) = Running::start(sockets, &["--soak", "1ms"]) else { return };
    let mut logins = Logins::of(CLIENTS, &running.ssh);
    logins.await_replies(1, PROGRESS);
    for generation in 2..=UPGRADES + 1 {
        running.upgrade(generation);
        logins.await_replies(generation, PROGRESS);
    }
    logins.finish();
    let failed = logins.failures.len();
    tell(&format!("sshd, {sockets:?}: {UPGRADES} upgrades, {} logins, {failed} failed", logins.ok));
    assert_eq!(logins.failures, [""; 0], "{}", running.log());
    running.none_was_asked();
    running.stop();
}

#[test]
fn logins() {
    logins_go_on(Sockets::Nonblocking);
}

#[test]
fn adopted_logins() {
    logins_go_on(Sockets::Adopted);
}

/// A session that stays open: what is typed comes back.
struct Session {
    client: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn open(ssh: &Ssh) -> Session {
        let mut client = ssh.command("cat").stdin(Stdio::piped()).spawn().expect("ssh");
        let input = client.stdin.take().expect("a pipe");
        let output = BufReader::new(client.stdout.take().expect("a pipe"));
        Session { client, input, output }
    }

    fn echo(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("ssh reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("ssh writes");
        assert_eq!(answer.trim_end(), line);
    }

    /// It ends with the sshd that serves it.
    fn end(mut self) {
        self.client.wait().expect("it is ours");
    }
}

/// A session that is open for longer than any timeout here. Its sshd has a session of its own and no
/// listener, so no `--stop-timeout` ends it: it lives until everything stops. Under `--adopt` it is
/// idle after `--idle`, so the sshd that listens is asked to leave before `--drain-timeout`.
fn a_session_lives_on(sockets: Sockets, options: &[&str]) {
    let options = [&["--soak", "1ms", "--stop-timeout", "1s"], options].concat();
    let Some(running) = Running::start(sockets, &options) else { return };
    let mut session = Session::open(&running.ssh);
    session.echo("before");
    for generation in 2..=3 {
        running.upgrade(generation);
        running.wrapper.log.wait(&says::exited(generation - 1, 0));
        session.echo("after");
    }
    running.none_was_asked();
    running.stop();
    session.end();
}

#[test]
fn a_session() {
    a_session_lives_on(Sockets::Nonblocking, &[]);
}

#[test]
fn an_adopted_session() {
    a_session_lives_on(Sockets::Adopted, &["--idle", "100ms"]);
}

/// The sshd that listens is killed: what is logged in stays, and who comes is let in by another.
#[test]
fn a_session_over_a_crash() {
    let Some(running) = Running::start(Sockets::Nonblocking, &["--soak", "1ms"]) else { return };
    let mut session = Session::open(&running.ssh);
    session.echo("before");
    let started = running.wrapper.log.wait(&says::started(1));
    let pid = started.split("started pid ").nth(1).and_then(|rest| rest.split(' ').next());
    kill(Pid::from_raw(pid.and_then(|pid| pid.parse().ok()).expect("a pid")), Signal::SIGKILL)
        .expect("it lives");
    running.wrapper.log.wait_nth(&says::started(1), 2);
    running.ssh.log_in().unwrap_or_else(|why| panic!("{why}\n{}", running.log()));
    session.echo("after");
    running.none_was_asked();
    running.stop();
    session.end();
}
