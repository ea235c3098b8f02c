//! The directory of the control socket goes while we serve, as at a logout; and clients of the same
//! user who have another XDG_RUNTIME_DIR, or none.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, am_root, binary, quick, says, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

const BACK: &str = "the control socket or the lock of the name was removed, and is there again";
const GONE: &str = "the control socket was removed, and ctl does not reach us until it can be made again";

fn status(scene: &Scene) -> Output {
    scene.ctl(&["--name", "web", "status"])
}

/// A second instance of the name is refused: the first one holds it.
fn holds_name(scene: &Scene, wrapper: &Wrapper) {
    let mut second = scene.start(&["-b", "127.0.0.1:0", "--name", "web"]);
    assert_eq!(second.exit_status(), 100);
    assert!(second.last_line().contains(&format!("pid {}", wrapper.pid)), "{}", second.last_line());
}

#[test]
fn a_directory_that_was_removed_is_made_again() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    until("it is removed", || fs::remove_dir_all(scene.control()).is_ok());
    wrapper.log.wait(BACK);
    assert!(status(&scene).status.success());
    holds_name(&scene, &wrapper);
    assert_eq!(fs::metadata(scene.control()).unwrap().mode() & 0o7777, 0o700);
    // A second time, and the path of the socket alone.
    fs::remove_file(scene.control().join("web.sock")).unwrap();
    wrapper.log.wait_nth(BACK, 2);
    assert!(status(&scene).status.success());
    fs::remove_file(scene.control().join("web.lock")).unwrap();
    wrapper.log.wait_nth(BACK, 3);
    holds_name(&scene, &wrapper);
    wrapper.stop();
}

#[test]
fn after_a_logout_the_socket_is_back_with_the_next_login() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    // It may be made again while it is removed, by another check than that of the removal.
    until("it is removed", || fs::remove_dir_all(scene.run()).is_ok());
    wrapper.log.wait(GONE);
    assert!(!status(&scene).status.success());
    // Upgrades go on, by signals.
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    fs::create_dir(scene.run()).unwrap();
    wrapper.log.wait(BACK);
    assert_eq!(wrapper.log.count(GONE), 1);
    let upgraded = scene.ctl(&["--name", "web", "upgrade"]);
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    holds_name(&scene, &wrapper);
    wrapper.stop();
}

#[test]
fn a_new_image_makes_it_again_as_well() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    assert!(scene.ctl(&["--name", "web", "reexec"]).status.success());
    until("it is removed", || fs::remove_dir_all(scene.control()).is_ok());
    wrapper.log.wait(BACK);
    assert!(scene.ctl(&["--name", "web", "reexec"]).status.success());
    holds_name(&scene, &wrapper);
    wrapper.stop();
}

/// While the lock is gone another instance is refused all the same.
#[test]
fn the_name_is_held_while_its_lock_is_gone() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    wrapper.signal(Signal::SIGSTOP);
    fs::remove_dir_all(scene.control()).unwrap();
    holds_name(&scene, &wrapper);
    wrapper.signal(Signal::SIGCONT);
    wrapper.log.wait(BACK);
    assert!(status(&scene).status.success());
    wrapper.stop();
}

/// Who has taken the name meanwhile, from another network namespace, keeps it, and that is said.
#[test]
fn a_name_that_another_has_taken_is_not_taken_back() {
    if !am_root() {
        return; // A network namespace is for who may have one.
    }
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--name", "web"]);
    let away = scene.path("away");
    fs::rename(scene.run(), &away).unwrap();
    // The wrapper is stopped, so that the other one comes first.
    wrapper.signal(Signal::SIGSTOP);
    fs::create_dir(scene.run()).unwrap();
    let mut command = scene.mark(Command::new("unshare"));
    command.arg("-n").arg(binary()).args(quick(&["--name", "web", "--"])).args(scene.puppet());
    let other = scene.spawn(command);
    other.log.wait(&says::ready(1));
    fs::remove_dir_all(&away).unwrap();
    wrapper.signal(Signal::SIGCONT);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(GONE);
    assert!(line.contains(&format!("pid {}", other.pid)), "{line}");
    other.stop();
    wrapper.log.wait(BACK);
    wrapper.stop();
}

