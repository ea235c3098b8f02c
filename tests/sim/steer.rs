//! The account of workers that bind their own sockets: who listens, where new
//! connections go, and who serves what it has before it is asked to stop.
//!
//! | property | where |
//! | --- | --- |
//! | nobody is ready before it listens, but by the ack timeout | `Book::ready` |
//! | who is ready by listening has lived for SETTLE since its last address | `may_be_ready`, `judge_listening` |
//! | new connections are switched after the last look, once, before anybody is asked to leave | `may_switch`, `switched` |
//! | what fails after the switch is switched back | `may_switch`, `judge_switch` |
//! | an old worker is not asked before it has drained or its time has passed | `Book::has_reason_to_go` |
//! | it is looked at again after the pause, and never twice at once | `may_look`, `judge_emptying` |

use crate::book::{Book, Open, Verdict, demand};
use crate::life::Life;
use graceful_run::core::ShownStage;
use graceful_run::core::event::{AckKind, Failure, Generation, Slot, Time, WorkerId};
use graceful_run::core::policy::Strength;
use std::collections::BTreeSet;
use std::time::Duration;

/// A program that listened may still die of what it does next.
pub const SETTLE: Duration = Duration::from_millis(250);

/// From the switch to the first look.
const FIRST_LOOK: Duration = Duration::from_millis(3);

/// Where new connections go while an upgrade is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// To the old generation.
    Not,
    /// The last look has been taken: it is to be asked for in this step.
    Due,
    /// To one or to the other.
    Asked,
    /// To the new one.
    Done,
}

/// A worker to which no new connection goes.
#[derive(Debug, Clone, Copy)]
pub struct Emptying {
    since: Time,
    /// The next look at it; None: one is being taken.
    look: Option<Time>,
}

impl Book {
    /// New connections are steered to one generation.
    fn steers(&self) -> bool {
        self.policy.adopt.is_some_and(|adopt| adopt.steer)
    }

    /// The wave has soaked and lives. Where connections are steered, that comes first.
    pub fn looked_alive(&mut self) -> Verdict {
        let steers = self.steers();
        let late = self.open.as_ref().is_some_and(|open| {
            let wave = |life: &&Life| open.begun.contains(&life.slot) && !open.done.contains(&life.slot);
            let new = self.lives.values().filter(wave).filter(|life| life.generation == open.to);
            new.filter(|life| life.ready.is_some()).any(|life| !self.has_lived(life, open.to))
        });
        let Some(open) = &mut self.open else { return Ok(()) };
        if late && open.switch == Switch::Not {
            // It is looked at once more when they have.
            open.looked = false;
            return Ok(());
        }
        if !steers {
            return self.commit();
        }
        open.switch = Switch::Due;
        let (to, wave) = (open.to, open.begun.difference(&open.done).copied().collect());
        self.prove(&wave, to)
    }

    /// What became of the switch.
    pub fn switched(&mut self, to: Generation, done: bool, stops: bool) -> Verdict {
        let asked = |open: &&mut Open| open.to == to && open.switch == Switch::Asked;
        let Some(open) = self.open.as_mut().filter(asked) else { return Ok(()) };
        if !done {
            // All is as it was: there is nothing to switch back.
            open.switch = Switch::Not;
            open.failure.get_or_insert(Failure::NotSwitched);
            return Ok(());
        }
        open.switch = Switch::Done;
        if stops { Ok(()) } else { self.commit() }
    }

    /// To the new generation after the last look, or back from one that has failed.
    pub fn may_switch(&mut self, to: Generation) -> Verdict {
        let open = self.open.as_mut().ok_or(format!("a switch to {to} without an upgrade"))?;
        let wanted = match (open.switch, open.failure) {
            (Switch::Due, None) => Some((open.to, Switch::Asked)),
            (Switch::Asked | Switch::Done, Some(_)) => Some((open.from, Switch::Not)),
            _ => None,
        };
        let (generation, switch) = wanted.ok_or(format!("a switch to {to} out of place: {open:?}"))?;
        demand!(generation == to, "a switch to {to}, not {generation}");
        open.switch = switch;
        Ok(())
    }

    pub fn judge_switch(&self) -> Verdict {
        let due = self.open.as_ref().is_some_and(|open| open.switch == Switch::Due);
        demand!(!due, "new connections are not switched to the new generation");
        Ok(())
    }

    /// The old workers of these slots are to serve what they have, and leave.
    pub fn empty(&mut self, wave: &BTreeSet<Slot>, to: Generation) {
        let (now, steers) = (self.now, self.steers());
        let serves =
            |life: &&mut Life| life.runs() && life.stage == ShownStage::Ready && wave.contains(&life.slot);
        let replaced = self.lives.values_mut().filter(serves).filter(|life| life.generation != to);
        for life in replaced.filter(|_| steers) {
            life.emptying = Some(Emptying { since: now, look: Some(now + FIRST_LOOK) });
        }
    }

