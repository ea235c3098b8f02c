//! What the user can do about a worker that failed: said where there is evidence, and not elsewhere.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, am_root, host, quick, says};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const PORT: &str = "7345";
/// Where the words of a worker are that we have not read.
const SEE_OUTPUT: &str = " (see its output, or use --capture-stderr to have it here)";

fn executable(scene: &Scene, name: &str, text: &str) -> String {
    let path = scene.path(name);
    fs::write(&path, text).expect("write a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    scene.arg(name)
}

/// The last line of a first start that ends with `status`.
fn last_line(mut wrapper: Wrapper, status: i32) -> String {
    assert_eq!(wrapper.exit_status(), status);
    wrapper.last_line()
}

#[test]
fn a_first_worker_without_evidence_gets_no_hint() {
    let scene = Scene::of("stderr no such database\nexit 3");
    for more in [&[][..], &["--capture-stderr"]] {
        let line = last_line(scene.start(&quick(more)), 3);
        let where_it_is = if more.is_empty() { SEE_OUTPUT } else { "" };
        assert!(line.ends_with(&format!("running: it exited with status 3{where_it_is}")), "{line}");
    }
    let line = last_line(scene.start_command(&quick(&[]), &["false"]), 1);
    assert!(line.ends_with(&format!("'false' running: it exited with status 1{SEE_OUTPUT}")), "{line}");
}

/// Its words are in our own output, or they are in the verdict; of one that was killed there are none.
#[test]
fn a_verdict_says_where_the_reason_is() {
    for (more, end, expected) in [
        (&[][..], "exit 3", "exited with status 3 before it was ready (see its output"),
        (&[], "kill -SEGV $$", "was ended by signal 11 (SEGV) before it was ready (see its output"),
        (&[], "kill -KILL $$", "was ended by signal 9 (KILL) before it was ready; "),
        (&["--capture-stderr"], "exit 3", "exited with status 3 before it was ready; "),
    ] {
        let scene = Scene::of(SERVER);
        let server = format!("#!/bin/sh\n[ $GRACEFUL_RUN_GENERATION = 1 ] && exec \"$@\"\n{end}\n");
        let server = executable(&scene, "server", &server);
        let puppet = scene.puppet();
        let command: Vec<&str> =
            [server.as_str()].into_iter().chain(puppet.iter().map(String::as_str)).collect();
        let wrapper = scene.start_command(&quick(more), &command);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(2));
        assert!(line.contains(expected) && line.ends_with("; generation 1 still serves"), "{line}");
        wrapper.stop();
    }
}

#[test]
fn an_address_in_use_says_what_to_do_whatever_the_status_is() {
    for status in [0, 1] {
        let scene = Scene::of(&format!("stderr OSError: [Errno 98] Address already in use\nexit {status}"));
        let line = last_line(scene.start(&quick(&["--capture-stderr"])), status);
        assert!(line.contains("it binds its address itself, and -b holds that"), "{line}");
        assert!(line.contains("leave -b out") && line.contains("--export"), "{line}");
    }
    // With others beside it, which have to stop first.
    let scene = Scene::of("stderr OSError: [Errno 98] Address already in use\nexit 1");
    scene.script("1.0", "count-signals\nserve");
    let line = last_line(scene.start(&quick(&["--capture-stderr", "-n", "2"])), 1);
    assert!(line.contains("it binds its address itself, and -b holds that"), "{line}");
    // Somebody else's address.
    let scene = Scene::of("stderr listen tcp 127.0.0.1:9: bind: address already in use\nexit 1");
    let line = last_line(scene.start(&quick(&["--capture-stderr"])), 1);
    assert!(line.contains("ss -ltnp 'sport = :9' shows who"), "{line}");
}

