//! One graceful-run with one server, through an order of releases, under load.

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::client::{Connection, Failure, Target};
use crate::clients::{Clients, Request};
use crate::ledger::Ledger;
use crate::place::tell;
use crate::rng::Rng;
use crate::server::Server;
use crate::site::{Kind, Site};
use crate::wrapper::{self, Verdict, Wrapper};

/// Nothing here takes this long on a sound machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Answers that must come from the release that is to serve before the next upgrade.
const PROGRESS: u32 = 20;

/// Between two looks at what no log line tells.
const LOOK: Duration = Duration::from_millis(50);

/// A release that was deployed.
#[derive(Debug)]
pub struct Round {
    /// What it does.
    pub kind: Kind,
    /// Its number.
    pub release: u32,
    /// The one that served before.
    pub previous: u32,
    /// What came of it.
    pub end: End,
    /// When the release that was to serve then had answered.
    pub at: SystemTime,
}

/// What came of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It serves.
    Serves,
    /// The previous one went on serving.
    Refused,
    /// It served, and the previous one was brought back.
    RolledBack,
}

impl End {
    /// The words of the report.
    pub fn words(self) -> &'static str {
        match self {
            End::Serves => "serve",
            End::Refused => "refused",
            End::RolledBack => "rolled back",
        }
    }
}

/// All that happened.
pub struct Run {
    /// Every release but the first.
    pub rounds: Vec<Round>,
    /// Every request.
    pub requests: Vec<Request>,
    /// What bad releases wrote down.
    pub ledger: Ledger,
    /// What graceful-run said, and when.
    pub log: Vec<(SystemTime, String)>,
}

/// So many of each bad kind, in random order, a good one after two to four of them and at
/// the end.
pub fn order(rng: &mut Rng, each: u64) -> Vec<Kind> {
    let mut bad: Vec<Kind> = Kind::BAD.into_iter().flat_map(|kind| (0..each).map(move |_| kind)).collect();
    let mut order = Vec::new();
    let mut few = 2 + rng.below(3);
    while !bad.is_empty() {
        order.push(bad.swap_remove(rng.below(bad.len() as u64) as usize));
        few -= 1;
        if few == 0 || bad.is_empty() {
            order.push(Kind::Good);
            few = 2 + rng.below(3);
        }
    }
    order
}

/// A graceful-run with a server, in a directory of their own.
pub struct Lane {
    name: &'static str,
    /// Before the site: what a failed test leaves is stopped before its files go.
    pub wrapper: Wrapper,
    target: Target,
    site: Site,
    /// The release that serves.
    pub serving: u32,
}

