//! What the conventions do to a supervisor that takes them at their word.

use crate::common::{Scene, Signal, Wrapper, am_root, binary, says};
use crate::stage::{GO, PYTHON, address_of_our_own, program, worker_py};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// `graceful-run OPTIONS -- WORKER`, where `WORKER` is this word of a worker's command line.
fn start(scene: &Scene, options: &[&str], command: &[String]) -> Wrapper {
    let options = [options, &["--soak", "50ms"]].concat();
    scene.start_command(&options, command)
}

fn go(arguments: &[&str]) -> Option<Vec<String>> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    Some([program(GO)?].into_iter().chain(arguments).collect())
}

/// The reply to one request, whole.
fn get(address: SocketAddr, path: &str) -> String {
    let mut client = ask(address, path);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    reply
}

fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("connect");
    client.set_read_timeout(Some(crate::common::WATCHDOG)).expect("a watchdog");
    write!(client, "GET {path} HTTP/1.0\r\n\r\n").expect("ask");
    client
}

/// A command that is another one in each generation: `(1, command)`, and the last for the rest.
fn by_generation(commands: &[(u32, Vec<String>)]) -> Vec<String> {
    let mut cases = String::new();
    for (generation, command) in commands {
        let words: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
        cases += &format!("{generation}) exec {};; ", words.join(" "));
    }
    let script = format!("case $GRACEFUL_RUN_GENERATION in {cases} esac");
    vec!["sh".into(), "-c".into(), script]
}

/// It could not bind, it is alive, and it listens to nothing: it must never push out a good one.
#[test]
fn a_deaf_server_does_not_replace_a_good_one() {
    let scene = Scene::new();
    let address = address_of_our_own("deaf");
    let spelled = address.to_string();
    let (Some(good), Some(deaf)) = (go(&["flag", "-graceful"]), go(&["shutdown", &spelled])) else { return };
    let command = by_generation(&[(1, good.clone()), (2, deaf), (3, good)]);
    let wrapper = start(&scene, &["-b", &spelled, "--ack-timeout", "3s"], &command);
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 is deaf");
    wrapper.log.wait(&says::failed(2));
    assert!(get(address, "/").contains("generation 1 "));
    assert_eq!(scene.log.count("g1 got "), 0);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

/// From one library to another: neither knows of the other.
#[test]
fn a_library_replaces_another() {
    let scene = Scene::new();
    let address = address_of_our_own("another");
    let spelled = address.to_string();
    let (Some(grace), Some(endless)) = (go(&["grace", &spelled]), go(&["endless", &spelled])) else { return };
    let command = by_generation(&[(1, grace.clone()), (2, endless), (3, grace)]);
    let options = ["-b", &spelled, "--export", "listen-fds,endless", "--ack", "parent-term"];
    let wrapper = start(&scene, &options, &command);
    for generation in 1..=3 {
        wrapper.log.wait(&says::ready_by(generation, "parent-term"));
        wrapper.log.wait(&says::ready(generation));
        assert!(get(address, "/").contains(&format!("generation {generation} ")));
        if generation < 3 {
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::exited(generation, 0));
        }
    }
    wrapper.stop();
}

/// Each of these servers looks at its own variables and takes no notice of the others'.
#[test]
fn several_conventions_at_once() {
    let scene = Scene::new();
    let address = address_of_our_own("several").to_string();
    let (Some(crank), Some(python)) = (go(&["crank"]), program(PYTHON)) else { return };
    let puma = format!("tcp://{address}");
    let reader = |words: &[&str]| {
        let first = [python.clone(), worker_py(), "--leave".to_owned(), "TERM".to_owned()];
        first.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>()
    };
    let commands = [
        (1, reader(&["einhorn", "ruby"])),
        (2, crank),
        (3, reader(&["einhorn", "fd"])),
        (4, reader(&["server-starter", &address])),
        (5, reader(&["php-fpm", &address])),
        (6, reader(&["puma", &puma])),
    ];
    let export = "listen-fds,einhorn,server-starter,crank,puma,php-fpm";
    let options = ["-b", &address, "--export", export, "--stop-signal", "TERM"];
    let options = [&options[..], &["--ack", "einhorn,crank,accepting", "--stop-timeout", "30s"]].concat();
    let wrapper = start(&scene, &options, &by_generation(&commands));
    for generation in 1..=6 {
        scene.log.wait(&format!("g{generation} acks"));
        wrapper.log.wait(&says::ready(generation));
        if generation > 1 {
            wrapper.log.wait(&says::exited(generation - 1, 0));
            assert_eq!(scene.log.count(&format!("g{} got ", generation - 1)), 1);
        }
        if generation < 6 {
            wrapper.signal(Signal::SIGHUP);
        }
    }
    wrapper.stop();
}

