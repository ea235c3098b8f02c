//! One upgrade after the other, good ones and bad ones.
//!
//! Contract: an upgrade starts only after its predecessor has ended in the log
//! and enough replies have come from the generation that should serve, with a
//! request of every holding client in flight. USR2 and HUP take turns. A seeded
//! share of the replacements is bad; each must be refused, and every other one
//! must succeed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clients::HOLDERS;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::worker::{Fate, decide};
use crate::wrapper::{Verdict, Wrapper};

/// Replies that must come from the serving generation between two upgrades.
const PROGRESS: u64 = 50;

/// Bad replacements in a hundred.
const BAD_SHARE: u64 = 30;

/// Nothing in a sound run takes this long, on however busy a machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What the upgrades came to.
#[derive(Default)]
pub struct Outcome {
    /// Upgrades that succeeded.
    pub upgraded: u64,
    /// Upgrades that were refused, by the fault of the replacement.
    pub refused: BTreeMap<Fate, u64>,
    /// Requests that were in flight from before an upgrade until after it.
    pub held: usize,
}

/// Small seeded numbers: xorshift64.
pub struct Seed(u64);

impl Seed {
    /// Zero would stay zero for ever.
    pub fn new(seed: u64) -> Self {
        Seed(seed.max(1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Drives one wrapper through its upgrades.
pub struct Driver<'a> {
    /// The wrapper.
    pub wrapper: &'a mut Wrapper,
    /// Where replies are counted.
    pub ledger: &'a Ledger,
    /// Where requests are held.
    pub gate: &'a Gate,
    /// The file that decides what becomes of the next worker.
    pub fate: PathBuf,
    /// The unix listener, if there is one, which must stay the same file.
    pub unix: Option<&'a Path>,
}

impl Driver<'_> {
    /// Makes `count` upgrades, or stops at the first that ends as it should not.
    pub fn run(&mut self, count: u64, seed: &mut Seed) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let mut serving = self.ledger.await_replies(1, PROGRESS, LIMIT)?;
        let inode = self.unix.map(inode).transpose()?;
        for number in 1..=count {
            let fate = match seed.below(100) {
                n if n >= BAD_SHARE => Fate::Serve,
                n if n % 3 == 0 => Fate::Exit,
                n if n % 3 == 1 => Fate::Hang,
                _ => Fate::AckAndDie,
            };
            decide(&self.fate, fate)?;
            self.gate.await_held(HOLDERS, LIMIT)?;
            let signal = if number % 2 == 1 { Signal::SIGUSR2 } else { Signal::SIGHUP };
            self.wrapper.signal(signal);
            let verdict = self.wrapper.await_verdict(LIMIT)?;
            self.ledger.upgrade_ended();
            match (fate, &verdict) {
                (Fate::Serve, Verdict::Upgraded) => {
                    serving = self.ledger.await_replies(serving + 1, PROGRESS, LIMIT)?;
                    outcome.held += self.gate.release_before(serving);
                    outcome.upgraded += 1;
                }
                (Fate::Serve, Verdict::Refused(why)) => {
                    return Err(format!("upgrade {number} ({signal}) to a good worker was refused: {why}"));
                }
                (_, Verdict::Refused(_)) => {
                    self.ledger.await_replies(serving, PROGRESS, LIMIT)?;
                    *outcome.refused.entry(fate).or_default() += 1;
                }
                (_, Verdict::Upgraded) => {
                    return Err(format!(
                        "upgrade {number} ({signal}) to a worker whose fate was to {} was called a success",
                        fate.name()
                    ));
                }
            }
            let newest = self.ledger.newest();
            if newest != serving {
                return Err(format!("generation {newest} answers while {serving} should serve"));
            }
            if self.unix.map(self::inode).transpose()? != inode {
                return Err(format!("upgrade {number} replaced the unix socket's file"));
            }
        }
        Ok(outcome)
    }
}

fn inode(path: &Path) -> Result<u64, String> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path)
        .map(|metadata| metadata.ino())
        .map_err(|error| format!("the unix socket {} is gone: {error}", path.display()))
}
