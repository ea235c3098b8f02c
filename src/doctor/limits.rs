//! Checks of limits: descriptors, processes, memory and watches. An upgrade has two generations,
//! which need twice as much.

use super::check::{Check, Subject};
use super::machine::Machine;
use crate::watch;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t};
use nix::unistd::Uid;

const FILES: &Subject = &Subject("RLIMIT_NOFILE", "--workers");
const PROCESSES: &Subject = &Subject("RLIMIT_NPROC", "--workers");
const TASKS: &Subject = &Subject("pids of the control group", "--workers");
const MEMORY: &Subject = &Subject("memory of the control group", "an upgrade");
const OOM_GROUP: &Subject = &Subject("memory.oom.group", "an upgrade");
const INOTIFY: &Subject = &Subject("inotify", "--watch and unix paths");

/// A hard limit below this allows few workers.
const ENOUGH_FILES: u64 = 1024;
/// A lower limit is a note. Threads count as well, and some servers have hundreds.
const ENOUGH_TASKS: u64 = 256;

/// All checks of limits.
pub fn checks(machine: &Machine) -> Vec<Check> {
    let limit = |resource| {
        let (soft, hard) = getrlimit(resource).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        (as_u64(soft), as_u64(hard))
    };
    let (soft, hard) = limit(Resource::RLIMIT_NOFILE);
    let (tasks_of_user, _) = limit(Resource::RLIMIT_NPROC);
    let numbers = |controller: &str, file: &str| -> Vec<u64> {
        let texts = machine.cgroup(controller, file);
        texts.iter().map(|text| text.trim().parse().unwrap_or(u64::MAX)).collect()
    };
    let memory = [numbers("memory", "memory.max"), numbers("memory", "memory.limit_in_bytes")].concat();
    let together = machine.cgroup("memory", "memory.oom.group").iter().any(|text| text.trim() == "1");
    let user = |name: &str| machine.number(&format!("proc/sys/fs/inotify/max_user_{name}"));
    let mut checks = vec![
        files(soft, hard),
        processes(tasks_of_user, Uid::current().is_root()),
        tasks(&numbers("pids", "pids.max"), &numbers("pids", "pids.current")),
        memory_of(memory.into_iter().min()),
    ];
    checks.extend(together.then(|| {
        OOM_GROUP.note(
            "1: where a worker runs out of memory, the kernel ends us with it",
            "singleProcessOOMKill of the kubelet; OOMPolicy=continue in systemd",
        )
    }));
    checks.push(INOTIFY.isolated(|| inotify(user("instances"), user("watches"))));
    checks
}

#[allow(clippy::unnecessary_cast, reason = "the type differs between machines")]
fn as_u64(limit: rlim_t) -> u64 {
    if limit == RLIM_INFINITY { u64::MAX } else { limit as u64 }
}

fn spelled(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { limit.to_string() }
}

/// We raise our own limit to the hard one ([`raise_file_limit`]). A worker costs us up to three
/// descriptors, and a slot has two workers during an upgrade.
///
/// [`raise_file_limit`]: crate::sys::inherited::raise_file_limit
fn files(soft: u64, hard: u64) -> Check {
    let (soft, most) = (spelled(soft), spelled(hard));
    match hard < ENOUGH_FILES {
        true => FILES.note(
            format!("{soft} for a worker, {most} for us: some {} workers", hard.saturating_sub(32) / 6),
            "LimitNOFILE= in systemd, docker run --ulimit nofile=, ulimit -Hn",
        ),
        false => FILES.ok(format!("{soft} for a worker, {most} for us")),
    }
}

fn processes(soft: u64, root: bool) -> Check {
    match () {
        () if root || soft == u64::MAX => PROCESSES.ok("no limit for us"),
        () if soft < ENOUGH_TASKS => PROCESSES.note(
            format!("{soft} processes and threads of our user, and an upgrade has two generations"),
            "LimitNPROC= in systemd, ulimit -u",
        ),
        () => PROCESSES.ok(format!("{soft} processes and threads of our user")),
    }
}

