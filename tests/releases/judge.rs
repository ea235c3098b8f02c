//! What each failed request was: lost, or a bad release's own.
//!
//! Contract: a connection that a server has accepted dies with it, whoever supervises it.
//! So a request that failed is a bad release's own only if its connection ended while that
//! release died, and no more than one of each client does so at a death: none can have been
//! served then, as what follows has to boot. Whether the release had begun to
//! handle it, or had accepted it and not read it yet, is counted apart. Everything else is
//! lost: a refused connection, one that fails at any other time, an answer of the wrong
//! release.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::client::Failure;
use crate::clients::{CLIENTS, Request};
use crate::lane::{End, Round, Run};
use crate::ledger::Death;
use crate::site::Kind;

/// From the end of a server until its clients have seen it: less than any takes to boot.
const SEEN: Duration = Duration::from_secs(1);

/// What came of a run, in figures.
#[derive(Debug, Default)]
pub struct Tally {
    /// Releases of each kind, by what came of them.
    pub ends: BTreeMap<(Kind, End), u64>,
    /// Requests that were sent.
    pub requests: u64,
    /// Servers of bad releases that died while they had clients.
    pub deaths: u64,
    /// Requests that a bad release had begun to handle when it died.
    pub begun: u64,
    /// Requests that it had not begun to handle.
    pub unread: u64,
    /// What nobody may lose, in words.
    pub lost: Vec<String>,
    /// From the last death of a release that served to the first answer of the previous one.
    pub gaps: Vec<Duration>,
    /// From the line that says that the previous one serves again to that answer, at most.
    pub early: Duration,
    /// The longest that a client waited for an answer.
    pub longest: Duration,
}

impl Tally {
    /// Judges a run.
    pub fn of(run: &Run) -> Tally {
        let mut tally = Tally {
            requests: run.requests.len() as u64,
            deaths: run.ledger.deaths.len() as u64,
            ..Tally::default()
        };
        for round in &run.rounds {
            *tally.ends.entry((round.kind, round.end)).or_default() += 1;
        }
        let mut by_death = vec![0; run.ledger.deaths.len()];
        for request in &run.requests {
            match request.outcome {
                Ok(release) => tally.answered(run, request, release),
                Err(failure) => tally.failed(run, request, failure, &mut by_death),
            }
        }
        tally.gaps = gaps(run);
        tally.early = early(run);
        tally
    }

    fn answered(&mut self, run: &Run, request: &Request, release: u32) {
        self.longest = self.longest.max(since(request.ended, request.sent));
        // The first release has no round.
        let Some(round) = run.rounds.iter().find(|round| round.release == release) else { return };
        let wrong = match (round.kind, round.end) {
            (Kind::Exits | Kind::Hangs, _) => true,
            (Kind::Dies | Kind::Crashes, _) => request.sent > round.at,
            (Kind::Good, _) => false,
        };
        if wrong {
            self.lost.push(format!("answered by r{release}, which {:?}: {request:?}", round.kind));
        }
    }

    fn failed(&mut self, run: &Run, request: &Request, failure: Failure, by_death: &mut [usize]) {
        let cut = matches!(
            failure,
            Failure::ResetBeforeSend | Failure::ResetAfterSend | Failure::EofEmpty | Failure::EofPartial
        );
        let begun = run.ledger.begun.get(&request.number);
        let of = |death: &&Death| {
            death.at <= request.ended
                && request.ended <= death.gone + SEEN
                && begun.is_none_or(|release| *release == death.release)
        };
        let death = run.ledger.deaths.iter().rposition(|death| of(&death)).filter(|_| cut);
        let Some(death) = death.filter(|death| by_death[*death] < CLIENTS) else {
            return self.lost.push(account(run, request, failure));
        };
        by_death[death] += 1;
        match begun {
            Some(_) => self.begun += 1,
            None => self.unread += 1,
        }
    }

    /// Both together.
    pub fn join(mut self, other: Tally) -> Tally {
        for (what, count) in other.ends {
            *self.ends.entry(what).or_default() += count;
        }
        self.requests += other.requests;
        self.deaths += other.deaths;
        self.begun += other.begun;
        self.unread += other.unread;
        self.lost.extend(other.lost);
        self.gaps.extend(other.gaps);
        self.early = self.early.max(other.early);
        self.longest = self.longest.max(other.longest);
        self
    }

    /// How many releases of this kind ended so.
    pub fn count(&self, kind: Kind, end: End) -> u64 {
        self.ends.get(&(kind, end)).copied().unwrap_or(0)
    }

    /// One line.
    pub fn in_words(&self) -> String {
        let ends: Vec<String> =
            self.ends.iter().map(|((kind, end), n)| format!("{} {n} {}", kind.word(), end.words())).collect();
        let mut gaps = self.gaps.clone();
        gaps.sort();
        let gap =
            |at: Option<&Duration>| at.map_or("none".to_owned(), |gap| format!("{} ms", gap.as_millis()));
        format!(
            "{} upgrades ({}), {} requests, {} lost; of bad releases' own at {} deaths: {} begun, {} not yet read; \
             from the last death to an answer of the previous release: min {}, median {}, max {} \
             (at most {} ms after it was said to serve again); the longest wait of a client: {} ms",
            self.ends.values().sum::<u64>(),
            ends.join(", "),
            self.requests,
            self.lost.len(),
            self.deaths,
            self.begun,
            self.unread,
            gap(gaps.first()),
            gap(gaps.get(gaps.len() / 2)),
            gap(gaps.last()),
            self.early.as_millis(),
            self.longest.as_millis()
        )
    }
}

