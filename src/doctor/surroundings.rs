//! Checks of our surroundings: access to other processes, the container, the service manager, and
//! the path of our control socket.

use super::check::{Check, Subject};
use super::machine::{Machine, SYS_PTRACE};
use crate::control::directory;
use crate::error::{Error, reason};
use crate::sys::process::become_subreaper;
use nix::unistd::Uid;

const PROC: &Subject = &Subject("/proc", "--follow, --adopt, --ack accepting and ctl status");
const OTHERS: &Subject = &Subject("CAP_SYS_PTRACE", "--user with --adopt, --follow or --ack accepting");
const SUBREAPER: &Subject = &Subject("child subreaper", "--follow, and what workers leave behind");
const CONTAINER: &Subject = &Subject("container", "docker, podman, Kubernetes");
const MANAGER: &Subject = &Subject("service manager", "Type=notify");
const CONTROL: &Subject = &Subject("control socket", "ctl");

/// All checks of our surroundings.
pub fn checks(machine: &Machine) -> Vec<Check> {
    vec![
        proc(machine.link("proc/self").as_deref(), &machine.read("proc/self/mountinfo").unwrap_or_default()),
        others(Uid::effective().is_root(), machine.can(SYS_PTRACE)),
        SUBREAPER.isolated(|| match become_subreaper() {
            Ok(()) => SUBREAPER.ok("whatever a worker leaves behind comes to us"),
            Err(errno) => SUBREAPER.missing(reason(&errno.into()), "prctl(2) has to be allowed"),
        }),
        container(machine, std::process::id()),
        manager(machine),
        control(machine),
    ]
}

/// `this` is the process that /proc takes us for.
fn proc(this: Option<&str>, mounts: &str) -> Check {
    const OF_OURS: &str = "unshare --mount-proc, or mount -t proc proc /proc in a mount namespace of its own";
    const ALL: &str = "mount proc without hidepid, or let our user see it (gid=)";
    match hidepid(mounts) {
        _ if this.is_none() => {
            PROC.missing("cannot be read", "mount -t proc proc /proc, which a chroot needs too")
        }
        _ if this != Some(&std::process::id().to_string()) => {
            let (ours, theirs) = (std::process::id(), this.unwrap_or_default());
            let found = format!("shows another pid namespace, where we are process {theirs}, not {ours}");
            PROC.missing(found, OF_OURS)
        }
        None | Some("0" | "off") => PROC.ok("other processes can be seen"),
        Some(_) if Uid::effective().is_root() => PROC.ok("hidepid, which hides nothing from us"),
        Some(mode) => PROC.note(format!("hidepid={mode}: workers of another user are not seen"), ALL),
    }
}

/// The value of the option hidepid of proc(5), from proc_pid_mountinfo(5).
fn hidepid(mounts: &str) -> Option<&str> {
    let ours = |line: &&str| line.split(' ').nth(4) == Some("/proc") && line.contains(" - proc ");
    let options = mounts.lines().rfind(ours)?.rsplit(' ').next()?;
    options.split(',').find_map(|option| option.strip_prefix("hidepid="))
}

fn others(root: bool, can: Option<bool>) -> Check {
    match can {
        Some(true) => OTHERS.ok("workers of another user can be looked into"),
        _ if !root => OTHERS.ok("not needed: our workers are of our own user"),
        Some(false) => OTHERS.note(
            "not ours: workers of another user (--user) cannot be looked into",
            "docker run --cap-add SYS_PTRACE, or start as that user",
        ),
        None => OTHERS.note("our capabilities cannot be read", "look with capsh --print"),
    }
}

fn container(machine: &Machine, pid: u32) -> Check {
    let ours = match pid {
        1 => "; we are process 1 and reap whatever ends".into(),
        pid => format!("; we are process {pid}"),
    };
    let found = match machine.container() {
        Some(known_by) => format!("we are in one ({known_by})"),
        None => "no sign of one".into(),
    };
    let filter = if machine.is_filtered() { "; a seccomp filter is in force" } else { "" };
    CONTAINER.ok(found + &ours + filter)
}