/// `most` and `now` are of our control group and those above it, in the same order.
fn tasks(most: &[u64], now: &[u64]) -> Check {
    // The root group has no limit, and in version 2 no count either.
    let room = most.iter().zip(now).map(|(most, now)| most.saturating_sub(*now)).min();
    match room {
        Some(room) if room < ENOUGH_TASKS => TASKS.note(
            format!("room for {room} more processes and threads, and an upgrade has two generations"),
            "TasksMax= in systemd, docker run --pids-limit, podPidsLimit of the kubelet",
        ),
        Some(room) if room < u64::MAX >> 1 => TASKS.ok(format!("room for {room} more processes and threads")),
        _ => TASKS.ok("no limit"),
    }
}

fn memory_of(limit: Option<u64>) -> Check {
    match limit {
        // Version 1 spells no limit as a number near the largest.
        Some(limit) if limit < 1 << 60 => MEMORY.note(
            format!("{} MiB, in which both generations have to fit during an upgrade", limit >> 20),
            "a larger limit, --surge, or --stop-first",
        ),
        _ => MEMORY.ok("no limit"),
    }
}

fn inotify(instances: Option<u64>, watches: Option<u64>) -> Check {
    let tried = Inotify::init(InitFlags::IN_CLOEXEC)
        .and_then(|inotify| inotify.add_watch("/", AddWatchFlags::IN_DELETE_SELF));
    if let Err(errno) = tried {
        let error = errno.into();
        let advice = watch::advice(&error);
        return INOTIFY.missing(watch::reason(&error), advice.unwrap_or("what forbids it has to allow it"));
    }
    let spelled = |number: Option<u64>| number.map_or("an unknown number of".into(), |n| n.to_string());
    INOTIFY.ok(format!("{} instances, {} watches for our user", spelled(instances), spelled(watches)))
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::super::machine::tests::machine;
    use super::*;

    #[test]
    fn few_descriptors_are_reported_in_workers() {
        let few = files(64, 256);
        assert_eq!(
            (few.state, few.found.as_str()),
            (State::Note, "64 for a worker, 256 for us: some 37 workers")
        );
        assert_eq!(files(1, 1).state, State::Note);
        assert_eq!(files(1024, u64::MAX).found, "1024 for a worker, unlimited for us");
    }

    #[test]
    fn root_has_no_limit_of_processes() {
        assert_eq!(processes(10, true).state, State::Ok);
        assert_eq!(processes(10, false).state, State::Note);
        assert_eq!(processes(u64::MAX, false).found, "no limit for us");
        assert_eq!(processes(63_000, false).state, State::Ok);
    }

    #[test]
    fn the_closest_limit_of_a_group_counts() {
        assert_eq!(tasks(&[u64::MAX, 100], &[10, 90]).found.split(' ').nth(2), Some("10"));
        assert_eq!(tasks(&[5000], &[10]).state, State::Ok);
        assert_eq!(tasks(&[5], &[10]).state, State::Note);
        assert_eq!(tasks(&[u64::MAX], &[7]).found, "no limit");
        assert_eq!(tasks(&[], &[]).found, "no limit");
    }

    #[test]
    fn memory_is_for_two_generations() {
        assert!(memory_of(Some(512 << 20)).found.starts_with("512 MiB"));
        assert_eq!(memory_of(Some(9_223_372_036_854_771_712)).state, State::Ok);
        assert_eq!(memory_of(None).state, State::Ok);
    }

    #[test]
    fn limits_come_from_files_of_either_version() {
        for (group, base) in [("0::/a\n", "sys/fs/cgroup/a"), ("3:pids,memory:/b\n4:memory:/\n", "")] {
            let file = |name: &str| match (base, name) {
                ("", "pids") => "sys/fs/cgroup/pids/b/pids.".to_owned(),
                ("", _) => "sys/fs/cgroup/memory/memory.".to_owned(),
                (base, name) => format!("{base}/{name}."),
            };
            let limit = if base.is_empty() { "limit_in_bytes" } else { "max" };
            let files = [
                ("proc/self/cgroup".to_owned(), group),
                (file("pids") + "max", "64\n"),
                (file("pids") + "current", "60\n"),
                (file("memory") + limit, "1048576\n"),
                (file("memory") + "oom.group", "1\n"),
            ];
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            let (_root, machine) = machine(&files, &[]);
            let text: String = checks(&machine).iter().map(|check| format!("{check}\n")).collect();
            assert!(text.contains("room for 4 more"), "{text}");
            assert!(text.contains("memory of the control group: 1 MiB"), "{text}");
            assert!(text.contains("note     memory.oom.group: 1"), "{text}");
            assert!(text.contains("inotify: an unknown number of instances"), "{text}");
        }
    }
}
