//! A world around one supervisor: its processes, its requests and its clock.
//!
//! What a process does happens at one moment and is told at another, later one;
//! only [`Action::LookAlive`] makes the two meet. Of one worker the news come in
//! order: that it runs, what it says, that it ended, that nothing of it is left.

use crate::book::Book;
use crate::policies;
use crate::rng::Rng;
use crate::script::{Deed, Remains, Script, refusal, wanted};
use crate::tally::Tally;
use crate::transitions::Snapshot;
use graceful_run::core::Supervisor;
use graceful_run::core::event::{
    AckKind, Action, Event, Exit, Generation, Refusal, Request, Slot, Time, Token, WorkerId,
};
use graceful_run::core::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Everything that was told and answered.
#[derive(Default)]
pub struct Log {
    policy: String,
    steps: Vec<(Time, Event, Vec<Action>)>,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.policy)?;
        for (now, event, actions) in &self.steps {
            writeln!(f, "{:>8.3} {event:?}", now.as_secs_f64())?;
            actions.iter().try_for_each(|action| writeln!(f, "           -> {action:?}"))?;
        }
        Ok(())
    }
}

struct Process {
    script: Script,
    running: bool,
    dead: Option<Exit>,
    told: bool,
    remains: bool,
    /// Another worker has started it, or may have.
    heir: bool,
    /// How often it was looked at whether it has drained.
    looks: u32,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    Tell(Event),
    /// Told once more, although it can change nothing.
    TellAgain(Event),
    Deed(WorkerId, Deed),
    Ask(Request),
}

pub struct World<'a> {
    rng: Rng,
    now: Time,
    policy: Policy,
    supervisor: Supervisor,
    book: Book,
    processes: BTreeMap<WorkerId, Process>,
    queue: BTreeMap<(Time, u64), Due>,
    queued: u64,
    /// How many of a hundred workers are bad ones.
    badness: u64,
    /// Generations that become ready, serve and end, again and again.
    doomed: BTreeSet<Generation>,
    /// Good workers say nothing, and the timer, or that they listen, speaks for them.
    mute: bool,
    /// No start succeeds in this time.
    outage: Option<(Refusal, Time, Time)>,
    /// Faults have ceased.
    calm: bool,
    /// The deadline that is told late, and when.
    late: (Time, Time),
    log: &'a mut Log,
    tally: &'a mut Tally,
}

/// More steps than any world needs.
const BUDGET: u32 = 20_000;

impl<'a> World<'a> {
    pub fn new(seed: u64, log: &'a mut Log, tally: &'a mut Tally) -> Self {
        let mut rng = Rng::new(seed);
        let policy = policies::random(&mut rng);
        log.policy = format!("{policy:?}");
        let speaks = policy.readiness.timer.is_some() || policy.adopt.is_some();
        World {
            mute: policy.readiness.auto && speaks && rng.chance(40),
            badness: rng.pick(&[10, 40, 80]),
            doomed: doomed(&mut rng),
            outage: rng.chance(15).then(|| {
                let from = rng.moment();
                (refusal(&mut rng), from, from + rng.moment() * rng.pick(&[1, 1, 30]))
            }),
            rng,
            now: Time::ZERO,
            supervisor: Supervisor::new(policy.clone()),
            book: Book::new(policy.clone()),
            policy,
            processes: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            calm: false,
            late: (Time::MAX, Time::MAX),
            log,
            tally,
        }
    }

    /// A time of faults, a time without, and a stop.
    pub fn live(&mut self) -> Result<(), String> {
        self.plan();
        self.tell(Event::Tick)?;
        let calm_at = self.rng.ms(&[1000, 5000, 10_000, 20_000, 40_000, 200_000]);
        while self.next().is_some_and(|at| at < calm_at) && !self.book.ended() {
            self.advance()?;
        }
        self.grow_calm(calm_at);
        self.rest()?;
        self.book.settled(&self.supervisor)?;
        if !self.book.ended() {
            let times = self.rng.below(4);
            for _ in 0..times {
                let request = self.rng.pick(&[
                    Request::Upgrade,
                    Request::Upgrade,
                    Request::UpgradeNow,
                    Request::Hold,
                    Request::More,
                    Request::Fewer,
                    Request::Scale(3),
                ]);
                self.tell(Event::Request(request))?;
                for _ in 0..self.rng.below(5) {
                    if self.next().is_some() && !self.book.ended() {
                        self.advance()?;
                    }
                }
            }
            self.rest()?;
            self.book.settled(&self.supervisor)?;
        }
        self.stop()?;
        self.haunt()
    }

