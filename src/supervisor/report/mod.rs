//! Reports for people: one log line for each event, with generation, pid and durations; and the
//! last line before we exit.

pub mod event;
mod hold;
mod reason;
mod words;

pub use crate::config::duration_text;
pub use hold::CANNOT_WEIGH;
pub use reason::{failure_reason, rollback_failure, rollback_outcome, rollback_reason, undo_reason};
pub use words::{UNSEEN, WAITS, exit_text, halt_text, limit_text};

use crate::ack::kind as ack_kind;
use crate::config::Config;
use crate::core::event::{AckKind, Ending, Exit, Failure, Refusal, Report, WorkerId};
use crate::process::ProcessTable;
use crate::profiles;
use log::{Level, debug, info, log, warn};
use nix::unistd::Pid;
use reason::{in_brackets, unmet_text, with_hint};
use std::time::Duration;
use words::{WorkerName, behind_text, halt_cure, ms, request_name};

/// Writes one log line. The `config` decides what happens to the old generation, and what
/// is suggested; `served` says whether any generation has ever served.
pub fn log(report: &Report, processes: &ProcessTable, config: &Config, served: bool) {
    let policy = &config.policy;
    let stop_first = policy.stop_first;
    let of = |id: WorkerId| WorkerName::new(id, processes);
    match *report {
        // Logged by the one who started it, with the program.
        Report::Started(_) => {}
        Report::Ready(id, kind, after) => {
            let unmet = processes.get(id).and_then(|entry| entry.unmet.as_deref());
            ready(&of(id), kind, after, unmet, config);
        }
        Report::Serving(generation) => info!(generation = generation.0; "{generation}: serving"),
        Report::UpgradeStarted { from, to } => {
            let old = if stop_first { "is to be stopped first" } else { "serves" };
            info!(generation = to.0; "upgrade to {to} begins, {from} {old}");
        }
        Report::UpgradeKept(behind) => info!("upgrade requested while {}", behind_text(behind)),
        Report::UpgradeDone { from, to, took } => {
            let old = match policy.follow {
                _ if stop_first => String::new(),
                true => format!(", {from}: leaves"),
                false if policy.steers() => format!(", {from}: drains"),
                false => format!(", {from}: asked to stop"),
            };
            info!(generation = to.0, took_ms = ms(took); "{to}: serves after {}{old}", duration_text(took));
        }
        Report::UpgradeFailed { to, why, took, .. } => {
            let reason = undo_reason(report, processes, config).unwrap_or_default();
            match why {
                Failure::RolledBack | Failure::Superseded => {
                    info!(generation = to.0, took_ms = ms(took); "upgrade to {to} undone: {reason}");
                }
                _ => warn!(generation = to.0, took_ms = ms(took); "upgrade to {to} failed: {reason}"),
            }
        }
        Report::Held { .. }
        | Report::HoldPassed { .. }
        | Report::Weighed(..)
        | Report::NotWeighed(..)
        | Report::CannotWeigh
        | Report::CannotHold => hold::log(report, processes),
        Report::NothingHeld(request) => {
            warn!("nothing is on hold: there is nothing to {}", request_name(request))
        }
        Report::RollbackStarted { from, to, .. } => {
            let reason = rollback_reason(report, processes).unwrap_or_default();
            warn!(generation = from.0; "{from}: {reason}: {to} is to be started again");
        }
        Report::RolledBack { from, to, took } => {
            info!(generation = to.0, took_ms = ms(took); "{to}: serves again after {}, {from} was rolled back; what is installed has not changed: the next upgrade starts that", duration_text(took));
        }
        Report::RollbackFailed { why: Failure::Stopped, .. } => {}
        Report::RollbackFailed { from, .. } => {
            let reason = rollback_failure(report, processes).unwrap_or_default();
            warn!(generation = from.0; "{reason}");
        }
        Report::Proven(generation) => {
            debug!(generation = generation.0; "{generation}: has been on probation long enough");
        }
        Report::HandedOver { worker: id, predecessor: old } => {
            let (worker, old) = (of(id), of(old).pid);
            info!(generation = worker.generation.0, pid = worker.pid; "{worker} took over from pid {old}");
        }
        // A worker that has accepted what waited has more to do.
        Report::Drained(id, _) if !policy.steers() => {
            let worker = of(id);
            debug!(generation = worker.generation.0, pid = worker.pid; "{worker}: has accepted what waited");
        }
        Report::NotDrained(id, after) if !policy.steers() => {
            let worker = of(id);
            warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: has not accepted every connection that waited for it after {}; asked to stop", duration_text(after));
        }
        Report::Drained(id, after) => {
            let worker = of(id);
            info!(generation = worker.generation.0, pid = worker.pid; "{worker}: drained after {}", duration_text(after));
        }
        Report::NotDrained(id, after) => {
            let worker = of(id);
            let left =
                processes.get(id).and_then(|entry| entry.remaining.as_deref()).unwrap_or("it may serve");
            warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: not drained after {}: {left}; asked to stop (--drain-timeout, --idle)", duration_text(after));
        }
        Report::StopSent(id) => {
            let worker = of(id);
            debug!(generation = worker.generation.0, pid = worker.pid; "{worker}: asked to stop");
        }
        Report::Unseen { worker: id, after, timer } => {
            let worker = of(id);
            let next = match (timer, policy.ack_timeout) {
                (Some(timer), Some(limit)) if limit < timer => {
                    format!("--ack-timeout ends the wait after {}", duration_text(limit))
                }
                (Some(timer), _) => format!("it counts as ready after {} all the same", duration_text(timer)),
                (None, _) => "it replaces no worker until it is".into(),
            };
            // It may wait by now, and the next check finds that.
            if let Some(unmet) =
                processes.get(id).and_then(|entry| entry.unmet.as_ref()).filter(|it| it.contains(UNSEEN))
            {
                info!(generation = worker.generation.0, pid = worker.pid; "{worker}: not ready after {}: {unmet}; {next} (--ack)", duration_text(after));
            }
        }
        Report::NoAck(id, after) => {
            let worker = of(id);
            // A successor that was not found is named in the result of the upgrade.
            if worker.pid > 0 {
                let unmet = unmet_text(id, processes);
                warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: not ready after {}{unmet}", duration_text(after));
            }
        }
        Report::StartsNone(id) => {
            let worker = of(id);
            warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: it has started no successor since one of its successors failed (servers on endless start only one): the next upgrade stops it first");
        }
        Report::Silent(id, after) => {
            let worker = of(id);
            warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: silent for {}, it is replaced (--worker-watchdog)", duration_text(after));
        }
        Report::Halted(id, by) => {
            let worker = of(id);
            let process = processes.get(id).and_then(|entry| entry.halted).map_or(worker.pid, Pid::as_raw);
            let cure = halt_cure(process, by, config.worker.foreground_tty);
            warn!(generation = worker.generation.0, pid = worker.pid; "{worker} {}, and serves nobody until it is continued ({cure})", halt_text(id, by, processes));
        }
        Report::Continued(id, after) => {
            let worker = of(id);
            info!(generation = worker.generation.0, pid = worker.pid; "{worker} goes on, after it was stopped for {}", duration_text(after));
        }
        Report::Resumed(id, by) => {
            let worker = of(id);
            info!(generation = worker.generation.0, pid = worker.pid; "{worker} {}, and is continued, so that it can leave", halt_text(id, by, processes));
        }
        Report::Killed(id, after) => {
            let worker = of(id);
            match processes.is_signalled(id) {
                true => {
                    warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: killed after {}; it had no signal from us (--on SIGNAL=wait)", duration_text(after));
                }
                false => {
                    warn!(generation = worker.generation.0, pid = worker.pid; "{worker}: killed, {} after it was asked to stop", duration_text(after));
                }
            }
        }
        Report::Gone { worker: id, exit, age, stop_sent, ready, remains } => {
            let finishes = match processes.stopping {
                true => processes.is_signalled(id),
                false => stop_sent && ready && !stop_first,
            };
            // With --follow a worker leaves by itself, and a failed start has its own warning.
            let crashed = ready && !stop_sent && !policy.follow && exit != Exit::Code(0);
            let level = if crashed { Level::Warn } else { Level::Info };
            gone(&of(id), exit, age, stop_sent, remains.then_some(finishes), level);
        }
        Report::NotStarted { worker: id, again, .. } => {
            let worker = of(id);
            let (level, next) = match (again, worker.refusals) {
                (true, 0 | 1) => (Level::Warn, " (trying again)".into()),
                // The same reason 20 times a second.
                (true, _) => (Level::Debug, " (trying again)".into()),
                // It is our last line, which follows.
                (false, _) if !served && !policy.retry_start => (Level::Debug, String::new()),
                (false, 0 | 1) => (Level::Warn, String::new()),
                (false, times) => (Level::Warn, format!(" (tried {times} times)")),
            };
            log!(level, generation = worker.generation.0; "{}: {}{next}", worker.generation, worker.refused);
        }
        Report::Restarting(slot, pause) => {
            info!(slot = slot.0; "slot {}: starts again in {}", slot.0, duration_text(pause))
        }
        Report::Retired(slot) => info!(slot = slot.0; "slot {}: stays empty (--restart)", slot.0),
        Report::Scaled(workers) => info!(workers = workers; "workers wanted: {workers}"),
        Report::ScaleDone(workers) => info!(workers = workers; "workers ready: {workers}"),
        Report::CannotScale(workers) => {
            warn!(workers = workers; "the number of workers stays {workers}: {}", limit_text(policy))
        }
        Report::Stopping => info!("stopping"),
        Report::Ignored(request) => info!("{} ignored: stopping", request_name(request)),
    }
}

