//! What a worker leaves behind when it goes, and what must not be taken for it.
//! Workers here are shell scripts: it is families of processes that count.

mod common;

use common::{Scene, Signal, Wrapper, quick, until};
use std::fs;

/// A script that says that it is ready by READY_FD.
const READY: &str = "eval \"echo >&$READY_FD\"";

fn start(scene: &Scene, script: &str, args: &[&str]) -> Wrapper {
    let path = scene.path("worker.sh");
    fs::write(&path, script).unwrap();
    let args = quick(&[&["--ack", "fd"], args].concat());
    scene.start_command(&args, &["/bin/bash", path.to_str().unwrap()])
}

/// A script writes a number there; the directory has to be empty in the end.
fn pid_in(scene: &Scene, name: &str) -> i32 {
    let file = scene.path(name);
    until(name, || fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn orphans_of_orphans_are_killed_too() {
    let scene = Scene::new();
    let nested = "setsid bash -c 'trap \"\" TERM; setsid bash -c \"trap \\\"\\\" TERM; echo \\$\\$ >inner; \
                  while :; do sleep 1; done\" & while :; do sleep 1; done' &";
    let script = format!("{nested}\nwhile [ ! -s inner ]; do sleep 0.01; done\n{READY}\nexec sleep 1000");
    let mut wrapper = start(&scene, &script, &["--stop-timeout", "3s"]);
    wrapper.log.wait(&common::says::ready(1));
    let inner = pid_in(&scene, "inner");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0, "the worker itself left in time");
    assert!(!lives(inner));
}

#[test]
fn a_worker_that_left_its_group_can_be_killed() {
    let scene = Scene::new();
    let script = "import os, signal\nos.setpgid(0, os.getpgid(os.getppid()))\n\
                  signal.signal(15, signal.SIG_IGN)\nos.write(int(os.environ['READY_FD']), b'\\n')\n\
                  signal.pause()";
    let args = quick(&["--ack", "fd", "--stop-timeout", "3s"]);
    let mut wrapper = scene.start_command(&args, &["python3", "-c", script]);
    wrapper.log.wait(&common::says::ready(1));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137);
}

#[test]
fn a_helper_of_the_next_worker_is_not_taken_for_a_leftover() {
    let scene = Scene::new();
    let script = format!(
        "if [ ! -e again ]; then touch again
         bash -c 'trap \"\" TERM; echo $$ >left; while :; do sleep 1; done' &
         while [ ! -s left ]; do sleep 0.01; done; {READY}
         until [ -e served ]; do sleep 0.01; done; exit 1; fi
         setsid -f bash -c 'echo $$ >helper; exec sleep 1000'
         while [ ! -s helper ]; do sleep 0.01; done; {READY}; exec sleep 1001"
    );
    let mut wrapper = start(&scene, &script, &["--stop-timeout", "3s"]);
    wrapper.log.wait(&common::says::ready(1));
    fs::write(scene.path("served"), "").unwrap();
    let (left, helper) = (pid_in(&scene, "left"), pid_in(&scene, "helper"));
    until("the leftover is killed", || !lives(left));
    assert!(lives(helper), "it belongs to the worker that serves");
    wrapper.signal(Signal::SIGTERM);
    wrapper.exit_status();
    assert!(!lives(helper));
}

#[test]
fn one_without_our_variables_goes_with_the_last_worker() {
    let scene = Scene::new();
    let script = format!(
        "setsid env -i /bin/bash -c 'echo $$ >bare; exec sleep 1000' &
         while [ ! -s bare ]; do sleep 0.01; done; {READY}; exec sleep 1001"
    );
    let mut wrapper = start(&scene, &script, &[]);
    let bare = pid_in(&scene, "bare");
    wrapper.log.wait(&common::says::ready(1));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert!(!lives(bare));
}

#[test]
fn a_check_that_hangs_goes_with_us() {
    let scene = Scene::new();
    let args = quick(&["--ack", "exec:echo $$ >check; exec sleep 1000"]);
    let mut wrapper = scene.start_command(&args, &["sleep", "1001"]);
    let check = pid_in(&scene, "check");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    until("the check goes", || !lives(check));
}

