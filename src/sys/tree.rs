//! The tree of processes, read from `/proc`.
//!
//! Every result describes a moment that has passed. Without `/proc` all results are empty or false:
//! nothing that must be right may depend on them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::iter;
use std::time::Duration;

use super::proc;
use super::process::serde_pid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The most ancestors that are read: deeper than any tree of servers, and a bound
/// when pids are reused while we read.
const MAX_DEPTH: usize = 64;

/// What identifies the processes of a worker.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Family {
    /// The worker's pid.
    #[serde(with = "serde_pid")]
    pub worker: Pid,
    /// The process group of the worker: its own pid, or the group of the worker that has started
    /// it.
    #[serde(with = "serde_pid")]
    pub group: Pid,
    /// Our own pid, in `GRACEFUL_RUN_PID`.
    #[serde(with = "serde_pid")]
    pub supervisor: Pid,
    /// In `GRACEFUL_RUN_START`: unique for each start. Generation and slot are not, because a
    /// restart has those of the worker before it.
    pub start: u32,
}

impl Family {
    /// Whether `pid` is the worker, a descendant of it, or an orphan of it: a descendant of ours in
    /// the worker's process group or with its environment.
    pub fn contains(&self, pid: Pid) -> bool {
        let mut below_us = Vec::new();
        let mut next = pid;
        while below_us.len() < MAX_DEPTH {
            if next == self.worker {
                return true;
            }
            if next == self.supervisor {
                return below_us.iter().any(|&pid| self.comes_from_worker(pid));
            }
            below_us.push(next);
            match parent(next) {
                Some(parent) => next = parent,
                None => return false,
            }
        }
        false
    }

    /// The orphans of the worker, which has ended: live children of ours that come from it.
    /// `others` are the known workers.
    pub fn orphans(&self, others: &[Pid]) -> Vec<Pid> {
        live_children(self.supervisor, others)
            .into_iter()
            .filter(|&pid| self.comes_from_worker(pid))
            .collect()
    }

    /// Whether `pid` comes from the worker, by its process group or its environment.
    pub fn comes_from_worker(&self, pid: Pid) -> bool {
        stat(pid).is_some_and(|stat| stat.group == self.group) || self.is_in_environment(pid)
    }

    /// Whether `pid` was executed with the variables of the worker.
    fn is_in_environment(&self, pid: Pid) -> bool {
        /// Longer than the variables of any server; a process may grow its own.
        const LIMIT: u64 = 1 << 20;
        let mut environment = Vec::new();
        let read = proc::open(pid, "environ").and_then(|file| file.take(LIMIT).read_to_end(&mut environment));
        let wanted =
            [format!("GRACEFUL_RUN_PID={}", self.supervisor), format!("GRACEFUL_RUN_START={}", self.start)];
        let has = |wanted: &String| {
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        read.is_ok() && wanted.iter().all(has)
    }
}

/// The parent of `pid`.
pub fn parent(pid: Pid) -> Option<Pid> {
    stat(pid).map(|stat| stat.parent)
}

/// The ancestors of a process.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    /// The process and its ancestors, each with its group, up to us or to the
    /// root; empty if it has gone.
    pub line: Vec<(Pid, Pid)>,
    /// Whether the last of them is a child of ours.
    pub below_us: bool,
}

/// The sender of a signal.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Its process.
    pub pid: Pid,
    /// The lineage that it had when the signal was read.
    pub lineage: Lineage,
}

/// Where a signal comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The kernel: a key of the terminal, its hangup, a limit.
    Kernel,
    /// A process.
    Process(Sender),
    /// A process outside our pid namespace, or several of them.
    Unknown,
}

impl Origin {
    /// The process, if it is known.
    pub fn process(&self) -> Option<&Sender> {
        match self {
            Origin::Process(sender) => Some(sender),
            Origin::Kernel | Origin::Unknown => None,
        }
    }
}

/// The present lineage of `pid`. The process may be about to end.
pub fn lineage(pid: Pid) -> Lineage {
    let mut lineage = Lineage::default();
    let mut next = pid;
    while lineage.line.len() < MAX_DEPTH {
        if next == Pid::this() {
            lineage.below_us = !lineage.line.is_empty();
            break;
        }
        let Some(stat) = stat(next) else { break };
        lineage.line.push((next, stat.group));
        next = stat.parent;
    }
    lineage
}

