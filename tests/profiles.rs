//! What graceful-run knows of servers, as its users see it: `graceful-run profiles`, the line of the log,
//! `doctor -- COMMAND` and `--dry-run`.
//!
//! Contract: a profile never overrides the user; what would be done is said without doing it.

mod common;

use common::{Scene, host, says, tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

/// `graceful-run ARGS`, to its end.
fn run(scene: &Scene, args: &[&str]) -> Output {
    scene.command().args(args).stdout(Stdio::piped()).output().expect("start graceful-run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn said(scene: &Scene, args: &[&str]) -> String {
    let output = run(scene, args);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
    text(&output.stdout)
}

fn json(scene: &Scene, args: &[&str]) -> Value {
    serde_json::from_slice(&run(scene, args).stdout).unwrap_or_else(|why| panic!("{args:?}: {why}"))
}

/// The exit status, the way and the reasons of `doctor --json ARGS`.
fn outlook(scene: &Scene, args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(scene, &[&["doctor", "--json"], args].concat());
    let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(object["loses_nothing"] == true, output.status.code() == Some(0), "{object}");
    let way = object["way"].as_str().unwrap_or_default().to_owned();
    (output.status.code(), way, object["reasons"].to_string())
}

fn executable(scene: &Scene, name: &str, script: &str) -> String {
    let path = scene.path(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    scene.arg(name)
}

#[test]
fn the_list_has_a_line_for_each_profile() {
    let scene = Scene::new();
    let list = said(&scene, &["profiles"]);
    let mut lines = list.lines();
    let head = lines.next().expect("a head");
    let column = head.find("TITLE").expect("a column");
    assert!(head.starts_with("NAME ") && lines.clone().count() >= 60, "{list}");
    for line in lines {
        assert_eq!(line.as_bytes()[column - 1], b' ', "aligned: {line}");
        assert_ne!(line.as_bytes()[column], b' ', "aligned: {line}");
    }
    assert!(list.contains("\nnginx "), "{list}");
    let object = json(&scene, &["profiles", "--json"]);
    let names = object["profiles"].as_array().expect("a list").iter().map(|it| it["name"].as_str().unwrap());
    assert_eq!(object["version"], 1);
    assert!(names.eq(list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap())));
}

#[test]
fn a_profile_is_shown_with_all_that_it_does() {
    let scene = Scene::new();
    let shown = said(&scene, &["profiles", "nginx"]);
    for words in ["--export nginx --stop-signal QUIT", "-g 'daemon off;'", "QUIT: stop", "nginx … -t"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let gunicorn = said(&scene, &["profiles", "gunicorn"]);
    assert!(gunicorn.contains("--daemon: it goes into the background"), "{gunicorn}");
    let object = json(&scene, &["profiles", "--json", "nginx"]);
    assert_eq!(object["with_b"]["options"][0], "--export nginx");
    assert_eq!(object["without_b"]["way"], "adopt");
    assert_eq!(object["as_process_1"]["QUIT"], "stop");
    assert!(json(&scene, &["profiles", "--json", "apache2"])["with_b"].is_null());
}

/// Every one of them, so that no text breaks the table.
#[test]
fn each_profile_can_be_shown() {
    let scene = Scene::new();
    let all = json(&scene, &["profiles", "--json"]);
    for name in all["profiles"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()) {
        let object = json(&scene, &["profiles", "--json", name]);
        assert_eq!(object["name"], name);
        let shown = said(&scene, &["profiles", name]);
        assert!(!shown.contains("]("), "a link is not for a terminal: {shown}");
        assert!(shown.lines().all(|line| line.len() > 19), "{shown}");
    }
}

#[test]
fn with_a_command_the_flags_are_shown_that_it_stands_for() {
    let scene = Scene::new();
    let shown = said(&scene, &["profiles", "nginx", "--", "nginx", "-c", "a b.conf"]);
    for line in [
        "graceful-run --profile none -b ADDRESS --export nginx --stop-signal QUIT -- nginx -g 'daemon off;' -c 'a b.conf'",
        "graceful-run --profile none --stop-signal QUIT --env NGINX= -- nginx -g 'daemon off;' -c 'a b.conf'",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let object = json(&scene, &["profiles", "--json", "--", "python3", "-m", "gunicorn", "wsgi"]);
    assert_eq!((&object["name"], &object["recognised"]), (&"gunicorn".into(), &true.into()));
    assert_eq!(object["with_b"]["command"][3], "--no-control-socket", "{object}");
    let other = json(&scene, &["profiles", "--json", "h2o", "--", "./mine"]);
    assert_eq!(other["recognised"], false);
    let told = other["with_b"]["warnings"][0].as_str().unwrap();
    assert_eq!(told, "./mine is not known as h2o: it is applied all the same");
    assert_eq!(other["with_b"]["options"][0], "--export server-starter", "told, and done: {other}");
}

#[test]
fn the_flags_that_are_shown_do_the_same_without_a_profile() {
    let scene = Scene::new();
    let standing = json(&scene, &["profiles", "--json", "nginx", "--", "nginx"]);
    let line = standing["without_b"]["line"].as_str().unwrap();
    let script = line.replacen("graceful-run", "exec \"$0\" --dry-run", 1);
    let mut shell = scene.mark(std::process::Command::new("sh"));
    shell.args(["-c", &script]).arg(common::binary()).stdout(Stdio::piped());
    let plain: Value = serde_json::from_slice(&shell.output().unwrap().stdout).unwrap();
    let by_profile = json(&scene, &["--dry-run", "nginx"]);
    assert_eq!(plain["profile"], Value::Null);
    for field in ["command", "stop_signal", "way"] {
        assert_eq!(plain[field], by_profile[field], "{field}: {line}");
    }
}

#[test]
fn a_name_that_there_is_not_names_the_nearest() {
    let scene = Scene::new();
    for args in [&["profiles", "ngnix"][..], &["--profile", "ngnix", "--", "true"]] {
        let output = run(&scene, args);
        let complained = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{complained}");
        assert!(complained.contains("there is no profile 'ngnix' (the nearest is nginx; "), "{complained}");
    }
    let unknown = run(&scene, &["profiles", "--", "./mine"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("'./mine' is known by no profile"));
    let late = run(&scene, &["-n", "2", "profiles"]);
    assert_eq!(late.status.code(), Some(2));
    assert!(text(&late.stderr).contains("'profiles' takes none of our options"));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let scene = Scene::new();
    let mut command = scene.command();
    let mut child = command.args(["profiles"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn what_the_user_says_wins() {
    let scene = Scene::new();
    let object = json(&scene, &["--dry-run", "--stop-signal", "TERM", "--", "nginx"]);
    assert_eq!(object["stop_signal"], "TERM");
    assert!(!object["applied"].to_string().contains("--stop-signal"), "not listed: {object}");
    for given in [&["-g", "daemon off;"][..], &["-g", "daemon on; pid a.pid;"]] {
        let object = json(&scene, &[&["--dry-run", "nginx"], given].concat());
        let words: Vec<&str> = ["nginx"].iter().chain(given).copied().collect();
        assert_eq!(object["command"], serde_json::json!(words), "nothing is added twice");
        assert_eq!(object["added"], serde_json::json!([]));
    }
    let none = json(&scene, &["--dry-run", "--profile", "none", "nginx"]);
    assert_eq!((&none["profile"], &none["command"]), (&Value::Null, &serde_json::json!(["nginx"])));
}

#[test]
fn a_script_that_is_named_like_a_server_is_none() {
    let scene = Scene::new();
    let script = executable(&scene, "nginx", "#!/bin/sh\nexec sleep 1000\n");
    let object = json(&scene, &["--dry-run", &script]);
    assert_eq!((&object["profile"], &object["added"]), (&Value::Null, &serde_json::json!([])));
    assert!(object["applied"].to_string().contains("is a script of the shell"), "{object}");
    // `profiles` shows what a start does.
    let standing = json(&scene, &["profiles", "--json", "--", &script]);
    assert_eq!((&standing["name"], &standing["recognised"]), (&"nginx".into(), &true.into()));
    for way in ["with_b", "without_b"] {
        let flags = &standing[way];
        assert!(flags["applied"].to_string().contains("is a script of the shell"), "{flags}");
        assert_eq!(
            (&flags["options"], &flags["command"]),
            (&serde_json::json!([]), &serde_json::json!([script]))
        );
    }
    let named = json(&scene, &["profiles", "--json", "nginx", "--", &script]);
    assert_eq!(named["without_b"]["command"][1], "-g", "{named}");
    let forced = json(&scene, &["--dry-run", "--profile", "nginx", &script]);
    assert_eq!(forced["command"][1], "-g", "{forced}");
}

#[test]
fn a_dry_run_starts_nothing_and_leaves_nothing() {
    let scene = Scene::new();
    let trace = scene.path("trace");
    let command = executable(&scene, "server", "#!/bin/sh\nexec touch \"$0.started\"\n");
    let (socket, pid_file) = (scene.arg("app.sock"), scene.arg("app.pid"));
    let args = ["--dry-run", "--name", "dry", "-b", &socket, "--pid-file", &pid_file, "--", &command];
    assert!(tool("strace").is_some(), "strace is not installed");
    let mut strace = scene.mark(std::process::Command::new("strace"));
    let calls = "trace=bind,openat,mkdir,mkdirat,unlink,rename,connect";
    strace.args(["-f", "-e", calls, "-o"]).arg(&trace).arg(common::binary()).args(args);
    let output = strace.stdout(Stdio::piped()).output().unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!((output.status.code(), &object["way"]), (Some(0), &"-b".into()), "{object}");
    assert_eq!(object["sockets"][0], *socket);
    for line in fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains('(')) {
        let reads = line.contains("openat(") && line.contains("O_RDONLY") && !line.contains("O_CREAT");
        assert!(reads || line.contains("+++") || line.contains("---"), "{line}");
    }
    for path in [socket, pid_file, format!("{command}.started")] {
        assert!(!std::path::Path::new(&path).exists(), "{path}");
    }
    assert!(fs::read_dir(scene.run()).unwrap().next().is_none());
    let wrong = run(&scene, &["--dry-run", "-b", "nope:nope:x", "true"]);
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(2), 0));
}

#[test]
fn the_exit_status_says_whether_an_upgrade_would_lose_nothing() {
    let scene = Scene::new();
    let server = executable(&scene, "server", "#!/usr/bin/env python3\n");
    let forks = executable(&scene, "run.sh", "#!/bin/sh\n./server\n");
    let file = scene.arg("data");
    fs::write(&file, "").unwrap();
    for (args, status, way, reason) in [
        (&["-b", ":8080", "--", "nginx"][..], 0, "-b", ""),
        (&["--", "nginx"], 0, "adopt", ""),
        (&["-b", ":8080", "--", &server], 0, "-b", ""),
        (&["--", &server], 0, "adopt", ""),
        (&["--", &forks], 0, "adopt", ""),
        (&["-b", ":8080", "--stop-first", "--", &server], 0, "stop-first", ""),
        (&["--follow", "USR2", "--", &server], 0, "follow", ""),
        (&["--adopt=never", "--", &server], 1, "none", "nobody holds the sockets"),
        (&["--adopt=never", "--stop-first", "--", &server], 1, "stop-first", "clients are refused"),
        (&["-b", ":8080", "--", "apache2"], 1, "-b", "apache2 binds its own sockets"),
        (&["-b", ":8080", "--export", "stdin", "--", "nginx"], 1, "-b", "by --export nginx"),
        (&["-b", ":8080", "--", &forks], 1, "-b", "write exec before"),
        (&["--profile", "gunicorn", "--", &server, "--daemon"], 1, "adopt", "it goes into the background"),
        (&["--", "sh", "-c", "exec apache2 -f a.conf"], 1, "adopt", "write -D FOREGROUND in its script"),
        (&["--", "./not-there"], 1, "adopt", "cannot find "),
        (&["--", &file], 1, "adopt", "chmod +x"),
    ] {
        let (found, by, reasons) = outlook(&scene, args);
        assert_eq!((found, by.as_str()), (Some(status), way), "{args:?}: {reasons}");
        assert!(reasons.contains(reason), "{args:?}: {reasons}");
        let dry: Vec<&str> = args.iter().copied().filter(|word| *word != "--").collect();
        assert_eq!(run(&scene, &[&["--dry-run"], &dry[..]].concat()).status.code(), Some(status));
    }
    for wrong in [&["doctor", "nginx"][..], &["doctor", "-b", "", "--", "nginx"], &["doctor", "--"]] {
        let output = run(&scene, wrong);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{wrong:?}");
    }
}

/// It takes its socket by a number, and each -b is a socket more.
#[test]
fn an_address_that_a_server_would_not_serve_is_told_before_the_start() {
    let scene = Scene::new();
    let server = executable(&scene, "uvicorn", "#!/usr/bin/env python3\n");
    let warnings = |args: &[&str]| json(&scene, &[&["--dry-run"], args].concat())["warnings"].to_string();
    let two = ["-b", ":8080", "-b", "127.0.0.1:9090,nonblock"];
    let told = warnings(&[&two[..], &[&server, "app"]].concat());
    assert!(
        told.contains(
            "--fd 3 is the socket of the first -b alone: nobody accepts connections at 127.0.0.1:9090 ("
        ),
        "{told}"
    );
    for args in
        [&[&two[..2], &[&server, "app"]].concat(), &[&two[..], &[&server, "--fd", "4", "app"]].concat()]
    {
        assert!(!warnings(args).contains("nobody accepts"), "{args:?}");
    }
}

/// Another user than root is told what adoption takes from the server.
#[test]
fn no_new_privs_is_told() {
    if !common::am_root() {
        return;
    }
    let scene = Scene::new();
    let program = scene.arg("graceful-run");
    common::copy_binary(&program);
    let asked = |args: &[&str]| {
        let mut command = scene.mark(std::process::Command::new("setpriv"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &program, "doctor", "--json"]);
        let output = command.args(args).stdout(Stdio::piped()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).expect("one object")
    };
    let adopted = asked(&["--", "/bin/cat"]);
    assert_eq!((&adopted["way"], &adopted["no_new_privs"]), (&"adopt".into(), &true.into()), "{adopted}");
    assert!(adopted["warnings"].to_string().contains("sudo and setuid programs gain nothing"), "{adopted}");
    let handed = asked(&["-b", ":8080", "--", "/bin/cat"]);
    assert_eq!(handed["no_new_privs"], false, "{handed}");
    assert_eq!(json(&scene, &["--dry-run", "/bin/cat"])["no_new_privs"], false, "not as root");
}

/// The table says the same as the object, and the last line why.
#[test]
fn the_table_is_for_people() {
    let scene = Scene::new();
    let npm = executable(&scene, "npm", "#!/usr/bin/env node\n");
    let output = run(&scene, &["doctor", "-b", ":8080", "--", &npm, "start"]);
    let (table, last) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    for line in ["way                -b: graceful-run holds the sockets", "sockets            :8080\n"] {
        assert!(table.contains(line), "{table}");
    }
    let why = "npm closes the sockets that it is handed before it starts the server: write the command of scripts.start";
    assert!(table.contains(&format!("upgrade            not without losses: {why}")), "{table}");
    assert!(
        last.starts_with(&format!("graceful-run: cannot be upgraded without losses here: {why}")),
        "{last}"
    );
    let losses = text(&run(&scene, &["doctor", "-b", ":80", "--profile", "gunicorn", "--", &npm]).stdout);
    assert!(
        losses.contains("own losses         gunicorn, uvicorn workers: drops 1 to 2 requests"),
        "{losses}"
    );
}

/// What a machine lacks is asked for only where the way needs it.
#[test]
fn what_this_machine_lacks_counts_for_adoption_alone() {
    let scene = Scene::new();
    assert!(tool("strace").is_some(), "strace is not installed");
    let server = executable(&scene, "server", "#!/usr/bin/env python3\n");
    let asked = |args: &[&str]| {
        let mut strace = scene.mark(std::process::Command::new("strace"));
        strace.args(["-f", "-o", "/dev/null", "-e", "inject=pidfd_getfd:error=EPERM"]);
        strace.arg(common::binary()).args(["doctor", "--json"]).args(args);
        let output = strace.stdout(Stdio::piped()).output().unwrap();
        let object: Value = serde_json::from_slice(&output.stdout).expect("one object");
        (output.status.code(), object)
    };
    let (status, adopted) = asked(&["--", &server]);
    assert_eq!((status, &adopted["way"]), (Some(1), &"none".into()), "{adopted}");
    assert_eq!(adopted["missing"][0]["name"], "pidfd_getfd", "{adopted}");
    let (status, handed) = asked(&["-b", ":8080", "--", &server]);
    assert_eq!((status, &handed["missing"]), (Some(0), &serde_json::json!([])), "{handed}");
}

/// The log of a real server says what its profile did, in one line.
#[test]
fn the_log_says_what_the_profile_has_done() {
    let scene = Scene::new();
    assert!(tool("nginx").is_some(), "nginx is not installed");
    let conf = "events {}\npid nginx.pid;\nerror_log stderr;\nhttp { access_log off; server { listen HOST:8000; } }\n";
    let host = host();
    fs::write(scene.path("nginx.conf"), conf.replace("HOST", &host)).unwrap();
    let address = format!("{host}:8000");
    let command = ["nginx", "-p", ".", "-e", "stderr", "-c", "nginx.conf"];
    let wrapper = scene.start_command(&["-b", &address], &command);
    wrapper.log.wait("profile nginx: --export nginx --stop-signal QUIT, adds -g 'daemon off;' (--profile none leaves it alone)");
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

/// A command that keeps the sockets is told of before the first worker is started.
#[test]
fn the_log_warns_of_a_command_that_keeps_the_sockets() {
    let scene = Scene::of("serve\nready notify");
    let npm = executable(&scene, "npm", "#!/bin/sh\nshift\nexec \"$@\"\n");
    let puppet = scene.puppet();
    let command: Vec<&str> =
        [npm.as_str(), "start"].into_iter().chain(puppet.iter().map(String::as_str)).collect();
    let wrapper = scene.start_command(&["-b", "127.0.0.1:0"], &command);
    wrapper.log.wait("npm closes the sockets that it is handed");
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}