#[test]
fn a_service_manager_that_does_not_read_holds_up_nothing() {
    let scene = Scene::new();
    let path = scene.path("manager");
    let _manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let full = std::os::unix::net::UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"x", &path).is_ok() {}
    let mut command = scene.command();
    command.env("NOTIFY_SOCKET", &path);
    command.args(quick(&["--ack", "timer:10ms"])).args(["--", "sleep", "1000"]);
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait(&common::says::ready(1));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn each_leftover_gets_one_term_when_everything_goes() {
    let scene = Scene::new();
    // bash runs a trap between two commands; the file is a word to leave.
    let child = "trap 'echo TERM >>terms\\$1' TERM; echo \\$\\$ >child\\$1; \
                 until [ -e leave ]; do sleep 0.01; done";
    let script = format!(
        "setsid bash -c \"{child}\" x $GRACEFUL_RUN_SLOT &\nuntil [ -s child$GRACEFUL_RUN_SLOT ]; do sleep 0.01; \
         done\n{READY}\nexec sleep 1000"
    );
    let mut wrapper = start(&scene, &script, &["-n", "3"]);
    wrapper.log.wait(&common::says::ready(1));
    let children: Vec<i32> = (0..3).map(|slot| pid_in(&scene, &format!("child{slot}"))).collect();
    wrapper.signal(Signal::SIGTERM);
    wrapper.log.wait_nth("they are asked to stop", 3);
    let terms = |slot: i32| fs::read_to_string(scene.path(&format!("terms{slot}"))).unwrap_or_default();
    until("every leftover is asked", || (0..3).all(|slot| !terms(slot).is_empty()));
    fs::write(scene.path("leave"), "").unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!([terms(0), terms(1), terms(2)], ["TERM\n"; 3]);
    assert!(!children.into_iter().any(lives));
}

/// They would be left to process 1, which may reap nothing in a container.
#[test]
fn what_has_ended_is_reaped_before_we_go() {
    const ADOPTER: &str = r#"
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
wrapper = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)
for line in wrapper.stderr:
    if ": serv" in line: wrapper.terminate()
    print(line, end="", file=sys.stderr)
print("status", wrapper.wait())
try: print("left", os.waitpid(-1, os.WNOHANG)[0])
except ChildProcessError: print("nothing left")
"#;
    let scene = Scene::new();
    // Some are still to end when the others have ended.
    const WORKER: &str = r#"
import os, signal, time
seen, tell = os.pipe()
for i in range(12):
    if os.fork() == 0:
        def end(*a):
            time.sleep(0.002 * i)
            os._exit(0)
        signal.signal(signal.SIGTERM, end)
        os.write(tell, b"x")
        while True: signal.pause()
for i in range(12): os.read(seen, 1)
os.write(int(os.environ["READY_FD"]), b"\n")
while True: signal.pause()
"#;
    for _ in 0..3 {
        let mut command = scene.mark(std::process::Command::new("python3"));
        command.args(["-c", ADOPTER]).arg(common::binary());
        command.args(common::quick(&["--"])).args(["python3", "-c", WORKER]);
        let output = command.stdout(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "status 0\nnothing left\n");
    }
}

#[test]
fn one_that_went_into_the_background_without_a_trace_goes_with_its_worker() {
    let scene = Scene::new();
    // Until it has become sleep(1), its environment and its group show where it came from.
    let script = format!(
        "env -i setsid sleep 1000 &\necho $! >daemon
         until read -r name </proc/$!/comm && [ $name = sleep ]; do sleep 0.01; done
         {READY}\nuntil [ -e served ]; do sleep 0.01; done; exit 0"
    );
    let mut wrapper = start(&scene, &script, &["--restart", "never"]);
    wrapper.log.wait(&common::says::ready(1));
    fs::write(scene.path("served"), "").unwrap();
    wrapper.log.wait("it left processes behind: if it daemonises");
    let daemon = pid_in(&scene, "daemon");
    assert_eq!(wrapper.exit_status(), 0);
    assert!(!lives(daemon));
}
