//! What `ctl` knows beyond the core: what the kernel tells of queues and connections, what
//! workers say of themselves, what a failed one wrote last; and listeners that come and go.

mod common;

use common::{SERVER, Scene, address_in, example, says, until, who};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Output;

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The address that a line says we listen on.
fn listening(line: &str) -> String {
    let rest = line.split("listening on ").nth(1).expect("such a line");
    rest.split(' ').next().expect("an address").to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn connections_are_counted_where_they_wait() {
    let scene = Scene::of("count-signals\nready notify");
    let wrapper = scene.ready(&["-b", "unix:run/x.sock,backlog=9"]);
    let address = listening(&wrapper.log.wait("listening on 127.0.0.1"));
    let _tcp: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let path = scene.path("run/x.sock");
    let _unix: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    // The last word of a handshake may still be on its way.
    until("they wait", || {
        let listeners = &scene.status()["listeners"];
        (&listeners[0]["queue"], &listeners[1]["queue"]) == (&json!(3), &json!(2))
    });
    let status = scene.status();
    let listeners = &status["listeners"];
    assert_eq!(listeners[1]["backlog"], 9);
    assert!(listeners[0]["backlog"].as_u64().unwrap() > 9);
    assert_eq!(status["workers"][0]["connections"], 0);
    wrapper.stop();
}

#[test]
fn connections_are_counted_where_they_are_held() {
    let scene = Scene::new();
    let worker = [example("worker").to_str().expect("utf-8").to_owned()];
    let wrapper = scene.start_command(&["-b", "127.0.0.1:0", "-b", "unix:run/x.sock"], &worker);
    wrapper.log.wait(&says::ready(1));
    let address = listening(&wrapper.log.wait("listening on 127.0.0.1"));
    let tcp: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let path = scene.path("run/x.sock");
    let unix: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    until("five connections are held", || scene.status()["workers"][0]["connections"] == 5);
    let metrics = text(&scene.ctl(&["metrics"]));
    for line in [
        "graceful_run_generation 1",
        "graceful_run_worker_connections{generation=\"1\",slot=\"0\",stage=\"ready\"} 5",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line} is missing:\n{metrics}");
    }
    drop((tcp, unix));
    until("none is held", || scene.status()["workers"][0]["connections"] == 0);
    wrapper.stop();
}

#[test]
fn a_worker_s_own_words_are_shown() {
    let scene = Scene::of("count-signals\nsend STATUS=one of two \u{202e}\nready notify\nsay up");
    let wrapper = scene.ready(&[]);
    scene.log.wait("worker up");
    until("the words are there", || scene.status()["workers"][0]["status"] == "one of two \u{202e}");
    let table = text(&scene.ctl(&["status"]));
    assert!(table.contains("one of two \\u{202e}\n"), "{table}");
    wrapper.stop();
}

#[test]
fn a_refused_upgrade_tells_what_the_worker_wrote_last() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--capture-stderr"]);
    let many: String = (1..=25).map(|line| format!("stderr line {line}\n")).collect();
    scene.script("2", &format!("{many}exit 3"));
    let output = scene.ctl(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    let lines: Vec<&str> = said.lines().collect();
    let theirs: Vec<&str> = lines.iter().filter_map(|line| line.split("'s stderr: ").nth(1)).collect();
    assert_eq!((theirs.len(), theirs[0], theirs[19]), (20, "line 6", "line 25"), "{said}");
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("graceful-run: cannot upgrade: ") && last.contains("exited with status 3"),
        "{said}"
    );
    assert_eq!(scene.status()["last_upgrade"]["stderr"][19], "line 25");
    scene.script("3", "stderr the database is down\nexit 4");
    let output = scene.ctl(&["--json", "upgrade"]);
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&reply["result"], &reply["stderr"]), (&json!("failed"), &json!(["the database is down"])));
    wrapper.stop();
}

#[test]
fn without_capture_nothing_is_kept() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    scene.script("2", "stderr goes by\nexit 3");
    let output = scene.ctl(&["--json", "upgrade"]);
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&reply["result"], reply.get("stderr")), (&json!("failed"), None));
    wrapper.stop();
}