/// How it came that a worker had to be killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KilledBy {
    /// The user asked for it, by this.
    Request(String),
    /// It had not ended in this time. Whoever stops us was to signal it, and we have not.
    LimitUnasked(Duration),
    /// It had not ended in time, since we asked it to stop.
    Limit {
        /// How long after it was asked.
        after: Duration,
        /// Whether it had ever been ready: one that was not is given less time.
        ready: bool,
    },
}

/// Our exit status and, unless it is 0, our last line. `served` says whether any generation has
/// ever served.
pub fn last_line(
    ending: Ending,
    processes: &ProcessTable,
    killed_by: &KilledBy,
    served: bool,
) -> (u8, Option<String>) {
    let of = |id: WorkerId| WorkerName::new(id, processes);
    match ending {
        Ending::Stopped => (0, None),
        Ending::Killed => {
            let line = match killed_by {
                KilledBy::Request(who) => format!("a worker was killed, as was asked for ({who})"),
                KilledBy::Limit { after, ready: false } => format!(
                    "cannot stop every worker in time: one that was not ready yet had to be killed {} after it was asked to stop",
                    duration_text(*after)
                ),
                KilledBy::LimitUnasked(after) => format!(
                    "cannot stop every worker in time: one had to be killed after {}; it had no signal from us (leave --on SIGNAL=wait out if nobody else signals the workers)",
                    duration_text(*after)
                ),
                KilledBy::Limit { after, .. } => format!(
                    "cannot stop every worker in time: one had to be killed {} after it was asked to stop (--stop-timeout)",
                    duration_text(*after)
                ),
            };
            (137, Some(line))
        }
        Ending::Worker(id, exit) => {
            if exit == Exit::Code(0) && !served {
                let worker = of(id);
                let line = format!(
                    "'{}' exited with status 0 before it was ready: nothing is kept running (a server stays; --retry-start tries again)",
                    worker.command
                );
                warn!(generation = worker.generation.0, pid = worker.pid; "{}", with_hint(line, id, processes));
            }
            let status = match exit {
                Exit::Code(code) => code as u8,
                Exit::Signal(signal) => 128 + signal as u8,
                Exit::Unseen => 125,
            };
            let unmet = if served { String::new() } else { unmet_text(id, processes) };
            let line = format!("cannot keep '{}' running: it {}{unmet}", of(id).command, exit_text(exit));
            (status, (status != 0).then_some(with_hint(line, id, processes)))
        }
        Ending::NoAck(id, after) => {
            let line = format!(
                "cannot start '{}': it was not ready after {}{}",
                of(id).command,
                duration_text(after),
                unmet_text(id, processes)
            );
            (124, Some(in_brackets(with_hint(line, id, processes), "--ack, --ack-timeout")))
        }
        Ending::Silent(id, after) => {
            let line = format!(
                "cannot keep '{}' running: it was silent for {} (--worker-watchdog, --restart)",
                of(id).command,
                duration_text(after)
            );
            (124, Some(line))
        }
        Ending::Halted(id, by) => {
            let line =
                format!("cannot keep '{}' running: it {}", of(id).command, halt_text(id, by, processes));
            (124, Some(line))
        }
        Ending::NotStarted(id, refusal) => {
            let status = match refusal {
                Refusal::NotFound => 127,
                Refusal::NotExecutable | Refusal::Busy => 126,
                Refusal::Exhausted | Refusal::Other => 125,
            };
            (status, Some(of(id).refused))
        }
    }
}

