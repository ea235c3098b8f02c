//! The directory of the sockets that workers connect to. Only we can list it, and every user can
//! pass through it, because a worker may run as any user.

use super::end::EinhornSocket;
use crate::sys::notify::{NotifySocket, random};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid};
use std::cell::{Cell, RefCell};
use std::env::split_paths;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The longest path of the directory: sockaddr_un holds 107 bytes, of which a slash and the
/// number of the socket take 11.
const LONGEST: usize = 107 - 11;

/// The directory. It is made for the first socket, and removed when this is dropped.
#[derive(Debug)]
pub struct Directory {
    parents: Vec<PathBuf>,
    made: RefCell<Option<PathBuf>>,
    /// Numbers are not reused, so that a late message to a removed socket reaches no other.
    next: Cell<u32>,
}

impl Directory {
    /// The directory will be made in the first of RUNTIME_DIRECTORY, XDG_RUNTIME_DIR, /run and
    /// /tmp in which that succeeds; if workers run as another user (`foreign`), only in one that
    /// they can pass through. If it succeeds in none, sockets are abstract.
    pub fn new(environment: &[(OsString, OsString)], foreign: bool) -> Directory {
        let variable = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let parents = split_paths(&variable("RUNTIME_DIRECTORY"))
            .chain(split_paths(&variable("XDG_RUNTIME_DIR")))
            .chain(["/run".into(), "/tmp".into()])
            .filter(|parent| parent.is_absolute() && !(foreign && is_private(parent)))
            .collect();
        Directory { parents, made: RefCell::new(None), next: Cell::new(0) }
    }

    /// Its path, and the next number.
    pub(super) fn save(&self) -> (Option<PathBuf>, u32) {
        let made = self.made.take();
        self.made.replace(made.clone());
        (made, self.next.get())
    }

    /// Uses the directory that was made before an execve(2).
    pub(super) fn restore(&self, made: Option<PathBuf>, next: u32) {
        self.made.replace(made);
        self.next.set(next);
    }

    /// A notify socket for one start.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn socket(&self) -> io::Result<NotifySocket> {
        match self.next_path() {
            Some(path) => NotifySocket::at(path),
            None => NotifySocket::new(),
        }
    }

    /// einhorn's control socket for one start. Its clients need a path.
    ///
    /// # Errors
    /// When no descriptor is left, or the directory cannot be made.
    pub(super) fn einhorn(&self) -> io::Result<EinhornSocket> {
        let none = || io::Error::other("no directory for it");
        EinhornSocket::at(self.next_path().ok_or_else(none)?)
    }

    fn next_path(&self) -> Option<PathBuf> {
        let number = self.next.replace(self.next.get().wrapping_add(1)).to_string();
        // A cleaner of /tmp may have removed it since the last start.
        let made = self.made.take().filter(|path| path.is_dir());
        let path = made.or_else(|| self.parents.iter().find_map(|parent| make_in(parent).ok()));
        self.made.replace(path.clone());
        path.map(|path| path.join(number))
    }
}

/// Whether other users cannot pass through: systemd makes such a RUNTIME_DIRECTORY if
/// RuntimeDirectoryMode says so.
fn is_private(parent: &Path) -> bool {
    let searchable = |dir: &Path| fs::metadata(dir).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    !parent.ancestors().all(searchable)
}

/// Removes what instances that were killed have left here: directories of ours in which nobody has
/// a socket, and whose process has gone. The process may be one of another pid namespace, so that
/// alone proves nothing.
fn remove_deserted(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(owner) else { continue };
        let ours =
            entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == Uid::effective().as_raw());
        if ours && kill(pid, None) == Err(Errno::ESRCH) && is_deserted(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process in the name that [`make_in`] gives: `graceful-run-PID-XXXXXXXX`.
fn owner(name: &str) -> Option<Pid> {
    let (pid, random) = name.strip_prefix("graceful-run-")?.split_once('-')?;
    let random = random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    pid.parse().ok().filter(|pid| random && *pid > 0).map(Pid::from_raw)
}

/// Whether there are sockets, and none of them is open in any process.
fn is_deserted(directory: &Path) -> bool {
    let mut sockets = fs::read_dir(directory).into_iter().flatten().flatten().peekable();
    let refused = |path: PathBuf| {
        let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
        asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    sockets.peek().is_some() && sockets.all(|entry| refused(entry.path()))
}

fn make_in(parent: &Path) -> io::Result<PathBuf> {
    remove_deserted(parent);
    let name = format!("graceful-run-{}-{:08x}", std::process::id(), random()? as u32);
    let path = parent.join(name);
    if path.as_os_str().len() > LONGEST {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    DirBuilder::new().mode(0o711).create(&path)?;
    // The mode of mkdir(2) is cut by our umask.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
        .inspect_err(|_| drop(fs::remove_dir(&path)))?;
    Ok(path)
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(path) = self.made.take() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_in_the_runtime_directory_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), parent.path().into())];
        let directory = Directory::new(&environment, false);
        let [one, two] = [(); 2].map(|()| directory.socket().unwrap());
        assert!(one.address().starts_with(parent.path().to_str().unwrap()), "{}", one.address());
        assert_ne!(one.address(), two.address());
        drop((one, two, directory));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_parent_that_a_worker_of_another_user_cannot_pass_is_skipped() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), parent.path().into())];
        let foreign = Directory::new(&environment, true);
        assert!(!foreign.parents.contains(&parent.path().into()), "it is 0700");
        assert!(Directory::new(&environment, false).parents.contains(&parent.path().into()));
    }

    #[test]
    fn without_a_parent_sockets_are_abstract() {
        let mut directory = Directory::new(&[], false);
        directory.parents = vec!["/nowhere".into()];
        let socket = directory.socket().unwrap();
        assert!(socket.address().starts_with('@'));
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), parent.path().into())];
        let directory = Directory::new(&environment, false);
        drop(directory.socket().unwrap());
        fs::remove_dir_all(directory.made.borrow().as_ref().unwrap()).unwrap();
        assert!(Path::new(directory.socket().unwrap().address()).starts_with(parent.path()));
    }

    /// One that a killed instance left, one that is in use by a process that we cannot see, one of a
    /// process that lives, and others.
    #[test]
    fn only_deserted_directories_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let nobody = i32::MAX;
        let with_socket = |name: String| {
            let directory = parent.path().join(name);
            fs::create_dir(&directory).unwrap();
            UnixDatagram::bind(directory.join("0")).unwrap()
        };
        drop(with_socket(format!("graceful-run-{nobody}-00000001")));
        let used = with_socket(format!("graceful-run-{nobody}-00000002"));
        drop(with_socket(format!("graceful-run-{}-00000003", std::process::id())));
        drop(with_socket("graceful-run-web".into()));
        fs::create_dir(parent.path().join(format!("graceful-run-{nobody}-00000004"))).unwrap();
        remove_deserted(parent.path());
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(!left.contains(&format!("graceful-run-{nobody}-00000001").into()), "{left:?}");
        drop(used);
    }

    #[test]
    fn a_parent_whose_path_is_too_long_is_skipped() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(make_in(&long).is_err());
        assert_eq!(fs::read_dir(long).unwrap().count(), 0);
    }
}
