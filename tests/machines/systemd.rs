//! The units of `examples/systemd`, as they lie there, under load.

use crate::clients::Clients;
use crate::common::{Scene, until};
use crate::nspawn::Machine;
use std::fs;

const ADDRESS: &str = "127.0.0.1:80";

/// The status line says which generation serves when the reload returns: it has waited.
fn reload(machine: &Machine, generation: u32) {
    assert_eq!(machine.systemctl(&["reload", "shop"]), 0, "{}", machine.journal("info"));
    assert_eq!(machine.shop("StatusText"), format!("generation {generation} serves"));
    assert_eq!(machine.shop("ActiveState"), "active");
}

#[test]
fn the_units_lose_nothing_over_reloads_a_refusal_a_restart_and_a_stop() {
    let scene = Scene::new();
    let Some(machine) = Machine::boot(&scene, &[]) else { return };
    assert_eq!(machine.systemctl(&["start", "shop.socket", "shop.service"]), 0);
    assert_eq!(machine.shop("Type"), "notify", "it is what this systemd knows");
    let main = machine.shop("MainPID");
    let clients = Clients::start(machine.leader, ADDRESS);
    for generation in 2..5 {
        reload(&machine, generation);
        clients.more();
    }

    machine.switch("bad");
    assert_ne!(machine.systemctl(&["reload", "shop"]), 0, "a refusal is the verdict of the reload");
    assert_eq!(machine.shop("ActiveState"), "active");
    assert_eq!(machine.shop("StatusText"), "upgrade to generation 5 failed, generation 4 serves");
    machine.switch("good");
    clients.more();

    assert_eq!(machine.systemctl(&["kill", "--kill-whom=main", "-s", "HUP", "shop"]), 0);
    until("the signal upgrades", || machine.shop("StatusText") == "generation 6 serves");
    assert_eq!(machine.shop("MainPID"), main, "the main process stays");
    clients.more();

    assert_eq!(machine.systemctl(&["restart", "shop.service"]), 0);
    assert_ne!(machine.shop("MainPID"), main);
    clients.more();
    assert_eq!(machine.systemctl(&["stop", "shop.service"]), 0);
    assert_eq!(machine.shop("Result"), "success");
    // The connections that wait start it again.
    clients.more();
    clients.lost_nothing();

    let warnings = machine.journal("warning");
    assert!(warnings.contains("upgrade to generation 5 failed"), "{warnings}");
    assert!(!warnings.contains("serving") && !warnings.contains("started pid"), "{warnings}");
    let informed = machine.journal("info");
    assert!(
        informed.contains("\ngraceful-run: generation 1: serving"),
        "the journal has taken it: {informed}"
    );
}

/// The control: without the socket unit a restart refuses connections.
#[test]
fn a_restart_without_the_socket_unit_loses_requests() {
    let scene = Scene::new();
    let unit = example("shop.service").replace("Requires=shop.socket\n", "").replace(" shop.socket", "");
    let unit = unit.replace("--ack-timeout", "-b :80 --ack-timeout");
    let bind = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n";
    let Some(machine) = Machine::boot(&scene, &[("shop.service", &unit), ("shop.service.d/bind.conf", bind)])
    else {
        return;
    };
    assert_eq!(machine.systemctl(&["start", "shop.service"]), 0, "{}", machine.journal("info"));
    let clients = Clients::start(machine.leader, ADDRESS);
    reload(&machine, 2);
    clients.more();
    until("the clients see no refusal", || {
        assert_eq!(machine.systemctl(&["restart", "shop.service"]), 0, "{}", machine.journal("info"));
        clients.refused() > 0
    });
    clients.end();
}

/// What the guide says of the end of graceful-run itself: systemd kills the workers, starts the service
/// again, and what waits in the socket is answered.
#[test]
fn when_we_are_killed_or_hang_systemd_ends_the_workers_and_starts_us_again() {
    let scene = Scene::new();
    let quick = "[Service]\nWatchdogSec=3s\n";
    let Some(machine) = Machine::boot(&scene, &[("shop.service.d/quick.conf", quick)]) else { return };
    assert_eq!(machine.systemctl(&["start", "shop.socket", "shop.service"]), 0);
    for (signal, restarts) in [("KILL", "1"), ("STOP", "2")] {
        let clients = Clients::start(machine.leader, ADDRESS);
        let workers = workers(&machine);
        assert!(!workers.is_empty());
        assert_eq!(machine.systemctl(&["kill", "--kill-whom=main", "-s", signal, "shop"]), 0);
        until("it is started again", || machine.shop("NRestarts") == restarts);
        until("it serves again", || machine.shop("StatusText") == "generation 1 serves");
        clients.more();
        let (answered, failed) = clients.end();
        assert!(!failed.contains_key("REFUSED"), "of {answered}: {failed:?}");
        let now = self::workers(&machine);
        assert!(workers.iter().all(|pid| !now.contains(pid)), "{workers:?} {now:?}");
    }
}