fn as_nobody(scene: &Scene, variable: Option<&Path>, args: &[&str]) -> Output {
    let mut command = scene.mark(Command::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(binary()).args(args);
    match variable {
        Some(path) => command.env("XDG_RUNTIME_DIR", path),
        None => command.env_remove("XDG_RUNTIME_DIR"),
    };
    command.stdout(std::process::Stdio::piped()).output().expect("start setpriv")
}

/// /run is the test's own (`surroundings`).
#[test]
fn ctl_finds_the_instance_of_its_user_from_cron_and_sudo() {
    if !am_root() {
        return; // The wrapper has to run as another user than root.
    }
    let scene = Scene::of(SERVER);
    let base = Path::new("/run/user/65534");
    fs::create_dir_all(base).unwrap();
    std::os::unix::fs::chown(base, Some(65534), Some(65534)).unwrap();
    let private: &Path = &scene.path("private");
    fs::create_dir(private).unwrap();
    fs::set_permissions(private, fs::Permissions::from_mode(0o700)).unwrap();
    let ctl = ["ctl", "--name", "cron", "status"];
    let nowhere: &Path = &scene.path("nowhere");
    let cases = [(None, "not set"), (Some(private), "that of another user"), (Some(nowhere), "no directory")];
    for (variable, how) in cases {
        let output = as_nobody(&scene, variable, &ctl);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(&format!("XDG_RUNTIME_DIR is {how}")) && said.contains("--socket"), "{said}");
        assert!(
            said.contains("/run/user/65534/graceful-run") && !said.contains("permission denied"),
            "{said}"
        );
    }
    let mut command = scene.mark(Command::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(binary());
    command.args(quick(&["--name", "cron", "--"])).args(["sh", "-c"]);
    command.arg("echo >&$READY_FD; exec tail -f /dev/null");
    command.env("XDG_RUNTIME_DIR", base);
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    for variable in [Some(base), None, Some(private)] {
        let output = as_nobody(&scene, variable, &ctl);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    }
    let only = as_nobody(&scene, None, &["ctl", "status"]);
    assert!(only.status.success(), "{}", String::from_utf8_lossy(&only.stderr));
    wrapper.stop();
    fs::remove_dir_all(base).unwrap();
}

/// One of them is started from cron or by sudo, without XDG_RUNTIME_DIR. Both have a /run of their
/// own.
#[test]
fn a_name_is_taken_wherever_ctl_looks_for_it() {
    if !am_root() {
        return; // A mount namespace is for who may have one.
    }
    let scene = Scene::of(SERVER);
    let spawn = |mut command: Command, variable: Option<(&str, &str)>| {
        command.env_remove("XDG_RUNTIME_DIR").envs(variable);
        command.arg(binary()).args(quick(&["--name", "twice", "--"])).args(scene.puppet());
        scene.spawn(command)
    };
    let places = [None, Some(("XDG_RUNTIME_DIR", "/run/user/0")), Some(("RUNTIME_DIRECTORY", "/run/twice"))];
    for (first, second) in [(0, 1), (1, 0), (2, 0), (2, 1)].map(|(one, other)| (places[one], places[other])) {
        let mut command = scene.mark(Command::new("unshare"));
        let run = "mount -t tmpfs none /run && mkdir -p /run/user/0 /run/twice && exec \"$@\"";
        command.args(["-m", "sh", "-c", run, "sh"]);
        let wrapper = spawn(command, first);
        wrapper.log.wait(&says::ready(1));
        let mut command = scene.mark(Command::new("nsenter"));
        command.args(["-m", "-w", "-t", &wrapper.pid.to_string()]);
        let mut other = spawn(command, second);
        assert_eq!(other.exit_status(), 100, "{first:?} {second:?}");
        assert!(other.last_line().contains(&format!("pid {}", wrapper.pid)), "{}", other.last_line());
        wrapper.stop();
    }
}

/// As in a chroot, or with a C library that needs /proc to change a mode without following a link.
#[test]
fn without_proc_there_are_a_control_socket_and_modes() {
    if !am_root() {
        return; // A mount namespace is for who may have one.
    }
    let scene = Scene::of(SERVER);
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]).arg(binary());
    let path = scene.arg("run/s");
    let bind = format!("unix:{path},mode=0620,user=65534,group=65534");
    command
        .args(["-b", &bind, "--name", "web", "--ack", "notify", "--soak", "1ms", "--"])
        .args(scene.puppet());
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o620, 65534, 65534));
    assert_eq!(fs::metadata(scene.control().join("web.sock")).unwrap().mode() & 0o7777, 0o600);
    assert!(status(&scene).status.success());
    wrapper.stop();
}