#[test]
fn without_its_words_a_port_of_ours_in_its_configuration_is_evidence() {
    let host = host();
    let bind = format!("{host}:{PORT}");
    let scene = Scene::new();
    fs::write(scene.path("server.py"), format!("bind(('{host}', {PORT}))\n")).unwrap();
    for (args, command, what) in [
        (&[][..], &["sh", "-c", "exit 1", PORT][..], "an argument of it"),
        (&[], &["sh", "-c", "exit 1", "--listen=0.0.0.0:7345"], "an argument of it"),
        (&["-E", "PORT=7345"], &["false"], "its variable PORT"),
        (&[], &["false", "server.py"], "server.py"),
    ] {
        let args = [&["-b", bind.as_str()], args].concat();
        let line = last_line(scene.start_command(&args, command), 1);
        // What it says is not known: another cause is as likely.
        assert!(line.contains("(if it says that its address is in use: "), "{line}");
        let told = format!("{what} names port {PORT}, which -b holds: leave -b out");
        assert!(line.contains(&told), "{line}");
    }
    let args = ["-b", bind.as_str(), "-E", "COUNT=7345"];
    let line = last_line(scene.start_command(&args, &["false"]), 1);
    assert!(line.ends_with(SEE_OUTPUT) && !line.contains("7345,"), "{line}");
    // It says something else, or was not executed.
    let args = ["-b", bind.as_str(), "--capture-stderr"];
    let line = last_line(scene.start_command(&args, &["sh", "-c", "echo no database >&2; exit 1", PORT]), 1);
    assert!(line.ends_with("it exited with status 1"), "{line}");
    let line = last_line(scene.start_command(&args[..2], &["sh", "-c", "exec no-such-program", PORT]), 127);
    assert!(!line.contains("names port"), "{line}");
}

/// As a port: a path of ours in what it was given, or in what it says.
#[test]
fn a_server_that_binds_a_path_of_ours_itself_is_told() {
    let Some(python) = common::tool("python3") else { return };
    let scene = Scene::new();
    let path = scene.arg("app.sock");
    let server = "import socket, sys\nserver = socket.socket(socket.AF_UNIX)\n\
                  try: server.bind(sys.argv[1])\nexcept OSError as error: sys.exit(f'{sys.argv[1]}: {error}')\n";
    fs::write(scene.path("server.py"), server).unwrap();
    let bind = format!("unix:{path}");
    let python = python.to_str().unwrap();
    let told = |line: &str, named: &str| {
        line.contains(&format!(
            "if it says that its address is in use: an argument of it names {named}, which -b"
        ))
    };
    let line = last_line(scene.start_command(&["-b", &bind], &[python, "server.py", &path]), 1);
    assert!(told(&line, &path), "{line}");
    // Spelled in another way.
    let line = last_line(scene.start_command(&["-b", &bind], &[python, "server.py", "./app.sock"]), 1);
    assert!(told(&line, "./app.sock"), "{line}");
    fs::write(scene.path("conf"), format!("listen {path};\n")).unwrap();
    let line = last_line(scene.start_command(&["-b", &bind], &["false", "conf"]), 1);
    assert!(line.contains(&format!("conf names {path}, which -b holds")), "{line}");
    let args = ["-b", &bind, "--capture-stderr"];
    let line = last_line(scene.start_command(&args, &[python, "server.py", &path]), 1);
    assert!(line.contains("it binds its address itself, and -b holds that"), "{line}");
    // Another one, which somebody else has bound.
    let other = scene.arg("other.sock");
    let _theirs = std::os::unix::net::UnixListener::bind(&other).unwrap();
    let line = last_line(scene.start_command(&args, &[python, "server.py", &other]), 1);
    assert!(line.contains(&format!("ss -lxp src {other} shows who has its address")), "{line}");
    let line = last_line(scene.start_command(&args[..2], &[python, "server.py", &other]), 1);
    assert!(line.ends_with(SEE_OUTPUT), "{line}");
}