fn manager(machine: &Machine) -> Check {
    match (machine.variable("NOTIFY_SOCKET"), machine.variable("INVOCATION_ID")) {
        (Some(socket), _) => MANAGER
            .ok(format!("NOTIFY_SOCKET is {}: Type=notify works", socket.to_string_lossy().escape_debug())),
        (None, Some(_)) => MANAGER.note(
            "systemd (INVOCATION_ID), which does not ask for READY=1: no NOTIFY_SOCKET",
            "Type=notify in our unit",
        ),
        (None, None) => MANAGER.ok("none has started us"),
    }
}

fn control(machine: &Machine) -> Check {
    const ELSEWHERE: &str =
        "set XDG_RUNTIME_DIR to a directory of your own, for ctl too, or say --socket PATH";
    match directory::default_directory(machine.environment()) {
        Ok(directory) => CONTROL.ok(format!("in {}", directory.display())),
        Err(Error::Cannot { attempt, why, .. }) => {
            CONTROL.note(format!("cannot {attempt}: {why}"), ELSEWHERE)
        }
        Err(error) => CONTROL.note(error.to_string(), ELSEWHERE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::super::machine::tests::machine;
    use super::*;

    const PLAIN: &str = "20 1 0:4 / /proc rw,relatime - proc proc rw\n";
    const HIDDEN: &str = "20 1 0:4 / /proc rw - proc proc rw,gid=4,hidepid=invisible\n";

    #[test]
    fn hidden_processes_are_seen_in_the_mount() {
        assert_eq!(hidepid(PLAIN), None);
        assert_eq!(hidepid(HIDDEN), Some("invisible"));
        assert_eq!(hidepid(&format!("{HIDDEN}{PLAIN}")), None, "the later mount hides the earlier");
        assert_eq!(hidepid("20 1 0:4 / /srv/proc rw - proc proc rw,hidepid=2\n"), None);
        for mounts in ["", "x", "a b c d /proc"] {
            assert_eq!(hidepid(mounts), None);
        }
        assert_eq!(proc(None, PLAIN).state, State::Missing);
        assert_eq!(proc(Some("0"), PLAIN).state, State::Missing);
        assert_eq!(proc(Some(&std::process::id().to_string()), PLAIN).state, State::Ok);
    }

    #[test]
    fn another_users_workers_need_a_capability() {
        assert_eq!(others(true, Some(false)).state, State::Note);
        assert_eq!(others(true, None).state, State::Note);
        for (root, can) in [(true, Some(true)), (false, Some(false)), (false, None)] {
            assert_eq!(others(root, can).state, State::Ok);
        }
    }

    #[test]
    fn a_container_is_recognised_by_files_and_variables() {
        type Pairs<'a> = &'a [(&'static str, &'static str)];
        let found = |files: Pairs, variables: Pairs| {
            let (_root, machine) = machine(files, variables);
            container(&machine, 1).found
        };
        assert!(
            found(&[(".dockerenv", "")], &[]).starts_with("we are in one (/.dockerenv); we are process 1")
        );
        assert!(found(&[("run/.containerenv", "")], &[]).contains("(/run/.containerenv)"));
        assert!(found(&[], &[("container", "lxc")]).contains("($container)"));
        assert!(found(&[("proc/self/cgroup", "0::/kubepods/x\n")], &[]).contains("(kubepods in"));
        let nspawn = found(&[("run/systemd/container", "systemd-nspawn\n")], &[]);
        assert!(nspawn.starts_with("we are in one (/run/systemd/container: systemd-nspawn)"), "{nspawn}");
        assert!(found(&[], &[("container", "")]).starts_with("no sign"));
        assert!(
            found(&[("proc/self/status", "Seccomp:\t2\n")], &[]).ends_with("; a seccomp filter is in force")
        );
    }

    #[test]
    fn a_manager_is_recognised_by_its_variables() {
        let with = |variables| {
            let (_root, machine) = machine(&[], variables);
            manager(&machine)
        };
        let both = with(&[("NOTIFY_SOCKET", "/run/systemd/notify"), ("INVOCATION_ID", "1")]);
        assert_eq!(
            (both.state, both.found.as_str()),
            (State::Ok, "NOTIFY_SOCKET is /run/systemd/notify: Type=notify works")
        );
        assert_eq!(with(&[("INVOCATION_ID", "1")]).state, State::Note);
        assert_eq!(with(&[]).found, "none has started us");
    }
}
