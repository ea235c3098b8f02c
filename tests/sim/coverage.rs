//! What has happened in the worlds: an invariant about something that never happens would
//! prove nothing.

use crate::transitions::Transitions;
use graceful_run::core::event::{AckKind, Action, Behind, Ending, Event, Failure, Report, Request};
use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;

#[derive(Default)]
pub struct Coverage {
    steps: u64,
    seen: BTreeMap<&'static str, u64>,
    pub transitions: Transitions,
}

/// Each of these must be seen at least once.
const REQUIRED: [&str; 101] = [
    "hold passed",
    "hold passed, verified",
    "weighed",
    "not weighed",
    "cannot weigh",
    "verified on hold",
    "upgrade failed: not weighed",
    "upgrade failed: not verified",
    "drained without --adopt",
    "halted",
    "continued",
    "resumed",
    "upgrade failed: halted",
    "upgrade failed: crashes",
    "waiting checked",
    "waits",
    "unseen",
    "ready by an ack before it waited",
    "ready by an ack without sockets",
    "ready by its age without sockets",
    "rollback started",
    "rolled back",
    "rollback failed",
    "proven",
    "forgotten",
    "drain of remains",
    "ready by listening",
    "ready by an ack before it listened",
    "listens at another address",
    "switched",
    "switched back",
    "switched, batch by batch",
    "switched after a hold",
    "switched back from a hold",
    "died in a switch",
    "drained, and not wanted",
    "upgrade failed: not switched",
    "drain checked",
    "drained",
    "not drained",
    "draining: exited",
    "draining: killed",
    "draining: stopped with everything",
    "held",
    "held, and failed",
    "upgrade failed: rolled back",
    "upgrade failed: superseded",
    "upgrade failed: refused",
    "upgrade failed: silent",
    "cannot hold",
    "nothing held",
    "silent",
    "scale done",
    "pre-upgrade",
    "pre-stop",
    "heartbeat",
    "carried over",
    "ended: silent",
    "upgrade done",
    "upgrade failed: exited",
    "upgrade failed: exited after its ack",
    "upgrade failed: no ack",
    "upgrade failed: not started",
    "upgrade failed: own socket",
    "upgrade failed: stopped",
    "upgrade failed: no successor",
    "upgrade failed: predecessor left",
    "handover requested",
    "successor taken",
    "master kept",
    "starts no successor",
    "handed over",
    "upgrade failed half-way",
    "upgrade kept",
    "upgrade kept: first start",
    "upgrade kept: a worker",
    "ended: stopped",
    "ended: killed",
    "ended: worker",
    "ended: no ack",
    "ended: not started",
    "kill",
    "kill of remains",
    "stop of remains",
    "start tried again",
    "restart",
    "retired",
    "scaled",
    "cannot scale",
    "ignored",
    "forward",
    "suspend",
    "probe",
    "extend",
    "ready by timer",
    "ready by timeout",
    "stale event",
    "late tick",
    "interrupted by the terminal",
    "stopped with a signal to everybody",
    "a signal to everybody came before a restart",
];

impl Coverage {
    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn step(&mut self, event: Event, actions: &[Action]) {
        self.steps += 1;
        match event {
            Event::Extend(..) => self.see("extend"),
            Event::Heartbeat(_) => self.see("heartbeat"),
            Event::Waits(_) => self.see("waits"),
            Event::Switched(_, true) => self.see("switched"),
            Event::HandedOver(_) => self.see("handed over"),
            Event::Request(Request::Interrupt { workers_signalled: true }) => {
                self.see("interrupted by the terminal")
            }
            Event::Request(Request::StopSignalled) => {
                self.see("stopped with a signal to everybody");
                if actions.iter().any(|action| matches!(action, Action::Stop(_) | Action::StopUnready(_))) {
                    self.see("a signal to everybody came before a restart");
                }
            }
            _ => {}
        }
        let back = |actions: &[Action]| {
            matches!(actions, [Action::Switch(_), Action::Report(Report::UpgradeFailed { .. })])
        };
        if actions.windows(2).any(back) {
            self.see("switched back");
        }
        for action in actions {
            if let Action::Report(Report::Ready(_, kind, _)) = action
                && matches!(event, Event::Ack(_, AckKind::Listen))
                && *kind != AckKind::Listen
            {
                self.see("ready by an ack before it listened");
            }
            if let Action::Report(Report::Ready(_, kind, _)) = action
                && matches!(event, Event::Ack(_, AckKind::Accepting))
                && *kind == AckKind::Notify
            {
                self.see("ready by an ack before it waited");
            }
            if let Action::Report(Report::Ready(_, kind, _)) = action
                && matches!(event, Event::HasNoSockets(_))
            {
                self.see(match kind {
                    AckKind::Timer => "ready by its age without sockets",
                    _ => "ready by an ack without sockets",
                });
            }
            if let Some(what) = name(action) {
                self.see(what);
            }
        }
    }

    pub fn never(&self) -> Vec<String> {
        REQUIRED.iter().filter(|what| !self.seen.contains_key(*what)).map(|what| what.to_string()).collect()
    }
}

