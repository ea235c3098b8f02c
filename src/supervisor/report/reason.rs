//! Why upgrades were undone, generations rolled back, and workers not ready: in words, for the
//! log, the status and whoever waits.

use super::words::{Named, UNSEEN, how, length};
use crate::config::Config;
use crate::config::signals;
use crate::core::event::{Exit, Failure, Generation, Report, WorkerId};
use crate::process::ProcessTable;

/// Why an upgrade was undone and what that leaves, if this report says that one was.
pub fn undone(report: &Report, processes: &ProcessTable, config: &Config) -> Option<String> {
    let Report::UpgradeFailed { from, why, replaced, of, left, held, .. } = *report else { return None };
    let policy = &config.policy;
    let stop_first = policy.stop_first;
    let kept = match (replaced, why) {
        (0, Failure::Stopped) if left || stop_first => format!("{from} is not started again"),
        (0, Failure::Stopped) => format!("{from} stops as well"),
        (0, Failure::NoSuccessor { worker, exit }) => {
            let asked = config.follow.filter(|&signal| exit == Exit::Signal(signal as i32));
            let hint = asked.map(|signal| signals::name(signal as i32));
            let hint = hint.map(|name| format!(" (does it restart itself on {name}?)"));
            let lost = Failure::Exited { worker, exit, ready: true };
            format!("{from} is gone{}{}", again(policy.brings_back(lost)), hint.unwrap_or_default())
        }
        (0, _) if left => format!("{from} is gone{}", again(policy.brings_back(why))),
        (0, _) if stop_first => format!("{from} is started again"),
        (0, _) if processes.lives(from) => format!("{from} still serves"),
        (0, _) => format!("{from} is what comes back"),
        _ => format!("{replaced} of {of} replaced, the others stay as they were"),
    };
    let reason = why_failed(why, left, held, processes);
    Some(format!("{reason}; {kept}"))
}

/// Why a generation that had gone live was given up, if this report says that one was.
pub fn rolled_back(report: &Report, processes: &ProcessTable) -> Option<String> {
    let Report::RollbackStarted { crashes, why, after, .. } = *report else { return None };
    let last = match why {
        Failure::Exited { worker, exit, .. } => {
            format!("pid {} {}", Named::new(worker, processes).pid, how(exit))
        }
        why => why_failed(why, false, false, processes),
    };
    Some(format!(
        "ended {crashes} times within {} of going live (--probation), at last {last}",
        length(after)
    ))
}

/// Why the generation before cannot be started again, if this report says that it cannot.
pub fn not_rolled_back(report: &Report, processes: &ProcessTable) -> Option<String> {
    let Report::RollbackFailed { from, to, why } = *report else { return None };
    if why == Failure::Superseded {
        return Some(format!("{to} is not started again: another upgrade was asked for"));
    }
    let reason = why_failed(why, false, false, processes);
    Some(format!("{to} cannot be started again: {reason}; {from} is tried again"))
}

fn again(comes_back: bool) -> &'static str {
    if comes_back { " and is started again" } else { "" }
}

/// Why an upgrade failed; `left` and `held` as its report has them.
pub fn why_failed(why: Failure, left: bool, held: bool, processes: &ProcessTable) -> String {
    let pid = |id| Named::new(id, processes).pid;
    match why {
        Failure::NoAck(worker, _) if left => {
            format!("pid {} did not accept when the old worker had ended", pid(worker))
        }
        Failure::Exited { worker, exit, .. } if held => {
            format!("worker pid {} {} while it was on hold", pid(worker), how(exit))
        }
        Failure::Exited { worker, exit, ready: false } => {
            format!(
                "worker pid {} {} before it was ready{}",
                pid(worker),
                how(exit),
                lacks(worker, processes)
            )
        }
        Failure::Exited { worker, exit, ready: true } => {
            format!(
                "worker pid {} {} soon after it was ready, and had replaced nobody (--soak)",
                pid(worker),
                how(exit)
            )
        }
        Failure::NoAck(worker, after) if pid(worker) == 0 => {
            format!(
                "no successor was seen to hold its listeners after {} (--follow, --ack-timeout; see what the server said: one that executes itself is to be started by its full path)",
                length(after)
            )
        }
        Failure::NoSuccessor { worker, exit } => {
            format!("worker pid {} {} and left no successor", pid(worker), how(exit))
        }
        Failure::NoAck(worker, after) => {
            let lacks = lacks(worker, processes);
            let next = match lacks.contains(UNSEEN) {
                true => {
                    ", as those that serve are: it hangs, or takes longer (--ack-timeout), or waits in a way that /proc does not show (--ack exec:CMD, or timer:10s)"
                }
                false => " (--ack-timeout)",
            };
            format!("worker pid {} was not ready after {}{lacks}{next}", pid(worker), length(after))
        }
        Failure::NotStarted(worker, _) => Named::new(worker, processes).refused,
        Failure::Silent(worker, after) => {
            format!("worker pid {} was silent for {} (--worker-watchdog)", pid(worker), length(after))
        }
        Failure::Stopped => "a stop came in between".into(),
        Failure::Superseded => "another was asked for in its stead".into(),
        Failure::RolledBack => "rolled back, with whatever was asked for meanwhile".into(),
        Failure::Refused | Failure::NotSwitched => processes.upgrade_refusal().into(),
        Failure::Crashes(worker, crashes) => {
            let generation = processes.get(worker).map_or(Generation(0), |entry| entry.generation);
            format!("{generation} ended {crashes} times where it served already (--probation)")
        }
    }
}

/// What a worker has not done that it is waited for, if that is known.
pub(super) fn lacks(id: WorkerId, processes: &ProcessTable) -> String {
    let lacks = processes.get(id).and_then(|entry| entry.unmet.as_ref());
    lacks.map_or(String::new(), |lacks| format!(": {lacks}"))
}
