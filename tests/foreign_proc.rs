//! `/proc` shows another pid namespace, as after `unshare --pid` without `--mount-proc`: strangers stand
//! there under the numbers of our processes.

mod common;

use common::{Scene, Signal, am_root, quick, says};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::process::Command;

/// As process 1 there we would take all children of the machine's first process for ours. An
/// innocent process has the number of one of those: it is started with that number, which only
/// root may choose.
const WITH_AN_INNOCENT: &str = r#"
stranger=$(cut -d ' ' -f 1 /proc/1/task/1/children)
echo $((stranger - 1)) > /proc/sys/kernel/ns_last_pid
sleep 1000 & innocent=$!
[ $innocent = $stranger ] || echo "no number $stranger, but $innocent" >&2
"$@" & ours=$!
trap 'kill -TERM $ours' TERM
wait $ours; wait $ours; status=$?
kill -0 $innocent && echo "the innocent lives" >&2
kill -KILL $innocent
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
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", WITH_AN_INNOCENT, "sh"]);
    command.arg(common::binary()).args(quick(&["--name", "web"])).arg("--").args(scene.puppet());
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait("/proc shows another pid namespace, where we are pid *: it counts as absent, *");
    wrapper.log.wait(&says::ready(1));
    scene.log.wait("g1 s0 child up");
    let output = scene.ctl(&["upgrade"]);
    assert!(output.status.success(), "{output:?}");
    wrapper.log.wait(&says::exited(1, 0));
    let shell = wrapper.children().first().expect("a child of unshare").0;
    kill(Pid::from_raw(shell), Signal::SIGTERM).expect("it lives");
    wrapper.log.wait("the innocent lives");
    assert_eq!(wrapper.exit_status(), 0, "{}", wrapper.log.all().join("\n"));
    assert!(!wrapper.log.has("no number"), "{}", wrapper.log.all().join("\n"));
}
