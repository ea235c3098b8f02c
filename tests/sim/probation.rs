//! The account of generations that have gone live of late, and of what is kept to start
//! the ones before them again.
//!
//! | property | where |
//! | --- | --- |
//! | within probation the generation before can be started again: what it was started from is kept | `judge_kept`, `Book::spawn` |
//! | nothing is kept for longer than it may be needed | `judge_kept` |
//! | three crashes that count bring it back, at once where nothing else is under way | `count_crash`, `judge_probation` |
//! | what does not keep ending has proved itself in time | `proven`, `judge_probation` |
//! | what those that serve are seen to do, the replacements have to do | `may_look_waiting`, `Book::acked`, `Book::spawn` |

use crate::book::{Book, Hold, Open, Verdict, demand};
use crate::life::Life;
use crate::steer::Switch;
use graceful_run::core::ShownStage;
use graceful_run::core::Supervisor;
use graceful_run::core::event::{Exit, Failure, Generation, Reading, Report, Slot, Time, WorkerId};
use graceful_run::core::policy::{Restart, Strength};
use std::collections::BTreeSet;
use std::time::Duration;

/// Crashes that bring the generation before back.
const CRASHES: u32 = 3;

/// After so long it is told what a worker has not been seen to do.
const UNSEEN: Duration = Duration::from_secs(2);

/// A generation that has gone live of late.
#[derive(Debug, Clone)]
pub struct Probation {
    pub of: Generation,
    pub before: Generation,
    since: Time,
    until: Time,
    crashes: u32,
    down: Option<Time>,
    due: Option<Failure>,
}

/// Whether the workers that serve have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Not,
    Asked,
    Known,
}

impl Book {
    fn looks(&self) -> bool {
        self.policy.readiness.auto && self.policy.listeners
    }

    pub fn may_look_waiting(&mut self) -> Verdict {
        let looks = self.looks();
        let open = self.open.as_mut().ok_or("LookWaiting without an upgrade")?;
        demand!(looks && !open.back && open.allowed, "LookWaiting out of place: {open:?}");
        demand!(open.begun.is_empty() && open.failure.is_none(), "LookWaiting too late: {open:?}");
        demand!(open.waiting == Waiting::Not, "LookWaiting twice");
        open.waiting = Waiting::Asked;
        self.waits.clear();
        Ok(())
    }

    pub fn waits(&mut self, slot: Slot) {
        if self.open.as_ref().is_some_and(|open| open.waiting == Waiting::Asked) {
            self.waits.insert(slot);
            self.known = self.known.max(Strength::Seen);
        }
    }

