//! Workers that bind their own sockets: their calls are heard and answered, new
//! connections are switched over, old workers are looked at until they have drained.

use super::Run;
use crate::adopt::drain::{Left, Sight};
use crate::adopt::{Adopt, Saved};
use crate::config::Config;
use crate::control::protocol as status;
use crate::core::event::Time;
use crate::core::event::{AckKind, Event, Failure, Generation, Report, WorkerId};
use crate::core::policy::FIRST_LOOK;
use crate::core::{Phase, ShownStage};
use crate::error::Error;
use crate::listener::Listeners;
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::sys::seccomp::{Call, Filter};
use log::{debug, warn};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A worker that closes a socket tells nobody: this often it is looked whether it has, where it has several
/// of an address (a process of it may have died), and where it has one.
const LOOK_SEVERAL: Duration = Duration::from_secs(1);
const LOOK_CLOSED: Duration = Duration::from_secs(5);

/// What is adopted, and when it was last looked at.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) adopt: Adopt,
    looked: Time,
}

/// Begins to adopt, if that is asked for.
///
/// # Errors
/// Where the machine is of a kind that we do not know.
pub(super) fn start(config: &Config, listeners: &Listeners) -> Result<Option<Adopted>, Error> {
    let Some(adopt) = &config.adopt else { return Ok(None) };
    if Filter::new().is_none() {
        return Err(Error::Cannot {
            attempt: format!("adopt on {}", std::env::consts::ARCH),
            why: "its system calls are not known to us".into(),
            next: Some("x86_64 or aarch64; or give the server its sockets with -b".into()),
        });
    }
    if !adopt.share && !listeners.is_empty() {
        return Err(Error::Usage(
            "--adopt cannot go with sockets from LISTEN_FDS: the program binds its own (--adopt=share has it bind them)".into(),
        ));
    }
    let ours = listeners.iter().map(|listener| listener.fd(0));
    Ok(Some(Adopted { adopt: Adopt::new(adopt.clone(), ours), looked: Time::ZERO }))
}

impl Adopted {
    /// As [`Saved::new`].
    ///
    /// # Errors
    /// As it has them.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        Saved::new(&self.adopt, transfer)
    }

    /// Goes on with what was adopted.
    pub(super) fn restore(
        config: &Config,
        saved: Option<Saved>,
        fds: &mut InheritedFds,
        now: Time,
    ) -> Option<Adopted> {
        let adopt = saved?.restore(config.adopt.clone()?, fds, now);
        Some(Adopted { adopt, looked: Time::ZERO })
    }
}

impl Run {
    /// Hears the calls of every worker, after we were replaced.
    pub(super) fn hear_all_calls(&mut self) {
        let Some(adopted) = &self.adopted else { return };
        for (id, calls) in adopted.adopt.callers() {
            self.listen_for(id, calls);
        }
    }

    fn listen_for(&self, id: WorkerId, calls: Arc<OwnedFd>) {
        if let Err(error) = self.threads.hear_calls(id, calls) {
            warn!("cannot hear what a worker binds: {}", crate::error::reason(&error));
        }
    }

    /// Hears the calls of a worker that has just been started.
    pub(super) fn hear_calls(&mut self, id: WorkerId, calls: Option<OwnedFd>) {
        let (Some(adopted), Some(calls)) = (&mut self.adopted, calls) else { return };
        let calls = Arc::new(calls);
        let Some(root) = self.processes.process(id).map(|process| process.pid) else { return };
        let start = self.config.policy.ack_timeout.map(|timeout| self.clock.now() + timeout);
        adopted.adopt.open(id, root, Arc::clone(&calls), start);
        self.listen_for(id, calls);
    }

    /// A process of the worker waits for an answer.
    pub(super) fn call(&mut self, id: WorkerId, call: &Call) {
        let now = self.clock.now();
        if self.adopted.as_mut().is_some_and(|adopted| adopted.adopt.call(id, call, now)) {
            self.listens(id);
        }
    }

    fn listens(&mut self, id: WorkerId) {
        if self.adopted.as_ref().is_some_and(|adopted| adopted.adopt.listens(id)) {
            self.soon.push_back(Event::Ack(id, AckKind::Listen));
        }
    }

    /// Nothing is left of the worker that could call.
    pub(super) fn calls_over(&mut self, id: WorkerId) {
        if let Some(adopted) = &mut self.adopted {
            adopted.adopt.over(id);
        }
    }

    /// Looks at what cannot be seen when it happens.
    pub(super) fn probe_bound(&mut self, id: WorkerId) {
        let now = self.clock.now();
        if self.adopted.as_mut().is_some_and(|adopted| adopted.adopt.look_bound(id, now)) {
            self.listens(id);
        }
    }