fn name(action: &Action) -> Option<&'static str> {
    use graceful_run::core::event::AckKind::{Listen, Timeout, Timer};
    Some(match action {
        Action::Kill(_) => "kill",
        Action::KillRemains(_) => "kill of remains",
        Action::StopRemains(_) => "stop of remains",
        Action::DrainRemains(_) => "drain of remains",
        Action::CheckWaiting => "waiting checked",
        Action::Forget(_) => "forgotten",
        Action::Forward(..) => "forward",
        Action::RequestHandover { .. } => "handover requested",
        Action::TakeSuccessor { .. } => "successor taken",
        Action::KeepMaster { .. } => "master kept",
        Action::Suspend(_) => "suspend",
        Action::Probe(_) => "probe",
        Action::Exit(Ending::Stopped) => "ended: stopped",
        Action::Exit(Ending::Killed) => "ended: killed",
        Action::Exit(Ending::Worker(..)) => "ended: worker",
        Action::Exit(Ending::NoAck(..)) => "ended: no ack",
        Action::Exit(Ending::NotStarted(..)) => "ended: not started",
        Action::Exit(Ending::Silent(..)) => "ended: silent",
        Action::CheckDrained(_) => "drain checked",
        Action::Verify(_) => "verified on hold",
        Action::PreUpgrade(_) => "pre-upgrade",
        Action::PreStop(_) => "pre-stop",
        Action::Report(report) => match report {
            Report::UpgradeDone { .. } => "upgrade done",
            Report::Unseen { .. } => "unseen",
            Report::RollbackStarted { .. } => "rollback started",
            Report::RolledBack { .. } => "rolled back",
            Report::RollbackFailed { .. } => "rollback failed",
            Report::Proven(_) => "proven",
            Report::Held { .. } => "held",
            Report::CannotHold => "cannot hold",
            Report::HoldPassed { verified: 0, .. } => "hold passed",
            Report::HoldPassed { .. } => "hold passed, verified",
            Report::Weighed(..) => "weighed",
            Report::NotWeighed(..) => "not weighed",
            Report::CannotWeigh => "cannot weigh",
            Report::UpgradeFailed { why: Failure::NotWeighed, .. } => "upgrade failed: not weighed",
            Report::UpgradeFailed { why: Failure::NotVerified(_), .. } => "upgrade failed: not verified",
            Report::NothingHeld(_) => "nothing held",
            Report::Silent(..) => "silent",
            Report::ScaleDone(_) => "scale done",
            Report::UpgradeFailed { why: Failure::RolledBack, .. } => "upgrade failed: rolled back",
            Report::UpgradeFailed { why: Failure::Superseded, replaced: 0, .. } => {
                "upgrade failed: superseded"
            }
            Report::UpgradeFailed { why: Failure::Refused, .. } => "upgrade failed: refused",
            Report::UpgradeFailed { why: Failure::Silent(..), replaced: 0, .. } => "upgrade failed: silent",
            Report::Halted(..) => "halted",
            Report::Continued(..) => "continued",
            Report::Resumed(..) => "resumed",
            Report::UpgradeFailed {
                why: Failure::Halted(..), replaced: 0, predecessor_left: false, ..
            } => "upgrade failed: halted",
            Report::UpgradeFailed { why: Failure::NotSwitched, .. } => "upgrade failed: not switched",
            Report::UpgradeFailed { why: Failure::OwnSocket(_), .. } => "upgrade failed: own socket",
            Report::Drained(..) => "drained",
            Report::NotDrained(..) => "not drained",
            Report::Ready(_, Listen, _) => "ready by listening",
            Report::UpgradeFailed { held: true, why: Failure::Exited { .. }, .. } => "held, and failed",
            Report::UpgradeFailed { why: Failure::Crashes(..), .. } => "upgrade failed: crashes",
            Report::UpgradeFailed { replaced: 1.., .. } => "upgrade failed half-way",
            Report::UpgradeFailed { predecessor_left: true, .. } => "upgrade failed: predecessor left",
            Report::UpgradeFailed { why: Failure::NoSuccessor { .. }, .. } => "upgrade failed: no successor",
            Report::UpgradeFailed { why: Failure::Exited { ready: true, .. }, .. } => {
                "upgrade failed: exited after its ack"
            }
            Report::UpgradeFailed { why: Failure::Exited { .. }, .. } => "upgrade failed: exited",
            Report::UpgradeFailed { why: Failure::NoAck(..), .. } => "upgrade failed: no ack",
            Report::UpgradeFailed { why: Failure::NotStarted(..), .. } => "upgrade failed: not started",
            Report::UpgradeFailed { why: Failure::Stopped, .. } => "upgrade failed: stopped",
            Report::UpgradeKept(Behind::FirstStart) => "upgrade kept: first start",
            Report::UpgradeKept(Behind::Upgrade) => "upgrade kept",
            Report::UpgradeKept(Behind::Worker) => "upgrade kept: a worker",
            Report::StartsNone(_) => "starts no successor",
            Report::NotStarted { again: true, .. } => "start tried again",
            Report::Restarting(..) => "restart",
            Report::Retired(_) => "retired",
            Report::Scaled(_) => "scaled",
            Report::CannotScale(_) => "cannot scale",
            Report::Ignored(_) => "ignored",
            Report::Ready(_, Timer, _) => "ready by timer",
            Report::Ready(_, Timeout, _) => "ready by timeout",
            _ => return None,
        },
        _ => return None,
    })
}

impl Sum for Coverage {
    fn sum<I: Iterator<Item = Coverage>>(tallies: I) -> Coverage {
        let mut total = Coverage::default();
        for coverage in tallies {
            total.steps += coverage.steps;
            total.transitions.add(coverage.transitions);
            for (what, times) in coverage.seen {
                *total.seen.entry(what).or_default() += times;
            }
        }
        total
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps", self.steps)?;
        self.seen.iter().try_for_each(|(what, times)| write!(f, ", {what} {times}"))?;
        write!(f, "{}", self.transitions)
    }
}
