//! `--watch`: an upgrade follows when a path leads to something else.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, says, until};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

/// A scene, and a wrapper that watches `path` of it.
fn watching(prepare: impl Fn(&Scene), path: &str) -> (Scene, Wrapper) {
    let scene = Scene::of(SERVER);
    prepare(&scene);
    let wrapper = scene.ready(&["--ack", "notify", "--watch", path]);
    (scene, wrapper)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

const BEGINS: &str = "upgrade to generation * begins";

/// While the wrapper stands: what is done meanwhile is one change, however long it takes.
fn at_once(wrapper: &Wrapper, deeds: impl FnOnce()) {
    wrapper.signal(Signal::SIGSTOP);
    until("it does not stop", || wrapper.state() == 'T');
    deeds();
    wrapper.signal(Signal::SIGCONT);
}

/// Every change ends in one upgrade, and nothing else does. Where the wrapper looks on, a change of
/// several steps may be told as more than one.
fn upgrades_once_for_each(path: &str, prepare: impl Fn(&Scene), changes: &[&dyn Fn(&Scene)]) {
    for looks_on in [true, false] {
        let (scene, wrapper) = watching(&prepare, path);
        for change in changes {
            let before = wrapper.log.count(BEGINS);
            match looks_on {
                true => change(&scene),
                false => at_once(&wrapper, || change(&scene)),
            }
            wrapper.log.wait_nth(BEGINS, before + 1);
            let to = u32::try_from(before).unwrap() + 2;
            wrapper.log.wait(&says::ready(to));
            wrapper.log.wait(&says::exited(to - 1, 0));
        }
        if !looks_on {
            assert_eq!(wrapper.log.count("has changed"), changes.len(), "{:?}", wrapper.log.all());
            assert_eq!(wrapper.log.count(BEGINS), changes.len());
        }
        wrapper.stop();
    }
}

#[test]
fn a_file_is_replaced_written_and_touched() {
    let file = |scene: &Scene| scene.path("file");
    upgrades_once_for_each(
        "file",
        |scene| write(&file(scene), "one"),
        &[
            &|scene| {
                write(&scene.path("fresh"), "two");
                fs::rename(scene.path("fresh"), file(scene)).unwrap();
            },
            &|scene| write(&file(scene), "three, in place"),
            &|scene| {
                let file = fs::File::options().write(true).open(file(scene)).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            },
            // Gone is no change; there again is one.
            &|scene| {
                fs::remove_file(file(scene)).unwrap();
                write(&file(scene), "four");
            },
        ],
    );
}

#[test]
fn a_link_is_switched_on_the_way_to_the_file() {
    let release = |scene: &Scene, name: &str| {
        fs::create_dir(scene.path(name)).unwrap();
        write(&scene.path(name).join("server"), name);
    };
    let switch = |scene: &Scene, to: &str| {
        symlink(to, scene.path("current.new")).unwrap();
        fs::rename(scene.path("current.new"), scene.path("current")).unwrap();
    };
    upgrades_once_for_each(
        "current/server",
        |scene| {
            release(scene, "r1");
            switch(scene, "r1");
        },
        &[
            &|scene| {
                release(scene, "r2");
                switch(scene, "r2");
            },
            // Where it leads to now is watched, and where it led to is not.
            &|scene| {
                write(&scene.path("r1/server"), "nobody runs this");
                write(&scene.path("r2/server"), "this is run");
            },
            &|scene| {
                fs::remove_file(scene.path("current")).unwrap();
                switch(scene, "r1");
            },
        ],
    );
}

#[test]
fn a_path_that_is_not_there_yet_and_its_parents_are_waited_for() {
    let deep = |scene: &Scene, text: &str| {
        fs::create_dir_all(scene.path("a/b")).unwrap();
        write(&scene.path("a/b/file"), text);
    };
    upgrades_once_for_each(
        "a/b/file",
        |_| {},
        &[
            &|scene| deep(scene, "one"),
            &|scene| {
                fs::rename(scene.path("a"), scene.path("old")).unwrap();
                write(&scene.path("old/b/file"), "nobody looks here");
                deep(scene, "two");
            },
            &|scene| write(&scene.path("a/b/file"), "three"),
        ],
    );
}

#[test]
fn the_entries_of_a_directory_change() {
    upgrades_once_for_each(
        "conf.d",
        |scene| {
            fs::create_dir(scene.path("conf.d")).unwrap();
            write(&scene.path("conf.d/a"), "one");
        },
        &[
            &|scene| write(&scene.path("conf.d/b"), "two"),
            &|scene| write(&scene.path("conf.d/a"), "three"),
            &|scene| fs::remove_file(scene.path("conf.d/b")).unwrap(),
        ],
    );
}

#[test]
fn many_changes_are_one_upgrade() {
    let (scene, wrapper) = watching(|scene| write(&scene.path("file"), ""), "file");
    at_once(&wrapper, || {
        for number in 0..500 {
            write(&scene.path("file"), &format!("{number}"));
            write(&scene.path(&format!("other{}", number % 7)), "of no interest");
        }
    });
    wrapper.log.wait(&says::exited(1, 0));
    // Whatever else was to be told is told before this.
    write(&scene.path("file"), "another");
    wrapper.log.wait(&says::exited(2, 0));
    assert_eq!((wrapper.log.count("has changed"), wrapper.log.count(BEGINS)), (2, 2));
    wrapper.stop();
}

#[test]
fn an_upgrade_that_fails_is_tried_again_at_the_next_change() {
    let (scene, wrapper) = watching(|scene| write(&scene.path("file"), "one"), "file");
    scene.script("2", "exit 3");
    write(&scene.path("file"), "broken");
    wrapper.log.wait(&says::failed(2));
    write(&scene.path("file"), "mended");
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn several_paths_may_be_watched() {
    let scene = Scene::of(SERVER);
    let wrapper = scene.ready(&["--ack", "notify", "--watch", "one", "--watch", &scene.arg("two")]);
    for (name, to) in [("two", 2), ("one", 3)] {
        write(&scene.path(name), "");
        wrapper.log.wait(&format!("{name} has changed"));
        wrapper.log.wait(&says::ready(to));
    }
    wrapper.stop();
}

#[test]
fn without_inotify_nothing_is_started() {
    let scene = Scene::of("say started");
    let mut command = scene.mark(Command::new("unshare"));
    let script = "echo 0 > /proc/sys/user/max_inotify_instances || exit 77; exec \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(common::binary());
    command.args(["-b", "127.0.0.1:0", "--watch", "file", "--"]).args(scene.puppet());
    let mut wrapper = scene.spawn(command);
    let status = wrapper.exit_status();
    let line = wrapper.last_line();
    if status == 77 || line.starts_with("unshare: ") {
        return;
    }
    assert_eq!(status, 125, "{line}");
    assert!(
        line.starts_with("graceful-run: cannot watch /") && line.contains("(raise fs.inotify."),
        "{line}"
    );
    assert!(!scene.log.has("started"));
}

#[test]
fn a_socket_whose_directory_was_made_again_has_its_path_back() {
    let scene = Scene::of(SERVER);
    fs::create_dir(scene.path("run/sub")).unwrap();
    let path = scene.path("run/sub/app.sock");
    let wrapper = scene.ready(&["--ack", "notify", "-b", "unix:run/sub/app.sock"]);
    let inode = fs::metadata(&path).unwrap().ino();
    // The second time shows that what was made again is watched.
    for times in 1..=2 {
        fs::rename(scene.path("run/sub"), scene.path("run/moved")).unwrap();
        fs::create_dir(scene.path("run/sub")).unwrap();
        common::until("the path does not come back", || {
            fs::metadata(&path).is_ok_and(|file| file.ino() == inode)
        });
        assert!(wrapper.log.count("it has its name back") <= times);
        common::until("something is left", || fs::remove_dir(scene.path("run/moved")).is_ok());
    }
    let mut answer = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("g1 "), "{answer}");
    wrapper.stop();
    fs::remove_dir(scene.path("run/sub")).unwrap();
}
