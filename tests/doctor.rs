//! `graceful-run doctor`: what is tried is tried, whatever is met is a line, and
//! nothing is changed. What it makes of files is tested where it reads them.

mod common;

use common::{Scene, am_root, copy_binary};
use graceful_run::sys::child::{Child, Launch, spawn};
use graceful_run::sys::process::{self, Exit};
use graceful_run::sys::seccomp::{self, Answer, Filter, Received, Woken};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::Value;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What has a line on every machine on which a child can be started.
const NAMES: [&str; 26] = [
    "kernel",
    "seccomp",
    "no_new_privs",
    "pidfd_open",
    "pidfd_getfd",
    "process_vm_readv",
    "yama",
    "reuseport program",
    "sock_diag of tcp",
    "sock_diag of unix",
    "somaxconn",
    "tcp_syncookies",
    "tcp_migrate_req",
    "ports below 1024",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "pids of the control group",
    "memory of the control group",
    "inotify",
    "/proc",
    "CAP_SYS_PTRACE",
    "child subreaper",
    "container",
    "service manager",
    "control socket",
    "memory.oom.group",
];

/// A scene whose `graceful-run` anybody may execute, and the path of that.
fn scene() -> (Scene, String) {
    let scene = Scene::new();
    let program = scene.arg("graceful-run");
    copy_binary(&program);
    (scene, program)
}

/// `PREFIX graceful-run doctor ARGS`, to its end.
fn doctor(scene: &Scene, prefix: &[&str], program: &str, args: &[&str]) -> Output {
    let all = [prefix, &[program, "doctor"], args].concat();
    let mut command = scene.mark(Command::new(all[0]));
    command.args(&all[1..]).env_remove("INVOCATION_ID");
    command.stdout(Stdio::piped()).output().expect("start the doctor")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Every line, as its state and its name; they hold together with the exit status.
fn read(output: &Output) -> Vec<(String, String)> {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    let mut lines = Vec::new();
    for line in said.lines() {
        let (state, rest) = line.split_at(9);
        let (name, _) = rest.split_once(": ").unwrap_or_else(|| panic!("no name: {line}"));
        assert!(NAMES.contains(&name), "{line}");
        let missing = state.trim() == "missing";
        assert!(missing || ["ok", "note"].contains(&state.trim()), "{line}");
        assert_eq!(missing, line.contains(" cannot be had ("), "{line}");
        assert_eq!(missing, complained.contains(&format!("no {name} for ")), "{line}\n{complained}");
        lines.push((state.trim().to_owned(), name.to_owned()));
    }
    assert!(lines.len() >= NAMES.len() - 1, "{said}");
    let missing = lines.iter().any(|(state, _)| state == "missing");
    assert_eq!(output.status.code(), Some(i32::from(missing)), "{said}{complained}");
    match missing {
        true => assert!(complained.starts_with("graceful-run: cannot do everything here: "), "{complained}"),
        false => assert_eq!(complained, ""),
    }
    lines
}

fn state<'a>(lines: &'a [(String, String)], name: &str) -> &'a str {
    lines.iter().find(|(_, found)| found == name).map_or("", |(state, _)| state)
}

fn line<'a>(said: &'a str, name: &str) -> &'a str {
    let has = |line: &&str| line.get(9..).is_some_and(|rest| rest.starts_with(&format!("{name}: ")));
    said.lines().find(has).unwrap_or_else(|| panic!("no line of {name}: {said}"))
}

#[test]
fn whoever_asks_gets_a_line_for_everything() {
    let (scene, program) = scene();
    let ours = read(&doctor(&scene, &[], &program, &[]));
    for name in ["reuseport program", "sock_diag of tcp", "sock_diag of unix"] {
        assert_eq!(state(&ours, name), "ok", "our other tests could not do without");
    }
    if am_root() {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let output = doctor(&scene, &nobody, &program, &[]);
        let lines = read(&output);
        // What has to be asked of the kernel in another way than root does works as well.
        assert_eq!(state(&lines, "no_new_privs"), "note", "{}", text(&output.stdout));
        for name in ["seccomp", "pidfd_getfd", "process_vm_readv"] {
            assert_eq!(state(&lines, name), state(&ours, name), "{}", text(&output.stdout));
        }
    }
}

