//! The control socket and its clients, hostile ones among them.
//!
//! Contract: whatever a client sends is answered or cut off, and holds up nobody:
//! neither the workers nor the upgrade nor the other clients.

mod common;

use common::{SERVER, Scene, WATCHDOG, Wrapper, says, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn socket(scene: &Scene, wrapper: &Wrapper) -> PathBuf {
    scene.control().join(format!("{}.sock", wrapper.pid))
}

/// A client that speaks for itself.
struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    fn new(scene: &Scene, wrapper: &Wrapper) -> Client {
        let stream = UnixStream::connect(socket(scene, wrapper)).expect("connect");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        Client { lines: BufReader::new(stream.try_clone().expect("a copy")), stream }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("send");
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next line that has a result.
    fn result(&mut self) -> Value {
        loop {
            let line = self.next().expect("a result");
            if line.get("result").is_some() {
                return line;
            }
        }
    }

    fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n"));
        self.result()
    }
}

const STATUS: &str = r#"{"version":1,"verb":"status"}"#;

#[test]
fn a_bad_line_is_answered_and_a_good_one_after_it() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut client = Client::new(&scene, &wrapper);
    let bomb = format!("{{\"version\":1,\"verb\":\"status\",\"x\":{}", "[".repeat(60_000));
    for (line, words) in [
        ("hello".into(), "a request is a JSON object"),
        ("{}".into(), "version is missing (known: 1)"),
        (r#"{"version":2,"verb":"status"}"#.into(), "version 2 is not known (known: 1)"),
        (r#"{"version":1,"verb":"dance"}"#.into(), "(known: status, upgrade,"),
        ("{\"version\":1,\"verb\":\"a\0b\"}".into(), "not understood"),
        (bomb, "not understood"),
    ] {
        let reply = client.ask(&line);
        assert_eq!(reply["result"], "invalid");
        assert!(reply["reason"].as_str().unwrap().contains(words), "{words}: {reply}");
    }
    client.send(b"{\"version\":1,\"verb\":\"\xff\xfe\"}\n");
    assert_eq!(client.result()["result"], "invalid");
    assert_eq!(client.ask(STATUS)["status"]["phase"], "running");
    let reply = client.ask(r#"{"verb":"status","version":1,"since":"tomorrow","wait":true}"#);
    assert_eq!(reply["result"], "ok", "what is not known is passed over");
    wrapper.stop();
}

#[test]
fn however_it_is_cut_each_request_has_one_result() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut client = Client::new(&scene, &wrapper);
    let stream = format!("{STATUS}\nnonsense\r\n\n{STATUS}\r\n{{}}\n");
    for piece in stream.as_bytes().chunks(7) {
        client.send(piece);
    }
    let results: Vec<Value> = (0..4).map(|_| client.result()["result"].clone()).collect();
    assert_eq!(results, ["ok", "invalid", "ok", "invalid"]);
    // All at once, and then nothing more: what was asked is answered all the same.
    let mut client = Client::new(&scene, &wrapper);
    client.send(format!("{STATUS}\n").repeat(20));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..20 {
        assert_eq!(client.result()["result"], "ok");
    }
    assert!(client.next().is_none());
    wrapper.stop();
}

#[test]
fn a_line_without_end_and_half_a_line_are_cut_off() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut endless = Client::new(&scene, &wrapper);
    let mut half = Client::new(&scene, &wrapper);
    half.send(&STATUS[..10]);
    let _ = endless.stream.write_all(&vec![b'{'; 1 << 17]);
    let reply = endless.result();
    assert!(reply["reason"].as_str().unwrap().contains("at most 65536 bytes"), "{reply}");
    assert!(endless.next().is_none());
    let reply = half.result();
    assert!(reply["reason"].as_str().unwrap().contains("half a request"), "{reply}");
    assert!(half.next().is_none());
    wrapper.stop();
}

/// For the clients, which are more than 1024 at times.
fn raise_file_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("what we may have");
}