    pub fn may_look(&mut self, id: WorkerId) -> Verdict {
        let now = self.now;
        let life = self.lives.get_mut(&id).filter(|life| life.runs() && !life.signalled());
        let emptying = life.and_then(|life| life.emptying.as_mut());
        let emptying = emptying.ok_or(format!("a look whether {id:?} has drained"))?;
        let at = emptying.look.take().ok_or(format!("a second look at {id:?} while one is taken"))?;
        demand!(at <= now, "a look at {id:?} before {at:?}");
        Ok(())
    }

    /// What a look has found.
    pub fn drain_look(&mut self, id: WorkerId, drained: bool, pause: Duration) {
        let now = self.now;
        let life = self.lives.get_mut(&id).filter(|life| life.runs());
        let emptying = life.and_then(|life| life.emptying.as_mut());
        if let Some(emptying) = emptying.filter(|emptying| emptying.look.is_none()) {
            emptying.look = Some(now + pause);
            self.this.drained = Some(id).filter(|_| drained);
        }
    }

    /// It may be asked to stop from now on, after so long.
    pub fn emptied(&mut self, id: WorkerId, after: Duration, drained: bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        let life = self.lives.get_mut(&id).filter(|life| life.runs() && !life.signalled());
        let life = life.ok_or(format!("{id:?} has drained, or not, and does not run"))?;
        let emptying = life.emptying.take().ok_or(format!("{id:?} was not to be emptied"))?;
        demand!(emptying.since + after == self.now, "{id:?} is emptied since {:?}", emptying.since);
        match drained {
            true => demand!(self.this.drained.take() == Some(id), "nobody has seen that {id:?} drained"),
            false => demand!(timeout.is_some_and(|timeout| timeout <= after), "{id:?} has time to drain"),
        }
        life.surplus = true;
        Ok(())
    }

    /// Killed, it is emptied no longer; since when it was, if it was.
    pub fn no_longer_emptied(&mut self, id: WorkerId) -> Option<Time> {
        self.lives.get_mut(&id)?.emptying.take().map(|emptying| emptying.since)
    }

    /// One that has to listen is ready by what it said, or by having listened for a while.
    pub fn may_be_ready(&mut self, id: WorkerId, kind: AckKind) -> Verdict {
        let now = self.now;
        let Some(life) = self.lives.get_mut(&id).filter(|_| self.policy.adopt.is_some()) else {
            return Ok(());
        };
        demand!(life.listens || kind == AckKind::Timeout, "{id:?} is ready by {kind:?} and does not listen");
        if kind == AckKind::Listen {
            let settled = life.settles.is_some_and(|at| at <= now);
            demand!(settled, "{id:?} is ready because it listens, and settles at {:?}", life.settles);
            self.this.ready.push((id, kind));
        } else if kind == AckKind::Timer {
            self.this.ready.retain(|&ready| ready != (id, kind));
        }
        Ok(())
    }

    /// When having lived for so long makes it ready, or is its word if it has to listen.
    pub fn timer_at(&self, life: &Life) -> Option<Time> {
        let readiness = &self.policy.readiness;
        let counts = readiness.kinds.contains(&AckKind::Timer) || life.known == Strength::Nothing;
        let timer = readiness.timer.filter(|_| counts && life.of.is_none());
        let unsaid = life.said.is_none() || life.must_wait;
        timer.zip(life.started.filter(|_| unsaid)).map(|(timer, started)| started + timer)
    }

    /// A timer that has passed has spoken for who does not listen yet.
    pub fn hear_timers(&mut self) {
        let starts = |life: &&Life| life.stage == ShownStage::Starting && life.exited.is_none();
        let passed = |life: &&Life| self.timer_at(life).is_some_and(|at| at <= self.now);
        let adopts = self.policy.adopt.is_some();
        let heard = self.lives.values().filter(|life| adopts && starts(life) && passed(life));
        for id in heard.map(|life| life.id).collect::<Vec<_>>() {
            self.lives.entry(id).and_modify(|life| life.said = Some(AckKind::Timer));
        }
    }

    /// Of one that starts: nothing that it has done makes it ready yet.
    pub fn judge_listening(&self, life: &Life, waits: impl Fn(Time) -> bool) -> Verdict {
        let id = life.id;
        demand!(life.settles.is_none_or(&waits), "{id:?} has listened for long enough");
        demand!(!life.listens || life.said.is_none(), "{id:?} listens and has said {:?}", life.said);
        Ok(())
    }

    /// Of one that is being emptied: it will be looked at, and asked in time.
    pub fn judge_emptying(&self, id: WorkerId, emptying: Emptying, waits: impl Fn(Time) -> bool) -> Verdict {
        let timeout = self.policy.adopt.and_then(|adopt| adopt.drain_timeout);
        demand!(!self.stopping, "{id:?} was not asked to stop");
        demand!(timeout.is_none_or(|timeout| waits(emptying.since + timeout)), "{id:?} is emptied for ever");
        demand!(emptying.look.is_none_or(&waits), "nobody looks whether {id:?} has drained");
        Ok(())
    }
}