#[test]
fn an_endless_server_is_ready_with_the_last_of_its_listeners() {
    let scene = Scene::new();
    scene.gate("second");
    let addresses = [address_of_our_own("endless 1"), address_of_our_own("endless 2")];
    let [one, two] = addresses.map(|address| address.to_string());
    let Some(command) = go(&["-gate", "second", "endless", &one, &two]) else { return };
    let options = ["-b", &one, "-b", &two, "--export", "endless", "--ack", "parent-term"];
    let wrapper = start(&scene, &options, &command);
    scene.log.wait("g1 serves");
    scene.log.wait("g1 waits at the gate");
    assert!(get(addresses[0], "/which").contains(&one));
    assert!(!wrapper.log.has(&says::ready_by(1, "")), "{:?}", wrapper.log.all());
    scene.release("second", 1);
    wrapper.log.wait(&says::ready_by(1, "parent-term"));
    for (address, spelled) in addresses.into_iter().zip([&one, &two]) {
        assert!(get(address, "/which").contains(spelled.as_str()));
    }
    scene.release("second", 1);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
    assert_eq!(scene.log.count("g1 got TERM"), 2, "one for each of its servers");
}

/// The order of -b is the order of the descriptors, and the program's own order its own affair.
#[test]
fn an_endless_server_finds_its_listeners_by_address() {
    let scene = Scene::new();
    let addresses = [address_of_our_own("order 1"), address_of_our_own("order 2")];
    let [one, two] = addresses.map(|address| address.to_string());
    let Some(command) = go(&["endless", &two, &one]) else { return };
    let wrapper = start(&scene, &["-b", &one, "-b", &two, "--export", "endless"], &command);
    // Two TERMs in one moment are one to the kernel; then it is ready when it is seen to accept.
    wrapper.log.wait(&says::ready(1));
    for (address, spelled) in addresses.into_iter().zip([&one, &two]) {
        let which = get(address, "/which");
        assert!(which.contains(spelled.as_str()), "{spelled} is served as {which}");
        // It may answer before it heeds signals, of which there is one.
        scene.log.wait(&format!("g1 serves {spelled} "));
    }
    wrapper.stop();
}

/// Its hammer is shorter than our patience: a request that never ends is its own to cut.
#[test]
fn endless_hammers_by_itself() {
    let scene = Scene::new();
    let address = address_of_our_own("hammer");
    let spelled = address.to_string();
    let Some(command) = go(&["-hammer", "200ms", "endless", &spelled]) else { return };
    let wrapper = start(&scene, &["-b", &spelled, "--export", "endless"], &command);
    wrapper.log.wait(&says::ready(1));
    let held = ask(address, "/hold");
    scene.log.wait("g1 holds");
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 hammers");
    wrapper.log.wait(&says::exited(1, 0));
    drop(held);
    wrapper.stop();
}

/// tableflip compares keys as they are written: another spelling is a port that is taken.
#[test]
fn a_tableflip_key_that_differs_is_a_failed_start() {
    let scene = Scene::new();
    let address = address_of_our_own("key").to_string();
    let Some(command) = go(&["tableflip", "tcp4", &address]) else { return };
    let mut wrapper = start(&scene, &["-b", &address, "--export", "tableflip"], &command);
    assert_eq!(wrapper.exit_status(), 1);
    let log = wrapper.log.wait_end().join("\n");
    assert!(log.contains("address already in use"), "{log}");
}

/// A worker of another uid may not signal us, and endless does not mind.
#[test]
fn endless_as_nobody_is_seen_to_accept() {
    as_nobody("endless", &["--export", "endless", "--ack", "auto"], |wrapper, _| {
        wrapper.log.wait(&says::ready_by(1, "accepting"));
    });
}

/// grace ends when it cannot tell its parent, and says nothing; nothing else came up either.
#[test]
fn grace_as_nobody_ends_before_it_is_ready() {
    if !am_root() {
        return;
    }
    let scene = open_scene();
    let address = address_of_our_own("grace as nobody").to_string();
    let Some(command) = reachable(&scene, &["grace", &address]) else { return };
    let options = ["-b", &address, "--user", "nobody", "--ack", "parent-term"];
    let mut wrapper = start(&scene, &options, &command);
    wrapper.exit_status();
    let log = wrapper.log.wait_end().join("\n");
    assert!(!log.contains("serving"), "{log}");
    assert!(log.contains("workers of another user cannot send us TERM"), "{log}");
}

fn as_nobody(worker: &str, options: &[&str], then: impl FnOnce(&Wrapper, &Scene)) {
    if !am_root() {
        return;
    }
    let scene = open_scene();
    let address = address_of_our_own(&format!("{worker} as nobody")).to_string();
    let Some(command) = reachable(&scene, &[worker, &address]) else { return };
    let wrapper = start(&scene, &[&["-b", &address, "--user", "nobody"], options].concat(), &command);
    then(&wrapper, &scene);
    wrapper.stop();
}