#[test]
fn json_is_one_object_with_the_same_in_it() {
    let (scene, program) = scene();
    let lines = read(&doctor(&scene, &[], &program, &[]));
    let output = doctor(&scene, &[], &program, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(report["version"], 1);
    let checks = report["checks"].as_array().expect("a list");
    let names = checks.iter().map(|check| {
        assert!(check["found"].is_string() && check["for"].is_string(), "{check}");
        assert_eq!(check["advice"].is_null(), check["state"] == "ok", "{check}");
        let of = |key: &str| check[key].as_str().expect("a text").to_owned();
        (of("state"), of("name"))
    });
    assert_eq!(names.collect::<Vec<_>>(), lines);
}

/// The system calls of all of it: sockets are bound to no port that somebody chose,
/// and nothing is written anywhere.
#[test]
fn nothing_is_changed() {
    let (scene, program) = scene();
    let trace = scene.path("trace");
    let calls = "trace=bind,openat,mkdir,mkdirat,unlink,unlinkat,rename,renameat2,chmod,fchmodat,connect";
    let strace = ["strace", "-f", "-e", calls, "-o", trace.to_str().unwrap()];
    let output = Command::new(strace[0]).arg("-V").output();
    if output.is_err() {
        return; // No strace here.
    }
    doctor(&scene, &strace, &program, &[]);
    for line in fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains('(')) {
        let reads = line.contains("openat(") && line.contains("O_RDONLY") && !line.contains("O_CREAT");
        let nobody = line.contains("bind(-1, ");
        let any_port =
            line.contains("bind(") && line.contains("sin_port=htons(0)") && line.contains("127.0.0.1");
        assert!(reads || nobody || any_port, "{line}");
    }
}

/// What a container's default profile does.
#[test]
fn what_is_forbidden_is_missing_and_says_for_whom() {
    let (scene, program) = scene();
    if Command::new("strace").arg("-V").output().is_err() {
        return; // No strace here.
    }
    let forbid = ["strace", "-f", "-o", "/dev/null", "-e", "inject=pidfd_getfd:error=EPERM"];
    let output = doctor(&scene, &forbid, &program, &[]);
    assert_eq!(state(&read(&output), "pidfd_getfd"), "missing");
    let said = text(&output.stdout);
    let found = line(&said, "pidfd_getfd");
    assert!(found.contains("operation not permitted; --adopt cannot be had"), "{found}");
    assert!(found.contains("--cap-add SYS_PTRACE"), "{found}");
    let complained = text(&output.stderr);
    assert!(complained.contains("there is no pidfd_getfd for --adopt (see above)"), "{complained}");
}

/// What a filter of systemd does by default: whoever makes the call is killed.
#[test]
fn a_filter_that_kills_is_missing_and_ends_no_report() {
    let (scene, program) = scene();
    if Command::new("strace").arg("-V").output().is_err() {
        return; // No strace here.
    }
    for (call, names) in [
        ("pidfd_getfd", &["pidfd_getfd"][..]),
        ("pidfd_open", &["pidfd_open", "pidfd_getfd"]),
        ("process_vm_readv", &["process_vm_readv"]),
        ("seccomp", &["seccomp"]),
        ("inotify_init1", &["inotify"]),
        ("prctl", &["child subreaper"]),
        ("setsockopt", &["reuseport program"]),
    ] {
        let kill = format!("inject={call}:signal=SYS");
        let output = doctor(&scene, &["strace", "-f", "-o", "/dev/null", "-e", &kill], &program, &[]);
        let (lines, said) = (read(&output), text(&output.stdout));
        assert!(lines.len() >= NAMES.len() - 1, "{said}");
        for name in names {
            assert_eq!(state(&lines, name), "missing", "{call}: {said}");
            let found = line(&said, name);
            assert!(found.contains("kills who tries it (signal SYS)"), "{found}");
            assert!(found.contains("SystemCallFilter="), "{found}");
        }
        assert_eq!(state(&lines, "RLIMIT_NOFILE"), "ok", "what does not need it is told: {said}");
    }
}

#[test]
fn without_proc_and_sys_there_are_all_lines() {
    let (scene, program) = scene();
    let script = "mount -t tmpfs none /proc && mount -t tmpfs none /sys && exec \"$@\"";
    let empty = ["unshare", "-m", "sh", "-c", script, "sh"];
    if !am_root()
        || !Command::new(empty[0]).args(["-m", "true"]).status().is_ok_and(|status| status.success())
    {
        return; // A mount namespace is for who may have one.
    }
    let output = doctor(&scene, &empty, &program, &[]);
    assert_eq!(state(&read(&output), "/proc"), "missing", "{}", text(&output.stdout));
}

