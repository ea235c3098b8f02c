//! What goes wrong with real servers, and what becomes of it: one that says that
//! it is ready before it is, one that leaves workers behind, one that goes into
//! the background.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Failure;
use crate::driver::{CLIENTS, LIMIT, start, stop};
use crate::load::Load;
use crate::protocol::Protocol;
use crate::server::{Prepared, Server, unlisted};
use crate::wrapper::{Verdict, Wrapper, left_in};
use nix::sys::signal::Signal;

/// Replies that show that somebody serves.
const ENOUGH: u32 = 30;

const NOTHING: BTreeMap<Failure, u64> = BTreeMap::new();

/// A server with clients at it.
struct Running {
    wrapper: Wrapper,
    load: Load,
    prepared: Prepared,
    directory: tempfile::TempDir,
}

impl Running {
    fn of(server: &Server) -> Option<Running> {
        if !server.is_here() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory of our own");
        let prepared = server.prepare(directory.path());
        let mut wrapper = start(&prepared, directory.path());
        wrapper.await_first_ready(LIMIT).unwrap_or_else(|why| panic!("{why}"));
        let mut load = Load::on(CLIENTS, &prepared.targets, server.protocol, wrapper.pid());
        load.await_replies(1, ENOUGH, LIMIT).unwrap_or_else(|why| panic!("{why}\n{}", wrapper.tail()));
        Some(Running { wrapper, load, prepared, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn verdict(&mut self) -> Verdict {
        self.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{why}"))
    }

    fn await_said(&mut self, words: &str) {
        let found = self.wrapper.await_line(words, LIMIT, |line| line.contains(words).then_some(()));
        found.unwrap_or_else(|why| panic!("{why}"));
    }

    fn await_gone(&mut self, generation: u64) {
        let name = format!("generation {generation}: ");
        let gone = |line: &str| (line.contains(&name) && line.contains(" exited ")).then_some(());
        let found = self.wrapper.await_line("the end of the old one", LIMIT, gone);
        found.unwrap_or_else(|why| panic!("{why}"));
    }

    fn await_replies(&mut self, from: u64) -> u64 {
        let Running { wrapper, load, .. } = self;
        load.await_replies(from, ENOUGH, LIMIT).unwrap_or_else(|why| panic!("{why}\n{}", wrapper.tail()))
    }

    /// Ends the clients and the server; returns what was lost.
    fn end(mut self, name: &str) -> BTreeMap<Failure, u64> {
        self.load.finish().unwrap_or_else(|why| panic!("{why}"));
        stop(name, self.wrapper, &self.prepared, self.directory.path());
        std::mem::take(&mut self.load.failures)
    }
}

/// gunicorn says READY=1 and imports the application then. The soak outlasts the
/// import here, and the old generation serves all the while.
#[test]
fn ready_too_early_is_covered_by_the_soak() {
    let line = "-b 127.0.0.1:8000 --ack notify --soak 4s -- gunicorn --no-control-socket -w 2 slow_import";
    let Some(mut running) = Running::of(&unlisted(line)) else { return };
    let gate = running.path("gate.2");
    fs::write(&gate, "").expect("it is ours");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_said("generation 2: ready");
    assert_eq!(running.await_replies(1), 1, "generation 2 cannot answer yet");
    fs::remove_file(gate).expect("it is there");
    assert_eq!(running.verdict(), Verdict::Upgraded);
    running.await_replies(2);
    assert_eq!(running.end("gunicorn"), NOTHING);
}

/// Without enough of a soak nobody answers until the import is done: clients wait,
/// but none is refused and nothing is lost.
#[test]
fn ready_too_early_makes_clients_wait() {
    let line = "-b 127.0.0.1:8000 --ack notify --soak 1ms -- gunicorn --no-control-socket -w 2 slow_import";
    let Some(mut running) = Running::of(&unlisted(line)) else { return };
    let gate = running.path("gate.2");
    fs::write(&gate, "").expect("it is ours");
    running.wrapper.signal(Signal::SIGUSR2);
    assert_eq!(running.verdict(), Verdict::Upgraded, "READY=1 comes before the import");
    running.await_gone(1);
    fs::remove_file(gate).expect("it is there");
    running.await_replies(2);
    assert_eq!(running.end("gunicorn"), NOTHING);
}

/// READY=1 came, and the import fails: the soak sees it end and undoes the upgrade.
#[test]
fn ready_and_broken_is_undone() {
    let line = "-b 127.0.0.1:8000 --ack notify --soak 30s -- gunicorn --no-control-socket -w 2 slow_import";
    let Some(mut running) = Running::of(&unlisted(line)) else { return };
    fs::write(running.path("broken.2"), "").expect("it is ours");
    running.wrapper.signal(Signal::SIGUSR2);
    running.await_said("generation 2: ready");
    assert!(matches!(running.verdict(), Verdict::Refused(_)));
    assert_eq!(running.await_replies(1), 1);
    assert_eq!(running.end("gunicorn"), NOTHING);
}

/// On QUIT Starlet's first process goes at once, and its workers would go on
/// accepting. They are asked to leave, and do so gracefully.
#[test]
fn workers_left_behind_are_stopped() {
    let line = "-b 127.0.0.1:8000 --export server-starter --ack accepting --stop-signal QUIT \
                -- plackup -E production -s Starlet --max-workers 2 -a app.psgi";
    let Some(mut running) = Running::of(&unlisted(line)) else { return };
    leave_workers_behind(&mut running);
    assert_eq!(running.end("plackup"), NOTHING);
}

/// So it is with fcgiwrap and TERM; but its workers cut what they are at.
#[test]
fn workers_left_behind_may_cut_requests() {
    let line = "-b 127.0.0.1:8000 --ack timer:500ms -- fcgiwrap -c 2";
    let server = unlisted(line).speaks(Protocol::FastCgi("./answer.cgi"));
    let Some(mut running) = Running::of(&server) else { return };
    leave_workers_behind(&mut running);
    let lost = running.end("fcgiwrap");
    assert!(!lost.contains_key(&Failure::Refused), "{lost:?}");
}

/// Upgrades once; of the old generation nothing stays.
fn leave_workers_behind(running: &mut Running) {
    let old = workers(running);
    assert!(old.len() > 1, "generation 1 has workers: {old:?}");
    running.wrapper.signal(Signal::SIGUSR2);
    assert_eq!(running.verdict(), Verdict::Upgraded);
    running.await_said("it left processes behind, which finish what they have");
    running.await_replies(2);
    let start = Instant::now();
    while workers(running).iter().any(|worker| old.contains(worker)) {
        assert!(start.elapsed() < LIMIT, "of {old:?} there are still some in {:?}", workers(running));
        thread::park_timeout(Duration::from_millis(2));
    }
    assert!(!workers(running).is_empty(), "generation 2 is seen the same way");
}

/// The processes of all generations; some servers write over their environment.
fn workers(running: &Running) -> Vec<String> {
    let pid = running.wrapper.pid();
    let own = format!("{pid} ");
    let all = left_in(running.directory.path(), pid);
    all.into_iter().filter(|process| !process.starts_with(&own)).collect()
}

/// A server that goes into the background has left us: the message says what to do,
/// and nothing of it is left.
#[test]
fn one_that_daemonises_is_told_of() {
    let server = unlisted("-b 127.0.0.1:8000 --ack accepting --profile none -- lighttpd -f lighttpd.conf");
    if !server.is_here() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory of our own");
    let prepared = server.prepare(directory.path());
    let mut wrapper = start(&prepared, directory.path());
    let told = wrapper.await_line("our last words", LIMIT, |line| {
        line.contains("it left processes behind: if it daemonises, run it in the foreground").then_some(())
    });
    told.unwrap_or_else(|why| panic!("{why}"));
    wrapper.await_end(LIMIT).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(left_in(directory.path(), wrapper.pid()), [""; 0]);
}

/// php-fpm unlinks the path of its socket when it goes, with the new one on it. The
/// path is linked back; clients in between find none, and none is lost.
#[test]
fn a_path_that_the_old_one_unlinks_comes_back() {
    let line = "-b /srv/shop/php.sock --export php-fpm --ack notify -- php-fpm8.2 -n -F -y php-fpm-path.conf";
    let server = unlisted(line).speaks(Protocol::FastCgi("answer.php"));
    let Some(mut running) = Running::of(&server) else { return };
    for generation in 2..=4 {
        running.wrapper.signal(Signal::SIGUSR2);
        assert_eq!(running.verdict(), Verdict::Upgraded);
        running.await_gone(generation - 1);
        running.await_replies(generation);
    }
    let mut lost = running.end("php-fpm8.2");
    lost.remove(&Failure::Refused);
    assert_eq!(lost, NOTHING);
}
