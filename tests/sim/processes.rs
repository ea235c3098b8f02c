//! How the processes of a world react to actions.

use crate::script::{Act, Remains, Script};
use crate::world::{Process, Scheduled, World};
use graceful_run::core::event::{AckKind, Action, Event, Exit, Generation, Request, Slot, WorkerId};
use std::time::Duration;

impl World<'_> {
    pub fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, generation, .. } => self.spawn(worker, generation),
            Action::RequestHandover { worker, predecessor, .. } => self.request_handover(worker, predecessor),
            Action::TakeSuccessor { worker, .. } => {
                let good = self.faultless || !self.rng.chance(self.bad_percent);
                let script = Script::successor(&mut self.rng, &self.policy, good);
                for (after, act) in script.acts.clone() {
                    self.schedule(self.now + after, Scheduled::Act(worker, act));
                }
                let successor = Process {
                    script,
                    running: true,
                    dead: None,
                    exit_delivered: false,
                    remains: false,
                    halted: None,
                    successor: true,
                    drain_checks: 0,
                };
                self.processes.insert(worker, successor);
                self.schedule_heartbeat(worker);
            }
            Action::KeepMaster { worker, predecessor } => {
                // The process of the predecessor goes on, by another name.
                if let Some(master) = self.processes.remove(&predecessor) {
                    self.processes.insert(worker, Process { successor: true, ..master });
                }
            }
            Action::PreUpgrade(to) => {
                let allowed = self.faultless || self.rng.chance(70);
                let at = self.now + self.hook_takes();
                self.schedule(at, Scheduled::Deliver(Event::PreUpgraded(to, allowed)));
            }
            Action::PreStop(worker) => {
                let at = self.now + self.hook_takes();
                self.schedule(at, Scheduled::Deliver(Event::PreStopped(worker)));
            }
            Action::Probe(worker) => {
                if let Some(kind) = self.processes.get(&worker).and_then(|process| process.script.probed) {
                    self.schedule(self.now, Scheduled::Act(worker, Act::Ack(kind)));
                }
            }
            Action::CheckAlive => self.answer_alive_check(),
            Action::CheckWaiting => {
                let at = self.now + self.answer_takes();
                let waits = self.rng.pick(&[0, 50, 100]);
                for slot in (0..4).map(Slot).filter(|_| self.rng.chance(waits)).collect::<Vec<_>>() {
                    self.schedule(at, Scheduled::Deliver(Event::Waits(slot)));
                }
                self.schedule(at, Scheduled::Deliver(Event::CheckedWaiting));
            }
            Action::Stop(worker) | Action::StopUnready(worker) => {
                self.schedule(self.now, Scheduled::Act(worker, Act::Continue));
                let Some(process) = self.processes.get_mut(&worker) else { return };
                if let Some((after, exit)) = process.script.on_stop {
                    self.schedule(self.now + after, Scheduled::Act(worker, Act::Exit(exit)));
                }
            }
            Action::Kill(worker) => {
                self.schedule(self.now, Scheduled::Act(worker, Act::Exit(Exit::Signal(9))))
            }
            Action::StopRemains(worker) => {
                if let Some(Remains::GoWhenAsked(after)) =
                    self.processes.get(&worker).map(|p| p.script.remains)
                {
                    self.schedule(self.now + after, Scheduled::Deliver(Event::RemainsGone(worker)));
                }
            }
            Action::KillRemains(worker) => {
                self.schedule(self.now, Scheduled::Deliver(Event::RemainsGone(worker)))
            }
            Action::Switch(to) => {
                let late =
                    if self.faultless || self.rng.chance(70) { Duration::ZERO } else { self.rng.moment() };
                let at = self.now + late;
                let done = self.faultless || !self.rng.chance(10);
                self.schedule(at, Scheduled::Deliver(Event::Switched(to, done)));
            }
            Action::Weigh(to, weight) => {
                let at = self.now + self.answer_takes();
                let done = self.faultless || !self.rng.chance(15);
                self.schedule(at, Scheduled::Deliver(Event::Weighed(to, weight, done)));
            }
            Action::Verify(worker) => {
                self.verify_run += 1;
                let good = self.faultless || !self.rng.chance(20);
                let at = self.now + self.hook_takes();
                self.schedule(at, Scheduled::Verified(self.verify_run, worker, good));
            }
            Action::CheckDrained(worker) => self.answer_drain_check(worker),
            Action::Resume(worker) => self.schedule(self.now, Scheduled::Act(worker, Act::Continue)),
            // Whoever continues us has us continue the workers.
            Action::SuspendSelf => self.schedule(self.now, Scheduled::Request(Request::Resume)),
            Action::DrainRemains(_)
            | Action::Forget(_)
            | Action::Forward(..)
            | Action::Suspend(_)
            | Action::Report(_)
            | Action::Exit(_) => {}
        }
    }

    pub fn spawn(&mut self, worker: WorkerId, generation: Generation) {
        let crash_looping = !self.faultless && self.crash_looping.contains(&generation);
        let bad = !crash_looping && !self.faultless && self.rng.chance(self.bad_percent);
        let mut script = match bad {
            true => Script::bad(&mut self.rng, &self.policy),
            false => Script::good(&mut self.rng, &self.policy),
        };
        if crash_looping {
            let serves = self.rng.ms(&[1000, 1000, 1500, 3000]);
            script.acts.push((serves, Act::Exit(Exit::Code(3))));
        }
        if self.silent && !bad && !self.faultless {
            script.acts.retain(|(_, act)| matches!(act, Act::Ack(AckKind::Listen)));
        }
        if let Some((refusal, from, to)) = self.outage
            && (from..to).contains(&self.now)
            && !self.faultless
        {
            script.refusal = Some(refusal);
        }
        let news = match script.refusal {
            Some(refusal) => Event::SpawnFailed(worker, refusal),
            None => Event::Spawned(worker),
        };
        self.schedule(self.now + script.spawn_takes, Scheduled::Deliver(news));
        let process = Process {
            script,
            running: false,
            dead: None,
            exit_delivered: false,
            remains: false,
            halted: None,
            successor: false,
            drain_checks: 0,
        };
        self.processes.insert(worker, process);
    }

    /// The old worker starts a successor and leaves, or waits until it is asked to stop; or it
    /// starts none, or is ended by the signal.
    pub fn request_handover(&mut self, worker: WorkerId, predecessor: WorkerId) {
        let good = self.faultless || !self.rng.chance(self.bad_percent);
        let script = Script::successor(&mut self.rng, &self.policy, good);
        let known = self.now + script.spawn_takes;
        let appears = good || self.rng.chance(60);
        if appears {
            self.schedule(known, Scheduled::Deliver(Event::Spawned(worker)));
        }
        if !appears && self.rng.chance(50) {
            self.schedule(known, Scheduled::Act(predecessor, Act::Exit(Exit::Signal(12))));
        }
        if appears && self.rng.chance(20) {
            let after = known + self.rng.ms(&[0, 50, 300, 1000]);
            self.schedule(after, Scheduled::Deliver(Event::StaysMaster(predecessor)));
        } else if appears && self.rng.chance(60) {
            let leaves = known + self.rng.ms(&[0, 50, 300, 1000]);
            self.schedule(leaves, Scheduled::Act(predecessor, Act::HandOver));
        }
        let successor = Process {
            script,
            running: false,
            dead: None,
            exit_delivered: false,
            remains: false,
            halted: None,
            successor: true,
            drain_checks: 0,
        };
        self.processes.insert(worker, successor);
    }

    /// How long a hook runs.
    pub fn hook_takes(&mut self) -> Duration {
        if self.faultless { self.rng.ms(&[0, 50, 300]) } else { self.rng.moment() }
    }

    /// How long the answer to a query takes: none, or little time.
    pub fn answer_takes(&mut self) -> Duration {
        if self.rng.chance(10) { Duration::from_millis(50) } else { Duration::ZERO }
    }

    pub fn answer_drain_check(&mut self, worker: WorkerId) {
        let (at, pause) = (self.now + self.answer_takes(), self.rng.ms(&[3, 50, 1000, 5000]));
        if !self.faultless && self.rng.chance(3) {
            // Some workers exit by themselves once no new connections come.
            self.schedule(at + pause / 2, Scheduled::Act(worker, Act::Exit(Exit::Code(0))));
        }
        let Some(process) = self.processes.get_mut(&worker) else { return };
        process.drain_checks += 1;
        let busy_checks = process.script.busy_checks.or(self.faultless.then_some(0));
        let drained =
            process.dead.is_some() || busy_checks.is_some_and(|checks| checks < process.drain_checks);
        self.schedule(at, Scheduled::Deliver(Event::DrainChecked { worker, drained, pause }));
    }

    pub fn answer_alive_check(&mut self) {
        let dead: Vec<Event> = self
            .processes
            .iter()
            .filter(|(_, process)| !process.exit_delivered)
            .filter_map(|(&worker, process)| {
                process.dead.map(|exit| Event::Exited { worker, exit, remains: process.remains })
            })
            .collect();
        for event in dead {
            self.schedule(self.now, Scheduled::Deliver(event));
        }
        let at = self.now + self.answer_takes();
        self.schedule(at, Scheduled::Deliver(Event::CheckedAlive));
    }
}
