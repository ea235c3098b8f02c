//! What may happen to a unix path.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_unix_path_has_exactly_the_permissions_asked_for() {
    let directory = directory();
    let binds = ["./s,mode=0666", "unix-dgram:d,mode=0600", "unix-seqpacket:./q,mode=0624,group=0"];
    let ours = nix::unistd::Uid::effective();
    let listeners = match ours.is_root() {
        true => open_in(directory.path(), &[&binds[..], &["./o,user=65534,group=65533"]].concat(), 1),
        false => open_in(directory.path(), &binds[..2], 1),
    }
    .unwrap();
    for (listener, mode) in listeners.iter().zip([0o666, 0o600, 0o624]) {
        let file = fs::symlink_metadata(listener.address()).unwrap();
        assert_eq!(file.permissions().mode() & 0o7777, mode, "{}", listener.address());
        assert_eq!(file.uid(), ours.as_raw());
    }
    if let Some(listener) = listeners.list.get(3) {
        let file = fs::symlink_metadata(listener.address()).unwrap();
        assert_eq!((file.uid(), file.gid()), (65534, 65533));
    }
    let kinds: Vec<&str> = listeners.iter().map(Listener::kind).take(2).collect();
    assert_eq!(kinds, ["unix", "unix-dgram"]);
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = directory();
    let path = directory.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let listeners = open_in(directory.path(), &["./s"], 1).unwrap();
    assert_eq!(listeners.list[0].address(), path.to_str().unwrap());
    UnixStream::connect(&path).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(listeners);
    assert!(!path.exists());
    drop(UnixDatagram::bind(&path).unwrap());
    open_in(directory.path(), &["./s"], 1).unwrap();
}

#[test]
fn a_live_socket_of_any_type_is_refused_and_not_disturbed() {
    let directory = directory();
    let path = directory.path().join("s");
    let live = UnixListener::bind(&path).unwrap();
    live.set_nonblocking(true).unwrap();
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    for bind in ["./s", "unix-dgram:s", "unix-seqpacket:s"] {
        let message = refused(directory.path(), &[bind]);
        let start = format!("cannot bind {}: address already in use (a live", path.display());
        assert!(message.starts_with(&start), "{message}");
    }
    assert_eq!(live.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    drop(live);
    fs::remove_file(&path).unwrap();
    let bound = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    bound.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    assert!(refused(directory.path(), &["./s"]).contains("a live server"));
    drop(bound);
    fs::remove_file(&path).unwrap();
    let datagram = UnixDatagram::bind(&path).unwrap();
    assert!(refused(directory.path(), &["./s"]).contains("a live server"));
    drop(datagram);
}

#[test]
fn anything_else_than_a_socket_is_never_unlinked() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "kept").unwrap();
    fs::create_dir(at("directory")).unwrap();
    drop(UnixListener::bind(at("stale")).unwrap());
    symlink(at("stale"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    for name in ["file", "directory", "link", "dangling", "fifo"] {
        let before = fs::symlink_metadata(at(name)).unwrap().ino();
        let message = refused(directory.path(), &[&format!("./{name}")]);
        assert!(message.contains("file exists (something else than a socket"), "{message}");
        assert_eq!(fs::symlink_metadata(at(name)).unwrap().ino(), before);
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "kept");
    assert!(at("stale").exists() && !at("nowhere").exists());
    let message = refused(directory.path(), &["./missing/s"]);
    assert!(message.contains("create the directory"), "{message}");
}

#[test]
fn a_path_that_is_no_longer_ours_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("s");
    let listeners = open_in(directory.path(), &["./s"], 1).unwrap();
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listeners);
    UnixStream::connect(&path).unwrap();
    drop(other);
    fs::remove_file(&path).unwrap();
    let listeners = open_in(directory.path(), &["./s"], 1).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "kept").unwrap();
    drop(listeners);
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
}

#[test]
fn of_fifty_racing_starts_exactly_one_wins() {
    let directory = directory();
    let path = directory.path().join("s");
    for stale in [false, true] {
        if stale {
            drop(UnixListener::bind(&path).unwrap());
        }
        let barrier = Barrier::new(50);
        let results: Vec<Result<Listeners, Error>> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                open_in(directory.path(), &["./s"], 1)
            };
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("a live server"), "{error}");
        }
        // The path and its hard link.
        assert_eq!(files(&directory), 2);
        UnixStream::connect(&path).unwrap();
        drop(won);
        assert_eq!(files(&directory), 0);
    }
}

#[test]
fn starts_and_stops_never_remove_a_path_that_is_served() {
    let directory = directory();
    let path = directory.path().join("s");
    let wins: u32 = std::thread::scope(|scope| {
        let churn = || {
            let mut wins = 0;
            for _ in 0..40 {
                if let Ok(listeners) = open_in(directory.path(), &["./s"], 1) {
                    assert!(listeners.list[0].path.as_ref().unwrap().is_at(&path));
                    UnixStream::connect(&path).expect("the winner's own path serves");
                    wins += 1;
                }
            }
            wins
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(churn)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(wins > 0);
    assert_eq!(files(&directory), 0);
}

#[test]
fn a_path_that_others_replace_by_a_link_removes_and_changes_no_other_file() {
    let directory = directory();
    let path = directory.path().join("s");
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    drop(UnixListener::bind(&victim).unwrap());
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&path);
                let _ = symlink(&victim, &path);
            }
        });
        for _ in 0..300 {
            let opened = open_in(directory.path(), &["./s,mode=0606"], 1);
            assert!(opened.is_ok() || opened.is_err_and(|error| error.status() == 125));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let kept = fs::symlink_metadata(&victim).unwrap();
    assert_eq!(kept.permissions().mode() & 0o7777, 0o640);
    assert!(kept.file_type().is_socket());
}

#[test]
fn permissions_stop_at_a_symlink_that_was_swapped_in() {
    let directory = directory();
    let victim = directory.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&victim, directory.path().join("s")).unwrap();
    let opened = fs::File::open(directory.path()).unwrap();
    let wanted = path::Permissions { mode: Some(0o606), ..path::Permissions::default() };
    assert!(path::set_permissions(opened.as_fd(), "s".as_ref(), wanted).is_err());
    assert_eq!(fs::symlink_metadata(&victim).unwrap().permissions().mode() & 0o7777, 0o640);
}