#[test]
fn a_thousand_idle_clients_hold_up_nothing() {
    raise_file_limit();
    let scene = Scene::of(SERVER);
    // While a probation lasts, a descriptor of the program before is held.
    let wrapper = scene.ready(&["--probation", "1ms"]);
    let before = wrapper.fd_count();
    let mut idle: Vec<UnixStream> = (0..1000)
        .map(|n| {
            let mut stream = UnixStream::connect(socket(&scene, &wrapper)).expect("connect");
            // Every other one has sent half a request. Those that had to go are told by an error.
            if n % 2 == 0 {
                let _ = stream.write_all(b"{\"version\"");
            }
            stream
        })
        .collect();
    wrapper.signal(common::Signal::SIGUSR2);
    wrapper.log.wait(&says::ready(2));
    assert_eq!(scene.status()["generation"], 2, "there is room for one more");
    let oldest = &mut idle[1];
    oldest.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut rest = String::new();
    let _ = oldest.read_to_string(&mut rest);
    assert!(rest.contains("sent away for another client, nothing was done"), "the oldest had to go: {rest}");
    drop(idle);
    until("descriptors are left", || wrapper.fd_count() <= before);
    wrapper.stop();
}

#[test]
fn who_waits_is_not_sent_away_for_another() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nwait gate\nready notify");
    let wrapper = scene.ready(&[]);
    let mut waiting: Vec<Client> = (0..12)
        .map(|_| {
            let mut client = Client::new(&scene, &wrapper);
            client.send("{\"version\":1,\"verb\":\"upgrade\"}\n");
            // It has been heard: that is an event.
            client.next().expect("an event");
            client
        })
        .collect();
    for verb in ["upgrade", "commit", "events"] {
        let reply = Client::new(&scene, &wrapper).ask(&format!("{{\"version\":1,\"verb\":\"{verb}\"}}"));
        assert!(reply["reason"].as_str().unwrap().contains("12 clients wait already"), "{reply}");
    }
    assert!(scene.ctl(&["status"]).status.success(), "there is a place for the operator");
    assert!(scene.ctl(&["commit", "--no-wait"]).status.code() == Some(1));
    waiting.pop();
    until("a place becomes free", || {
        let mut client = Client::new(&scene, &wrapper);
        client.send("{\"version\":1,\"verb\":\"events\"}\n");
        client.next().is_some_and(|line| line["event"] == "hello")
    });
    scene.release("gate", 1);
    assert_eq!(waiting.remove(0).result()["to"], 2);
    for mut client in waiting {
        assert_eq!(client.result()["to"], 3);
    }
    wrapper.stop();
}

