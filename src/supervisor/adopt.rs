//! Workers that bind their own sockets (`--adopt`): their system calls are received and
//! answered, new connections are switched over, and old workers are checked until they have
//! drained.

use super::context::Context;
use super::inputs::Threads;
use crate::adopt::drain::{Remaining, Visibility};
use crate::adopt::group::Weighed;
use crate::adopt::{Adopt, Names, Saved};
use crate::config::Config;
use crate::control::protocol as status;
use crate::core::event::Time;
use crate::core::event::{AckKind, Event, Refusal, Report, Weight, WorkerId};
use crate::core::policy::FIRST_DRAIN_CHECK;
use crate::core::{Phase, ShownStage};
use crate::error::Error;
use crate::launch;
use crate::listener::Listeners;
use crate::reexec::fd_transfer::{FdTransfer, InheritedFds};
use crate::sys::arrivals::Arrivals;
use crate::sys::connections::ListenPorts;
use crate::sys::probe::{self, Access, Refused};
use crate::sys::seccomp::{Call, Filter, Received};
use log::{debug, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// What a server without a TCP port can do.
const UNIX_CURE: &str = "-b unix:PATH where it can take its socket from us, else --stop-first";

/// What is adopted.
pub(super) struct Adoption {
    adopt: Adopt,
}

impl Adoption {
    /// Begins to adopt, with `--adopt`.
    ///
    /// # Errors
    /// When the system calls of this architecture are not known.
    pub(super) fn start(config: &Config, listeners: &Listeners) -> Result<Option<Adoption>, Error> {
        let Some(adopt) = &config.adopt else { return Ok(None) };
        if Filter::new(Received::default()).is_none() {
            return Err(Error::Cannot {
                attempt: format!("adopt on {}", std::env::consts::ARCH),
                why: "its system calls are not known to us".into(),
                advice: Some("x86_64 or aarch64; or give the server its sockets with -b".into()),
            });
        }
        if !adopt.share && !listeners.is_empty() {
            return Err(Error::Usage(
            "--adopt cannot go with sockets from LISTEN_FDS: the program binds its own (--adopt=share has it bind them)".into(),
        ));
        }
        let ours = listeners.iter().map(|listener| listener.fd(0, 0));
        Ok(Some(Adoption { adopt: Adopt::new(adopt.clone(), ours) }))
    }

    /// As [`Saved::new`].
    ///
    /// # Errors
    /// As [`Saved::new`] has them.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        Saved::new(&self.adopt, transfer)
    }

    /// Restores what was adopted before an execve(2).
    pub(super) fn restore(
        config: &Config,
        saved: Option<Saved>,
        fds: &mut InheritedFds,
        now: Time,
    ) -> Option<Adoption> {
        let adopt = saved?.restore(config.adopt.clone()?, fds, now);
        Some(Adoption { adopt })
    }

    /// Starts the threads that receive the calls of the workers, after an execve(2).
    pub(super) fn receive_all_calls(&self, threads: &Threads) {
        for (id, calls) in self.adopt.callers() {
            receive_calls(id, calls, self.adopt.arrivals(), self.adopt.names(), threads);
        }
    }

    /// Starts to receive the calls of a worker that has just been started.
    pub(super) fn open(&mut self, id: WorkerId, calls: Option<OwnedFd>, threads: &Threads, ctx: &Context) {
        let Some(calls) = calls.map(Arc::new) else { return };
        let Some(root) = ctx.processes.process(id).map(|process| process.pid) else { return };
        let Some(place) = ctx.processes.get(id).map(|entry| (entry.generation, entry.slot)) else { return };
        let start = ctx.config.policy.ack_timeout.map(|timeout| ctx.now() + timeout);
        self.adopt.open(id, place, root, Arc::clone(&calls), start);
        receive_calls(id, calls, self.adopt.arrivals(), self.adopt.names(), threads);
    }

    /// Why no worker can be started beside the one that serves.
    pub(super) fn refuses_second(&self, id: WorkerId, ctx: &Context) -> Option<launch::Refused> {
        let beside = ctx.core.phase() == Phase::Upgrading && !ctx.config.policy.stop_first;
        let paths = self.adopt.serves_on_unix_alone(id).filter(|_| beside)?;
        Some(launch::Refused {
            refusal: Refusal::Other,
            message: format!(
                "the worker that serves listens on {paths} alone, which --adopt does not adopt, and the new one would take the path from it ({UNIX_CURE})"
            ),
        })
    }

    /// A process of the worker waits for the answer to a call.
    pub(super) fn call(&mut self, id: WorkerId, call: &Call, ctx: &mut Context) {
        self.adopt.call(id, call, ctx.now());
        self.listens(id, ctx);
    }

    fn listens(&mut self, id: WorkerId, ctx: &mut Context) {
        if self.adopt.listens_now(id) {
            ctx.queue(Event::Ack(id, AckKind::Listen));
        }
    }

    /// No process of the worker is left that could make a call.
    pub(super) fn on_calls_ended(&mut self, id: WorkerId) {
        self.adopt.remove(id);
    }

    /// Checks what no system call shows: which sockets it has bound, and whether the one that serves
    /// has closed some meanwhile.
    pub(super) fn probe(&mut self, id: WorkerId, ctx: &mut Context) {
        self.adopt.check_bound(id, ctx.now());
        if let Some(paths) = self.adopt.listens_on_unix_alone(id, ctx.now()) {
            let (cure, pid) =
                (UNIX_CURE, ctx.processes.process(id).map_or(0, |process| process.pid.as_raw()));
            warn!(
                pid = pid;
                "pid {pid} listens on {paths} alone, which --adopt does not adopt: it counts as ready, and no upgrade can be graceful ({cure})"
            );
        }
        self.check_socketless(id, ctx);
        if !self.adopt.listens(id) {
            self.adopt.find_closed(ctx.now());
            match self.adopt.waits_for_itself(id, ctx.now()) {
                // The message comes when it has ended.
                true => ctx.processes.signal_group(id, Signal::SIGTERM),
                false => self.end_if_stranded(id, ctx),
            }
        }
        self.listens(id, ctx);
    }

    /// A worker that binds nothing may be one without sockets. It is ready by its ack, or by its age.
    fn check_socketless(&mut self, id: WorkerId, ctx: &mut Context) {
        let Some(shown) = ctx.core.workers().find(|shown| shown.worker == id) else { return };
        if shown.halted.is_some() {
            return;
        }
        let acked = ctx.core.has_pending_ack(id);
        let limit = ctx.config.policy.ack_timeout;
        if self.adopt.is_socketless(id, ctx.now() - shown.since, acked, limit) {
            ctx.queue(Event::HasNoSockets(id));
        }
    }

    /// Ends a worker that was started again and has taken another port than the one before. It has
    /// served nobody.
    fn end_if_stranded(&mut self, id: WorkerId, ctx: &Context) {
        let unmet = self.adopt.unmet(id);
        if !self.adopt.give_up_stranded(id, Some(ctx.now())) {
            return;
        }
        let Some(process) = ctx.processes.process(id) else { return };
        let (pid, unmet) = (process.pid, unmet.unwrap_or_default());
        warn!(
            pid = pid.as_raw();
            "pid {pid}: {unmet}: it is ended and started again, as a server that connects to its port to see whether it is free takes another one where somebody answers, or connections wait"
        );
        ctx.processes.signal_group(id, Signal::SIGTERM);
    }

    /// The system calls of the next worker that are to be received.
    pub(super) fn received(&self) -> Received {
        Received { connects: self.adopt.receives_connects(), removals: self.adopt.shares_paths() }
    }

    /// As [`Adopt::take_looker`]; the address, for people.
    pub(super) fn take_looker(&mut self, id: WorkerId, age: Duration) -> Option<String> {
        self.adopt.take_looker(id, age).map(|key| key.to_string())
    }

    /// Continues every worker that we have halted.
    pub(super) fn release_all(&mut self) {
        self.adopt.release(Time::MAX);
    }

    /// As [`Adopt::is_halted`].
    pub(super) fn is_halted(&self, id: WorkerId) -> bool {
        self.adopt.is_halted(id)
    }

    /// A connection has come.
    pub(super) fn on_arrival(&mut self, ctx: &Context) {
        self.adopt.on_arrival(ctx.now());
    }

    /// Switches new connections to the replacements that are ready, or undoes that.
    pub(super) fn switch(&mut self, ctx: &mut Context) -> bool {
        if !ctx.core.is_switching() {
            self.adopt.serve(&ctx.core.receivers().collect(), weighed(ctx), ctx.now());
            return true;
        }
        self.switch_to(None, ctx)
    }

    /// Gives the worker on hold this part of the new connections.
    pub(super) fn weigh(&mut self, weight: Weight, ctx: &mut Context) -> bool {
        let canary = ctx.core.canary().and_then(|shown| shown.worker);
        self.switch_to(canary.map(|worker| (worker, weight.parts())), ctx)
    }

    fn switch_to(&mut self, weighed: Option<Weighed>, ctx: &mut Context) -> bool {
        let done = self.adopt.switch(&ctx.core.receivers().collect(), weighed, ctx.now());
        if let Err(why) = &done {
            ctx.processes.set_upgrade_refusal(why.clone());
        }
        done.is_ok()
    }

    /// Has new connections go to those workers that are to get them after a step of the core.
    pub(super) fn follow_core(&mut self, ctx: &Context) {
        // Whether they go to the replacements is known with the next event.
        let is_as_before = || {
            ctx.core.receivers().eq(self.adopt.serving().iter().copied())
                && weighed(ctx) == self.adopt.weighed()
        };
        if !ctx.core.is_switching() && !is_as_before() {
            self.adopt.serve(&ctx.core.receivers().collect(), weighed(ctx), ctx.now());
        }
    }

    /// Checks whether a worker to which no new connection goes has drained.
    pub(super) fn check_drained(&mut self, id: WorkerId, ctx: &mut Context) {
        let others = others(id, ctx);
        let left = self.adopt.check_drained(id, &others, ctx.now());
        let (drained, pause) = match &left {
            None => (true, FIRST_DRAIN_CHECK),
            Some((left, pause)) => {
                debug!("{} still has {}", id.0, remaining_text(left));
                (false, *pause)
            }
        };
        if let Some(entry) = ctx.processes.get_mut(id) {
            entry.remaining = left.map(|(left, _)| remaining_text(&left));
        }
        ctx.queue(Event::DrainChecked { worker: id, drained, pause });
    }

    /// Updates what is adopted. This comes before the report is logged, because it may note the
    /// reason.
    pub(super) fn on_report(&mut self, report: &Report, ctx: &mut Context) {
        let adopt = &mut self.adopt;
        match *report {
            Report::Ready(id, ..) => adopt.ready(id),
            Report::NoAck(id, _) => {
                let lacks = adopt.unmet_with_unseen(id);
                adopt.give_up_stranded(id, None);
                if let Some(entry) = ctx.processes.get_mut(id) {
                    entry.unmet = lacks;
                }
            }
            Report::UpgradeDone { .. } | Report::RolledBack { .. } => adopt.remove_replaced(),
            Report::Retired(slot) => adopt.give_up_slots(|other| other == slot),
            Report::ScaleDone(_) => {
                let slots = slot_count(ctx);
                adopt.give_up_slots(|slot| slot.0 >= slots);
            }
            Report::UpgradeStarted { .. } => adopt.begin_upgrade(ctx.now()),
            Report::StopSent(id) => adopt.mark_stop_sent(id, ctx.now()),
            Report::Gone { worker, ready, .. } => {
                let why = adopt.last_warning(worker).map(str::to_owned);
                let why = why.or_else(|| adopt.taken_address(worker)).filter(|_| !ready);
                if let Some(entry) = ctx.processes.get_mut(worker) {
                    entry.unmet = why.or(entry.unmet.take());
                    entry.unbound = adopt.unbound(worker).filter(|_| !ready);
                }
                let slot = ctx.processes.get(worker).map(|entry| entry.slot);
                adopt.ended(worker, slot.is_some_and(|slot| slot.0 < slot_count(ctx)));
            }
            Report::Stopping => adopt.stop(),
            _ => {}
        }
    }

    /// What is adopted, for `ctl status`.
    pub(super) fn status(&self, ctx: &Context) -> status::Adopted {
        let server = |id| {
            let entry = ctx.processes.get(id)?;
            Some(status::Server {
                slot: entry.slot.0,
                generation: entry.generation.0,
                pid: entry.process.as_ref().map(|process| process.pid.as_raw()),
            })
        };
        let addresses = self.adopt.addresses().into_iter().map(|shown| status::Address {
            address: shown.address,
            shared: shown.shared,
            generation: shown.serving.iter().filter_map(|&id| server(id)).map(|it| it.generation).max(),
            serving: shown.serving.into_iter().filter_map(server).collect(),
            sockets: shown.sockets as u32,
            others: shown.others as u32,
            queue: shown.queue,
        });
        status::Adopted { mode: self.adopt.mode().into(), addresses: addresses.collect() }
    }

    /// The listeners and ports at which connections come in.
    pub(super) fn listen_ports(&self) -> ListenPorts {
        self.adopt.listen_ports()
    }

    /// The steered sockets, by inode.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        self.adopt.inodes()
    }

    /// When the next check for closed sockets is due, or a worker is to be continued.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.adopt.look_due().into_iter().chain(self.adopt.release_due()).min()
    }

    /// Checks for sockets that a worker has closed, if that is due. A worker that starts may wait for
    /// connections by now.
    pub(super) fn check_closed(&mut self, ctx: &mut Context) {
        let now = ctx.now();
        // Whatever has become of the stop signal, nothing stays halted for long.
        self.adopt.release(now);
        if self.adopt.look_due().is_some_and(|at| at <= now) {
            self.adopt.look(now);
            let starting: Vec<WorkerId> =
                ctx.in_stage(ShownStage::Starting).map(|shown| shown.worker).collect();
            starting.into_iter().for_each(|id| self.listens(id, ctx));
        }
    }
}

