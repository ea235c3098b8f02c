//! What a worker does to the sockets that it shares, and what comes of it: the
//! log names its generation, and the kernel is asked how the socket is.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, pid_in, quick, says, until, who};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// `graceful-run -b BIND`, once its first generation serves.
fn bound(scene: &Scene, bind: &str, args: &[&str]) -> Wrapper {
    let args = [&["-b", bind, "--soak", "1ms"], args].concat();
    let wrapper = scene.start(&args);
    wrapper.log.wait(&says::ready(1));
    wrapper
}

/// Where it listens, by the log.
fn address(wrapper: &Wrapper) -> String {
    let line = wrapper.log.wait("listening on ");
    line.split_whitespace().nth(3).unwrap().to_owned()
}

fn path(scene: &Scene) -> PathBuf {
    scene.run().join("app.sock")
}

fn spare(scene: &Scene) -> PathBuf {
    scene.run().join(".app.sock.graceful-run")
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |file| file.ino())
}

fn ask(path: &Path) -> std::io::Result<String> {
    let mut answer = String::new();
    UnixStream::connect(path)?.read_to_string(&mut answer)?;
    Ok(answer)
}

/// How the next look finds its first listener, by the mouth of a worker.
fn told(scene: &Scene, generation: u32, nth: usize) -> String {
    let line = scene.log.wait_nth(&format!("g{generation} s0 worker socket "), nth);
    line.split_once("socket ").unwrap().1.rsplit_once(" pid=").unwrap().0.to_owned()
}

#[test]
fn a_backlog_that_a_worker_shrank_is_put_back() {
    let scene = Scene::of("count-signals\nlisten 5\ntell-socket\nready notify\nwait go\ntell-socket");
    let wrapper = bound(&scene, "127.0.0.1:0,backlog=100", &[]);
    wrapper.log.wait("generation 1: the backlog of * (socket0) was changed from 100 to 5, and is 100 again");
    scene.release("go", 1);
    assert_eq!(told(&scene, 1, 1), "backlog=5 nonblock=false");
    assert_eq!(told(&scene, 1, 2), "backlog=100 nonblock=false");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.log.wait("generation 2: the backlog of * (socket0) was changed from 100 to 5");
    wrapper.stop();
}

#[test]
fn of_many_workers_that_shrink_it_one_is_told_of() {
    let scene = Scene::of("count-signals\nlisten 5\nready notify");
    let wrapper = bound(&scene, "127.0.0.1:0", &["-n", "4"]);
    let told = wrapper.log.count("generation 1: the backlog of ");
    assert_eq!(told, 1, "{:#?}", wrapper.log.all());
    wrapper.stop();
}

#[test]
fn a_tcp_listener_that_a_worker_shut_down_listens_again_at_the_same_port() {
    // The second call finds a socket that does not listen, and leaves a mark of its own.
    for shutdowns in ["shutdown", "shutdown\nshutdown"] {
        let scene = Scene::of(&format!("count-signals\n{shutdowns}\nready notify\nwait go\nserve"));
        let wrapper = bound(&scene, "127.0.0.1:0", &[]);
        let line = wrapper.log.wait("generation 1: shut down ");
        let address = address(&wrapper);
        assert!(line.contains(&format!("{address} (socket0) for everybody: it listens again")), "{line}");
        scene.release("go", 1);
        assert!(who(&address).starts_with("g1 "));
        wrapper.stop();
    }
}

#[test]
fn a_udp_socket_that_a_worker_shut_down_is_told_of() {
    // The call says ENOTCONN and takes effect.
    let scene = Scene::of("count-signals\nshutdown\nready notify");
    let wrapper = bound(&scene, "udp://127.0.0.1:0", &["--ack", "notify"]);
    wrapper.log.wait("generation 1: shut down udp * for everybody, and it cannot be revived (restart us)");
    wrapper.stop();
}

#[test]
fn each_slots_own_socket_is_looked_at() {
    let scene = Scene::of("count-signals\nready notify");
    scene.script("1.1", "count-signals\nlisten 5\nready notify\nwait go\ntell-socket");
    let wrapper = bound(&scene, "127.0.0.1:0,reuseport,backlog=90", &["-n", "2"]);
    wrapper.log.wait("generation 1: the backlog of * (socket0) was changed from 90 to 5, and is 90 again");
    scene.release("go", 1);
    assert!(scene.log.wait("g1 s1 worker socket ").contains("backlog=90"));
    wrapper.stop();
}