fn names(scene: &Scene) -> Vec<String> {
    let status = scene.status();
    let listeners = status["listeners"].as_array().unwrap();
    listeners.iter().map(|listener| listener["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn listeners_come_and_go_with_an_upgrade() {
    let scene = Scene::of("count-signals\nserve\nready notify\ndump first");
    let wrapper = scene.ready(&["-b", &format!("old={}:0", common::host())]);
    let old = listening(&wrapper.log.wait("listening on *(old)"));
    scene.log.wait("dump first");
    let reply = text(&scene.ctl(&["--json", "bind", "new=127.0.0.1:0"]));
    let reply: Value = serde_json::from_str(&reply).unwrap();
    let new = reply["address"].as_str().unwrap().to_owned();
    assert_eq!(reply["name"], "new");
    text(&scene.ctl(&["unbind", "old"]));
    let status = scene.status();
    assert_eq!(status["listeners"][2]["outlook"], "handed over from the next upgrade on");
    assert_eq!(status["listeners"][1]["outlook"], "closed by the next upgrade");
    let table = text(&scene.ctl(&["status"]));
    assert!(table.contains("OUTLOOK") && table.contains("handed over from the next upgrade on"), "{table}");
    assert_eq!(status["listeners"][2]["fd"], Value::Null);

    // An upgrade that is undone changes nothing: a restarted old worker has what it had.
    scene.script("2", "exit 3");
    assert_eq!(scene.ctl(&["upgrade"]).status.code(), Some(1));
    assert_eq!(names(&scene), ["socket0", "old", "new"]);
    TcpStream::connect(&old).expect("it is there");
    let waiting = TcpStream::connect(&new).expect("it waits in the backlog");

    scene.script("3", "count-signals\nserve\nready notify\ndump third");
    text(&scene.ctl(&["upgrade"]));
    scene.log.wait("dump third");
    let environment = &scene.dump("third")["environment"];
    assert_eq!(
        (&environment["LISTEN_FDS"], &environment["LISTEN_FDNAMES"]),
        (&json!("2"), &json!("socket0:new"))
    );
    assert_eq!(names(&scene), ["socket0", "new"]);
    wrapper.log.wait(&says::exited(1, 0));
    assert!(TcpStream::connect(&old).is_err(), "nobody listens there any more");
    drop(waiting);
    wrapper.stop();
}

#[test]
fn a_unix_path_that_is_unbound_goes_and_one_that_is_bound_is_kept() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let one = scene.arg("run/one.sock");
    text(&scene.ctl(&["bind", &one]));
    let mut command = scene.ctl_command(&["bind", "./two.sock"]);
    text(&command.current_dir(scene.path("run")).output().unwrap());
    text(&scene.ctl(&["unbind", "socket2"]));
    assert!(!scene.path("run/two.sock").exists(), "no worker had it");
    text(&scene.ctl(&["upgrade"]));
    assert!(UnixStream::connect(&one).is_ok());
    text(&scene.ctl(&["unbind", "socket1"]));
    text(&scene.ctl(&["upgrade"]));
    assert!(!scene.path("run/one.sock").exists());
    wrapper.stop();
}

#[test]
fn what_cannot_be_bound_is_told_at_once() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    for (bind, status, why) in [
        (address.as_str(), 1, "address already in use"),
        (":99999", 2, "port"),
        ("127.0.0.1:0,reuseport", 1, "reuseport belongs to slots"),
        ("fd://0", 1, "only a start"),
    ] {
        let output = scene.ctl(&["bind", bind]);
        assert_eq!(output.status.code(), Some(status));
        let said = stderr(&output);
        assert!(
            said.starts_with(&format!("graceful-run: cannot bind {bind}: ")) && said.contains(why),
            "{said}"
        );
    }
    let output = scene.ctl(&["unbind", "web"]);
    assert!(stderr(&output).contains("cannot unbind web: there is no such listener (there are: socket0)"));
    assert!(who(&address).starts_with("g1 "));
    assert_eq!(names(&scene), ["socket0"]);
    wrapper.stop();
}