#[test]
fn who_has_asked_is_not_sent_away_and_who_was_has_asked_for_nothing() {
    let scene = Scene::of("ignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "0"]);
    let asks = |line: &str| {
        let mut client = Client::new(&scene, &wrapper);
        client.send(line);
        client
    };
    let mut waiting: Vec<Client> = (0..12)
        .map(|_| {
            let mut client = asks("{\"version\":1,\"verb\":\"events\"}\n");
            assert_eq!(client.next().unwrap()["event"], "hello");
            client
        })
        .collect();
    let mut idle: Vec<Client> = (0..4).map(|_| Client::new(&scene, &wrapper)).collect();
    let mut stops = Vec::new();
    for mut sent_away in idle.drain(..) {
        let mut stop = asks("{\"version\":1,\"verb\":\"stop\"}\n");
        // Its place is taken: what it sends now is not carried out.
        let reply = sent_away.result();
        assert!(reply["reason"].as_str().unwrap().contains("sent away"), "{reply}");
        let _ = sent_away.stream.write_all(b"{\"version\":1,\"verb\":\"stop\",\"now\":true}\n");
        if stops.is_empty() {
            assert_eq!(stop.next().unwrap()["event"], "stopping");
        }
        wrapper.log.wait_nth("asks: stop", stops.len() + 1);
        stops.push(stop);
    }
    let reply = Client::new(&scene, &wrapper).result();
    assert!(reply["reason"].as_str().unwrap().contains("16 clients wait already"), "{reply}");
    waiting.pop();
    until("a place becomes free", || scene.ctl(&["stop", "--now", "--no-wait"]).status.success());
    assert_eq!(wrapper.exit_status(), 137);
    for mut stop in stops {
        assert_eq!(stop.result()["exit_status"], 137);
    }
}

#[test]
fn one_that_watches_and_is_sent_away_says_so() {
    raise_file_limit();
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let mut watching = scene.ctl_started(&["status", "--watch"]);
    let mut line = String::new();
    BufReader::new(watching.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("running"), "{line}");
    let mut idle = Vec::new();
    until("it is sent away", || {
        idle.extend((0..16).map(|_| UnixStream::connect(socket(&scene, &wrapper)).expect("connect")));
        watching.try_wait().expect("its status").is_some()
    });
    let output = watching.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot show the status: sent away for another client"), "{said}");
    wrapper.stop();
}

#[test]
fn a_last_line_without_its_end_is_answered() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    for (line, result) in [(STATUS, "ok"), (&STATUS[..12], "invalid")] {
        let mut client = Client::new(&scene, &wrapper);
        client.send(line);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.result()["result"], result);
        assert!(client.next().is_none());
    }
    wrapper.stop();
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["-n", "2"]);
    let mut deaf: Vec<Client> = (0..4).map(|_| Client::new(&scene, &wrapper)).collect();
    for client in &mut deaf {
        // More than its socket holds: from some moment on the send would wait for ever.
        client.stream.set_nonblocking(true).unwrap();
        let _ = client.stream.write_all(format!("{STATUS}\n").repeat(5000).as_bytes());
    }
    let mut listening = Client::new(&scene, &wrapper);
    listening.send("{\"version\":1,\"verb\":\"events\"}\n");
    assert_eq!(listening.next().unwrap()["event"], "hello");
    for generation in 2..6 {
        assert!(scene.ctl(&["upgrade"]).status.success());
        assert_eq!(scene.status()["generation"], generation);
    }
    // They are cut off once a write of theirs has waited for too long.
    for client in &mut deaf {
        client.stream.set_nonblocking(false).unwrap();
        until("it is cut off", || client.stream.write_all(b"\n").is_err());
    }
    wrapper.stop();
    let mut last = Value::Null;
    while let Some(event) = listening.next() {
        last = event;
    }
    assert_eq!(last["event"], "ended");
}

#[test]
fn progress_is_told_to_who_asks_for_it() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nwait gate\nready notify");
    let wrapper = scene.ready(&["-n", "2"]);
    let mut client = Client::new(&scene, &wrapper);
    client.send("{\"version\":1,\"verb\":\"upgrade\",\"progress\":true}\n");
    let mut progress = || loop {
        let event = client.next().expect("an event");
        if event["event"] == "progress" {
            return event;
        }
    };
    let first = progress();
    assert_eq!((&first["generation"], &first["ready"], &first["of"]), (&2.into(), &0.into(), &2.into()));
    scene.release("gate", 1);
    until("one is ready", || progress()["ready"] == 1);
    scene.release("gate", 1);
    assert_eq!(client.result()["result"], "ok");
    wrapper.stop();
}

#[test]
fn without_descriptors_a_client_is_sent_away_and_a_later_one_is_served() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&[]);
    let limit = |soft: usize| {
        let mut command = std::process::Command::new("prlimit");
        command.arg("--pid").arg(wrapper.pid.to_string()).arg(format!("--nofile={soft}:"));
        assert!(command.status().expect("prlimit").success());
    };
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", wrapper.pid)).unwrap().flatten();
    let numbers: Vec<usize> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // Four are left: fewer than the clients that it would have.
    let left = |limit: &usize| (0..*limit).filter(|number| !numbers.contains(number)).count();
    limit((1..).find(|limit| left(limit) == 4).unwrap());
    let mut served = Vec::new();
    until("one is sent away", || {
        let mut client = Client::new(&scene, &wrapper);
        let _ = client.stream.write_all(format!("{STATUS}\n").as_bytes());
        let answered = client.next().is_some();
        served.push(client);
        !answered
    });
    limit(1024);
    until("it is back", || scene.ctl(&["status"]).status.success());
    wrapper.stop();
}
