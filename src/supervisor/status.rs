//! What there is, for `ctl status`.

use super::Run;
use crate::control::protocol::{self, LastUpgrade, Status};
use crate::control::socket_stats::Snapshot;
use crate::core::policy::PROBATION_CRASHES;
use crate::core::{Phase, ShownStage};
use crate::dialect::{Dialect, first_listener};
use crate::supervisor::report::event;

impl Run {
    /// What there is, but for what takes a look at the kernel.
    pub(super) fn state(&self) -> (Status, Snapshot) {
        let now = self.clock.now();
        let generation = self.core.generation();
        let workers = self.core.workers().map(|shown| protocol::Worker {
            pid: self.processes.process(shown.worker).map(|process| process.pid.as_raw()),
            generation: shown.generation.0,
            slot: shown.slot.0,
            stage: stage_name(shown.stage).into(),
            age_ms: now.saturating_sub(shown.since).as_millis() as u64,
            ack: shown.ack.map(|kind| event::ack_name(kind).into()),
            connections: None,
            status: self.processes.get(shown.worker).and_then(|entry| entry.status.clone()),
            drain: self.processes.get(shown.worker).and_then(|entry| entry.left.clone()),
        });
        let mut next = match first_listener(&self.common.dialects) {
            None if self.common.dialects.contains(&Dialect::Stdin) => Some(0),
            first => first,
        };
        let listeners = self.common.listeners.iter().map(|listener| {
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
            unix: self.common.listeners.iter().map(|listener| listener.unix_inodes()).collect(),
            listen_ports: match &self.adopted {
                Some(adopted) => Some(adopted.adopt.listen_ports()),
                None => self.config.follow.is_none().then(|| self.common.listeners.listen_ports()),
            },
        };
        let ago = self.control.last_at.map(|at| now.saturating_sub(at).as_millis() as u64);
        let status = Status {
            version: protocol::VERSION,
            pid: std::process::id().cast_signed(),
            name: self.common.name.clone(),
            phase: phase_name(self.core.phase()).into(),
            generation: generation.0,
            uptime_ms: now.as_millis() as u64,
            listeners: listeners.collect(),
            workers: workers.collect(),
            last_upgrade: self.control.last.clone().map(|last| LastUpgrade { ago_ms: ago, ..last }),
            pending_upgrade: self.core.upgrade_pending(),
            failed_upgrades: self.control.failed,
            crashes: self.control.crashes,
            held: self.control.to.filter(|_| self.core.phase() == Phase::Holding).map(|to| to.0),
            workers_wanted: self.control.wanted.unwrap_or(self.config.policy.workers),
            upgrades: self.control.upgrades,
            probation: self.core.probation().map(|shown| protocol::Probation {
                generation: shown.of.0,
                before: shown.before.0,
                crashes: shown.crashes,
                of: PROBATION_CRASHES,
                left_ms: shown.until.saturating_sub(now).as_millis() as u64,
            }),
            lost: self.lost_now(),
            adopt: self.adopted_status(),
        };
        (status, snapshot)
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