/// Whether `pid` exists and is not a zombie.
pub fn is_live(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat.is_live())
}

/// Whether the process group `group` has a member that is no zombie: a zombie that its parent does
/// not reap keeps the group for ever. None without /proc.
pub fn is_group_live(group: Pid) -> Option<bool> {
    Some(proc::all()?.filter_map(stat).any(|stat| stat.group == group && stat.is_live()))
}

/// The children of `pid`, zombies included.
pub fn children(pid: Pid) -> Vec<Pid> {
    match children_by_thread(pid) {
        Some(children) => children,
        None => children_by_scan(pid),
    }
}

/// The descendants of `pid`, parents before their children.
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        // A pid that is reused meanwhile must not cause an endless loop.
        let new = children(pid).into_iter().filter(|pid| !found.contains(pid));
        found.extend(new.collect::<Vec<_>>());
    }
    found
}

/// `root` and its descendants, without `others` and their descendants. The children of a process
/// are read after the caller is done with it: a descriptor that it has passed to a child meanwhile
/// is then found in the child.
pub fn walk(root: Pid, others: &BTreeSet<Pid>) -> impl Iterator<Item = Pid> {
    let (mut found, mut seen, mut next) = (vec![root], BTreeSet::from([root]), 0_usize);
    iter::from_fn(move || {
        if let Some(&last) = next.checked_sub(1).and_then(|last| found.get(last)) {
            found.extend(children(last).into_iter().filter(|pid| !others.contains(pid) && seen.insert(*pid)));
        }
        let pid = found.get(next).copied()?;
        next += 1;
        Some(pid)
    })
}

/// What may have halted a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// A signal.
    Signal,
    /// A signal, or a debugger. strace(1) does so for a moment at each system call.
    Any,
}

/// A process that is halted: `root`, or a descendant of it in the same session, without `others`
/// and their descendants. What has made a session of its own, as a login has, does as it likes.
pub fn halted(root: Pid, others: &BTreeSet<Pid>, by: Halt) -> Option<Pid> {
    let session = stat(root)?.session;
    let is_halted = |stat: Stat| stat.session == session && stat.is_halted(by);
    walk(root, others).find(|&pid| stat(pid).is_some_and(is_halted))
}

/// The processor time that the descendants of `root` have used, without `others` and their descendants.
pub fn cpu_time(root: Pid, others: &BTreeSet<Pid>) -> Duration {
    /// USER_HZ, which is the same on every architecture that we know.
    const TICKS: u64 = 100;
    let used: u64 = walk(root, others).skip(1).filter_map(stat).map(|stat| stat.used).sum();
    Duration::from_millis(used * 1000 / TICKS)
}

/// Live children of ours, other than those that are `known`.
pub fn live_children(supervisor: Pid, known: &[Pid]) -> Vec<Pid> {
    our_children(supervisor).into_iter().filter(|pid| !known.contains(pid) && is_live(*pid)).collect()
}

/// Our own children. Only our main thread forks, and the kernel gives orphans to it, as the first
/// live thread, so its list has all of them.
fn our_children(supervisor: Pid) -> Vec<Pid> {
    match proc::text(supervisor, &format!("task/{supervisor}/children")) {
        Ok(text) => text.split_whitespace().filter_map(parse_pid).collect(),
        Err(_) => children(supervisor),
    }
}

/// From `/proc/PID/task/*/children`; None where the kernel was built without
/// it (CONFIG_PROC_CHILDREN).
fn children_by_thread(pid: Pid) -> Option<Vec<Pid>> {
    fs::metadata("/proc/thread-self/children").ok()?;
    let mut children = Vec::new();
    for thread in proc::entries(pid, "task").into_iter().flatten().flatten() {
        // A thread that has ended meanwhile has given its children to another.
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(parse_pid));
    }
    Some(children)
}