#[test]
fn a_known_server_is_told_how_it_gets_its_sockets() {
    let scene = Scene::new();
    let nginx = executable(&scene, "nginx", "#!/bin/sh\nexit 1\n");
    let line = last_line(scene.start_command(&quick(&["--stop-signal", "QUIT"]), &[&nginx]), 1);
    assert!(line.ends_with("it exited with status 1 (nginx takes its sockets by --export nginx)"), "{line}");
    let command = ["sh", "-c", &format!("exec {nginx} -g 'daemon off;'")];
    let line = last_line(scene.start_command(&quick(&["--export", "stdin"]), &command), 1);
    assert!(line.contains("(nginx takes its sockets by --export nginx)"), "{line}");
    // What is said comes from the profile that was chosen.
    let line = last_line(scene.start_command(&quick(&["--profile", "none"]), &command), 1);
    assert!(line.ends_with(SEE_OUTPUT), "{line}");
    let named = ["--profile", "apache2", "--stop-signal", "TERM"];
    let line = last_line(scene.start_command(&quick(&named), &["false"]), 1);
    assert!(
        line.ends_with("it exited with status 1 (apache2 binds its own sockets: leave -b out)"),
        "{line}"
    );
    // It has its dialect: something else is wrong.
    let line = last_line(scene.start_command(&quick(&["--export", "nginx"]), &[&nginx]), 1);
    assert!(line.ends_with(SEE_OUTPUT), "{line}");
}

#[test]
fn one_that_runs_already_is_told_of_a_path_for_each_generation() {
    let scene = Scene::of(SERVER);
    scene.script("2", "stderr httpd (pid 4711) already running\nexit 0");
    scene.script("3", "stderr syntax error on line 3\nexit 1");
    let wrapper = scene.ready(&["--capture-stderr"]);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("write $GRACEFUL_RUN_GENERATION in its path"), "{line}");
    assert!(line.contains("--stop-first") && line.ends_with("; generation 1 still serves"), "{line}");
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(3));
    assert!(!line.contains("GRACEFUL_RUN_GENERATION"), "{line}");
    wrapper.stop();
}

/// apache2 says it on stdout, and ends with 0.
#[test]
fn a_known_server_of_which_there_is_one_is_told_without_its_words_too() {
    let scene = Scene::new();
    let text = "#!/bin/sh\n[ $GRACEFUL_RUN_GENERATION = 1 ] || { echo 'httpd (pid 1) already running'; exit 0; }\n\
                exec sleep 300\n";
    let server = executable(&scene, "apache2", text);
    for more in [&[][..], &["--capture-stderr"]] {
        let ack = ["--ack", "exec:test $GRACEFUL_RUN_GENERATION = 1", "--soak", "1ms", "--adopt=never"];
        let args = [&ack, more].concat();
        let wrapper = scene.start_command(&args, &[&server]);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(2));
        let told = "(if it runs already: each worker of apache2 needs a PidFile (-c 'PidFile …') of its own";
        assert!(line.contains(told) && line.contains("$GRACEFUL_RUN_GENERATION"), "{line}");
        wrapper.stop();
    }
}

/// What it needs for that it has already: another cause is likely.
#[test]
fn a_known_server_that_can_run_twice_is_not_told_that_it_runs_already() {
    let text = "#!/bin/sh\necho >> starts\n[ $(wc -l < starts) = 1 ] && exec sleep 300\nexit 1\n";
    let ack = ["--ack", "exec:test $GRACEFUL_RUN_GENERATION = 1", "--soak", "1ms", "--adopt=never"];
    let own = "-n w.$GRACEFUL_RUN_GENERATION";
    for (name, conf, script, told) in [
        ("squid", "pid_filename none\n", "", false),
        ("squid", "pid_filename squid.pid\n", "", true),
        ("varnishd", "", own, false),
        ("varnishd", "", "-n w", true),
    ] {
        let scene = Scene::new();
        let server = executable(&scene, name, text);
        fs::write(scene.path("conf"), conf).unwrap();
        let script = format!("exec {server} {script} -f conf");
        let wrapper = scene.start_command(&ack, &["sh", "-c", &script]);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(2));
        assert_eq!(line.contains("(if it runs already: "), told, "{line}");
        wrapper.stop();
    }
    // It has run beside another.
    let scene = Scene::new();
    let server = executable(&scene, "squid", &text.replace("= 1", "-le 2"));
    let ack = ["--ack", "exec:test $GRACEFUL_RUN_GENERATION -le 2", "--soak", "1ms", "--adopt=never"];
    let wrapper = scene.start_command(&ack, &[&server]);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: serves after");
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(3));
    assert!(!line.contains("if it runs already"), "{line}");
    wrapper.stop();
}