/// A scene to whose log anybody may write.
fn open_scene() -> Scene {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let anybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(scene.path("log"), anybody).expect("chmod");
    scene
}

/// A copy of the worker where everybody can get at it.
fn reachable(scene: &Scene, arguments: &[&str]) -> Option<Vec<String>> {
    let copy = scene.path("conventions");
    std::fs::copy(program(GO)?, &copy).expect("copy the worker");
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    Some([copy.to_str().expect("utf-8").to_owned()].into_iter().chain(arguments).collect())
}

/// To a parent that is PID 1 grace tells nothing: the default kind has to see that it accepts.
#[test]
fn grace_below_pid_1_is_seen_to_accept() {
    below_pid_1("grace", &[], "accepting");
}

/// endless makes no such difference.
#[test]
fn endless_below_pid_1_acks() {
    below_pid_1("endless", &["--export", "endless", "--ack", "parent-term"], "parent-term");
}

fn below_pid_1(worker: &str, options: &[&str], ack: &str) {
    if !am_root() {
        return;
    }
    let scene = Scene::new();
    let address = address_of_our_own(&format!("{worker} below 1"));
    let spelled = address.to_string();
    let Some(worker) = go(&[worker, &spelled]) else { return };
    let mut command = scene.mark(Command::new("unshare"));
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(binary());
    command.args(["-b", &spelled, "--soak", "50ms"]).args(options).arg("--").args(worker);
    let mut wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready_by(1, ack));
    wrapper.log.wait(&says::ready(1));
    let one = Pid::from_raw(wrapper.children().first().expect("a child of unshare").0);
    kill(one, Signal::SIGHUP).expect("upgrade");
    wrapper.log.wait(&says::ready_by(2, ack));
    wrapper.log.wait(&says::exited(1, 0));
    assert!(get(address, "/").contains("generation 2 "));
    kill(one, Signal::SIGTERM).expect("stop");
    assert_eq!(wrapper.exit_status(), 0);
}

/// Each dialect has a spelling of its own for what is not IPv4.
#[test]
fn every_family_is_spelled_as_the_server_spells_it() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else { return };
    let port = probe.local_addr().expect("its address").port();
    drop(probe);
    let Some(python) = program(PYTHON) else { return };
    let (four, six) = (address_of_our_own("families").to_string(), format!("[::1]:{port}"));
    for (export, leave) in [
        ("nginx", "QUIT"),
        ("unicorn", "QUIT"),
        ("gunicorn", "TERM"),
        ("php-fpm", "QUIT"),
        ("puma", "TERM"),
        ("server-starter", "TERM"),
        ("einhorn", "USR2"),
    ] {
        let scene = Scene::new();
        let path = scene.arg("run/s.sock");
        let spelled = match export {
            "php-fpm" => [four.clone(), format!("::1:{port}"), path.clone()],
            "puma" => [format!("tcp://{four}"), format!("tcp://{six}"), format!("unix://{path}")],
            _ => [four.clone(), six.clone(), path.clone()],
        };
        let client = (export == "einhorn").then(|| "ruby".to_owned());
        let command = [python.clone(), worker_py(), export.to_owned()].into_iter();
        let command: Vec<String> = command.chain(client).chain(spelled).collect();
        let wrapper = start(&scene, &["-b", &four, "-b", &six, "-b", &path, "--export", export], &command);
        wrapper.log.wait(&says::ready(1));
        scene.log.wait(&format!("g1 serves {four} {six} {path}"));
        wrapper.stop();
        assert_eq!(scene.log.count(&format!("g1 got {leave}")), 1, "{export}: {:?}", scene.log.all());
    }
}

/// tableflip's Stop removes the path of every unix socket that it used, as php-fpm does when its
/// master leaves: but the path is ours, and the next generation's.
#[test]
fn a_path_survives_a_worker_that_removes_it() {
    let scene = Scene::new();
    let path = scene.arg("run/s.sock");
    let Some(command) = go(&["tableflip", "unix", &path]) else { return };
    let wrapper = start(&scene, &["-b", &path, "--export", "tableflip"], &command);
    wrapper.log.wait(&says::ready(1));
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).expect("the path is gone"));
    let first = inode();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    // Its end is told before what it did: until then the path may be gone.
    wrapper.log.wait("generation *: removed * (socket0): it has its name back, and clients that came in between found nothing");
    assert_eq!(inode(), first);
    std::os::unix::net::UnixStream::connect(&path).expect("somebody listens there");
    wrapper.stop();
}
