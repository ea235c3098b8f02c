//! Real servers that start their own successor: each is upgraded ten times under
//! load by `--follow`.
//!
//! A successor inherits the environment of the first worker, so an answer names
//! the process that gave it: an upgrade is over when only processes answer that
//! had not answered before it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use crate::client::{Connection, Failure, Target};
use crate::driver::{LIMIT, PROGRESS, UPGRADES};
use crate::load::PAUSE;
use crate::place::{find, host_of_our_own, path, tell};
use crate::server::servers;
use crate::wrapper::{self, Verdict, Wrapper};
use nix::sys::signal::Signal;

/// Clients at a time.
const CLIENTS: usize = 4;

type Outcome = Result<u32, Failure>;

struct Server {
    name: &'static str,
    program: &'static str,
    /// At which it starts its successor.
    signal: &'static str,
    options: &'static [&'static str],
    arguments: fn(SocketAddr, &Path) -> Vec<OsString>,
}

fn follow_under_load(server: &Server) {
    let Some(program) = find(server.program) else { return };
    let directory = tempfile::tempdir().expect("a directory of our own");
    let address: SocketAddr = format!("{}:5001", host_of_our_own()).parse().expect("an address");
    let arguments = (server.arguments)(address, directory.path());
    let mut wrapper = Wrapper::start(directory.path(), |command| {
        command
            .args(["--follow", server.signal])
            .args(server.options)
            .arg("--")
            .arg(&program)
            .args(&arguments);
        command.env("PATH", path()).env("PYTHONPATH", servers()).env("PYTHONDONTWRITEBYTECODE", "1");
    });
    let supervisor = wrapper.pid();
    let finish = AtomicBool::new(false);
    let (sender, outcomes) = channel();
    let mut seen = Seen { outcomes, pids: BTreeSet::new(), ok: 0, failures: Vec::new() };
    let done = wrapper.await_first_ready(LIMIT).and_then(|()| {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let (sender, finish) = (sender.clone(), &finish);
                scope.spawn(move || request_until(finish, address, &sender));
            }
            let done = upgrade(&mut wrapper, &mut seen);
            finish.store(true, Ordering::SeqCst);
            done
        })
    });
    done.unwrap_or_else(|why| panic!("{}: {why}\n{}", server.name, wrapper.tail()));
    while let Ok(outcome) = seen.outcomes.try_recv() {
        seen.enter(outcome);
    }
    let status = wrapper.stop(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", server.name));
    let failed = &seen.failures;
    tell(&format!(
        "{}: {UPGRADES} self-restarts, {} answered, {} failed",
        server.name,
        seen.ok,
        failed.len()
    ));
    assert!(failed.is_empty(), "{}: {failed:?}", server.name);
    assert!(status.success(), "{}: {}\n{}", server.name, wrapper::in_words(status), wrapper.tail());
    let left = wrapper::left_in(directory.path(), supervisor);
    assert!(left.is_empty(), "{}: left behind: {}", server.name, left.join(", "));
    assert!(wrapper.suspicious().is_empty(), "{}: {:?}", server.name, wrapper.suspicious());
}

fn upgrade(wrapper: &mut Wrapper, seen: &mut Seen) -> Result<(), String> {
    seen.await_others(&BTreeSet::new())?;
    for number in 1..=UPGRADES {
        let before = seen.pids.clone();
        wrapper.signal(Signal::SIGHUP);
        if let Verdict::Refused(why) = wrapper.await_verdict(LIMIT)? {
            return Err(format!("upgrade {number} was refused: {why}"));
        }
        seen.await_others(&before)?;
    }
    Ok(())
}

/// What the clients saw.
struct Seen {
    outcomes: Receiver<Outcome>,
    pids: BTreeSet<u32>,
    ok: u64,
    failures: Vec<Failure>,
}

impl Seen {
    fn enter(&mut self, outcome: Outcome) -> Option<u32> {
        match outcome {
            Ok(pid) => {
                self.ok += 1;
                self.pids.insert(pid);
                Some(pid)
            }
            Err(failure) => {
                self.failures.push(failure);
                None
            }
        }
    }

