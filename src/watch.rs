//! Paths whose changes are told, by inotify(7).
//!
//! A path is followed name by name from the root, through every symbolic link on
//! the way, and each directory that one of these names stands in is watched. So
//! it makes no difference whether the file is replaced, a link switched, or a
//! directory moved away and made again; a path need not exist yet. An event only
//! says where to look: what counts is whether the path leads to something else
//! than before.

use crate::reexec::quiesce::Quiesce;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// A change is told when nothing more has happened for this long,
const QUIET: Duration = Duration::from_millis(200);
/// or at the latest this long after it began.
const LONGEST: Duration = Duration::from_secs(2);
/// As many links as the kernel follows.
const MOST_LINKS: u32 = 40;
/// A path that changes while it is looked at is looked at again, so often.
const TRIES: u32 = 5;

/// Names that come, go or change hands.
const NAMES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO);
/// The same, and files that have been written or touched.
const CONTENTS: AddWatchFlags = NAMES.union(AddWatchFlags::IN_CLOSE_WRITE).union(AddWatchFlags::IN_ATTRIB);
/// The directory itself has gone, or events were lost.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT)
    .union(AddWatchFlags::IN_Q_OVERFLOW);

/// Calls `notify` on a thread of its own with the paths that lead to something else
/// than before, or to a file that was written or a directory that has other
/// entries: all that change within a short time at once. One that has gone is
/// told when it is there again. What is `known` of before counts as that, and is
/// what the paths have been told to lead to. `notify` returns whether it wants to hear
/// more.
///
/// # Errors
/// Without inotify(7), a watch to spare, or the right to read a directory.
pub fn changes(
    paths: Vec<PathBuf>,
    known: Fingerprints,
    quiesce: &Quiesce,
    notify: impl Fn(Vec<PathBuf>) -> bool + Send + 'static,
) -> io::Result<()> {
    let mut watch = Watch::new(paths, CONTENTS)?;
    let quiesce = quiesce.clone();
    if known.list().len() != watch.paths.len() {
        *known.list() = watch.paths.iter().map(|path| fingerprint(path)).collect();
    }
    let run = move || {
        loop {
            let now: Vec<Option<u64>> = watch.paths.iter().map(|path| fingerprint(path)).collect();
            let busy = quiesce.activity();
            let mut changed = Vec::new();
            for ((path, now), known) in watch.paths.iter().zip(now).zip(&mut *known.list()) {
                if now.is_some() && now != *known {
                    *known = now;
                    changed.push(path.clone());
                }
            }
            if !changed.is_empty() && !notify(changed) {
                return;
            }
            drop(busy);
            if watch.wait_for_change().is_err() {
                return;
            }
        }
    };
    Builder::new().name("watch".into()).stack_size(128 * 1024).spawn(run).map(drop)
}

/// Calls `notify` on a thread of its own as soon as one of the paths may lead to
/// something else. `notify` returns whether it wants to hear more.
///
/// # Errors
/// As for [`changes`].
pub fn names(paths: Vec<PathBuf>, notify: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let mut watch = Watch::new(paths, NAMES)?;
    let run = move || {
        while let Ok(events) = watch.inotify.read_events() {
            if watch.concerns(&events) {
                watch.refresh_or_warn();
                if !notify() {
                    return;
                }
            }
        }
    };
    Builder::new().name("paths".into()).stack_size(128 * 1024).spawn(run).map(drop)
}

/// The text of an errno of inotify(7). EMFILE is mostly the limit of its instances there.
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno @ Errno::EMFILE) => errno.desc().to_lowercase(),
        _ => crate::error::reason(error),
    }
}

/// Advice for an errno of inotify(7) whose text says little.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE => Some("raise fs.inotify.max_user_instances, or ulimit -n"),
        Errno::ENOSPC => Some("raise fs.inotify.max_user_watches"),
        Errno::EACCES => Some("its directory has to be readable"),
        _ => None,
    }
}

