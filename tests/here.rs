//! `graceful-run here`: a worker behind a shell finds its sockets.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, address_in, binary, pid_in, quick, says, who};
use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

/// Starts a shell that plays `script`, in which `$HERE` is our word and `$PUPPET` its server.
fn behind_a_shell(scene: &Scene, script: &str, args: &[&str]) -> Wrapper {
    let puppet = scene.puppet().join(" ");
    let script = script.replace("$HERE", &format!("{} here", binary().display())).replace("$PUPPET", &puppet);
    scene.start_command(&quick(args), &["sh", "-c", &script])
}

/// Ends with its server still there, which is then asked to stop.
const NO_EXEC: &str = "x=1; $HERE -- $PUPPET; true";

#[test]
fn a_server_behind_a_shell_takes_the_sockets() {
    let scene = Scene::of(&format!("{SERVER}dump seen"));
    let wrapper = behind_a_shell(&scene, NO_EXEC, &["--ack", "notify"]);
    wrapper.log.wait(&says::ready(1));
    let server = pid_in(&scene.log.wait("g1 s0 worker dump seen"));
    let seen = scene.dump("seen");
    assert_eq!(seen["environment"]["LISTEN_PID"], server.to_string());
    let shell = wrapper.log.wait(&says::started(1));
    assert!(!shell.contains(&format!("pid {server} ")), "{shell}");
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    assert!(who(&address).starts_with("g1 "));

    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.log.wait("generation 1: pid * was ended by signal 15 (TERM) * it left processes behind, which finish what they have (write exec before the last command)");
    scene.log.wait("g1 s0 worker TERM");
    scene.wait_gone(server);
    assert!(who(&address).starts_with("g2 "));
    wrapper.stop();
}

#[test]
fn with_exec_the_server_is_the_worker() {
    let scene = Scene::of(&format!("{SERVER}dump seen\nwait go\nexit 9"));
    let wrapper = behind_a_shell(&scene, "exec $HERE $PUPPET", &[]);
    let server = pid_in(&scene.log.wait("g1 s0 worker dump seen"));
    wrapper.log.wait(&format!("{}{server} ", says::started(1)));
    let seen = scene.dump("seen");
    assert_eq!(seen["environment"]["LISTEN_PID"], server.to_string());
    // Where there are numbers of pidfds, the worker has its own.
    if let Some(inode) = seen["environment"]["LISTEN_PIDFDID"].as_str() {
        assert!(inode.parse::<u64>().is_ok(), "{inode}");
    }
    wrapper.log.wait(&says::ready(1));
    scene.release("go", 1);
    wrapper.log.wait(&says::exited(1, 9));
    wrapper.stop();
}

