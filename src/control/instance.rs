//! One running instance: the path of its control socket, and the lock of its name.
//!
//! Contract: the lock of a name is taken before anything else is touched, and held
//! until we end. Its file is never removed: two instances could then hold the lock of
//! one name. A name is also taken by an instance in another directory in which `ctl` looks for it.
//! The kernel releases the lock when its holder ends, so a socket that is left
//! of a killed instance is stale. Somebody else may remove the directory (logind(8) does, when
//! its user logs out): both are made again as soon as that is possible.

use super::directory::{self, Directory, prepare};
use super::name_guard;
use crate::config::Control;
use crate::error::{Error, reason};
use crate::listener::PrivateSocket;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds, path};
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Group, Uid};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long we wait for the pid in a lock file. Its holder writes it as soon as it has the lock.
const PID_TIMEOUT: Duration = Duration::from_millis(200);

/// The path of our socket, and the lock of our name if there is a name.
#[derive(Debug)]
pub struct Instance {
    directory: Directory,
    /// None with `--no-socket`.
    socket: Option<PathBuf>,
    group: Option<Gid>,
    /// Whether it is an error if the socket cannot be opened.
    required: bool,
    lock: Option<Lock>,
}

/// The lock of a name.
#[derive(Debug)]
struct Lock {
    name: String,
    directory: Directory,
    /// Declared before the file, and so dropped before it.
    guard: Option<UnixListener>,
    file: File,
}

/// An [`Instance`] that goes through an execve(2). The lock belongs to the open file, and stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    #[serde(with = "path")]
    directory: PathBuf,
    managed: bool,
    socket: Option<OsString>,
    group: Option<u32>,
    required: bool,
    lock: Option<SavedLock>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedLock {
    name: String,
    #[serde(with = "path")]
    directory: PathBuf,
    managed: bool,
    guard: Option<Fd>,
    file: Fd,
}

impl Instance {
    /// Decides where the socket goes, and takes the lock of the name. Relative paths
    /// are relative to `base`.
    ///
    /// # Errors
    /// [`Error::NameTaken`] if another instance has the name; [`Error::Cannot`] if the name cannot
    /// be locked, or if there is no such group.
    pub fn take(
        options: &Control,
        environment: &[(OsString, OsString)],
        base: &Path,
    ) -> Result<Instance, Error> {
        let group = options.group.as_deref().map(find_group).transpose()?;
        let given = options.socket.as_ref().map(|path| base.join(path));
        let directory = match given.as_deref().map(Path::parent) {
            Some(Some(parent)) => Directory { path: parent.into(), managed: false },
            // `directories` has at least one.
            _ => directory::directories(environment).swap_remove(0),
        };
        let file_name = options.name.clone().unwrap_or_else(|| std::process::id().to_string());
        let path = given.unwrap_or_else(|| directory.path.join(format!("{file_name}.sock")));
        let lock = options.name.as_ref().map(|name| {
            // Two instances with sockets in different directories must not have the same name, so
            // the lock is in the default directory. If that cannot be used, it is in the
            // directory of the socket.
            let default = directory::directories(environment).swap_remove(0);
            let locked = if prepare(&default, group).is_ok() { default } else { directory.clone() };
            prepare(&locked, group)?;
            let file = lock_name(name, &locked.path)?;
            let taken = |pid| Error::NameTaken { name: name.clone(), pid: Some(pid) };
            let guard = name_guard::hold(&lock_path(name, &locked.path)).map_err(taken)?;
            // Ours is held by now: of two that start at the same time at least one sees the other.
            let searched = directory::searched(environment).into_iter().chain([directory::of_unit(name)]);
            if let Some(pid) = searched.into_iter().find_map(|other| holder(name, &other, &file)) {
                return Err(Error::NameTaken { name: name.clone(), pid });
            }
            Ok(Lock { name: name.clone(), directory: locked, guard, file })
        });
        let lock = lock.transpose()?;
        Ok(Instance {
            directory,
            socket: (!options.none).then_some(path),
            group,
            required: options.name.is_some() || options.socket.is_some(),
            lock,
        })
    }