/// A shell that has executed the server is not there any more.
#[test]
fn a_shell_is_told_of_exec_where_it_was_there_to_the_end() {
    let leaves = "import os, time\nif os.fork() == 0: time.sleep(300)\n";
    let exec = ["sh", "-c", "exec python3 server.py"];
    let last = ["sh", "-c", "cd . && exec python3 server.py"];
    let none = ["sh", "-c", "python3 server.py; true"];
    let (script, direct) = (["sh", "run-the-server.sh"], ["./run-the-server.sh"]);
    for (command, text, told) in [
        (&exec[..], "", false),
        (&last, "", false),
        (&none, "", true),
        (&script, "set -e\nexec 2>&1\nexec python3 server.py\n", false),
        (&script, "exec 2>&1\npython3 server.py\ntrue\n", true),
        (&direct, "exec python3 server.py\n", false),
        (&direct, "python3 server.py\ntrue\n", true),
    ] {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), leaves).unwrap();
        executable(&scene, "run-the-server.sh", &format!("#!/bin/sh\n{text}"));
        let mut wrapper = scene.start_command(&quick(&[]), command);
        let line = wrapper.log.wait("generation 1: pid * exited with status 0 *; it left processes behind");
        assert_eq!(line.contains("(write exec before the last command)"), told, "{command:?} {text}: {line}");
        assert_eq!(wrapper.exit_status(), 0);
    }
}

#[test]
fn a_port_that_the_serving_worker_has_bound_itself_is_named() {
    let Some(python) = common::tool("python3") else { return };
    let scene = Scene::new();
    let server = "import os, socket\nserver = socket.socket()\nserver.bind(('127.0.0.1', PORT))\nserver.listen()\n\
                  os.write(int(os.environ['READY_FD']), b'\\n')\n\
                  while True:\n    server.accept()[0].close()\n";
    // A port that is free: another program has just had it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(scene.path("server.py"), server.replace("PORT", &free.to_string())).unwrap();
    let command = [python.to_str().unwrap(), "server.py"];
    for more in [&[][..], &["--capture-stderr"]] {
        let args = [&["--ack", "fd", "--soak", "1ms", "--adopt=never"], more].concat();
        let wrapper = scene.start_command(&args, &command);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(2));
        let told =
            format!("the worker that serves has bound port {free} itself, so a second one cannot: say");
        assert!(line.contains(&told) && line.contains("--adopt"), "{line}");
        wrapper.stop();
    }
}

/// File capabilities are lost with no_new_privs.
#[test]
fn what_no_new_privs_takes_away_is_said() {
    if !am_root() {
        return;
    }
    let scene = Scene::new();
    let server = executable(&scene, "server", "#!/bin/sh\necho 'bind: Permission denied' >&2\nexit 1\n");
    fs::set_permissions(scene.path("server"), fs::Permissions::from_mode(0o4755)).unwrap();
    let args = ["--no-new-privs", "--capture-stderr"];
    let line = last_line(scene.start_command(&args, &[&server]), 1);
    assert!(line.contains("no_new_privs takes away what its file gives it (chmod u+s)"), "{line}");
    let line = last_line(scene.start_command(&args[1..], &[&server]), 1);
    assert!(line.ends_with("it exited with status 1"), "{line}");
    // Without its words another cause is as likely.
    let line = last_line(scene.start_command(&args[..1], &[&server]), 1);
    assert!(line.contains("(if it was not permitted something: no_new_privs takes away"), "{line}");
}