/// A failed request, and what the log said meanwhile.
fn account(run: &Run, request: &Request, failure: Failure) -> String {
    let begun = run.ledger.begun.get(&request.number).map_or(String::new(), |by| format!(", begun by r{by}"));
    let first = run.log.first().map_or(request.sent, |(first, _)| *first);
    let ms = |at: SystemTime| since(at, first).as_millis();
    let near = |at: SystemTime| (request.sent - SEEN..=request.ended + SEEN).contains(&at);
    let log =
        run.log.iter().filter(|(at, _)| near(*at)).map(|(at, line)| format!("    {:>7} {line}\n", ms(*at)));
    let deaths = run.ledger.deaths.iter().filter(|death| near(death.at) || near(death.gone));
    let deaths = deaths.map(|death| format!("    {:>7} r{} dies\n", ms(death.at), death.release));
    format!(
        "{}{begun}: request {}, sent at {}, ended at {}:\n{}{}",
        failure.name(),
        request.number,
        ms(request.sent),
        ms(request.ended),
        deaths.collect::<String>(),
        log.collect::<String>()
    )
}

/// From the last death of each release that was rolled back to the first answer then.
fn gaps(run: &Run) -> Vec<Duration> {
    let gap = |round: &Round| {
        let deaths = run.ledger.deaths.iter().filter(|death| death.release == round.release);
        let last = deaths.map(|death| death.at).max()?;
        Some(since(first_answer(run, round.previous, last)?, last))
    };
    run.rounds.iter().filter(|round| round.end == End::RolledBack).filter_map(gap).collect()
}

/// How long before its first answer a release was said to serve again, at most.
fn early(run: &Run) -> Duration {
    let said = run.log.iter().filter(|(_, line)| line.contains(": serves again after ")).map(|(at, _)| *at);
    let rounds = run.rounds.iter().filter(|round| round.end == End::RolledBack);
    let early = |(said, round): (SystemTime, &Round)| {
        let answered = run.requests.iter().any(|request| {
            request.outcome == Ok(round.previous)
                && request.ended <= said
                && since(said, request.ended) < SEEN
        });
        let first = first_answer(run, round.previous, said).filter(|_| !answered)?;
        Some(since(first, said))
    };
    said.zip(rounds).filter_map(early).max().unwrap_or_default()
}

fn first_answer(run: &Run, release: u32, after: SystemTime) -> Option<SystemTime> {
    let answers = run.requests.iter().filter(|request| request.outcome == Ok(release));
    answers.map(|request| request.ended).filter(|ended| *ended > after).min()
}

/// Zero where the clock was set back.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    /// So many milliseconds after the beginning.
    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000) + Duration::from_millis(ms)
    }

    fn failed(number: u64, ended: u64, failure: Failure) -> Request {
        Request { number, sent: at(ended - 10), ended: at(ended), outcome: Err(failure) }
    }

    /// Release 2 dies at 5000 ms, was gone at 5100 ms, and had begun to handle request 1.
    fn judged(requests: Vec<Request>) -> Tally {
        let ledger = Ledger {
            begun: [(1, 2)].into(),
            deaths: vec![Death { release: 2, at: at(5000), gone: at(5100) }],
        };
        let round = Round { kind: Kind::Dies, release: 2, previous: 1, end: End::RolledBack, at: at(9000) };
        Tally::of(&Run { rounds: vec![round], requests, ledger, log: Vec::new() })
    }

    #[test]
    fn what_dies_with_a_bad_release_is_its_own() {
        let tally =
            judged(vec![failed(1, 5050, Failure::ResetAfterSend), failed(2, 5150, Failure::EofEmpty)]);
        assert_eq!((tally.begun, tally.unread, tally.lost.len()), (1, 1, 0), "{:?}", tally.lost);
    }

    #[test]
    fn all_else_is_lost() {
        for (ended, failure) in [
            (4990, Failure::ResetAfterSend),
            (6200, Failure::ResetAfterSend),
            (5050, Failure::Refused),
            (5050, Failure::Timeout),
            (5050, Failure::BadBody),
        ] {
            for number in [1, 2] {
                let tally = judged(vec![failed(number, ended, failure)]);
                assert_eq!((tally.begun + tally.unread, tally.lost.len()), (0, 1), "{ended} {failure:?}");
            }
        }
    }

    #[test]
    fn a_client_has_one_request_at_a_death() {
        let tally = judged((1..=6).map(|number| failed(number, 5050, Failure::EofEmpty)).collect());
        assert_eq!((tally.begun, tally.unread, tally.lost.len()), (1, 3, 2));
    }

    #[test]
    fn a_release_that_was_rolled_back_is_not_to_answer() {
        let answer = |sent| Request { number: 7, sent: at(sent), ended: at(sent + 10), outcome: Ok(2) };
        assert_eq!(judged(vec![answer(4000)]).lost.len(), 0);
        assert_eq!(judged(vec![answer(9500)]).lost.len(), 1);
    }
}
