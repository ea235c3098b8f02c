//! The servers, each in four lanes at once.

use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use crate::judge::Tally;
use crate::lane::{End, Lane, order};
use crate::place::{installed, leave_out, tell};
use crate::rng::Rng;
use crate::server::Server;
use crate::site::Kind;

/// Supervisors of each server, which share its releases: most of the time all of them wait.
const LANES: u64 = 4;

/// Listens on the descriptor that it was handed; its arguments lead to the release.
pub const NODE: Server = Server {
    name: "node",
    line: "-b 127.0.0.1:8000 --ack-timeout 20s -- node current/server.js",
    may_lose: 0,
};

/// It says READY=1 before its workers import the application, and its directory is the
/// release.
#[test]
fn django_under_gunicorn() {
    bad_releases(&Server {
        name: "django",
        line: "-C current -b 127.0.0.1:8000 --ack-timeout 20s -- gunicorn --no-control-socket -w 2 shop.wsgi",
        may_lose: 0,
    });
}

/// A worker of puma that cannot load its application is started again for ever: what cannot
/// start never gets ready.
#[test]
fn puma() {
    bad_releases(&Server {
        name: "puma",
        line: "-b 127.0.0.1:8000 --ack-timeout 20s -- puma --config - --bind-to-activated-sockets only \
               --workers 2 --threads 2:4 current/config.ru",
        // One in ten upgrades of it loses a request (tests/interop), and here are 14 good ones.
        may_lose: 5,
    });
}

#[test]
fn node() {
    bad_releases(&NODE);
}

/// It binds its own port. The path to its classes is written as a path: a word without a slash
/// may be none, is handed over as it is, and a release that cannot be had again by it is not
/// brought back.
#[test]
fn java() {
    if which::which("javac").is_err() {
        return tell("java: left out, this machine has no JDK");
    }
    if !installed().join("shop/Shop.class").exists() {
        return leave_out("java");
    }
    bad_releases(&Server {
        name: "java",
        line: "--adopt --ack-timeout 20s -- java -cp ./current Shop 127.0.0.1:8000",
        may_lose: 0,
    });
}

/// Every bad release is refused or rolled back, every good one serves, and nothing is lost.
fn bad_releases(server: &Server) {
    if !server.is_here() {
        return;
    }
    let number = |name, unless| {
        std::env::var(name)
            .map_or(unless, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let start = Instant::now();
    let (each, seed) = (number("BAD_RELEASES", 10), number("RELEASES_SEED", 1));
    let tally = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let share = each / LANES + u64::from(lane < each % LANES);
                let order = order(&mut Rng::new(seed * LANES + lane), share);
                scope.spawn(move || Tally::of(&Lane::start(server).run(&order)))
            })
            .collect();
        let tallies = lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic)));
        tallies.reduce(Tally::join).expect("there are lanes")
    });
    tell(&format!("{}: seed {seed}, {} s: {}", server.name, start.elapsed().as_secs(), tally.in_words()));
    let lost = tally.lost.len();
    assert!(lost <= server.may_lose, "{}: {lost} lost:\n{}", server.name, tally.lost.join("\n"));
    for kind in Kind::BAD {
        let (refused, rolled_back) = (tally.count(kind, End::Refused), tally.count(kind, End::RolledBack));
        assert_eq!(refused + rolled_back, each, "{}: {kind:?}: {:?}", server.name, tally.ends);
    }
    // All that a client can see of those is that they wait.
    let rolled_back = tally.count(Kind::Dies, End::RolledBack) + tally.count(Kind::Crashes, End::RolledBack);
    assert!(rolled_back > 0 && tally.deaths >= 3 * rolled_back, "{}: {:?}", server.name, tally);
}