/// `unmet`: what it has not done.
fn ready(worker: &WorkerName, kind: AckKind, after: Duration, unmet: Option<&str>, config: &Config) {
    let (generation, pid) = (worker.generation, worker.pid);
    let line =
        format!("{generation}: ready after {} ({}), pid {pid}", duration_text(after), ack_kind::name(kind));
    match kind {
        AckKind::Timeout => {
            warn!(generation = generation.0, pid = pid; "{line}: it gave no ack, and counts as ready (--on-ack-timeout)");
        }
        AckKind::Timer => {
            // Without listeners of ours nothing was checked.
            let unseen = match config.acks.accepting && config.follow.is_none() {
                true => {
                    let doubt = profiles::listener_hint(worker.server, &config.dialects);
                    let unseen = unmet.filter(|unmet| unmet.contains(UNSEEN));
                    in_brackets(
                        format!(": {}", unseen.unwrap_or("it was not seen to wait on a listener")),
                        &doubt,
                    )
                }
                false => String::new(),
            };
            warn!(generation = generation.0, pid = pid; "{line}: only the timer has spoken; the program gave no sign{unseen}");
        }
        _ => info!(generation = generation.0, pid = pid; "{line}"),
    }
}

/// `left`: it left processes behind, and whether they may finish their requests.
fn gone(worker: &WorkerName, exit: Exit, age: Duration, stop_sent: bool, left: Option<bool>, level: Level) {
    let (generation, pid) = (worker.generation.0, worker.pid);
    let left = match left {
        Some(true) => {
            let exec = profiles::exec_hint(&worker.command, &worker.ended_as);
            format!("; it left processes behind, which finish what they have{exec}")
        }
        // This is probably a server that went into the background.
        Some(false) if exit == Exit::Code(0) && !stop_sent => {
            let how = profiles::foreground_hint(worker.server, &worker.command, &worker.ended_as);
            format!("; it left processes behind: if it daemonises, run it in the foreground{how}")
        }
        Some(false) => {
            let exec = profiles::exec_hint(&worker.command, &worker.ended_as);
            format!("; it left processes behind, they are asked to stop{exec}")
        }
        None => String::new(),
    };
    log!(level, generation = generation, pid = pid; "{worker} {} (age {}){left}", exit_text(exit), duration_text(age));
}