/// For each path the fingerprint that was reported last.
#[derive(Debug, Clone, Default)]
pub struct Fingerprints {
    list: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Fingerprints {
    /// What was saved before, if anything was.
    pub fn new(saved: Option<Vec<Option<u64>>>) -> Fingerprints {
        Fingerprints { list: Arc::new(Mutex::new(saved.unwrap_or_default())) }
    }

    /// As plain data.
    pub fn save(&self) -> Vec<Option<u64>> {
        self.list().clone()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Option<u64>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Watch {
    inotify: Inotify,
    paths: Vec<PathBuf>,
    mask: AddWatchFlags,
    watched: HashMap<WatchDescriptor, Interest>,
}

/// What of a directory matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Interest {
    names: BTreeSet<OsString>,
    all: bool,
    /// Without it the path would not be watched at all.
    needed: bool,
}

impl Watch {
    fn new(paths: Vec<PathBuf>, mask: AddWatchFlags) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let mut watch = Watch { inotify, paths, mask, watched: HashMap::new() };
        watch.refresh()?;
        Ok(watch)
    }

    /// Watches the directories on the way of each path as it is now, and no others.
    fn refresh(&mut self) -> io::Result<()> {
        let mut wanted = self.wanted();
        for _ in 0..TRIES {
            self.watch(&wanted)?;
            // Whatever happened before a watch was there has not been told.
            let now = self.wanted();
            if now == wanted {
                break;
            }
            wanted = now;
        }
        Ok(())
    }

    fn refresh_or_warn(&mut self) {
        if let Err(error) = self.refresh() {
            log::warn!("not every change is seen from now on: {}", crate::error::reason(&error));
        }
    }

    fn watch(&mut self, wanted: &BTreeMap<PathBuf, Interest>) -> io::Result<()> {
        let mut watched: HashMap<WatchDescriptor, Interest> = HashMap::new();
        let mut failed = Ok(());
        for (directory, interest) in wanted {
            let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
            match self.inotify.add_watch(directory, self.mask | itself | AddWatchFlags::IN_ONLYDIR) {
                Ok(watch) => watched.entry(watch).or_default().add(interest),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(Errno::EACCES) if !interest.needed => {
                    log::debug!("{} cannot be read, and is not watched", directory.display());
                }
                Err(errno) => failed = Err(errno.into()),
            }
        }
        for (&old, _) in self.watched.iter().filter(|(old, _)| !watched.contains_key(old)) {
            let _ = self.inotify.rm_watch(old);
        }
        self.watched = watched;
        failed
    }

    fn wanted(&self) -> BTreeMap<PathBuf, Interest> {
        let mut wanted: BTreeMap<PathBuf, Interest> = BTreeMap::new();
        for path in &self.paths {
            let (steps, end) = walk(path);
            let last = steps.len().saturating_sub(1);
            for (index, (directory, name)) in steps.into_iter().enumerate() {
                let interest = wanted.entry(directory).or_default();
                interest.names.insert(name);
                interest.needed |= index == last;
            }
            if let Some(directory) = end.filter(|end| self.mask == CONTENTS && end.is_dir()) {
                let interest = wanted.entry(directory).or_default();
                (interest.all, interest.needed) = (true, true);
            }
        }
        wanted
    }

    fn concerns(&self, events: &[InotifyEvent]) -> bool {
        events.iter().any(|event| {
            event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                || self.watched.get(&event.wd).is_some_and(|interest| match &event.name {
                    Some(name) => interest.all || interest.names.contains(name),
                    None => event.mask.intersects(ITSELF),
                })
        })
    }

    /// Returns after an event that concerns a path, once nothing more has happened for [`QUIET`].
    fn wait_for_change(&mut self) -> nix::Result<()> {
        loop {
            let events = self.inotify.read_events()?;
            if self.concerns(&events) {
                break;
            }
        }
        let began = Instant::now();
        let mut quiet = began + QUIET;
        self.refresh_or_warn();
        loop {
            let left = quiet.min(began + LONGEST).saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut ready = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                _ if left.is_zero() => return Ok(()),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
            let events = self.inotify.read_events()?;
            if self.concerns(&events) {
                quiet = Instant::now() + QUIET;
                self.refresh_or_warn();
            }
        }
    }
}

impl Interest {
    fn add(&mut self, other: &Interest) {
        self.names.extend(other.names.iter().cloned());
        self.all |= other.all;
        self.needed |= other.needed;
    }
}

/// Resolves `path`: each name with the real directory that it is in, as far as these exist;
/// and the file at the end.
fn walk(path: &Path) -> (Vec<(PathBuf, OsString)>, Option<PathBuf>) {
    let mut steps = Vec::new();
    let mut here = PathBuf::from("/");
    let mut links = 0;
    let mut rest: VecDeque<OsString> = names_of(path).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        steps.push((here.clone(), name.clone()));
        here.push(&name);
        match fs::read_link(&here) {
            Ok(target) => {
                links += 1;
                if links > MOST_LINKS {
                    return (steps, None);
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                } else {
                    here.pop();
                }
                for name in names_of(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(name);
                }
            }
            // No link.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            Err(_) => return (steps, None),
        }
    }
    (steps, Some(here))
}

