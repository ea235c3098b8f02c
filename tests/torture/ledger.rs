//! The books: every request of every client, by kind and outcome.
//!
//! Contract: a request is entered once, when it has ended. Whoever upgrades waits
//! here for replies of the generation it wants to hear from, so that the next
//! upgrade starts on progress and never on time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::load::Failure;

/// What a client does, which decides what an upgrade could break for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A new TCP connection for each request.
    Fresh,
    /// Many requests on one TCP connection.
    KeepAlive,
    /// A request that is in flight from before an upgrade until after its end.
    Held,
    /// A connection made before an upgrade, whose request is sent after its end.
    Late,
    /// A new connection to the unix socket for each request.
    Unix,
    /// A new TCP connection over IPv6 for each request.
    Ipv6,
}

impl Kind {
    /// All of them, in the order of the report.
    pub const ALL: [Kind; 6] = [Kind::Fresh, Kind::KeepAlive, Kind::Held, Kind::Late, Kind::Unix, Kind::Ipv6];

    /// The words of the report.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fresh => "new connection",
            Kind::KeepAlive => "keep-alive",
            Kind::Held => "held across",
            Kind::Late => "sent late",
            Kind::Unix => "unix socket",
            Kind::Ipv6 => "IPv6",
        }
    }
}

#[derive(Default)]
struct Books {
    ok: BTreeMap<Kind, u64>,
    failed: BTreeMap<(Kind, Failure), u64>,
    newest: u64,
    from: u64,
    replies: u64,
    wanted: u64,
    slowest: Duration,
    upgrades: u64,
    over: bool,
}

/// See the head of the file.
#[derive(Default)]
pub struct Ledger {
    books: Mutex<Books>,
    progress: Condvar,
    upgraded: Condvar,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no client panics with the books open")
    }

    /// A reply came whole, from this generation, after so long.
    pub fn ok(&self, kind: Kind, generation: u64, took: Duration) {
        let mut books = self.books();
        *books.ok.entry(kind).or_default() += 1;
        books.newest = books.newest.max(generation);
        if !matches!(kind, Kind::Held | Kind::Late) {
            books.slowest = books.slowest.max(took);
        }
        if generation >= books.from {
            books.replies += 1;
            if books.replies == books.wanted {
                self.progress.notify_all();
            }
        }
    }

    /// A request failed.
    pub fn failed(&self, kind: Kind, failure: Failure) {
        *self.books().failed.entry((kind, failure)).or_default() += 1;
    }

    /// Waits until `wanted` more replies have come from generation `from` or a
    /// later one; returns the newest generation that has answered so far.
    pub fn await_replies(&self, from: u64, wanted: u64, limit: Duration) -> Result<u64, String> {
        let deadline = Instant::now() + limit;
        let mut books = self.books();
        books.from = from;
        books.wanted = wanted;
        books.replies = 0;
        while books.replies < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "only {} of {wanted} replies came from generation {from} or later within {limit:?}",
                    books.replies
                ));
            }
            books = self.progress.wait_timeout(books, left).expect("no client panics").0;
        }
        books.wanted = 0;
        Ok(books.newest)
    }

    /// An upgrade has ended, well or not.
    pub fn upgrade_ended(&self) {
        self.books().upgrades += 1;
        self.upgraded.notify_all();
    }

    /// There will be no more upgrades to wait for.
    pub fn upgrades_are_over(&self) {
        self.books().over = true;
        self.upgraded.notify_all();
    }

    /// Waits until another upgrade has ended, or until none is to come.
    pub fn await_upgrade(&self) {
        let books = self.books();
        let seen = books.upgrades;
        let books = self.upgraded.wait_while(books, |books| books.upgrades == seen && !books.over);
        drop(books.expect("no client panics with the books open"));
    }

    /// The newest generation that has answered.
    pub fn newest(&self) -> u64 {
        self.books().newest
    }

    /// Requests of this kind: answered, failed.
    pub fn count(&self, kind: Kind) -> (u64, u64) {
        let books = self.books();
        let failed = books.failed.iter().filter(|((of, _), _)| *of == kind).map(|(_, n)| n).sum();
        (books.ok.get(&kind).copied().unwrap_or_default(), failed)
    }

    /// Requests in all: answered, failed.
    pub fn total(&self) -> (u64, u64) {
        let books = self.books();
        (books.ok.values().sum(), books.failed.values().sum())
    }

    /// How often each failure came, whatever the client.
    pub fn failures(&self) -> BTreeMap<Failure, u64> {
        let mut failures = BTreeMap::new();
        for ((_, failure), n) in &self.books().failed {
            *failures.entry(*failure).or_default() += n;
        }
        failures
    }

    /// The longest that a request took, from connect to the last byte, those
    /// that were held on purpose left out.
    pub fn slowest(&self) -> Duration {
        self.books().slowest
    }
}