    pub fn looked_waiting(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|open| open.waiting == Waiting::Asked) {
            open.waiting = Waiting::Known;
        }
    }

    /// A replacement is started: what must be known of those that serve is.
    pub fn may_begin(&self, open: &Open) -> Verdict {
        let known = open.back || !self.looks() || open.waiting == Waiting::Known;
        demand!(known, "a replacement before it is known whether those that serve wait");
        Ok(())
    }

    /// What a new worker is held against.
    pub fn measure(&self, life: &mut Life) {
        life.before_took = self.took.1;
        life.must_wait = self.looks() && self.waits.contains(&life.slot);
    }

    /// Whether a replacement that does not say that it is ready has lived for as long as those
    /// that it replaces took, as far as that is known by now.
    pub fn has_lived(&self, life: &Life, to: Generation) -> bool {
        let since = if self.took.0 == to { Duration::ZERO } else { self.took.1 };
        let least = life.before_took.max(since);
        let lived = life.started.is_some_and(|started| started + least <= self.now);
        lived || life.strength == Strength::Said || life.of.is_some()
    }

    /// Until when a worker may take to become ready.
    pub fn ack_by(&self, life: &Life) -> Option<Time> {
        let least = if self.policy.ack_timeout_grows { life.before_took * 2 } else { Duration::ZERO };
        self.policy.ack_timeout.map(|timeout| self.now + timeout.max(least))
    }

    pub fn unseen(&mut self, id: WorkerId, after: Duration, timer: Option<Duration>) -> Verdict {
        let (looks, now) = (self.looks(), self.now);
        let known_timer = self.lives.get(&id).and_then(|life| self.timer_length(life));
        let life = self.lives.get_mut(&id).filter(|life| life.stage == ShownStage::Starting);
        let life = life.ok_or(format!("{id:?} does not start, and is told of"))?;
        let started = life.started.ok_or("it does not run")?;
        demand!(started + after == now && after >= UNSEEN, "{id:?} is told of after {after:?}");
        let has_to = life.must_wait || life.known < Strength::Said;
        demand!(looks && has_to && !life.listens, "{id:?} is told of, and nobody looks");
        demand!(timer == known_timer, "{id:?} is said to be ready after {timer:?}, not {known_timer:?}");
        demand!(!std::mem::replace(&mut life.unseen, true), "{id:?} is told of twice");
        Ok(())
    }

    fn timer_length(&self, life: &Life) -> Option<Duration> {
        let readiness = &self.policy.readiness;
        let named = readiness.kinds.contains(&graceful_run::core::event::AckKind::Timer);
        readiness.timer.filter(|_| named || life.known == Strength::Nothing)
    }

    /// A worker that has to be seen waiting and was not is told of in time.
    pub fn judge_unseen(&self, life: &Life, waits: impl Fn(Time) -> bool) -> Verdict {
        let has_to = life.must_wait || life.known < Strength::Said;
        if let Some(started) = life.started.filter(|_| self.looks() && has_to && life.of.is_none()) {
            let told = life.unseen || life.listens || waits(started + UNSEEN);
            demand!(told, "{:?} was not told of", life.id);
        }
        Ok(())
    }

    /// A wave has been committed.
    pub fn go_on_probation(&mut self, from: Generation, to: Generation) {
        let Some(length) = self.policy.probation else { return };
        let before = match &self.probation {
            Some(probation) if probation.of == to => return,
            Some(probation) if probation.crashes > 0 => probation.before,
            _ => from,
        };
        let (since, until) = (self.now, self.now + length);
        let new = Probation { of: to, before, since, until, crashes: 0, down: None, due: None };
        // Its time may be over as well, which is told before.
        self.this.past = self.probation.replace(new);
    }

    fn goes_live(&self, of: Generation) -> bool {
        self.open.as_ref().is_some_and(|open| open.to == of)
    }

    /// An upgrade is over: its time begins now.
    pub fn has_gone_live(&mut self, of: Generation) {
        let now = self.now;
        let probation = self.probation.as_mut().filter(|probation| probation.of == of);
        if let (Some(probation), Some(length)) = (probation, self.policy.probation) {
            probation.until = now + length;
        }
    }

    /// A worker that served ended by itself.
    pub fn count_crash(&mut self, id: WorkerId, of: Generation, failure: Failure) {
        let clean = matches!(failure, Failure::Exited { exit: Exit::Code(0), .. });
        let stays_away = match self.policy.restart {
            Restart::Always => false,
            Restart::OnFailure => clean,
            Restart::Never => true,
        };
        let now = self.now;
        let ready = self.lives.get(&id).is_some_and(|life| life.ready.is_some());
        let stays_away = stays_away || clean && ready && self.ends_well;
        let goes_live = self.goes_live(of);
        let counts = |it: &&mut Probation| {
            it.of == of && (it.down.is_some() || now < it.until || goes_live) && !stays_away
        };
        let Some(probation) = self.probation.as_mut().filter(counts) else { return };
        probation.crashes += 1;
        probation.down = probation.down.or(Some(now));
        if probation.crashes >= CRASHES {
            probation.due = Some(failure);
            let crashes = probation.crashes;
            if let Some(open) = self.open.as_mut().filter(|open| open.to == of) {
                open.failure.get_or_insert(Failure::Crashes(id, crashes));
            }
        }
    }

    /// The generation before is to be started in this step.
    pub fn goes_back(&self) -> bool {
        let due = self.probation.as_ref().is_some_and(|probation| probation.due.is_some());
        due && self.open.is_none() && !self.pending
    }

    /// Every slot of it is filled again: the time until then was none of its probation.
    pub fn is_up(&mut self) {
        let back = self.open.as_ref().is_some_and(|open| open.back);
        let Some(probation) = &self.probation else { return };
        let of = probation.of;
        let ready = |slot: usize| {
            let here = |life: &Life| life.slot.0 as usize == slot && life.stage == ShownStage::Ready;
            self.lives.values().any(|life| here(life) && life.exited.is_none())
        };
        let down = |(slot, place): (usize, &crate::book::Place)| {
            place.generation == of && !place.retired && !ready(slot)
        };
        if back || self.places.iter().enumerate().any(down) {
            return;
        }
        let now = self.now;
        if let Some(probation) = &mut self.probation
            && let Some(down) = probation.down.take()
        {
            probation.until = probation.until.max(down) + (now - down);
        }
    }

    pub fn proven(&mut self, of: Generation) -> Verdict {
        let past = self.this.past.take_if(|past| past.of == of);
        let probation = past.or_else(|| self.probation.take()).ok_or("nothing was on probation")?;
        demand!(probation.of == of && probation.until <= self.now, "{of} is proven: {probation:?}");
        demand!(probation.down.is_none(), "{of} is proven: {probation:?}");
        Ok(())
    }

    pub fn rollback_started(&mut self, report: Report) -> Verdict {
        let Report::RollbackStarted { from, to, crashes, why, after } = report else { return Ok(()) };
        demand!(
            self.open.is_none() && !self.pending && !self.stopping,
            "{report:?} out of place: {:?} {} {}",
            self.open,
            self.pending,
            self.stopping
        );
        demand!(!self.is_held_up(), "{report:?} too soon");
        let probation = self.probation.as_mut().ok_or(format!("{report:?}, and nothing is on probation"))?;
        let due = probation.due.take();
        probation.down = probation.down.or(Some(self.now));
        demand!(due == Some(why), "{report:?} of {probation:?}");
        let is = (probation.of, probation.before, probation.crashes, self.now - probation.since);
        demand!(is == (from, to, crashes, after), "{report:?} of {probation:?}");
        let slots = self.places.iter().enumerate().filter(|(_, place)| place.generation == to);
        let done: BTreeSet<_> = slots.map(|(slot, _)| Slot(slot as u32)).collect();
        self.lives.retain(|_, life| life.refused_at.is_none() || life.generation == to);
        self.open = Some(Open {
            from,
            to,
            since: self.now,
            begun: BTreeSet::new(),
            done,
            failure: None,
            looked: false,
            switch: Switch::Not,
            left: false,
            allowed: true,
            hold: Hold::No,
            reading: Reading::Exactly,
            waiting: Waiting::Known,
            back: true,
        });
        Ok(())
    }

    pub fn rolled_back(&mut self, report: Report) -> Verdict {
        let Report::RolledBack { from, to, took } = report else { return Ok(()) };
        let open = self.open.take().ok_or(format!("{report:?}, and nothing was to be"))?;
        demand!(open.back && open.failure.is_none(), "{report:?} of {open:?}");
        demand!((open.from, open.to, open.since + took) == (from, to, self.now), "{report:?} of {open:?}");
        demand!(open.done.len() == self.places.len(), "{report:?}, but only {:?}", open.done);
        self.probation = None;
        self.serving = to;
        self.mixed = false;
        self.resize();
        Ok(())
    }

    pub fn rollback_failed(&mut self, report: Report) -> Verdict {
        let Report::RollbackFailed { from, to, why } = report else { return Ok(()) };
        let open = self.open.take().ok_or(format!("{report:?}, and nothing was to be"))?;
        demand!(open.back && open.failure == Some(why), "{report:?} of {open:?}");
        demand!((open.from, open.to) == (from, to) && open.switch == Switch::Not, "{report:?} of {open:?}");
        self.mixed |= !open.done.is_empty();
        self.undo(&open);
        Ok(())
    }

    /// Going back is not put off, and a probation ends.
    pub fn judge_probation(&self, supervisor: &Supervisor) -> Verdict {
        let Some(probation) = self.probation.as_ref().filter(|_| !self.stopping) else { return Ok(()) };
        let busy = self.open.is_some() || self.pending || self.is_held_up();
        demand!(probation.due.is_none() || busy, "the generation before is not started: {probation:?}");
        if probation.down.is_none() && !self.goes_live(probation.of) {
            let (until, deadline) = (probation.until, supervisor.deadline());
            let woken = until > self.now && deadline.is_some_and(|at| at <= until);
            demand!(woken, "nothing ends {probation:?}");
        }
        Ok(())
    }

    /// Generations of which a worker may be started again.
    fn needed(&self) -> BTreeSet<Generation> {
        let mut needed = BTreeSet::from([self.serving]);
        needed.extend(self.places.iter().map(|place| place.generation));
        needed.extend(self.open.iter().flat_map(|open| [open.from, open.to]));
        needed.extend(self.probation.iter().flat_map(|probation| [probation.of, probation.before]));
        needed.extend(self.lives.values().map(|life| life.generation));
        needed
    }

    pub fn may_forget(&mut self, generation: Generation) -> Verdict {
        demand!(self.kept.remove(&generation), "{generation} is forgotten, and was not kept");
        self.this.forgotten.insert(generation);
        Ok(())
    }

    pub fn judge_kept(&self) -> Verdict {
        let needed = self.needed();
        let missed = self.this.forgotten.iter().find(|generation| needed.contains(generation));
        demand!(missed.is_none(), "{missed:?} is forgotten, and may be started again");
        let idle = self.kept.iter().find(|generation| !needed.contains(generation));
        demand!(idle.is_none() || self.stopping, "it is kept what {idle:?} was started from, for nothing");
        Ok(())
    }
}