/// It would show strangers under the numbers of our processes.
#[test]
fn a_proc_of_another_pid_namespace_is_missing() {
    let (scene, program) = scene();
    if !am_root()
        || !Command::new("unshare").args(["-pf", "true"]).status().is_ok_and(|status| status.success())
    {
        return; // A pid namespace is for who may have one.
    }
    let output = doctor(&scene, &["unshare", "-pf"], &program, &[]);
    assert_eq!(state(&read(&output), "/proc"), "missing", "{}", text(&output.stdout));
    let said = text(&output.stdout);
    let found = line(&said, "/proc");
    assert!(
        found.contains("shows another pid namespace, where we are process ")
            && found.contains("--mount-proc"),
        "{found}"
    );
}

/// Few descriptors, few processes: lines, and no hanging.
#[test]
fn a_poor_machine_is_told_of() {
    let (scene, program) = scene();
    for limit in ["4", "5", "6", "8"] {
        let output = doctor(&scene, &["prlimit", &format!("--nofile={limit}")], &program, &[]);
        // The dynamic loader needs some itself.
        if output.status.code() != Some(127) {
            assert!(text(&output.stdout).lines().count() >= NAMES.len() - 4, "{}", text(&output.stdout));
        }
    }
    if am_root() {
        // A user who has no other process: nobody may have one, and could then not even execute us.
        let alone = ["prlimit", "--nproc=1", "setpriv", "--reuid=64999", "--regid=65534", "--clear-groups"];
        let said = text(&doctor(&scene, &alone, &program, &[]).stdout);
        assert!(line(&said, "seccomp").contains("no child can be started"), "{said}");
    }
}

/// One of us above us, as with `--adopt`: there can be one filter with a listener.
#[test]
fn who_watches_our_calls_already_is_named() {
    let Some(filter) = Filter::new(Received::default()) else { return };
    let (scene, program) = scene();
    let (stdout, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    // It looks for who has the listener, and before we have received that, nobody has.
    let (gate, go) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let c_string = |text: &str| CString::new(text).unwrap();
    let launch = Launch {
        program: c_string("/bin/sh"),
        argv: ["sh", "-c", "read go; exec \"$0\" doctor", &program].map(c_string).to_vec(),
        env: vec![c_string("PATH=/usr/bin:/bin")],
        listen: false,
        watchdog: false,
        directory: File::open("/").unwrap().into(),
        fds: vec![(gate.as_raw_fd(), 0), (write.as_raw_fd(), 1)],
        own_group: true,
        umask: None,
        identity: None,
        default_signals: Vec::new(),
        no_new_privs: false,
        death_signal: Some(libc::SIGKILL),
        filter: Some(filter),
        program_fd: None,
    };
    let Child { pid, seccomp_listener: listener, .. } = match spawn(&launch) {
        Ok(child) => child,
        Err(error) if am_root() => panic!("{error}"),
        Err(_) => return, // We ourselves are watched.
    };
    drop(write);
    let listener = listener.expect("a listener");
    File::from(go).write_all(b"\n").unwrap();
    // Until nobody is left who could call.
    while seccomp::wait(listener.as_fd(), None).unwrap() == Woken::Call {
        if let Ok(call) = seccomp::receive(listener.as_fd()) {
            let _ = seccomp::answer(listener.as_fd(), call.id, Answer::Continue);
        }
    }
    let mut said = String::new();
    File::from(stdout).read_to_string(&mut said).unwrap();
    assert_eq!(process::wait(pid), Some(Exit::Code(1)), "{said}");
    let found = line(&said, "seccomp");
    let named = format!("missing  seccomp: pid {} (", std::process::id());
    assert!(found.starts_with(&named), "{found}");
    assert!(found.contains("watches our calls already") && found.contains("with -b"), "{found}");
    assert!(line(&said, "pidfd_getfd").starts_with("ok "), "{said}");
    drop(scene);
}

#[test]
fn help_is_for_stdout_and_mistakes_are_2() {
    let (scene, program) = scene();
    let help = doctor(&scene, &[], &program, &["--help"]);
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
    let help = text(&help.stdout);
    assert!(help.contains("--json") && help.contains("Exit status: 0"), "{help}");
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    for (args, word) in [(&["--jsno"][..], "--jsno"), (&["all"], "all")] {
        let output = doctor(&scene, &[], &program, args);
        let complained = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{complained}");
        assert!(complained.starts_with("graceful-run: ") && complained.contains(word), "{complained}");
        assert!(output.stdout.is_empty());
    }
    let mut late = scene.command();
    let output = late.args(["-n", "2", "doctor"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'doctor' takes none of our options"));
}

/// With `--` it is a program like any other.
#[test]
fn a_program_of_that_name_can_be_run() {
    let scene = Scene::new();
    let output = scene.command().args(["--", "doctor"]).output().unwrap();
    if Path::new("/usr/bin/doctor").exists() {
        return;
    }
    assert_eq!(output.status.code(), Some(127), "{}", text(&output.stderr));
}
