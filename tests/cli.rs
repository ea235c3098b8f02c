//! Arguments: what is refused, with which words, before anything was done.

mod common;

use common::{Scene, binary};
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

/// `graceful-run ARGS`, to its end.
fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let scene = Scene::new();
    scene.command().args(args).stdout(Stdio::piped()).output().expect("start graceful-run")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A usage error that names `word`. The command would leave a trace if it ran.
fn refused(args: &[&OsStr], word: &str) {
    let scene = Scene::new();
    let trace = scene.run().join("trace");
    let mut command = scene.command();
    command.args(args).arg("--").arg("/bin/touch").arg(&trace);
    let mut wrapper = scene.spawn(command);
    let status = wrapper.exit_status();
    let said = wrapper.log.wait_end().join("\n");
    assert_eq!(status, 2, "{args:?}: {said}");
    assert!(said.contains(word), "{args:?}: no {word:?} in {said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("graceful-run: "), "{args:?}: {said}");
    assert!(!trace.exists(), "{args:?}: the command ran");
}

#[test]
fn a_bind_that_cannot_be_meant_is_refused() {
    for bind in [
        "",
        ":",
        ":99999",
        ":-1",
        ":http:x",
        "127.0.0.1",
        "127.0.0.1:",
        "[::1",
        "[::1]",
        "::1:80:x",
        "unix:",
        "unix-dgram:",
        "fd://x",
        "fd://",
        "fd://-1",
        "http://127.0.0.1:80",
        "@",
        "127.0.0.1:0,backlog=x",
        "127.0.0.1:0,backlog=-1",
        "127.0.0.1:0,mode=0660",
        "127.0.0.1:0,nonsense",
        "127.0.0.1:0,v6only",
        "unix:/tmp/x.sock,reuseport",
        "unix:/tmp/x.sock,nodelay",
        "unix:/tmp/x.sock,mode=abc",
        "udp://127.0.0.1:0,defer-accept=3",
        "a:b=127.0.0.1:0",
        "127.0.0.1:0,block,nonblock",
    ] {
        refused(&["-b".as_ref(), bind.as_ref()], bind);
    }
    refused(&["-b".as_ref(), OsStr::from_bytes(b"127.0.0.1:\xff")], "127.0.0.1:");
}

#[test]
fn a_unix_path_that_is_too_long_is_refused_with_the_limit() {
    let path = format!("unix:/tmp/{}", "x".repeat(103));
    refused(&["-b".as_ref(), path.as_ref()], "107");
}

#[test]
fn a_duration_that_is_none_is_refused() {
    for option in ["--ack-timeout", "--stop-timeout", "--soak", "--stable"] {
        for value in ["5x", "1e20", "", "abc", "99999999999999999999s"] {
            refused(&[option.as_ref(), value.as_ref()], option);
        }
        let negative = format!("{option}=-1");
        refused(&[negative.as_ref()], option);
    }
}

#[test]
fn a_value_that_is_not_of_the_list_is_refused() {
    for (option, value) in [
        ("--workers", "0"),
        ("--workers", "-3"),
        ("--workers", "many"),
        ("--restart", "sometimes"),
        ("--on-ack-timeout", "maybe"),
        ("--on-death", "cry"),
        ("--log-format", "xml"),
        ("--stop-signal", "NOPE"),
        ("--umask", "9"),
        ("--surge", "0"),
        ("--max-draining", "x"),
        ("--ack", "telepathy"),
        ("--ack", "fd:x"),
        ("--ack", "timer"),
        ("--ack", "exec:"),
        ("--ack", ""),
        ("--env", "NOVALUE"),
        ("--env", "=x"),
        ("--pass-fd", "x"),
        ("--export", "morse"),
    ] {
        refused(&[format!("{option}={value}").as_ref()], option);
    }
}

#[test]
fn an_option_that_we_do_not_know_is_refused() {
    refused(&["--frobnicate".as_ref()], "--frobnicate");
}

#[test]
fn no_command_is_refused() {
    for args in [&["-b", "127.0.0.1:0"][..], &["-b", "127.0.0.1:0", "--"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).lines().last().unwrap().starts_with("graceful-run: "));
    }
}

#[test]
fn help_and_version_are_for_stdout() {
    for args in [["--help"], ["--version"], ["-h"], ["-V"]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for option in ["--bind", "--ack", "--surge", "--soak", "--stop-timeout", "--pid-file"] {
        assert!(help.contains(option), "{option}");
    }
}

/// The system calls of a usage error: it makes no socket, no process and no file.
#[test]
fn a_usage_error_does_nothing() {
    let scene = Scene::new();
    let trace = scene.path("trace");
    let calls = "trace=bind,listen,clone,clone3,fork,vfork,openat,unlink,mkdir,rename";
    let mut strace = scene.mark(Command::new("strace"));
    let status = strace
        .args(["-f", "-e", calls, "-o"])
        .arg(&trace)
        .arg(binary())
        .args(["-b", "127.0.0.1:0", "-b", "127.0.0.1:x", "--", "true"])
        .stderr(Stdio::null())
        .status();
    let Ok(status) = status else { return }; // No strace here: exit_status.rs looks at files.
    let trace = std::fs::read_to_string(trace).unwrap();
    assert_eq!(status.code(), Some(2), "{trace}");
    let traced: Vec<&str> = calls.trim_start_matches("trace=").split(',').collect();
    for line in trace.lines() {
        // `PID call(…`. A thread that ends with us within a call that strace has not read is `???(`.
        let call = line.split('(').next().and_then(|text| text.split_whitespace().last()).unwrap_or_default();
        let reads = call == "openat" && !line.contains("O_CREAT");
        let harmless = reads || line.contains("CLONE_THREAD") || !traced.contains(&call);
        assert!(harmless, "{line}");
    }
}

#[test]
fn the_same_address_twice_is_named_twice() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let output = run(&["-b", &address, "-b", &address, "--", "/bin/true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn an_inherited_fd_that_is_no_socket_is_named() {
    let output = run(&["-b", "fd://77", "--", "/bin/true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("77"), "{}", stderr(&output));
    let scene = Scene::new();
    let mut shell = scene.mark(Command::new("/bin/sh"));
    shell.args(["-c", "exec \"$@\" 8</dev/null", "sh"]).arg(binary());
    let output = shell.args(["-b", "fd://8", "--", "/bin/true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains('8'), "{}", stderr(&output));
}

/// Few descriptors: it works, or it says so and ends. It never hangs or panics.
#[test]
fn few_descriptors_are_no_trouble() {
    for limit in [4, 6, 8, 12, 16, 24] {
        let scene = Scene::of("exit 0");
        let mut command = scene.mark(Command::new("/bin/sh"));
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]);
        command.arg(binary()).args(["-b", "127.0.0.1:0", "--", "/bin/true"]);
        let mut wrapper = scene.spawn(command);
        let status = wrapper.exit_status();
        assert!([0, 124, 125, 127].contains(&status), "{limit}: {status}");
    }
}