    /// Lists the descriptor and saves everything else.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        Ok(Saved {
            directory: self.directory.path.clone(),
            managed: self.directory.managed,
            socket: self.socket.clone().map(PathBuf::into_os_string),
            group: self.group.map(Gid::as_raw),
            required: self.required,
            lock: self.lock.as_ref().map(|lock| lock.save(transfer)).transpose()?,
        })
    }

    /// The instance as it was, with the lock of its name still held.
    pub fn restore(saved: Saved, fds: &mut InheritedFds) -> Instance {
        Instance {
            directory: Directory { path: saved.directory, managed: saved.managed },
            socket: saved.socket.map(PathBuf::from),
            group: saved.group.map(Gid::from_raw),
            required: saved.required,
            lock: saved.lock.map(|saved| Lock::restore(saved, fds)),
        }
    }

    /// Opens the socket. None if there is to be none. None as well, with a line in the log, if
    /// it cannot be opened and is not required.
    ///
    /// # Errors
    /// Those of [`PrivateSocket::open`], and for a directory that is not safe.
    pub fn open(&self) -> Result<Option<PrivateSocket>, Error> {
        let Some(path) = &self.socket else { return Ok(None) };
        match self.open_at(path) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if self.required => Err(error),
            Err(error) => {
                log::info!("no control socket: {error}");
                Ok(None)
            }
        }
    }

    /// Opens the socket at `path`, in the directory that was decided.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(&self, path: &Path) -> Result<PrivateSocket, Error> {
        prepare(&self.directory, self.group)?;
        PrivateSocket::open(path, self.group)
    }

    /// Takes the lock of the name again, if its file was removed.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn repair(&mut self) -> Result<(), Error> {
        if let Some(lock) = self.lock.as_mut().filter(|lock| !lock.is_in_place()) {
            prepare(&lock.directory, self.group)?;
            lock.file = lock_name(&lock.name, &lock.directory.path)?;
        }
        Ok(())
    }

    /// Whether nobody has removed the lock of the name.
    pub fn is_in_place(&self) -> bool {
        self.lock.as_ref().is_none_or(Lock::is_in_place)
    }

    /// The path of the lock, if there is a name.
    pub fn lock_path(&self) -> Option<PathBuf> {
        self.lock.as_ref().map(Lock::path)
    }

    /// The group whose members may connect.
    pub fn group(&self) -> Option<Gid> {
        self.group
    }
}

impl Lock {
    fn save(&self, transfer: &mut FdTransfer) -> io::Result<SavedLock> {
        Ok(SavedLock {
            name: self.name.clone(),
            directory: self.directory.path.clone(),
            managed: self.directory.managed,
            guard: transfer.add_some(self.guard.as_ref())?,
            file: transfer.add(&self.file)?,
        })
    }

    fn restore(saved: SavedLock, fds: &mut InheritedFds) -> Lock {
        Lock {
            name: saved.name,
            directory: Directory { path: saved.directory, managed: saved.managed },
            guard: fds.take_some(saved.guard).map(UnixListener::from),
            file: fds.take(saved.file).into(),
        }
    }

    fn path(&self) -> PathBuf {
        lock_path(&self.name, &self.directory.path)
    }

    fn is_in_place(&self) -> bool {
        let id = |data: fs::Metadata| (data.dev(), data.ino());
        let there = fs::symlink_metadata(self.path()).map(id);
        there.is_ok_and(|there| self.file.metadata().map(id).is_ok_and(|ours| ours == there))
    }
}

fn lock_path(name: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{name}.lock"))
}

fn find_group(name: &str) -> Result<Gid, Error> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(number) = name.parse().ok().filter(|&number| digits && number != u32::MAX) {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Error::cannot("open the control socket to a group", format!("no group {name}"))),
        Err(errno) => Err(Error::cannot(format!("look up group {name}"), reason(&errno.into()))),
    }
}

fn lock_name(name: &str, directory: &Path) -> Result<File, Error> {
    let path = lock_path(name, directory);
    let attempt = || format!("lock the name '{name}' with {}", path.display());
    let failed = |error: io::Error| Error::cannot(attempt(), reason(&error));
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
    let mut file = options.open(&path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    // With a second hard link it may be a file that somebody else wants us to truncate.
    if !found.is_file() || found.nlink() != 1 || found.uid() != Uid::effective().as_raw() {
        return Err(Error::cannot(attempt(), "it is not a file of our own"));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::NameTaken { name: name.to_owned(), pid: read_holder(&mut file) });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).map_err(failed)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
    Ok(file)
}