impl Lane {
    /// Deploys a good release and starts the server with it.
    pub fn start(server: &Server) -> Lane {
        let mut site = Site::of(server.files());
        let serving = site.deploy(Kind::Good);
        let (mut wrapper, target) = server.start(&site);
        wrapper.await_first_ready(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", server.name));
        Lane { name: server.name, wrapper, target, site, serving }
    }

    /// Clients at it.
    pub fn clients(&self) -> Clients {
        Clients::on(&self.target)
    }

    /// Deploys one release after the other.
    pub fn run(mut self, order: &[Kind]) -> Run {
        let mut clients = self.clients();
        self.await_answers(&mut clients, self.serving);
        let mut rounds = Vec::new();
        for kind in order {
            rounds.push(self.round(&mut clients, *kind));
        }
        let requests = clients.finish();
        let written = self.site.ledger();
        let mut log = self.stop();
        log.retain(|(_, line)| line.contains("graceful-run: "));
        Run { rounds, requests, ledger: Ledger::read(&written, &log), log }
    }

    fn round(&mut self, clients: &mut Clients, kind: Kind) -> Round {
        let generation = self.status()["generation"].clone();
        let previous = self.serving;
        let (release, live) = self.upgrade(kind);
        let end = match (kind, live) {
            (Kind::Good, true) => {
                self.serving = release;
                End::Serves
            }
            (Kind::Dies | Kind::Crashes, true) => {
                self.await_rolled_back(&generation);
                End::RolledBack
            }
            (Kind::Exits | Kind::Hangs, true) => {
                panic!("{}: r{release} went live and {kind:?}: {:#?}", self.name, self.wrapper.heard)
            }
            (Kind::Good, false) => {
                panic!("{}: r{release} is good, and was refused", self.name)
            }
            (_, false) => End::Refused,
        };
        self.await_answers(clients, self.serving);
        Round { kind, release, previous, end, at: SystemTime::now() }
    }

    /// Deploys a release and upgrades to it. Returns its number, and whether it went live:
    /// `ctl` and the log have to say the same.
    pub fn upgrade(&mut self, kind: Kind) -> (u32, bool) {
        let release = self.site.deploy(kind);
        let output = self.ctl(&["--timeout", "2m", "upgrade"]);
        let verdict = self.wrapper.await_verdict(LIMIT).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        match (output.status.code(), verdict) {
            (Some(0), Verdict::Upgraded) => (release, true),
            (Some(1), Verdict::Refused(_)) => (release, false),
            (status, verdict) => panic!("{}: ctl exits with {status:?}; {verdict:?}: {output:?}", self.name),
        }
    }

    /// Waits until this generation serves again, and sees that the status says so.
    fn await_rolled_back(&mut self, generation: &Value) {
        let again = format!("generation {generation}: serves again after ");
        self.await_line(&again, |line| line.contains(&again));
        let status = self.status();
        assert_eq!(status["last_upgrade"]["result"], "rolled back", "{}: {status}", self.name);
        assert_eq!(&status["generation"], generation, "{}: {status}", self.name);
    }

    /// Waits until the log says so.
    pub fn await_line(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        let said = self.wrapper.await_line(what, LIMIT, |line| is_it(line).then_some(()));
        said.unwrap_or_else(|why| panic!("{}: {why}", self.name));
    }

    /// Waits until clients have had answers of this release.
    pub fn await_answers(&self, clients: &mut Clients, release: u32) {
        let answered = clients.await_answers(release, PROGRESS, LIMIT);
        answered.unwrap_or_else(|why| panic!("{}: {why}", self.name));
    }

    /// `ctl status --json`
    pub fn status(&self) -> Value {
        let output = self.ctl(&["--json", "status"]);
        assert!(output.status.success(), "{}: {output:?}", self.name);
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Looks at the status until it is as it should be.
    pub fn await_status(&self, what: &str, is_it: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        while !is_it(&self.status()) {
            assert!(start.elapsed() < LIMIT, "{}: {what}: {}", self.name, self.status());
            thread::park_timeout(LOOK);
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(wrapper::binary());
        wrapper::surroundings::surround(&mut command, self.site.path());
        command.args(["ctl", "--name", "shop"]).args(arguments).output().expect("ctl can be started")
    }

    /// Stops it: the status is 0, and neither a process nor a listener is left. A refused
    /// release may need its whole stop timeout to leave, which is no part of our own stop.
    /// Returns the log.
    pub fn stop(mut self) -> Vec<(SystemTime, String)> {
        let name = self.name;
        let alone = |status: &Value| status["workers"].as_array().is_some_and(|workers| workers.len() == 1);
        self.await_status("one worker", alone);
        let pid = self.wrapper.pid();
        let status = self.wrapper.stop(LIMIT).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(status.success(), "{name}: {}\n{}", wrapper::in_words(status), self.wrapper.tail());
        let left = wrapper::left_in(self.site.path(), pid);
        assert!(left.is_empty(), "{name}: left behind: {}", left.join(", "));
        let open = Connection::open(&self.target).err();
        assert_eq!(open, Some(Failure::Refused), "{name}: {:?} is still open", self.target);
        let suspicious = self.wrapper.suspicious();
        assert!(suspicious.is_empty(), "{name}: {}", suspicious.join("\n"));
        std::mem::take(&mut self.wrapper.heard)
    }
}

impl Drop for Lane {
    /// Where a test fails, its log says why.
    fn drop(&mut self) {
        if thread::panicking() {
            tell(&format!("{}: the log of what failed:\n{}", self.name, in_ms(&self.wrapper.heard)));
        }
    }
}

/// What graceful-run itself said, in milliseconds since its first line.
fn in_ms(log: &[(SystemTime, String)]) -> String {
    let Some((first, _)) = log.first() else { return String::new() };
    let own = log.iter().filter(|(_, line)| line.contains("graceful-run: "));
    let since = |at: &SystemTime| at.duration_since(*first).unwrap_or_default().as_millis();
    own.map(|(at, line)| format!("    {:>7} {line}\n", since(at))).collect()
}