/// A configuration that is wrong costs no outage with --stop-first: a known server checks it first.
#[test]
fn with_stop_first_a_known_server_checks_its_configuration_before_the_old_one_is_stopped() {
    let scene = Scene::new();
    let text = "#!/bin/sh\ncase \"$*\" in *' -t') grep -q crash conf && kill -SEGV $$; grep -q good conf; exit;; esac\nexec sleep 300\n";
    let server = executable(&scene, "apache2", text);
    fs::write(scene.path("conf"), "good").unwrap();
    let command = [server.as_str(), "-D", "FOREGROUND", "-f", "conf"];
    let plain =
        ["--stop-first", "--adopt=never", "--ack", "timer:10ms", "--soak", "1ms", "--stop-signal", "TERM"];
    let args = [&plain[..], &["--profile", "apache2"]].concat();
    let wrapper = scene.start_command(&args, &command);
    wrapper.log.wait("before an upgrade the server checks its own configuration: exec ");
    wrapper.log.wait(&says::ready(1));
    let pids = || wrapper.children().into_iter().map(|(pid, _)| pid).collect::<Vec<_>>();
    let first = pids();
    fs::write(scene.path("conf"), "bad").unwrap();
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("the server's own check ") && line.contains(" exited with status 1"), "{line}");
    assert!(line.ends_with("--hook pre-upgrade=true nothing); generation 1 still serves"), "{line}");
    assert_eq!(pids(), first, "nothing was stopped for it");
    fs::write(scene.path("conf"), "good").unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(3));
    fs::write(scene.path("conf"), "crash").unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("the server's own check * was ended by signal 11 (SEGV): that says nothing");
    wrapper.log.wait(&says::ready(4));
    wrapper.stop();

    // A hook of the user takes its place.
    let wrapper = scene.start_command(&[&args[..], &["--hook", "pre-upgrade=true"]].concat(), &command);
    wrapper.log.wait(&says::ready(1));
    assert!(!wrapper.log.has("checks its own configuration"));
    wrapper.stop();
    // Nobody checks; a script of the shell that has the name of a server may do anything.
    let none = [&plain[..], &["--profile", "none"]].concat();
    let other = ["sleep", "300"];
    for (args, command) in [(&plain[..], &other[..]), (&plain, &command), (&none, &command)] {
        let wrapper = scene.start_command(args, command);
        wrapper.log.wait("nothing checks a release before the old worker is stopped for it");
        wrapper.stop();
    }
}

/// The same of real servers, with the sockets that they are given. Whoever has a socket by its number
/// looks for it while it reads its configuration.
#[test]
fn real_servers_check_their_configuration_with_their_sockets() {
    let host = host();
    let bind = format!("{host}:{PORT}");
    let nginx = format!(
        "daemon off; pid n.pid; error_log stderr; events {{}} http {{ access_log off; server {{ listen {bind}; }} }}"
    );
    let haproxy = "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
                   frontend f\n bind fd@3\n http-request return status 200\n";
    let lighttpd = format!(
        "server.bind = \"{host}\"\nserver.port = {PORT}\nserver.document-root = \"/usr\"\n\
         server.systemd-socket-activation = \"enable\"\n"
    );
    for (name, arguments, good, bad, options) in [
        (
            "nginx",
            &["-p", ".", "-e", "stderr", "-c", "conf"][..],
            nginx.as_str(),
            nginx.replace("events", "event"),
            &["--export", "nginx"][..],
        ),
        (
            "haproxy",
            &["-db", "-f", "conf"],
            haproxy,
            haproxy.replace("client", "klient"),
            &["--stop-signal", "USR1"],
        ),
        (
            "lighttpd",
            &["-D", "-f", "conf"],
            &lighttpd,
            lighttpd.replace("\"/usr\"", "\"/usr"),
            &["--stop-signal", "INT"],
        ),
    ] {
        let Some(server) = common::tool(name) else { continue };
        let scene = Scene::new();
        fs::write(scene.path("conf"), good).unwrap();
        let command = [&[server.to_str().unwrap()], arguments].concat();
        let args =
            [&["-b", bind.as_str(), "--stop-first", "--ack", "accepting", "--soak", "1ms"], options].concat();
        let wrapper = scene.start_command(&args, &command);
        wrapper.log.wait(&says::ready(1));
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::ready(2));
        fs::write(scene.path("conf"), bad).unwrap();
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(3));
        assert!(
            line.contains("the server's own check ") && line.ends_with("; generation 2 still serves"),
            "{line}"
        );
        wrapper.stop();
    }
}

