//! Why upgrades were undone, generations rolled back, and workers not ready: the texts for the
//! log, the status and the clients.

use super::words::{UNSEEN, WorkerName, exit_text, halt_text};
use crate::config::signals;
use crate::config::{Config, duration_text};
use crate::core::event::{Exit, Failure, Generation, Report, WorkerId};
use crate::process::ProcessTable;

/// Why an upgrade was undone and what serves now, if this report says that one was.
pub fn undo_reason(report: &Report, processes: &ProcessTable, config: &Config) -> Option<String> {
    let Report::UpgradeFailed { from, why, replaced, slots, predecessor_left, stopped_first, held, .. } =
        *report
    else {
        return None;
    };
    let policy = &config.policy;
    let kept = match (replaced, why) {
        (0, Failure::Stopped) if predecessor_left || stopped_first => format!("{from} is not started again"),
        (0, Failure::Stopped) => format!("{from} stops as well"),
        (0, Failure::NoSuccessor { worker, exit }) => {
            let asked = config.follow.filter(|&signal| exit == Exit::Signal(signal as i32));
            let hint = asked.map(|signal| signals::name(signal as i32));
            let hint = hint.map(|name| format!(" (does it restart itself on {name}?)"));
            let lost = Failure::Exited { worker, exit, ready: true };
            format!("{from} is gone{}{}", again(policy.brings_back(lost)), hint.unwrap_or_default())
        }
        (0, _) if predecessor_left => format!("{from} is gone{}", again(policy.brings_back(why))),
        (0, _) if stopped_first => format!("{from} is started again"),
        (0, _) if processes.lives(from) => format!("{from} still serves"),
        (0, _) => format!("{from} is what comes back"),
        _ => format!("{replaced} of {slots} replaced, the others stay as they were"),
    };
    let reason = failure_reason(why, predecessor_left, held, processes);
    Some(format!("{reason}; {kept}"))
}

/// Why a generation that had gone live was given up, if this report says that one was.
pub fn rollback_reason(report: &Report, processes: &ProcessTable) -> Option<String> {
    let Report::RollbackStarted { crashes, why, after, .. } = *report else { return None };
    let last = match why {
        Failure::Exited { worker, exit, .. } => {
            let last = format!("pid {} {}", WorkerName::new(worker, processes).pid, exit_text(exit));
            with_hint(last, worker, processes)
        }
        why => failure_reason(why, false, false, processes),
    };
    Some(format!(
        "ended {crashes} times within {} of going live (--probation), at last {last}",
        duration_text(after)
    ))
}

/// Why the generation before cannot be started again, if this report says that it cannot.
pub fn rollback_failure(report: &Report, processes: &ProcessTable) -> Option<String> {
    let Report::RollbackFailed { from, to, why } = *report else { return None };
    if why == Failure::Superseded {
        return Some(format!("{to} is not started again: another upgrade was asked for"));
    }
    let reason = failure_reason(why, false, false, processes);
    Some(format!("{to} cannot be started again: {reason}; {from} is tried again"))
}

/// What came of a rollback that has failed, for whoever reads it later.
pub fn rollback_outcome(report: &Report, processes: &ProcessTable) -> Option<String> {
    let Report::RollbackFailed { from, to, why } = *report else { return None };
    let reason = failure_reason(why, false, false, processes);
    Some(match why {
        Failure::Superseded => format!("{to} was not started again: another upgrade was asked for"),
        Failure::Stopped => format!("{to} was not started again: {reason}"),
        _ => format!("{to} could not be started again: {reason}; {from} was tried again"),
    })
}

fn again(comes_back: bool) -> &'static str {
    if comes_back { " and is started again" } else { "" }
}

/// Why an upgrade failed; `predecessor_left` and `held` as its report has them.
pub fn failure_reason(why: Failure, predecessor_left: bool, held: bool, processes: &ProcessTable) -> String {
    let pid = |id| WorkerName::new(id, processes).pid;
    match why {
        Failure::NoAck(worker, _) if predecessor_left => {
            format!("pid {} did not accept when the old worker had ended", pid(worker))
        }
        Failure::Exited { worker, exit, ready } => {
            let when = match ready {
                _ if held => "while it was on hold".into(),
                false => format!("before it was ready{}", unmet_text(worker, processes)),
                true => "soon after it was ready, and had replaced nobody (--soak)".into(),
            };
            let ended = format!("worker pid {} {} {when}", pid(worker), exit_text(exit));
            with_hint(ended, worker, processes)
        }
        Failure::NoAck(worker, after) if pid(worker) == 0 => {
            format!(
                "no successor was seen to hold its listeners after {} (--follow, --ack-timeout; see what the server said: a server that executes itself needs its full path)",
                duration_text(after)
            )
        }
        Failure::NoSuccessor { worker, exit } => {
            format!("worker pid {} {} and left no successor", pid(worker), exit_text(exit))
        }
        Failure::NoAck(worker, after) => {
            let unmet = unmet_text(worker, processes);
            let line =
                format!("worker pid {} was not ready after {}{unmet}", pid(worker), duration_text(after));
            match processes.hint(worker) {
                Some(hint) => in_brackets(line, hint),
                None if unmet.contains(UNSEEN) => {
                    line + ", as those that serve are: it hangs, or takes longer (--ack-timeout), or waits in a way that /proc does not show (--ack exec:CMD, or timer:10s)"
                }
                None => in_brackets(line, "--ack-timeout"),
            }
        }
        Failure::NotStarted(worker, _) => WorkerName::new(worker, processes).refused,
        Failure::Silent(worker, after) => {
            format!("worker pid {} was silent for {} (--worker-watchdog)", pid(worker), duration_text(after))
        }
        Failure::Halted(worker, by) => {
            format!(
                "worker pid {} {}, and had replaced nobody",
                pid(worker),
                halt_text(worker, by, processes)
            )
        }
        Failure::Stopped => "a stop came in between".into(),
        Failure::Superseded => "another was asked for in its stead".into(),
        Failure::RolledBack => "rolled back, with whatever was asked for meanwhile".into(),
        Failure::OwnSocket(worker) => {
            format!("worker pid {}{}", pid(worker), unmet_text(worker, processes))
        }
        Failure::Refused | Failure::NotSwitched | Failure::NotWeighed | Failure::NotVerified(_) => {
            processes.upgrade_refusal().into()
        }
        Failure::Crashes(worker, crashes) => {
            let generation = processes.get(worker).map_or(Generation(0), |entry| entry.generation);
            format!("{generation} ended {crashes} times where it served already (--probation)")
        }
    }
}

/// A line with advice in brackets at its end, which may have some already. The name of a signal in
/// brackets is none.
pub(super) fn in_brackets(line: String, advice: &str) -> String {
    let open =
        line.strip_suffix(')').filter(|open| open.rsplit('(').next().is_some_and(|it| it.contains(' ')));
    match open {
        Some(open) => format!("{open}; {advice})"),
        None => format!("{line} ({advice})"),
    }
}

/// A line about a worker that failed, with the hint that there is for it.
pub(super) fn with_hint(line: String, id: WorkerId, processes: &ProcessTable) -> String {
    match processes.hint(id) {
        Some(hint) => in_brackets(line, hint),
        None => line,
    }
}

/// What a worker still has to do to be ready, if that is known.
pub(super) fn unmet_text(id: WorkerId, processes: &ProcessTable) -> String {
    let unmet = processes.get(id).and_then(|entry| entry.unmet.as_ref());
    unmet.map_or(String::new(), |unmet| format!(": {unmet}"))
}