/// Tries what is done with each socket that a worker binds, on a child of our own: where it is
/// forbidden, no worker would ever be adopted. To be called while there is one thread.
///
/// # Errors
/// Which call is forbidden.
pub(super) fn check_machine() -> Result<(), Error> {
    let calls = [
        ("pidfd_open(2)", Access::PidfdOpen),
        ("pidfd_getfd(2)", Access::PidfdGetfd),
        ("process_vm_readv(2)", Access::ProcessVmReadv),
    ];
    // There may be no process for the try, or it ends: nothing is known then.
    let known = |refused: &Refused| !matches!(refused, Refused::Errno(Errno::EAGAIN | Errno::ECANCELED));
    let failed = calls
        .into_iter()
        .find_map(|(call, access)| Some((call, probe::access_child(access).err().filter(known)?)));
    let Some((call, refused)) = failed else { return Ok(()) };
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let advice = match (refused, scope.trim()) {
        (Refused::Filtered, _) => {
            "in our unit, after the line of @system-service: SystemCallFilter=pidfd_getfd seccomp process_vm_readv kcmp; or give the server its sockets with -b"
        }
        (Refused::Errno(Errno::ENOSYS), _) => {
            "Linux 5.9 is needed, or another sandbox; or give the server its sockets with -b"
        }
        (_, "2" | "3") => {
            "kernel.yama.ptrace_scope is above 1: set it to 1, or run us with CAP_SYS_PTRACE; or give the server its sockets with -b"
        }
        _ => {
            "a sandbox forbids it: docker run --cap-add SYS_PTRACE, systemd SystemCallFilter=; or give the server its sockets with -b; graceful-run doctor tries all that is needed"
        }
    };
    Err(Error::Cannot {
        attempt: "adopt what workers bind".into(),
        why: match refused {
            Refused::Errno(errno) => format!("{call} on a child: {}", crate::error::reason(&errno.into())),
            Refused::Filtered => format!("a system call filter kills who calls {call} (signal SYS)"),
        },
        advice: Some(advice.into()),
    })
}