#[test]
fn what_a_bind_says_of_blocking_is_put_back() {
    for (option, verb, was, kept) in
        [("block", "nonblock", "non-blocking", "false"), ("nonblock", "block", "blocking", "true")]
    {
        let scene = Scene::of(&format!("count-signals\n{verb}\nready notify\nwait go\ntell-socket"));
        let wrapper = bound(&scene, &format!("127.0.0.1:0,{option}"), &[]);
        wrapper.log.wait(&format!("generation 1: made * (socket0) {was} for everybody: it is "));
        scene.release("go", 1);
        assert!(told(&scene, 1, 1).ends_with(&format!("nonblock={kept}")));
        wrapper.stop();
    }
}

#[test]
fn where_a_bind_says_nothing_a_flag_stays_while_a_worker_lives_and_the_log_has_a_hint() {
    let scene = Scene::of("count-signals\nnonblock\nready notify");
    scene.script("2", "stderr another cause\nexit 3");
    scene.script("3", "tell-socket\nstderr accept: Resource temporarily unavailable\naccept-or-exit");
    let wrapper = scene.ready(&["--capture-stderr"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(3));
    let hint = wrapper.log.wait("was made non-blocking by generation 1: ");
    assert!(hint.contains(",block") && hint.contains("--stop-first"), "{hint}");
    assert!(hint.contains("if generation 3 is one"), "the other cause has no such hint: {hint}");
    assert!(told(&scene, 3, 1).ends_with("nonblock=true"));
    wrapper.stop();
}

#[test]
fn once_no_worker_lives_the_next_finds_the_flag_as_it_was() {
    let scene = Scene::of("count-signals\ntell-socket\nnonblock\nready notify\nwait go\nexit 3");
    let wrapper = scene.ready(&[]);
    scene.release("go", 1);
    assert!(told(&scene, 1, 2).ends_with("nonblock=false"));
    wrapper.stop();

    let scene = Scene::of("count-signals\ntell-socket\nnonblock\nready notify");
    let wrapper = scene.ready(&["--stop-first"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(told(&scene, 2, 1).ends_with("nonblock=false"));
    wrapper.stop();
}

#[test]
fn a_path_that_old_workers_unlink_has_its_name_back_under_load() {
    const UPGRADES: u32 = 20;
    let scene = Scene::new();
    let path = path(&scene);
    scene.script("default", &format!("last-act unlink {}\n{SERVER}", path.display()));
    let wrapper = bound(&scene, &format!("unix:{}", path.display()), &[]);
    let first = inode(&path);
    let over = AtomicBool::new(false);
    let (asked, missed) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (mut asked, mut missed) = (0_u32, 0_u32);
            while !over.load(Ordering::Relaxed) {
                asked += 1;
                match ask(&path) {
                    Ok(answer) => assert!(answer.starts_with('g'), "{answer:?}"),
                    // Between a worker's unlink and our link.
                    Err(error) if error.kind() == ErrorKind::NotFound => missed += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (asked, missed)
        });
        let end = common::End(&over);
        for old in 1..=UPGRADES {
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::ready(old + 1));
            wrapper.log.wait(&format!(
                "generation {old}: removed {} (socket0): it has its name back, and clients that came in between found nothing",
                path.display()
            ));
            wrapper.log.wait(&says::exited(old, 0));
            assert_eq!(inode(&path), first);
            assert!(ask(&path).unwrap().starts_with(&format!("g{} ", old + 1)));
        }
        drop(end);
        load.join().unwrap()
    });
    assert!(asked > UPGRADES && missed < asked, "{missed} of {asked}");
    wrapper.stop();
}

