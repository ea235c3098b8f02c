//! The course of a world: a time of faults and requests, a time without faults, a stop, and
//! what comes after the end.

use crate::script::{Act, sufficient_acks};
use crate::world::{Scheduled, World};
use graceful_run::core::event::{Event, Request, Time, Token, Weight, WorkerId};
use std::time::Duration;

impl World<'_> {
    /// A time of faults, a time without, and a stop.
    pub fn run(&mut self) -> Result<(), String> {
        self.plan();
        self.deliver(Event::Tick)?;
        let faults_until = self.rng.ms(&[1000, 5000, 10_000, 20_000, 40_000, 200_000]);
        while self.next().is_some_and(|at| at < faults_until) && !self.model.ended() {
            self.advance()?;
        }
        self.end_faults(faults_until);
        self.run_until_quiet()?;
        self.model.check_quiescent(&self.supervisor)?;
        if !self.model.ended() {
            let times = self.rng.below(4);
            for _ in 0..times {
                let request = self.rng.pick(&[
                    Request::Upgrade,
                    Request::Upgrade,
                    Request::UpgradeNow,
                    Request::Hold(None),
                    Request::More,
                    Request::Fewer,
                    Request::Scale(3),
                ]);
                self.deliver(Event::Request(request))?;
                for _ in 0..self.rng.below(5) {
                    if self.next().is_some() && !self.model.ended() {
                        self.advance()?;
                    }
                }
            }
            self.run_until_quiet()?;
            self.model.check_quiescent(&self.supervisor)?;
        }
        self.stop()?;
        self.check_after_end()
    }

    pub fn plan(&mut self) {
        for _ in 0..self.rng.below(12) {
            let (at, times) = (self.rng.moment() + self.rng.moment(), self.rng.pick(&[1, 1, 1, 1, 2, 5]));
            for _ in 0..times {
                let request = self.request();
                self.schedule(at, Scheduled::Request(request));
            }
        }
        if self.rng.chance(35) {
            let at = self.rng.moment() * 2;
            let stop = self.rng.pick(&[
                Request::Stop,
                Request::Stop,
                Request::Kill,
                Request::Interrupt { workers_signalled: false },
                Request::Interrupt { workers_signalled: true },
                Request::StopSignalled,
            ]);
            self.schedule(at, Scheduled::Request(stop));
            if self.rng.chance(30) {
                let again = at + self.rng.moment();
                self.schedule(again, Scheduled::Request(repeat_or_interrupt(stop)));
            }
        }
    }

    pub fn request(&mut self) -> Request {
        self.rng.pick(&[
            Request::Upgrade,
            Request::Upgrade,
            Request::Upgrade,
            Request::Upgrade,
            Request::UpgradeNow,
            Request::Hold(None),
            Request::Hold(None),
            Request::Hold(Weight::new(2000)),
            Request::Weigh(Weight::of_one(20)),
            Request::Weigh(Weight::of_one(20)),
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

    /// From now on workers start, ack and stop when asked. Those that hang ack as well.
    pub fn end_faults(&mut self, at: Time) {
        self.now = self.now.max(at);
        self.faultless = true;
        let waiting: Vec<WorkerId> = self.processes.keys().copied().collect();
        for worker in waiting {
            let process = self.processes.get(&worker);
            let successor = process.is_some_and(|process| process.successor);
            if successor && process.is_some_and(|process| !process.running) {
                self.schedule(self.now, Scheduled::Deliver(Event::Spawned(worker)));
            }
            for ack in sufficient_acks(&self.policy, successor) {
                self.schedule(self.now, Scheduled::Act(worker, Act::Ack(ack)));
            }
        }
        let quiet: Vec<WorkerId> = self
            .processes
            .iter()
            .filter(|(_, process)| !process.script.sends_heartbeats)
            .map(|(&id, _)| id)
            .collect();
        for worker in quiet {
            if let Some(process) = self.processes.get_mut(&worker) {
                process.script.sends_heartbeats = true;
                self.schedule(self.now, Scheduled::Act(worker, Act::Heartbeat));
            }
        }
        let all: Vec<WorkerId> = self.processes.keys().copied().collect();
        for worker in all {
            self.schedule(self.now, Scheduled::Act(worker, Act::Continue));
        }
        // A start that is under way may still run a worker that sends no ack.
        for process in self.processes.values_mut().filter(|process| !process.running) {
            let acks = sufficient_acks(&self.policy, process.successor);
            process.script.acts.extend(acks.into_iter().map(|ack| (Duration::ZERO, Act::Ack(ack))));
        }
    }

    /// Runs until only heartbeats are left. Where there is no stop timeout, a hammer request
    /// kills late workers; an upgrade on hold is committed or rolled back.
    pub fn run_until_quiet(&mut self) -> Result<(), String> {
        loop {
            while self.next().is_some() && !self.model.ended() {
                let waits = self.policy.stop_timeout.is_none() && self.model.drains(&self.supervisor);
                let quiet =
                    || waits || self.model.holds() || self.model.check_quiescent(&self.supervisor).is_ok();
                if self.policy.worker_watchdog.is_some() && self.only_heartbeats() && quiet() {
                    break;
                }
                // The user's command would be run for ever.
                if self.policy.verify.is_some() && self.model.holds() && self.rng.chance(3) {
                    break;
                }
                self.advance()?;
            }
            if self.model.holds() {
                let request = self.rng.pick(&[Request::Commit, Request::Commit, Request::Rollback]);
                self.deliver(Event::Request(request))?;
                continue;
            }
            if self.model.ended()
                || self.policy.stop_timeout.is_some()
                || !self.model.drains(&self.supervisor)
            {
                return Ok(());
            }
            self.deliver(Event::Request(Request::Hammer))?;
        }
    }

    pub fn only_heartbeats(&self) -> bool {
        self.queue.values().all(|due| matches!(due, Scheduled::Act(_, Act::Heartbeat)))
    }

    pub fn stop(&mut self) -> Result<(), String> {
        if self.model.ended() {
            return Ok(());
        }
        let asked = self.now;
        self.deliver(Event::Request(Request::Stop))?;
        self.run_until_quiet()?;
        if !self.model.ended() {
            return Err("it does not end after a stop".into());
        }
        let most =
            self.policy.stop_timeout.map_or(Duration::ZERO, |timeout| timeout * 2) + Duration::from_secs(1);
        match self.now - asked > most && self.policy.stop_timeout.is_some() {
            true => Err(format!("the end took {:?} after the stop", self.now - asked)),
            false => Ok(()),
        }
    }

    /// Checks that no event has an effect after the end.
    pub fn check_after_end(&mut self) -> Result<(), String> {
        let request = self.request();
        for event in
            [Event::Request(request), Event::Tick, Event::Request(Request::Kill), Event::CheckedAlive]
        {
            let actions = self.supervisor.step(self.now, event);
            if !actions.is_empty() {
                return Err(format!("after its end {event:?} made it do {actions:?}"));
            }
        }
        match self.supervisor.deadline() {
            Some(deadline) => Err(format!("after its end it has a deadline at {deadline:?}")),
            None => Ok(()),
        }
    }
}

/// The second request of a stop: a kill is followed by an interrupt, others are repeated.
fn repeat_or_interrupt(stop: Request) -> Request {
    match stop {
        Request::Kill => Request::Interrupt { workers_signalled: false },
        stop => stop,
    }
}