pub(super) fn receive_calls(
    id: WorkerId,
    calls: Arc<OwnedFd>,
    arrivals: Option<Arc<Arrivals>>,
    names: Arc<Names>,
    threads: &Threads,
) {
    if let Err(error) = threads.receive_calls(id, calls, arrivals, names) {
        warn!("cannot see what a worker binds: {}", crate::error::reason(&error));
    }
}

fn slot_count(ctx: &Context) -> u32 {
    ctx.core.serving_generations().count() as u32
}

fn weighed(ctx: &Context) -> Option<Weighed> {
    ctx.core.weighed_worker().map(|(worker, weight)| (worker, weight.parts()))
}

fn others(id: WorkerId, ctx: &Context) -> BTreeSet<Pid> {
    let others = ctx.core.workers().filter(|shown| shown.worker != id);
    let workers = others.filter_map(|shown| ctx.processes.process(shown.worker)).map(|process| process.pid);
    workers.chain(ctx.processes.orphans_of_others(id)).collect()
}

fn remaining_text(left: &Remaining) -> String {
    if left.visibility == Visibility::None {
        return "nobody knows what (the kernel does not tell of connections)".into();
    }
    if left.is_empty() {
        return "nothing, and is checked once more".into();
    }
    let open = left.busy + left.waiting + left.arriving;
    let which = if left.visibility == Visibility::PortsOnly { ", its successor's among them" } else { "" };
    format!("{open} connection{} busy, {} idle{which}", if open == 1 { "" } else { "s" }, left.idle)
}