fn children_by_scan(pid: Pid) -> Vec<Pid> {
    proc::all().into_iter().flatten().filter(|&child| parent(child) == Some(pid)).collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

/// A process, as proc_pid_stat(5) shows it.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    state: u8,
    /// Its parent.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Whether it has called execve(2) since it was forked.
    pub executed: bool,
    /// Whether it has begun to exit: its descriptors may be closed by that.
    pub exiting: bool,
    /// When it was forked, in clock ticks: with the pid it identifies the process.
    pub start_time: u64,
    /// The processor time that it has used, in clock ticks.
    pub used: u64,
}

impl Stat {
    /// Whether it is halted.
    pub fn is_halted(&self, by: Halt) -> bool {
        self.state == b'T' || self.state == b't' && by == Halt::Any
    }

    /// Whether it is not a zombie.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, b'Z' | b'X')
    }
}

/// The command name of `pid` (comm of proc(5)); a question mark where it has gone.
pub fn name(pid: Pid) -> String {
    let name = proc::text(pid, "comm");
    name.map_or_else(|_| "?".into(), |name| name.trim_end().to_owned())
}

/// What `pid` runs: the name of its executable, and its first argument that is no option, which is
/// the script of an interpreter. None where that cannot be read.
pub fn program(pid: Pid) -> Option<String> {
    let path = proc::link(pid, "exe").ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    let arguments = proc::read(pid, "cmdline").ok()?;
    let mut words = arguments.split(|&byte| byte == 0).skip(1);
    let plain = words.find(|word| !word.is_empty() && !word.starts_with(b"-")).unwrap_or_default();
    // The kernel marks a file that has been replaced.
    Some(format!("{} {}", name.trim_end_matches(" (deleted)"), String::from_utf8_lossy(plain)))
}

/// The state of `pid`; None when there is no such process.
pub fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&proc::read(pid, "stat").ok()?)
}

/// The status, as wait(2) has it, of a zombie, whose parent has not reaped it: proc(5), field 52. None
/// if it is 0: then we may not be permitted to see it.
pub fn zombie_status(pid: Pid) -> Option<i32> {
    let text = proc::read(pid, "stat").ok()?;
    let zombie = parse_stat(&text).is_some_and(|stat| stat.state == b'Z');
    let last = text.trim_ascii_end().rsplit(|byte| *byte == b' ').next()?;
    std::str::from_utf8(last).ok()?.parse().ok().filter(|&status| zombie && status != 0)
}

/// The name, in brackets, is the process's own choice and may hold brackets,
/// spaces and newlines; nothing behind it does.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    /// PF_FORKNOEXEC of linux/sched.h.
    const PF_FORKNOEXEC: u64 = 0x40;
    /// PF_EXITING.
    const PF_EXITING: u64 = 0x4;
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first of `fields` is field 3 of the man page.
    let field = |number: usize| fields.get(number - 3).copied();
    let flags: u64 = field(9)?.parse().ok()?;
    Some(Stat {
        state: *field(3)?.as_bytes().first()?,
        parent: parse_pid(field(4)?)?,
        group: parse_pid(field(5)?)?,
        session: parse_pid(field(6)?)?,
        executed: flags & PF_FORKNOEXEC == 0,
        exiting: flags & PF_EXITING != 0,
        start_time: field(22)?.parse().ok()?,
        used: field(14)?.parse::<u64>().ok()?.saturating_add(field(15)?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_parsed() {
        let text = b"7 (a) Z 1 (\n) S 42 43 44 0 -1 4194368 0 0 0 0 0 0 0 0 20 0 1 0 5150 0";
        let stat = parse_stat(text).expect("parsed");
        assert_eq!((stat.state, stat.parent.as_raw(), stat.group.as_raw()), (b'S', 42, 43));
        assert_eq!((stat.session.as_raw(), stat.executed, stat.start_time), (44, false, 5150));
        for text in
            [&b""[..], b"7 (a", b"7 (a)", b"7 (a) S", b"7 (a) S x y", b"7 (a) S 1 2 3", b"7 (a) \xff 1 2"]
        {
            assert!(parse_stat(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_relatives() {
        let nobody = Pid::from_raw(i32::MAX);
        assert_eq!(parent(nobody), None);
        assert!(!is_live(nobody));
        assert!(children(nobody).is_empty());
        assert!(descendants(nobody).is_empty());
    }
}