    fn plan(&mut self) {
        for _ in 0..self.rng.below(12) {
            let (at, times) = (self.rng.moment() + self.rng.moment(), self.rng.pick(&[1, 1, 1, 1, 2, 5]));
            for _ in 0..times {
                let request = self.request();
                self.put(at, Due::Ask(request));
            }
        }
        if self.rng.chance(35) {
            let at = self.rng.moment() * 2;
            let stop = self.rng.pick(&[
                Request::Stop,
                Request::Stop,
                Request::Kill,
                Request::Interrupt { told: false },
                Request::Interrupt { told: true },
            ]);
            self.put(at, Due::Ask(stop));
            if self.rng.chance(30) {
                let again = at + self.rng.moment();
                self.put(again, Due::Ask(self_or_interrupt(stop)));
            }
        }
    }

    fn request(&mut self) -> Request {
        self.rng.pick(&[
            Request::Upgrade,
            Request::Upgrade,
            Request::Upgrade,
            Request::Upgrade,
            Request::UpgradeNow,
            Request::Hold,
            Request::Hold,
            Request::Hold,
            Request::Commit,
            Request::Commit,
            Request::Rollback,
            Request::Scale(0),
            Request::Scale(1),
            Request::Scale(2),
            Request::Scale(4),
            Request::Scale(1001),
            Request::Hammer,
            Request::Forward(Token(7)),
            Request::More,
            Request::Fewer,
            Request::Suspend,
            Request::Resume,
        ])
    }

    fn put(&mut self, at: Time, due: Due) {
        self.queued += 1;
        self.queue.insert((at, self.queued), due);
    }

    fn next(&self) -> Option<Time> {
        let first = self.queue.keys().next().map(|(at, _)| *at);
        first.into_iter().chain(self.supervisor.deadline()).min().map(|at| at.max(self.now))
    }

    /// Lets the next thing happen.
    fn advance(&mut self) -> Result<(), String> {
        let queued = self.queue.keys().next().copied();
        let tick = self.tick_at();
        let at = queued.map(|(at, _)| at.max(self.now));
        let ticks = match (tick, at) {
            (Some(tick), Some(at)) => tick < at || tick == at && self.rng.chance(50),
            (tick, _) => tick.is_some(),
        };
        if ticks {
            self.now = tick.unwrap_or(self.now);
            return self.tell(Event::Tick);
        }
        let Some(key) = queued else { return Ok(()) };
        self.now = self.now.max(key.0);
        let due = self.queue.remove(&key);
        due.map_or(Ok(()), |due| self.happen(due))
    }

    /// When the supervisor is told that its deadline has come: a lost tick is one
    /// that comes no sooner than some other event.
    fn tick_at(&mut self) -> Option<Time> {
        let deadline = self.supervisor.deadline()?;
        if self.late.0 != deadline {
            let late = !self.calm && self.rng.chance(7);
            if late {
                self.tally.see("late tick");
            }
            let by = if late { self.rng.moment() } else { Duration::ZERO };
            self.late = (deadline, deadline + by);
        }
        Some(self.late.1.max(self.now))
    }

    fn happen(&mut self, due: Due) -> Result<(), String> {
        match due {
            Due::Ask(request) => self.tell(Event::Request(request)),
            Due::Deed(worker, deed) => {
                self.act(worker, deed);
                Ok(())
            }
            Due::TellAgain(event) => self.tell_stale(event),
            Due::Tell(event) => {
                if let Event::Exited { worker, .. } = event
                    && let Some(process) = self.processes.get_mut(&worker)
                    && std::mem::replace(&mut process.told, true)
                {
                    return Ok(());
                }
                self.tell(event)?;
                self.follow(event);
                // One that came too soon is no news yet, and may be later.
                let adopts = |action: &Action| matches!(action, Action::TakeSuccessor { .. });
                let news = match event {
                    // It listens on one address more.
                    Event::Request(_) | Event::Ack(_, AckKind::Listen) => false,
                    Event::HandedOver(_) => {
                        self.log.steps.last().is_some_and(|step| step.2.iter().any(adopts))
                    }
                    _ => true,
                };
                if !self.calm && self.rng.chance(6) && news {
                    self.tell_stale(event)?;
                }
                if !self.calm && self.rng.chance(3) {
                    self.tell_stale(Event::Ack(WorkerId(9999), AckKind::Notify))?;
                    self.tell_stale(Event::Switched(Generation(9999), true))?;
                }
                let told_late = matches!(
                    event,
                    Event::Ack(..)
                        | Event::Exited { .. }
                        | Event::Spawned(_)
                        | Event::Swept(_)
                        | Event::PreUpgraded(..)
                        | Event::PreStopped(_)
                        | Event::Switched(..)
                );
                if told_late && news && !self.calm && self.rng.chance(4) {
                    let at = self.now + self.rng.moment();
                    self.put(at, Due::TellAgain(event));
                }
                Ok(())
            }
        }
    }