fn names_of(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// The fingerprint of what `path` leads to; None: it leads to nothing.
fn fingerprint(path: &Path) -> Option<u64> {
    let end = walk(path).1?;
    let file = fs::metadata(&end).ok()?;
    let mut number = DefaultHasher::new();
    if file.is_dir() {
        (&end, file.dev(), file.ino()).hash(&mut number);
        let entries = fs::read_dir(&end).ok()?.flatten();
        let mut entries: Vec<_> =
            entries.filter_map(|it| Some((it.file_name(), identity(&it.metadata().ok()?)))).collect();
        entries.sort_unstable();
        entries.hash(&mut number);
    } else {
        (end, identity(&file)).hash(&mut number);
    }
    Some(number.finish())
}

/// What tells a file from what it was before. A directory in a directory is not
/// looked into, and what lies in it changes its time.
fn identity(file: &Metadata) -> [i64; 6] {
    let time = if file.is_dir() { (0, 0) } else { (file.mtime(), file.mtime_nsec()) };
    let size = if file.is_dir() { 0 } else { file.len() };
    [file.dev() as i64, file.ino() as i64, i64::from(file.mode()), size as i64, time.0, time.1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_way_leads_through_links_and_ends_where_nothing_is() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(root.join("r1/bin")).unwrap();
        fs::write(root.join("r1/bin/server"), "").unwrap();
        symlink("r1", root.join("current")).unwrap();
        symlink("../r1/bin/server", root.join("r1/link")).unwrap();
        let names = |path: &str| {
            let (steps, end) = walk(&root.join(path));
            let ours = steps.into_iter().filter(|(directory, _)| directory.starts_with(&root));
            let shown: Vec<String> = ours
                .map(|(directory, name)| {
                    let directory = directory.strip_prefix(&root).unwrap().display().to_string();
                    format!("{directory}>{}", name.display())
                })
                .collect();
            (shown.join(" "), end)
        };
        let server = Some(root.join("r1/bin/server"));
        assert_eq!(names("current/bin/server"), (">current >r1 r1>bin r1/bin>server".into(), server.clone()));
        assert_eq!(names("current/link"), (">current >r1 r1>link >r1 r1>bin r1/bin>server".into(), server));
        assert_eq!(names("current/none/at/all"), (">current >r1 r1>none".into(), None));
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(walk(&root.join("loop")).1, None);
    }

    #[test]
    fn a_fingerprint_changes_with_what_the_path_leads_to() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("file"), place.path().join("link"));
        assert_eq!(fingerprint(&file), None);
        fs::write(&file, "one").unwrap();
        let first = fingerprint(&file);
        assert!(first.is_some() && first == fingerprint(&file));
        let directory = fingerprint(place.path());
        symlink("file", &link).unwrap();
        assert_eq!(fingerprint(&link), first, "what it leads to");
        assert_ne!(fingerprint(place.path()), directory);
        fs::remove_file(&link).unwrap();
        assert_eq!(fingerprint(place.path()), directory, "as if nothing had been");
        fs::write(&file, "other").unwrap();
        assert!(fingerprint(&file) != first && fingerprint(place.path()) != directory);
    }
}