/// The pid of the instance of our user that has the name by its lock in this directory, another
/// one than `ours`. Which directory it is depends on XDG_RUNTIME_DIR, which cron and sudo do not set.
fn holder(name: &str, directory: &Path, ours: &File) -> Option<Option<i32>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let mut file = options.read(true).custom_flags(flags.bits()).open(lock_path(name, directory)).ok()?;
    let (found, ours) = (file.metadata().ok()?, ours.metadata().ok()?);
    let is_ours = (found.dev(), found.ino()) == (ours.dev(), ours.ino());
    if is_ours || !found.is_file() || found.uid() != Uid::effective().as_raw() {
        return None;
    }
    // Shared, so that it is in nobody's way who looks too. Closing the file releases it.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(read_holder(&mut file)),
        _ => None,
    }
}

/// Reads the pid in a lock file. It is only for the message: no signal is sent to it.
fn read_holder(file: &mut File) -> Option<i32> {
    let start = Instant::now();
    loop {
        let mut text = String::new();
        let read = io::Seek::rewind(file).and_then(|()| file.take(32).read_to_string(&mut text));
        if read.is_ok() && text.ends_with('\n') {
            return text.trim().parse().ok();
        }
        if start.elapsed() > PID_TIMEOUT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn environment(pairs: &[(&str, &Path)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), value.as_os_str().into())).collect()
    }

    fn named(name: &str) -> Control {
        Control { name: Some(name.into()), ..Control::default() }
    }

    #[test]
    fn a_name_is_held_once_and_its_holder_is_named() {
        let base = tempfile::tempdir().unwrap();
        let around = environment(&[("XDG_RUNTIME_DIR", base.path())]);
        let first = Instance::take(&named("web"), &around, Path::new("/")).unwrap();
        let error = Instance::take(&named("web"), &around, Path::new("/")).unwrap_err();
        assert_eq!(error, Error::NameTaken { name: "web".into(), pid: Some(std::process::id() as i32) });
        assert_eq!(error.status(), 100);
        Instance::take(&named("other"), &around, Path::new("/")).unwrap();
        drop(first);
        Instance::take(&named("web"), &around, Path::new("/")).unwrap();
        let mode = fs::metadata(base.path().join(directory::DIRECTORY_NAME)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_directory_that_is_not_safe_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let around = environment(&[("XDG_RUNTIME_DIR", base.path())]);
        let ours = base.path().join(directory::DIRECTORY_NAME);
        let refused = || Instance::take(&named("web"), &around, Path::new("/")).unwrap_err().to_string();
        std::os::unix::fs::symlink("/tmp", &ours).unwrap();
        assert!(refused().contains("it is no directory"));
        fs::remove_file(&ours).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, Permissions::from_mode(0o777)).unwrap();
        assert!(refused().contains("others can write to it"));
        let socket = Some(ours.join("s"));
        let asked = Control { socket, ..Control::default() };
        let instance = Instance::take(&asked, &around, Path::new("/")).unwrap();
        assert!(instance.open().unwrap_err().to_string().contains("everybody can write"));
        let instance = Instance::take(&Control::default(), &around, Path::new("/")).unwrap();
        assert!(instance.open().unwrap().is_none(), "nobody asked for it");
        assert!(
            directory::default_directory(&around).unwrap_err().to_string().contains("others can write to it")
        );
    }

    #[test]
    fn a_lock_that_leads_elsewhere_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let around = environment(&[("RUNTIME_DIRECTORY", base.path())]);
        fs::write(base.path().join("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("victim", base.path().join("web.lock")).unwrap();
        let error = Instance::take(&named("web"), &around, Path::new("/")).unwrap_err();
        assert_eq!(error.status(), 125);
        assert_eq!(fs::read_to_string(base.path().join("victim")).unwrap(), "precious");
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(find_group("0"), Ok(Gid::from_raw(0)));
        assert!(find_group("no-such-group").unwrap_err().to_string().contains("no group no-such-group"));
        assert!(find_group("+1").is_err() && find_group("4294967295").is_err());
    }
}