/// The pids of the shop's processes but for the main one.
fn workers(machine: &Machine) -> Vec<String> {
    let group = machine.shop("ControlGroup");
    let script =
        format!("cat /sys/fs/cgroup/systemd{group}/cgroup.procs || cat /sys/fs/cgroup{group}/cgroup.procs");
    let output = machine.run(&["sh", "-c", &script]);
    let main = machine.shop("MainPID");
    let pids = String::from_utf8(output.stdout).expect("UTF-8");
    pids.lines().filter(|pid| *pid != main).map(str::to_owned).collect()
}

#[test]
fn a_stop_in_which_a_worker_was_killed_is_no_failure_of_the_unit() {
    let scene = Scene::new();
    let brief = example("shop.service").replace("--stop-timeout 60s", "--stop-timeout 500ms --ack fd:9");
    let Some(machine) = Machine::boot(&scene, &[("shop.service", &brief)]) else { return };
    machine.switch("deaf");
    let starts_and_stops = || {
        assert_eq!(machine.systemctl(&["start", "shop.service"]), 0, "{}", machine.journal("info"));
        assert_eq!(machine.systemctl(&["stop", "shop.socket", "shop.service"]), 0);
        let journal = machine.journal("info");
        assert!(machine.journal("err").contains("cannot stop every worker in time"), "{journal}");
        (machine.systemctl(&["is-failed", "shop.service"]) == 0, journal)
    };
    let (failed, journal) = starts_and_stops();
    assert!(!failed && journal.contains("Deactivated successfully"), "{journal}");
    // The control.
    fs::write(scene.path("units/shop.service"), brief.replace("SuccessExitStatus=137\n", "")).unwrap();
    assert_eq!(machine.systemctl(&["daemon-reload"]), 0);
    let (failed, journal) = starts_and_stops();
    assert!(failed, "{journal}");
}

/// The two lines that the example has for it, as they stand there.
const SET: &str = "SystemCallFilter=@system-service";
const MORE: &str = "SystemCallFilter=pidfd_getfd seccomp process_vm_readv kcmp";

#[test]
fn a_filter_that_kills_is_told_of_and_the_line_of_the_unit_mends_it() {
    let scene = Scene::new();
    let unit = example("shop.service");
    assert!(unit.contains(&format!("#{SET}\n#{MORE}\n")), "the example has both lines");
    let server = "ExecStart=/usr/local/bin/graceful-run --name shop --adopt -- python3 -m http.server 8000";
    let adopting: String = unit
        .lines()
        .filter(|line| !line.contains("shop.socket"))
        .map(|line| if line.starts_with("ExecStart=") { server } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    let doctor = |filter: &str| {
        format!(
            "[Service]\nType=oneshot\nUser=www-data\n{filter}\nExecStart=/usr/local/bin/graceful-run doctor\n"
        )
    };
    let hard = format!("{SET}\nRestart=no\nWorkingDirectory=/srv/shop\nWatchdogSec=0");
    let mended = format!("{hard}\n{MORE}");
    let Some(machine) = Machine::boot(
        &scene,
        &[
            ("shop.service", &adopting),
            ("shop.service.d/filter.conf", &format!("[Service]\n{hard}\n")),
            ("hard.service", &doctor(SET)),
            ("soft.service", &doctor(&format!("{SET}\n{MORE}"))),
        ],
    ) else {
        return;
    };
    let said = |unit: &str| {
        machine.systemctl(&["start", unit]);
        machine.run(&["journalctl", "--sync"]);
        let output = machine.run(&["journalctl", "-u", unit, "-o", "cat", "--no-pager"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let hard = said("hard.service");
    for call in ["seccomp", "pidfd_getfd"] {
        let found = hard.lines().find(|line| line.contains(&format!(" {call}: "))).unwrap_or_default();
        assert!(found.starts_with("missing") && found.contains(MORE), "{found} in {hard}");
    }
    assert!(hard.contains("control socket: "), "the report is whole: {hard}");
    let soft = said("soft.service");
    assert!(!soft.contains("missing "), "{soft}");

    assert_ne!(machine.systemctl(&["start", "shop.service"]), 0);
    let journal = machine.journal("info");
    assert!(journal.contains("SystemCallFilter="), "{journal}");

    fs::write(scene.path("units/shop.service.d/filter.conf"), format!("[Service]\n{mended}\n")).unwrap();
    assert_eq!(machine.systemctl(&["daemon-reload"]), 0);
    assert_eq!(machine.systemctl(&["start", "shop.service"]), 0, "{}", machine.journal("info"));
    let clients = Clients::start_with(machine.leader, "127.0.0.1:8000", ["/", "/"]);
    for generation in 2..4 {
        reload(&machine, generation);
        clients.more();
    }
    clients.lost_nothing();
}

fn example(unit: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd").join(unit);
    fs::read_to_string(path).expect("the example's unit")
}
