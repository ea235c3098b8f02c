//! `/proc` shows another pid namespace, as after `unshare --pid` without `--mount-proc`: strangers stand
//! there under the numbers of our processes.

mod common;

use common::{Scene, Signal, am_root, quick, says};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::process::Command;

/// The outer pid namespace, whose `/proc` stays in sight: process 2 is a stranger. It starts process
/// 1000, a child of it, when the worker runs: what a worker leaves behind is younger than it.
const OUTER: &str = r#"
sh -c 'head -c 1 outer >/dev/null; echo 999 >/proc/sys/kernel/ns_last_pid
    sleep 1000 & echo "stranger $!" >&2; wait' & stranger=$!
inner=$1; shift
unshare --pid --fork --kill-child sh -c "$inner" sh "$@" & child=$!
trap 'kill -TERM $(cat /proc/$child/task/$child/children)' TERM
wait $child; wait $child; status=$?
kill -0 $stranger && kill -0 1000 && echo "stranger $stranger and its child live" >&2
exit $status
"#;

/// The inner one: the command has the number of the stranger, and an innocent process the number of
/// the stranger's child.
const INNER: &str = r#"
"$@" & ours=$!
trap 'kill -TERM $ours' TERM
head -c 1 inner >/dev/null; echo 999 >/proc/sys/kernel/ns_last_pid
sleep 1000 & innocent=$!
echo "innocent $innocent" >&2
wait $ours; wait $ours; status=$?
kill -0 $innocent && echo "the innocent lives, we were $ours" >&2
exit $status
"#;

/// An upgrade, with a worker that leaves a process behind, and a stop, which ends. Nobody else is
/// signalled.
#[test]
fn strangers_are_not_taken_for_ours() {
    if !am_root() || !Command::new("unshare").args(["-pf", "true"]).status().is_ok_and(|it| it.success()) {
        return; // A pid namespace is for who may have one.
    }
    let scene = Scene::of("count-signals\nserve\nready notify\nfork-child\n");
    scene.gate("outer");
    scene.gate("inner");
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", OUTER, "sh"]);
    command.arg(INNER);
    command.arg(common::binary()).args(quick(&["--name", "web"])).arg("--").args(scene.puppet());
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait("/proc shows another pid namespace, where we are pid *: it counts as absent, *");
    wrapper.log.wait(&says::ready(1));
    scene.log.wait("g1 s0 child up");
    scene.release("outer", 1);
    wrapper.log.wait("stranger 1000");
    scene.release("inner", 1);
    wrapper.log.wait("innocent 1000");
    let output = scene.ctl(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    wrapper.log.wait(&says::exited(1, 0));
    let shell = wrapper.children().first().expect("a child of unshare").0;
    kill(Pid::from_raw(shell), Signal::SIGTERM).expect("it lives");
    wrapper.log.wait("the innocent lives, we were 2");
    wrapper.log.wait("stranger 2 and its child live");
    assert_eq!(wrapper.exit_status(), 0, "{}", wrapper.log.all().join("\n"));
}