#[test]
fn what_is_not_our_socket_is_left_alone_and_a_dead_one_is_replaced() {
    let scene = Scene::of(SERVER);
    let path = path(&scene);
    let wrapper = bound(&scene, &format!("unix:{}", path.display()), &[]);
    let ours = inode(&path);
    let other = scene.path("other");
    let taken = |what: &str| {
        format!("generation 1: {} (socket0) does not lead to our socket: {what}", path.display())
    };

    fs::write(&other, "kept").unwrap();
    fs::rename(&other, &path).unwrap();
    wrapper.log.wait(&taken("something else than a socket is there"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    fs::remove_file(&path).unwrap();
    wrapper.log.wait("generation 1: removed * (socket0): it has its name back, and clients that came in between found nothing");
    assert_eq!(inode(&path), ours);

    let live = UnixListener::bind(&other).unwrap();
    let theirs = inode(&other);
    fs::rename(&other, &path).unwrap();
    wrapper.log.wait(&taken("another socket is there, and is in use"));
    assert_eq!(inode(&path), theirs);
    drop(live);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    assert_eq!(inode(&path), ours);
    assert!(ask(&path).unwrap().starts_with("g2 "));
    assert!(!wrapper.log.has("cannot"));
    wrapper.stop();
}

#[test]
fn a_unix_listener_that_was_shut_down_is_bound_anew_for_the_next_workers() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nshutdown\nready notify");
    let path = path(&scene);
    let wrapper = bound(&scene, &format!("{},mode=0640", path.display()), &[]);
    wrapper
        .log
        .wait("generation 1: shut down * (socket0) for everybody, and a unix socket cannot be revived");
    let first = inode(&path);
    assert_eq!(ask(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper
        .log
        .wait("(socket0) is bound anew for the workers that start now; those of before (generation 1)");
    assert!(ask(&path).unwrap().starts_with("g2 "));
    let file = fs::symlink_metadata(&path).unwrap();
    assert!(file.file_type().is_socket() && file.mode() & 0o777 == 0o640 && file.ino() != first);
    assert_eq!(inode(&spare(&scene)), file.ino());
    wrapper.stop();
}

#[test]
fn a_path_whose_every_name_is_gone_is_bound_anew_for_the_next_workers() {
    let scene = Scene::of(SERVER);
    let path = path(&scene);
    let wrapper = bound(&scene, &path.display().to_string(), &[]);
    assert_eq!(inode(&spare(&scene)), inode(&path));
    fs::remove_file(spare(&scene)).unwrap();
    fs::remove_file(&path).unwrap();
    wrapper.log.wait("generation 1: removed * (socket0), which has no other name");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(ask(&path).unwrap().starts_with("g2 "));
    wrapper.stop();
}

#[test]
fn what_a_killed_one_left_behind_is_replaced_and_nothing_stays() {
    let scene = Scene::of(SERVER);
    let path = path(&scene);
    let bind = format!("unix:{}", path.display());
    let mut killed = bound(&scene, &bind, &["--on-death", "term"]);
    let worker = pid_in(&scene.log.wait("g1 s0 worker ready"));
    killed.signal(Signal::SIGKILL);
    killed.exit_status();
    scene.wait_gone(worker);
    let left = inode(&path);
    assert!(left != 0 && inode(&spare(&scene)) == left);
    let wrapper = bound(&scene, &bind, &[]);
    assert!(!wrapper.log.has("second name"));
    assert_eq!(inode(&path), inode(&spare(&scene)));
    assert!(ask(&path).is_ok());
    wrapper.stop();
    assert!(!path.exists() && !spare(&scene).exists());
    // The notify directory of the one that was killed.
    scene.forget_files();
}

#[test]
fn what_is_at_the_second_name_is_left_alone() {
    let scene = Scene::of(SERVER);
    fs::write(spare(&scene), "kept").unwrap();
    let wrapper = bound(&scene, &path(&scene).display().to_string(), &[]);
    wrapper.log.wait("has no second name (something else than a socket is at ");
    assert!(ask(&path(&scene)).is_ok());
    wrapper.stop();
    assert_eq!(fs::read_to_string(spare(&scene)).unwrap(), "kept");
    fs::remove_file(spare(&scene)).unwrap();
}

#[test]
fn a_quiet_worker_is_told_of_nothing() {
    let scene = Scene::of(SERVER);
    let path = path(&scene).display().to_string();
    let wrapper = scene.start(&quick(&["-b", &path, "-b", "udp://127.0.0.1:0"]));
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    until("the path is there", || inode(Path::new(&path)) != 0);
    for word in ["somebody", "everybody", "removed", "backlog", "blocking"] {
        assert!(!wrapper.log.has(word), "{word}");
    }
    wrapper.stop();
}