#[test]
fn a_server_behind_timeout_takes_the_sockets() {
    let scene = Scene::of(&format!("{SERVER}dump seen"));
    let wrapper = behind_a_shell(&scene, "exec timeout --foreground 100 $HERE $PUPPET", &["--ack", "notify"]);
    let server = pid_in(&scene.log.wait("g1 s0 worker dump seen"));
    assert_eq!(scene.dump("seen")["environment"]["LISTEN_PID"], server.to_string());
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    assert!(who(&address).starts_with("g1 "));
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

/// The word with `arguments`, after the shell has done `prepare`, with a socket as fd 3.
fn here(prepare: &str, arguments: &[&str]) -> Output {
    let socket = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let scene = Scene::new();
    let mut command = scene.mark(Command::new("sh"));
    command
        .arg("-c")
        .arg(format!("exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=1; {prepare}\nexec \"$@\""))
        .arg("sh")
        .arg(binary())
        .arg("here")
        .args(arguments)
        .stdin(Stdio::from(socket))
        .env_remove("GRACEFUL_RUN_PID")
        .env_remove("GRACEFUL_RUN_LISTENERS")
        .env_remove("EINHORN_MASTER_PID")
        .env_remove("GUNICORN_PID")
        .stdout(Stdio::piped())
        .output()
        .unwrap()
}

/// A mask and ignored signals, as `here` gets them and as it passes them on.
#[test]
fn signals_are_as_it_was_given_them() {
    for ignored in ["ALRM CHLD", "PIPE"] {
        let prepare = format!("trap '' {ignored}");
        let command = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"];
        let with = here(&prepare, &command);
        let script = format!("{prepare}; exec \"$@\"");
        let without = Command::new("sh").args(["-c", &script, "sh"]).args(command).output().unwrap();
        assert!(with.status.success(), "{with:?}");
        assert_eq!(with.stdout, without.stdout, "{with:?}");
        assert!(!without.stdout.is_empty());
    }
}

fn refused(prepare: &str, arguments: &[&str], status: i32, why: &str) {
    let output = here(prepare, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(last.starts_with("graceful-run: ") && last.contains(why), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} ran");
}

#[test]
fn without_sockets_it_says_what_is_missing() {
    let run = ["--", "echo", "ran"];
    refused(
        "unset LISTEN_FDS",
        &run,
        125,
        "cannot take the sockets here: not started by graceful-run (LISTEN_FDS",
    );
    refused("unset LISTEN_FDS; export GRACEFUL_RUN_PID=1", &run, 125, "give graceful-run a listener with -b");
    refused(
        "unset LISTEN_FDS; export GRACEFUL_RUN_PID=1 GRACEFUL_RUN_LISTENERS=socket0=127.0.0.1:1",
        &run,
        125,
        "the dialect hands over no LISTEN_FDS, and does not depend on the process (leave 'graceful-run here' out, or add listen-fds to --export)",
    );
    refused("LISTEN_FDS=x", &run, 125, "LISTEN_FDS=\"x\" is not a number of descriptors");
    refused(
        "exec 3<&-",
        &run,
        125,
        "descriptor 3 of LISTEN_FDS=1: it is not open (somebody in between has closed it, as npm",
    );
    refused("exec 3</dev/null", &run, 125, "descriptor 3 of LISTEN_FDS=1: it is not a socket (");
    refused("LISTEN_FDS=2", &run, 125, "descriptor 4 of LISTEN_FDS=2: it is not open");
}

#[test]
fn what_cannot_be_executed_is_told_apart() {
    let scene = Scene::new();
    let file = |name: &str, text: &str, mode: u32| {
        fs::write(scene.path(name), text).unwrap();
        fs::set_permissions(scene.path(name), fs::Permissions::from_mode(mode)).unwrap();
        scene.arg(name)
    };
    refused("", &["--", "no-such-command-1"], 127, "cannot find 'no-such-command-1' in PATH");
    refused("", &["--", "/no/such"], 127, "cannot find /no/such: no such file or directory");
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    refused("", &[&orphan], 127, "its interpreter /no/such/interpreter is missing (");
    refused("", &[&file("plain", "x", 0o644)], 126, "permission denied");
    refused("", &[&file("empty", "", 0o755)], 126, "exec format error");
    refused(&format!("PATH={}", scene.arg("")), &["plain"], 126, "cannot execute plain: permission denied");
}

#[test]
fn wrong_words_are_usage_errors_and_help_is_given() {
    refused("", &[], 2, "CMD is missing");
    refused("", &["--"], 2, "CMD is missing");
    refused("", &["-x", "echo", "ran"], 2, "unexpected option '-x' of here");
    let output = here("", &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Usage: graceful-run here [--] CMD [ARG]..."));

    let scene = Scene::new();
    let output = scene.command().args(["-b", "127.0.0.1:0", "here", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("'here' takes none of our options"));
    let output = scene.command().args(["--", "here"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
}

#[test]
fn only_the_numbers_of_processes_change() {
    let output = here("export EINHORN_MASTER_PID=1 GUNICORN_PID=1 LISTEN_PIDFDID=1", &["env"]);
    let env = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| env.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    assert_eq!(value("EINHORN_MASTER_PID"), Some(std::process::id().to_string().as_str()));
    assert_eq!(value("GUNICORN_PID"), value("EINHORN_MASTER_PID"));
    assert_eq!(value("LISTEN_FDS"), Some("1"));
    assert!(value("LISTEN_PID").is_some_and(|pid| pid != "1"), "{env}");
    assert_ne!(value("LISTEN_PIDFDID"), Some("1"));
}