    /// What the processes make of news that have just been told.
    fn follow(&mut self, event: Event) {
        match event {
            Event::Spawned(worker) => {
                let Some(process) = self.processes.get_mut(&worker) else { return };
                process.running = true;
                for (after, deed) in process.script.deeds.clone() {
                    self.put(self.now + after, Due::Deed(worker, deed));
                }
                self.beat_again(worker);
            }
            Event::Exited { worker, remains: true, .. } => {
                if let Some(Remains::Go(after)) =
                    self.processes.get(&worker).map(|process| process.script.remains)
                {
                    self.put(self.now + after, Due::Tell(Event::Swept(worker)));
                }
            }
            Event::Swept(worker) => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.remains = false;
                }
            }
            _ => {}
        }
    }

    fn act(&mut self, worker: WorkerId, deed: Deed) {
        let lag =
            if !self.calm && self.rng.chance(15) { self.rng.ms(&[50, 100, 500]) } else { Duration::ZERO };
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if !process.running || process.dead.is_some() {
            return;
        }
        let event = match deed {
            Deed::Ack(kind) => Event::Ack(worker, kind),
            Deed::Extend(by) => Event::Extend(worker, by),
            Deed::Beat => {
                self.beat_again(worker);
                Event::Heartbeat(worker)
            }
            Deed::Exit(exit) => {
                process.dead = Some(exit);
                process.remains = process.script.remains != Remains::Nothing;
                Event::Exited { worker, exit, remains: process.remains }
            }
            Deed::Succeed => {
                let leaves = self.now + self.rng.moment();
                self.put(leaves, Due::Deed(worker, Deed::Exit(Exit::Code(0))));
                Event::HandedOver(worker)
            }
        };
        self.put(self.now + lag, Due::Tell(event));
    }

    /// Who is to say that it is alive does so in half the time that it has.
    fn beat_again(&mut self, worker: WorkerId) {
        let beats = self.processes.get(&worker).is_some_and(|process| process.script.beats);
        if let Some(limit) = self.policy.worker_watchdog.filter(|_| beats) {
            self.put(self.now + limit / 2, Due::Deed(worker, Deed::Beat));
        }
    }

    /// The supervisor is written down, and another one read from that takes over.
    fn carry_over(&mut self) -> Result<(), String> {
        self.tally.see("carried over");
        let wrong = |error: serde_json::Error| format!("it cannot be carried over: {error}");
        let text = serde_json::to_string(&self.supervisor).map_err(wrong)?;
        let copy: Supervisor = serde_json::from_str(&text).map_err(wrong)?;
        if serde_json::to_string(&copy).map_err(wrong)? != text {
            return Err(format!("it is another after it was carried over: {text}"));
        }
        self.supervisor = copy.with_policy(self.policy.clone());
        Ok(())
    }

    fn tell(&mut self, event: Event) -> Result<(), String> {
        if self.rng.chance(5) {
            self.carry_over()?;
        }
        let again = self.rng.chance(10).then(|| self.supervisor.clone());
        self.log.steps.push((self.now, event, Vec::new()));
        let actions = self.step(event);
        if let Some(last) = self.log.steps.last_mut() {
            last.2.clone_from(&actions);
        }
        self.tally.step(event, &actions);
        self.see_emptied(event, &actions);
        if self.log.steps.len() > BUDGET as usize {
            return Err(format!("no rest after {BUDGET} steps"));
        }
        self.book.step(self.now, event, &actions, &self.supervisor)?;
        // What a step has settled, a tick at the same moment leaves as it is.
        if again.is_some() {
            let mut copy = self.supervisor.clone();
            let more = copy.step(self.now, Event::Tick);
            if !more.is_empty() || copy.deadline() != self.supervisor.deadline() {
                return Err(format!("a tick right after the step did more: {more:?}"));
            }
        }
        for action in actions {
            self.perform(action);
        }
        Ok(())
    }

    /// Steps the supervisor, and counts the transitions that this step shows.
    fn step(&mut self, event: Event) -> Vec<Action> {
        let before = Snapshot::of(&self.supervisor);
        let actions = self.supervisor.step(self.now, event);
        for transition in before.transitions(&self.supervisor) {
            self.tally.transitions.see(transition);
        }
        actions
    }

    /// How they fare that were to serve what they have.
    fn see_emptied(&mut self, event: Event, actions: &[Action]) {
        let life = |id: &WorkerId| self.book.lives.get(id);
        let emptied = |id: &WorkerId| life(id).is_some_and(|life| life.emptying.is_some());
        let mut seen = Vec::new();
        match event {
            Event::Exited { worker, .. } if emptied(&worker) => seen.push("emptied: exited"),
            Event::Ack(worker, AckKind::Listen)
                if life(&worker).is_some_and(|life| life.settles.is_some()) =>
            {
                seen.push("listens once more");
            }
            _ => {}
        }
        for action in actions {
            match action {
                Action::Kill(worker) if emptied(worker) => seen.push("emptied: killed"),
                Action::Stop(worker) if emptied(worker) && matches!(event, Event::Request(_)) => {
                    seen.push("emptied: asked because everything stops");
                }
                _ => {}
            }
        }
        seen.into_iter().for_each(|what| self.tally.see(what));
    }

    /// An event that is doubled, late or of a stranger does what a tick does.
    fn tell_stale(&mut self, event: Event) -> Result<(), String> {
        self.tally.see("stale event");
        let wanted = self.supervisor.clone().step(self.now, Event::Tick);
        let got = self.supervisor.clone().step(self.now, event);
        if wanted != got {
            return Err(format!(
                "{event:?} was told again at {:?} and did {got:?}, a tick does {wanted:?}",
                self.now
            ));
        }
        self.log.steps.push((self.now, event, got));
        let actions = self.step(event);
        self.book.step(self.now, Event::Tick, &actions, &self.supervisor)?;
        for action in actions {
            self.perform(action);
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, generation, .. } => self.spawn(worker, generation),
            Action::RequestHandover { worker, of, .. } => self.succeed(worker, of),
            Action::TakeSuccessor { worker, .. } => {
                let good = self.calm || !self.rng.chance(self.badness);
                let script = Script::heir(&mut self.rng, &self.policy, good);
                for (after, deed) in script.deeds.clone() {
                    self.put(self.now + after, Due::Deed(worker, deed));
                }
                let heir = Process {
                    script,
                    running: true,
                    dead: None,
                    told: false,
                    remains: false,
                    heir: true,
                    looks: 0,
                };
                self.processes.insert(worker, heir);
                self.beat_again(worker);
            }
            Action::PreUpgrade(to) => {
                let allowed = self.calm || self.rng.chance(70);
                let at = self.now + self.hook_takes();
                self.put(at, Due::Tell(Event::PreUpgraded(to, allowed)));
            }
            Action::PreStop(worker) => {
                let at = self.now + self.hook_takes();
                self.put(at, Due::Tell(Event::PreStopped(worker)));
            }
            Action::Probe(worker) => {
                if let Some(kind) = self.processes.get(&worker).and_then(|process| process.script.probed) {
                    self.put(self.now, Due::Deed(worker, Deed::Ack(kind)));
                }
            }
            Action::LookAlive => self.look_alive(),
            Action::LookWaiting => {
                let at = self.now + self.answer_takes();
                let waits = self.rng.pick(&[0, 50, 100]);
                for slot in (0..4).map(Slot).filter(|_| self.rng.chance(waits)).collect::<Vec<_>>() {
                    self.put(at, Due::Tell(Event::Waits(slot)));
                }
                self.put(at, Due::Tell(Event::LookedWaiting));
            }
            Action::Stop(worker) => {
                let Some(process) = self.processes.get_mut(&worker) else { return };
                if let Some((after, exit)) = process.script.on_stop {
                    self.put(self.now + after, Due::Deed(worker, Deed::Exit(exit)));
                }
            }
            Action::Kill(worker) => self.put(self.now, Due::Deed(worker, Deed::Exit(Exit::Signal(9)))),
            Action::StopRemains(worker) => {
                if let Some(Remains::GoWhenAsked(after)) =
                    self.processes.get(&worker).map(|p| p.script.remains)
                {
                    self.put(self.now + after, Due::Tell(Event::Swept(worker)));
                }
            }
            Action::KillRemains(worker) => self.put(self.now, Due::Tell(Event::Swept(worker))),
            Action::Switch(to) => {
                let late = if self.calm || self.rng.chance(70) { Duration::ZERO } else { self.rng.moment() };
                let at = self.now + late;
                let done = self.calm || !self.rng.chance(10);
                self.put(at, Due::Tell(Event::Switched(to, done)));
            }
            Action::LookDrained(worker) => self.look_drained(worker),
            Action::DrainRemains(_)
            | Action::Forget(_)
            | Action::Forward(..)
            | Action::Suspend(_)
            | Action::Resume(_)
            | Action::SuspendSelf
            | Action::Report(_)
            | Action::Exit(_) => {}
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation) {
        let doomed = !self.calm && self.doomed.contains(&generation);
        let bad = !doomed && !self.calm && self.rng.chance(self.badness);
        let mut script = match bad {
            true => Script::bad(&mut self.rng, &self.policy),
            false => Script::good(&mut self.rng, &self.policy),
        };
        if doomed {
            let serves = self.rng.ms(&[1000, 1000, 1500, 3000]);
            script.deeds.push((serves, Deed::Exit(Exit::Code(3))));
        }
        if self.mute && !bad && !self.calm {
            script.deeds.retain(|(_, deed)| matches!(deed, Deed::Ack(AckKind::Listen)));
        }
        if let Some((refusal, from, to)) = self.outage
            && (from..to).contains(&self.now)
            && !self.calm
        {
            script.refusal = Some(refusal);
        }
        let news = match script.refusal {
            Some(refusal) => Event::SpawnFailed(worker, refusal),
            None => Event::Spawned(worker),
        };
        self.put(self.now + script.spawn_takes, Due::Tell(news));
        let process = Process {
            script,
            running: false,
            dead: None,
            told: false,
            remains: false,
            heir: false,
            looks: 0,
        };
        self.processes.insert(worker, process);
    }

    /// The old worker starts a successor and leaves, or waits to be asked to; or it
    /// does nothing of the kind, or dies of the signal.
    fn succeed(&mut self, worker: WorkerId, of: WorkerId) {
        let good = self.calm || !self.rng.chance(self.badness);
        let script = Script::heir(&mut self.rng, &self.policy, good);
        let known = self.now + script.spawn_takes;
        let appears = good || self.rng.chance(60);
        if appears {
            self.put(known, Due::Tell(Event::Spawned(worker)));
        }
        if !appears && self.rng.chance(50) {
            self.put(known, Due::Deed(of, Deed::Exit(Exit::Signal(12))));
        }
        if appears && self.rng.chance(50) {
            let leaves = known + self.rng.ms(&[0, 50, 300, 1000]);
            self.put(leaves, Due::Deed(of, Deed::Succeed));
        }
        let heir =
            Process { script, running: false, dead: None, told: false, remains: false, heir: true, looks: 0 };
        self.processes.insert(worker, heir);
    }

    /// How long a hook runs.
    fn hook_takes(&mut self) -> Duration {
        if self.calm { self.rng.ms(&[0, 50, 300]) } else { self.rng.moment() }
    }

    /// What is asked of the system is answered at once, or nearly.
    fn answer_takes(&mut self) -> Duration {
        if self.rng.chance(10) { Duration::from_millis(50) } else { Duration::ZERO }
    }

    fn look_drained(&mut self, worker: WorkerId) {
        let (at, pause) = (self.now + self.answer_takes(), self.rng.ms(&[3, 50, 1000, 5000]));
        if !self.calm && self.rng.chance(3) {
            // Some leave by themselves once nothing new comes.
            self.put(at + pause / 2, Due::Deed(worker, Deed::Exit(Exit::Code(0))));
        }
        let Some(process) = self.processes.get_mut(&worker) else { return };
        process.looks += 1;
        let serves_on = process.script.serves_on.or(self.calm.then_some(0));
        let drained = process.dead.is_some() || serves_on.is_some_and(|looks| looks < process.looks);
        self.put(at, Due::Tell(Event::DrainLook { worker, drained, pause }));
    }

    fn look_alive(&mut self) {
        let dead: Vec<Event> = self
            .processes
            .iter()
            .filter(|(_, process)| !process.told)
            .filter_map(|(&worker, process)| {
                process.dead.map(|exit| Event::Exited { worker, exit, remains: process.remains })
            })
            .collect();
        for event in dead {
            self.put(self.now, Due::Tell(event));
        }
        let at = self.now + self.answer_takes();
        self.put(at, Due::Tell(Event::LookedAlive));
    }

    /// From now on workers start, ack and obey. Those that hang find their voice.
    fn grow_calm(&mut self, at: Time) {
        self.now = self.now.max(at);
        self.calm = true;
        let waiting: Vec<WorkerId> = self.processes.keys().copied().collect();
        for worker in waiting {
            let process = self.processes.get(&worker);
            let heir = process.is_some_and(|process| process.heir);
            if heir && process.is_some_and(|process| !process.running) {
                self.put(self.now, Due::Tell(Event::Spawned(worker)));
            }
            for ack in wanted(&self.policy, heir) {
                self.put(self.now, Due::Deed(worker, Deed::Ack(ack)));
            }
        }
        let quiet: Vec<WorkerId> =
            self.processes.iter().filter(|(_, process)| !process.script.beats).map(|(&id, _)| id).collect();
        for worker in quiet {
            if let Some(process) = self.processes.get_mut(&worker) {
                process.script.beats = true;
                self.put(self.now, Due::Deed(worker, Deed::Beat));
            }
        }
        // A start under way may still come to run a worker that says nothing.
        for process in self.processes.values_mut().filter(|process| !process.running) {
            let acks = wanted(&self.policy, process.heir);
            process.script.deeds.extend(acks.into_iter().map(|ack| (Duration::ZERO, Deed::Ack(ack))));
        }
    }

    /// Until nothing happens any more but that workers say that they are alive.
    /// Where nobody is ever killed for being late, a person does it; and somebody
    /// decides on what is on hold.
    fn rest(&mut self) -> Result<(), String> {
        loop {
            while self.next().is_some() && !self.book.ended() {
                let waits = self.policy.stop_timeout.is_none() && self.book.drains(&self.supervisor);
                let quiet = || waits || self.book.holds() || self.book.settled(&self.supervisor).is_ok();
                if self.policy.worker_watchdog.is_some() && self.only_beats() && quiet() {
                    break;
                }
                self.advance()?;
            }
            if self.book.holds() {
                let request = self.rng.pick(&[Request::Commit, Request::Commit, Request::Rollback]);
                self.tell(Event::Request(request))?;
                continue;
            }
            if self.book.ended() || self.policy.stop_timeout.is_some() || !self.book.drains(&self.supervisor)
            {
                return Ok(());
            }
            self.tell(Event::Request(Request::Hammer))?;
        }
    }

    fn only_beats(&self) -> bool {
        self.queue.values().all(|due| matches!(due, Due::Deed(_, Deed::Beat)))
    }

    fn stop(&mut self) -> Result<(), String> {
        if self.book.ended() {
            return Ok(());
        }
        let asked = self.now;
        self.tell(Event::Request(Request::Stop))?;
        self.rest()?;
        if !self.book.ended() {
            return Err("it does not end after a stop".into());
        }
        let most =
            self.policy.stop_timeout.map_or(Duration::ZERO, |timeout| timeout * 2) + Duration::from_secs(1);
        match self.now - asked > most && self.policy.stop_timeout.is_some() {
            true => Err(format!("the end took {:?} after the stop", self.now - asked)),
            false => Ok(()),
        }
    }

    /// Nothing brings it back.
    fn haunt(&mut self) -> Result<(), String> {
        let request = self.request();
        for event in [Event::Request(request), Event::Tick, Event::Request(Request::Kill), Event::LookedAlive]
        {
            let actions = self.supervisor.step(self.now, event);
            if !actions.is_empty() {
                return Err(format!("after its end {event:?} made it do {actions:?}"));
            }
        }
        match self.supervisor.deadline() {
            Some(deadline) => Err(format!("after its end it wants to be woken at {deadline:?}")),
            None => Ok(()),
        }
    }
}

/// Few generations are doomed, and in few worlds.
fn doomed(rng: &mut Rng) -> BTreeSet<Generation> {
    let few = if rng.chance(30) { 40 } else { 0 };
    (2..8).map(Generation).filter(|_| rng.chance(few)).collect()
}

/// A second interrupt kills; a stop said twice does not.
fn self_or_interrupt(stop: Request) -> Request {
    match stop {
        Request::Kill => Request::Interrupt { told: false },
        stop => stop,
    }
}
