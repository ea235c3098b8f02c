//! Tells that files of ours were removed, by inotify(7).

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::Builder;

/// A file of the directory has gone.
const GONE: AddWatchFlags = AddWatchFlags::IN_DELETE.union(AddWatchFlags::IN_MOVED_FROM);
/// The directory itself has gone, or events were lost.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_IGNORED)
    .union(AddWatchFlags::IN_Q_OVERFLOW);

/// Calls `notify` once, on a thread of its own, when one of these files was removed or renamed, or
/// a directory that they are in. Nothing else wakes the thread than what happens to files there.
///
/// # Errors
/// Without inotify(7), a watch to spare, or one of the directories.
pub fn watch(files: Vec<PathBuf>, notify: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    for directory in files.iter().filter_map(|file| file.parent()) {
        let mask = GONE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(directory, mask | AddWatchFlags::IN_ONLYDIR)?;
    }
    let names: Vec<OsString> =
        files.iter().filter_map(|file| Path::file_name(file)).map(Into::into).collect();
    let run = move || {
        while let Ok(events) = inotify.read_events() {
            let gone = events.iter().any(|event| match &event.name {
                Some(name) => names.contains(name),
                None => event.mask.intersects(ITSELF),
            });
            if gone {
                return notify();
            }
        }
    };
    Builder::new().name("control files".into()).stack_size(128 * 1024).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc::channel;

    #[test]
    fn a_file_or_its_directory_that_goes_is_told() {
        for remove in [true, false] {
            let parent = tempfile::tempdir().unwrap();
            let directory = parent.path().join("d");
            fs::create_dir(&directory).unwrap();
            let file = directory.join("f");
            fs::write(&file, "").unwrap();
            let (tell, told) = channel();
            watch(vec![file.clone()], move || tell.send(()).unwrap()).unwrap();
            match remove {
                true => fs::remove_file(&file).unwrap(),
                false => fs::rename(&directory, parent.path().join("e")).unwrap(),
            }
            told.recv().unwrap();
        }
        let nowhere = watch(vec!["/nonexistent/f".into()], || ()).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
    }
}
