//! The state of the supervisor, for `ctl status`.

use super::event_loop::EventLoop;
use super::hold::canary;
use crate::ack::kind;
use crate::config::signals;
use crate::control::protocol::{self, LastUpgrade, Status};
use crate::control::socket_stats::Snapshot;
use crate::core::policy::PROBATION_CRASHES;
use crate::core::{Phase, ShownStage};
use crate::dialect::{Dialect, first_listener};
use crate::process::{ChangedFile, Entry};

impl EventLoop {
    /// The state, and a snapshot from which the counts that only the kernel has are read later.
    pub(super) fn state(&self) -> (Status, Snapshot) {
        let ctx = &self.ctx;
        let now = ctx.now();
        let (settings, history) = (&ctx.launcher.settings, &self.control.history);
        let generation = ctx.core.generation();
        let workers = ctx.core.workers().map(|shown| protocol::Worker {
            pid: ctx.processes.process(shown.worker).map(|process| process.pid.as_raw()),
            generation: shown.generation.0,
            slot: shown.slot.0,
            stage: stage_name(shown.stage).into(),
            age_ms: now.saturating_sub(shown.since).as_millis() as u64,
            ack: shown.ack.map(|kind| kind::name(kind).into()),
            connections: None,
            stopped: shown.halted.filter(|by| by.0 > 0).map(|by| signals::name(by.0)),
            status: ctx.processes.get(shown.worker).and_then(|entry| entry.status.clone()),
            startup_soak_ms: ctx
                .core
                .startup_soak(shown.worker)
                .map(|until| until.saturating_sub(now).as_millis() as u64),
            drain: ctx.processes.get(shown.worker).and_then(|entry| entry.remaining.clone()),
        });
        let mut next = match first_listener(&settings.dialects) {
            None if settings.dialects.contains(&Dialect::Stdin) => Some(0),
            first => first,
        };
        let listeners = settings.listeners.iter().map(|listener| {
            let fd = if listener.is_for(generation.0) { next } else { None };
            next = if fd.is_some() { next.map(|fd| fd + 1) } else { next };
            let queue = listener.queue();
            let backlog = queue.map_or(listener.backlog(), |queue| queue.backlog);
            protocol::Listener {
                name: listener.name().into(),
                address: listener.address().into(),
                kind: listener.kind().into(),
                fd,
                queue: queue.map(|queue| queue.length),
                backlog: listener.is_stream().then_some(backlog),
                outlook: listener.outlook().map(str::to_owned),
            }
        });
        let snapshot = Snapshot {
            unix: settings.listeners.iter().map(|listener| listener.unix_inodes()).collect(),
            listen_ports: match &self.adoption {
                Some(adoption) => Some(adoption.listen_ports()),
                None => ctx.config.follow.is_none().then(|| settings.listeners.listen_ports()),
            },
        };
        let ago = history.last_at.map(|at| now.saturating_sub(at).as_millis() as u64);
        let status = Status {
            version: protocol::VERSION,
            pid: std::process::id().cast_signed(),
            name: settings.name.clone(),
            phase: phase_name(ctx.core.phase()).into(),
            generation: generation.0,
            uptime_ms: now.as_millis() as u64,
            listeners: listeners.collect(),
            workers: workers.collect(),
            last_upgrade: history.last.clone().map(|last| LastUpgrade { ago_ms: ago, ..last }),
            pending_upgrade: ctx.core.has_pending_upgrade(),
            failed_upgrades: history.failed,
            rolled_back: history.rolled_back,
            crashes: history.crashes,
            held: history.to.filter(|_| ctx.core.phase() == Phase::Holding).map(|to| to.0),
            canary: canary(ctx),
            workers_wanted: history.wanted.unwrap_or(ctx.config.policy.workers),
            upgrades: history.upgrades,
            probation: ctx.core.probation().map(|shown| protocol::Probation {
                generation: shown.generation.0,
                before: shown.before.0,
                crashes: shown.crashes,
                of: PROBATION_CRASHES,
                left_ms: shown.until.saturating_sub(now).as_millis() as u64,
                lost: ctx.launcher.lost(shown.before),
            }),
            lost: self.lost(),
            waits: ctx.processes.signalled && ctx.core.phase() == Phase::Stopping,
            adopt: self.adoption.as_ref().map(|adoption| adoption.status(ctx)),
        };
        (status, snapshot)
    }

    /// Changed files of the generation that serves, if its workers are to be started as before, and
    /// one of them does not run them already.
    fn lost(&self) -> Vec<String> {
        let ctx = &self.ctx;
        if self.control.history.last.as_ref().is_none_or(|last| last.result == "ok") {
            return Vec::new();
        }
        let serving = ctx.core.generation();
        let wanted = ctx.of_generation(serving).filter(|shown| ctx.is_wanted(shown.worker));
        let workers: Vec<&Entry> = wanted.filter_map(|shown| ctx.processes.get(shown.worker)).collect();
        let is_news = |file: &ChangedFile| {
            workers.is_empty() || workers.iter().any(|worker| !worker.changed.contains(file))
        };
        let changed = ctx.launcher.changed(serving).into_iter().filter(is_news);
        changed.map(|(path, _)| path.display().to_string()).collect()
    }
}

pub(super) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Upgrading => "upgrading",
        Phase::Holding => "holding",
        Phase::Stopping => "stopping",
    }
}

fn stage_name(stage: ShownStage) -> &'static str {
    match stage {
        ShownStage::Starting => "starting",
        ShownStage::Ready => "ready",
        ShownStage::Draining => "draining",
        ShownStage::Killed => "killed",
    }
}