    /// Waits for answers in a row from others than these.
    fn await_others(&mut self, known: &BTreeSet<u32>) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        let mut row = 0;
        while row < PROGRESS {
            let left = deadline.saturating_duration_since(Instant::now());
            let outcome = self.outcomes.recv_timeout(left).map_err(|_| {
                format!("{row} of {PROGRESS} answers came in {LIMIT:?} from others than {known:?}")
            })?;
            row = match self.enter(outcome) {
                Some(pid) if !known.contains(&pid) => row + 1,
                _ => 0,
            };
        }
        Ok(())
    }
}

fn request_until(finish: &AtomicBool, address: SocketAddr, outcomes: &Sender<Outcome>) {
    while !finish.load(Ordering::SeqCst) {
        let outcome = Connection::open(&Target::Tcp(address)).and_then(|mut connection| {
            let reply = connection.get("/", true)?;
            let pid = reply.body.trim_end().strip_prefix("pid ").and_then(|pid| pid.parse().ok());
            pid.filter(|_| reply.status == 200).ok_or(Failure::BadBody)
        });
        if outcomes.send(outcome).is_err() {
            return;
        }
        thread::park_timeout(PAUSE);
    }
}

fn in_file(directory: &Path, name: &str, text: &str) -> OsString {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("write a configuration");
    path.into()
}

/// Its successor sends it TERM; a second one would cut requests.
#[test]
fn grace() {
    follow_under_load(&Server {
        name: "grace",
        program: "go-follow",
        signal: "USR2",
        options: &[],
        arguments: |address, _| vec![address.to_string().into()],
    });
}

/// It refuses USR2 unless it has gone into the background.
#[test]
fn nginx() {
    follow_under_load(&Server {
        name: "nginx",
        program: "nginx",
        signal: "USR2",
        options: &["--stop-signal", "QUIT"],
        arguments: |address, directory| {
            let place = directory.display();
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {place}/{name};"))
                .concat();
            let text = format!(
                "daemon on; worker_processes 2; pid {place}/pid; error_log {place}/error.log;\n\
                 events {{ worker_connections 64; }}\n\
                 http {{ access_log off; {temporary}\n\
                 server {{ listen {address}; location / {{ default_type text/plain; return 200 \"pid $pid\\n\"; }} }} }}\n"
            );
            vec!["-c".into(), in_file(directory, "nginx.conf", &text)]
        },
    });
}

#[test]
fn unicorn() {
    follow_under_load(&Server {
        name: "unicorn",
        program: "unicorn",
        signal: "USR2",
        options: &["--stop-signal", "QUIT"],
        arguments: |address, directory| {
            let settings =
                in_file(directory, "unicorn.rb", &format!("worker_processes 2\nlisten '{address}'\n"));
            let app = in_file(
                directory,
                "config.ru",
                "run ->(_env) { body = \"pid #{Process.pid}\\n\"; \
                 [200, { 'Content-Type' => 'text/plain', 'Content-Length' => body.bytesize.to_s }, [body]] }\n",
            );
            vec!["-E".into(), "none".into(), "-c".into(), settings, app]
        },
    });
}

/// Fewer workers than clients: they never rest, and are not seen to wait.
#[test]
fn gunicorn_itself() {
    follow_under_load(&Server {
        name: "gunicorn itself",
        program: "gunicorn",
        signal: "USR2",
        options: &[],
        arguments: |address, directory| {
            in_file(
                directory,
                "process.py",
                "import os\n\n\ndef app(environ, start_response):\n    \
                 body = f'pid {os.getpid()}\\n'.encode()\n    \
                 start_response('200 OK', [('Content-Length', str(len(body)))])\n    return [body]\n",
            );
            let words = ["--no-control-socket", "-w", "2", "-b", &address.to_string(), "process:app"];
            words.map(OsString::from).into()
        },
    });
}

/// It stays, as the master of the server that it starts.
#[test]
fn server_starter() {
    follow_under_load(&Server {
        name: "Server::Starter",
        program: "start_server",
        signal: "HUP",
        options: &[],
        arguments: |address, directory| {
            let app = in_file(
                directory,
                "process.psgi",
                "sub { my $body = \"pid $$\\n\"; \
                 [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]] };\n",
            );
            let plackup = ["plackup", "-E", "production", "-s", "Starlet", "--max-workers", "2", "-a"];
            let mut words: Vec<OsString> = vec!["--port".into(), address.to_string().into(), "--".into()];
            words.extend(plackup.map(OsString::from));
            words.push(app);
            words
        },
    });
}