#[test]
fn a_refusal_before_the_old_worker_was_stopped_says_that_it_still_serves() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--stop-first", "--hook", "pre-upgrade=false"]);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.ends_with("; generation 1 still serves"), "{line}");
    wrapper.stop();
}

/// A replacement that is ready at once has to live as long as its predecessor took to start.
#[test]
fn a_long_soak_says_where_it_comes_from() {
    let scene = Scene::of("count-signals\nwait boot\nserve");
    scene.script("2", "count-signals\nserve");
    let wrapper = scene.start(&["-b", "127.0.0.1:0"]);
    wrapper.log.wait("generation 1: pid *: not ready after *: it was not seen to wait on");
    scene.release("boot", 1);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait("generation 2: pid * replaces its predecessor in ");
    assert!(line.contains("that one took ") && line.contains("this one has to live as long"), "{line}");
    let status = String::from_utf8(scene.ctl(&["status"]).stdout).unwrap();
    assert!(status.contains("replaces in ") && status.contains("took long to start"), "{status}");
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn a_command_in_one_word_is_told_that_no_shell_splits_it() {
    let scene = Scene::new();
    let mut wrapper = scene.start_command(&[], &["node server.js"]);
    assert_eq!(wrapper.exit_status(), 127);
    assert!(wrapper.last_line().contains("(no shell splits words"), "{:?}", wrapper.log.all());
    assert_eq!(wrapper.log.count("cannot find 'node server.js'"), 1, "{:?}", wrapper.log.all());
}

/// The kernel looks for `#!` in the first two bytes.
#[test]
fn a_script_with_something_before_its_first_line_is_told_what_it_is() {
    let scene = Scene::new();
    for (text, why) in [
        ("\u{feff}#!/bin/sh\n", "it begins with a byte order mark"),
        ("\n#!/bin/sh\n", "something stands before its #!"),
        ("exit 0\n", "a script begins with #!"),
    ] {
        let script = executable(&scene, "script", text);
        let line = last_line(scene.start_command(&[], &[&script]), 126);
        assert!(line.contains(&format!("script: exec format error ({why}")), "{line}");
    }
}

#[test]
fn a_verb_of_ctl_without_ctl_is_told_of_it() {
    let scene = Scene::new();
    for verb in ["status", "upgrade", "rollback", "scale", "hammer", "unbind"] {
        let line = last_line(scene.start_command(&[], &[verb, "2"]), 127);
        assert!(line.ends_with(&format!("(to ask one that runs: graceful-run ctl {verb})")), "{line}");
    }
    let line = last_line(scene.start_command(&[], &["statuses"]), 127);
    assert!(line.ends_with("(give its path, or set PATH with --env)"), "{line}");
    // A program of that name is one.
    executable(&scene, "upgrade", "#!/bin/sh\nexit 7\n");
    let path = format!("PATH={}:/bin", scene.path("").display());
    assert!(last_line(scene.start_command(&["-E", &path], &["upgrade"]), 7).contains("exited with status 7"));
}

/// A shell can neither read nor set such a variable, and other programs are configured by them.
#[test]
fn a_variable_that_no_shell_can_use_is_named_once_for_each_release() {
    let scene = Scene::of(SERVER);
    fs::write(scene.path("settings"), "GOOD=1\nA-B=x\n").unwrap();
    let wrapper = scene.ready(&["-n", "2", "--env-file", &scene.arg("settings")]);
    let told = "settings: line 2: the name 'A-B' is none that a shell can use";
    wrapper.log.wait(told);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert_eq!(wrapper.log.count(told), 2, "{:?}", wrapper.log.all());
    wrapper.stop();
}