    /// New connections go to this generation from now on, or back to it.
    pub(super) fn switch(&mut self, to: Generation) {
        let now = self.clock.now();
        let worker = self.worker_of(to);
        let back = to == self.core.generation();
        let (Some(adopted), Some(worker)) = (&mut self.adopted, worker) else {
            return self.soon.push_front(Event::Switched(to, true));
        };
        let done = adopted.adopt.switch(worker, back, now);
        if let Err(why) = &done {
            self.processes.refuse_upgrade(why.clone());
        }
        // Before anything else that has happened meanwhile.
        self.soon.push_front(Event::Switched(to, done.is_ok()));
    }

    fn worker_of(&self, generation: Generation) -> Option<WorkerId> {
        let mut workers = self.core.workers();
        let serves = |stage| matches!(stage, ShownStage::Ready | ShownStage::Starting);
        workers.find(|shown| shown.generation == generation && serves(shown.stage)).map(|shown| shown.worker)
    }

    pub(super) fn look_drained(&mut self, id: WorkerId) {
        let now = self.clock.now();
        let others = self.others(id);
        let left = self.adopted.as_mut().and_then(|adopted| adopted.adopt.look_drained(id, &others, now));
        let (drained, pause) = match left {
            None => (true, FIRST_LOOK),
            Some((left, pause)) => {
                debug!("{} still has {}", id.0, words(&left));
                if let Some(entry) = self.processes.get_mut(id) {
                    entry.left = Some(words(&left));
                }
                (false, pause)
            }
        };
        self.soon.push_back(Event::DrainLook { worker: id, drained, pause });
    }

    fn others(&self, id: WorkerId) -> BTreeSet<Pid> {
        let others = self.core.workers().filter(|shown| shown.worker != id);
        others.filter_map(|shown| self.processes.process(shown.worker)).map(|process| process.pid).collect()
    }

    /// What a report means for what is adopted; before it is told, for it may want to say
    /// why.
    pub(super) fn tell_adopt(&mut self, report: &Report) {
        let serving = self.core.generation();
        let lone = self.core.phase() != Phase::Upgrading;
        let Some(adopted) = &mut self.adopted else { return };
        let adopt = &mut adopted.adopt;
        match *report {
            Report::Ready(id, ..) => {
                let own = self.processes.get(id).is_some_and(|entry| entry.generation == serving);
                adopt.ready(id, lone || own);
            }
            Report::NoAck(id, _) => {
                let lacks = adopt.lacks(id);
                if let Some(entry) = self.processes.get_mut(id) {
                    entry.lacks = lacks;
                }
            }
            Report::UpgradeDone { to, .. } => {
                if let Some(worker) = self.worker_of(to)
                    && let Some(adopted) = &mut self.adopted
                {
                    adopted.adopt.serves(worker);
                    adopted.adopt.clear_up();
                }
            }
            Report::Asked(id) => adopt.asked(id),
            Report::Gone { worker, .. } => adopt.ended(worker),
            Report::UpgradeFailed { why: Failure::Exited { worker, ready: false, .. }, .. } => {
                let told = adopt.told(worker).map(str::to_owned);
                if let Some(entry) = self.processes.get_mut(worker) {
                    entry.lacks = told;
                }
            }
            Report::Stopping => adopt.stop(),
            _ => {}
        }
    }

    /// What is adopted, for `ctl status`.
    pub(super) fn adopted_status(&self) -> Option<status::Adopted> {
        let adopt = &self.adopted.as_ref()?.adopt;
        let generation = |id| self.processes.get(id).map(|entry| entry.generation.0);
        let addresses = adopt.addresses().into_iter().map(|shown| status::Address {
            address: shown.address,
            shared: shown.shared,
            generation: shown.serving.and_then(generation),
            sockets: shown.sockets as u32,
            others: shown.others as u32,
            queue: shown.queue,
        });
        Some(status::Adopted { mode: adopt.mode().into(), addresses: addresses.collect() })
    }

    /// How long until it is looked again for sockets that a worker has closed.
    pub(super) fn look_closed_in(&self) -> Option<Duration> {
        let adopted = self.adopted.as_ref().filter(|adopted| adopted.adopt.has_any())?;
        let pause = if adopted.adopt.has_several() { LOOK_SEVERAL } else { LOOK_CLOSED };
        Some((adopted.looked + pause).saturating_sub(self.clock.now()))
    }

    pub(super) fn look_closed(&mut self) {
        if self.look_closed_in() != Some(Duration::ZERO) {
            return;
        }
        let now = self.clock.now();
        if let Some(adopted) = &mut self.adopted {
            adopted.looked = now;
            adopted.adopt.forget_closed();
        }
    }
}

fn words(left: &Left) -> String {
    if left.sight == Sight::Nothing {
        return "nobody knows what (the kernel does not tell of connections)".into();
    }
    if left.is_empty() {
        return "nothing, and is looked at once more".into();
    }
    let open = left.busy + left.waiting + left.arriving;
    let which = if left.sight == Sight::Ports { ", its successor's among them" } else { "" };
    format!("{open} connection{} busy, {} idle{which}", if open == 1 { "" } else { "s" }, left.idle)
}
