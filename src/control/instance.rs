//! One running instance: the path of its control socket, and the lock of its name.
//!
//! Contract: the lock of a name is taken before anything else is touched, and held
//! until we end. Its file is never removed: two instances could then hold the lock of
//! one name. The kernel releases the lock when its holder ends, so a socket that is left
//! of a killed instance is stale.

use crate::config::Control;
use crate::error::{Error, reason};
use crate::listener::PrivateSocket;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds, path};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, Gid, Group, Uid, faccessat};
use serde::{Deserialize, Serialize};
use std::env::split_paths;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of our directory in one that several programs use.
const DIRECTORY_NAME: &str = "graceful-run";
/// How long we wait for the pid in a lock file. Its holder writes it as soon as it has the lock.
const PID_TIMEOUT: Duration = Duration::from_millis(200);

/// A directory for control sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether we create it. Otherwise it has to exist.
    managed: bool,
}

/// The directories of control sockets: `$RUNTIME_DIRECTORY` (a service manager made it for us),
/// `$XDG_RUNTIME_DIR/graceful-run`, `/run/graceful-run`. A new socket goes into the first one.
pub fn directories(environment: &[(OsString, OsString)]) -> Vec<Directory> {
    let first = |name: &str| {
        let value = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value)?;
        split_paths(value).find(|path| path.is_absolute())
    };
    let given = first("RUNTIME_DIRECTORY").map(|path| Directory { path, managed: false });
    let bases = first("XDG_RUNTIME_DIR").into_iter().chain([PathBuf::from("/run")]);
    given
        .into_iter()
        .chain(bases.map(|base| Directory { path: base.join(DIRECTORY_NAME), managed: true }))
        .collect()
}

/// The path of our socket, and the lock of our name if there is a name.
#[derive(Debug)]
pub struct Instance {
    directory: Directory,
    /// None with `--no-socket`.
    socket: Option<PathBuf>,
    group: Option<Gid>,
    /// Whether it is an error if the socket cannot be opened.
    required: bool,
    lock: Option<File>,
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
    lock: Option<Fd>,
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
            _ => directories(environment).swap_remove(0),
        };
        let file_name = options.name.clone().unwrap_or_else(|| std::process::id().to_string());
        let path = given.unwrap_or_else(|| directory.path.join(format!("{file_name}.sock")));
        let lock = options.name.as_ref().map(|name| {
            // Two instances with sockets in different directories must not have the same name, so
            // the lock is in the default directory. If that cannot be used, it is in the
            // directory of the socket.
            let default = directories(environment).swap_remove(0);
            let locked = if prepare(&default, group).is_ok() { &default } else { &directory };
            prepare(locked, group)?;
            lock_name(name, &locked.path)
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
            lock: transfer.add_some(self.lock.as_ref())?,
        })
    }

    /// The instance as it was, with the lock of its name still held.
    pub fn restore(saved: Saved, fds: &mut InheritedFds) -> Instance {
        Instance {
            directory: Directory { path: saved.directory, managed: saved.managed },
            socket: saved.socket.map(PathBuf::from),
            group: saved.group.map(Gid::from_raw),
            required: saved.required,
            lock: fds.take_some(saved.lock).map(File::from),
        }
    }

    /// Opens the socket. None if there is to be none. None as well, with a line in the log, if
    /// it cannot be opened and is not required.
    ///
    /// # Errors
    /// Those of [`PrivateSocket::open`], and for a directory that is not safe.
    pub fn open(&self) -> Result<Option<PrivateSocket>, Error> {
        let Some(path) = &self.socket else { return Ok(None) };
        match prepare(&self.directory, self.group).and_then(|()| PrivateSocket::open(path, self.group)) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if self.required => Err(error),
            Err(error) => {
                log::info!("no control socket: {error}");
                Ok(None)
            }
        }
    }

    /// The group whose members may connect.
    pub fn group(&self) -> Option<Gid> {
        self.group
    }
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

/// Creates the directory if it is managed, and checks whether it is safe.
fn prepare(directory: &Directory, group: Option<Gid>) -> Result<(), Error> {
    let path = &directory.path;
    let failed = |error: io::Error| Error::cannot(attempt(path), reason(&error));
    if !directory.managed {
        return check_safety(directory, &fs::metadata(path).map_err(failed)?);
    }
    let mode = if group.is_some() { 0o755 } else { 0o700 };
    let made = DirBuilder::new().mode(mode).create(path);
    if let Err(error) = made.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    }) {
        return Err(failed(error));
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    check_safety(directory, &found)?;
    // The umask may have removed bits, and another instance may have created it with fewer.
    if found.mode() & mode != mode {
        fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o777 | mode)).map_err(failed)?;
    }
    Ok(())
}

fn attempt(path: &Path) -> String {
    format!("keep the control socket in {}", path.display())
}

/// Checks whether an existing directory is safe.
fn check_safety(directory: &Directory, found: &Metadata) -> Result<(), Error> {
    let mode = found.mode();
    let why = match directory.managed {
        false if mode & 0o002 != 0 && mode & 0o1000 == 0 => "everybody can write to it",
        true if !found.is_dir() => "it is no directory",
        true if found.uid() != Uid::effective().as_raw() => "it belongs to another user",
        true if mode & 0o022 != 0 => "others can write to it",
        _ => return Ok(()),
    };
    let advice = Some("give --socket a path in a directory of your own".to_owned());
    Err(Error::Cannot { attempt: attempt(&directory.path), why: why.to_owned(), advice })
}

/// The directory of a socket without `--socket`. This creates nothing, so a start may still
/// find it otherwise.
///
/// # Errors
/// [`Error::Cannot`] if it cannot be used.
pub fn default_directory(environment: &[(OsString, OsString)]) -> Result<PathBuf, Error> {
    let directory = directories(environment).swap_remove(0);
    let path = &directory.path;
    let found = if directory.managed { fs::symlink_metadata(path) } else { fs::metadata(path) };
    let existing = match found {
        Ok(found) => check_safety(&directory, &found).map(|()| path.as_path())?,
        Err(error) => {
            match path.parent().filter(|_| directory.managed && error.kind() == io::ErrorKind::NotFound) {
                Some(parent) => parent,
                None => return Err(Error::cannot(attempt(path), reason(&error))),
            }
        }
    };
    let writes = AccessFlags::W_OK | AccessFlags::X_OK;
    match faccessat(AT_FDCWD, existing, writes, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(directory.path),
        Err(errno) => {
            Err(Error::cannot(attempt(path), format!("{}: {}", existing.display(), reason(&errno.into()))))
        }
    }
}

fn lock_name(name: &str, directory: &Path) -> Result<File, Error> {
    let path = directory.join(format!("{name}.lock"));
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

    fn environment(pairs: &[(&str, &Path)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), value.as_os_str().into())).collect()
    }

    fn named(name: &str) -> Control {
        Control { name: Some(name.into()), ..Control::default() }
    }

    #[test]
    fn the_first_directory_that_is_given_counts() {
        let paths = |pairs: &[(&str, &str)]| -> Vec<PathBuf> {
            let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            directories(&pairs.collect::<Vec<_>>()).into_iter().map(|directory| directory.path).collect()
        };
        assert_eq!(paths(&[]), [Path::new("/run/graceful-run")]);
        let all = [("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/run/a:/run/b")];
        assert_eq!(
            paths(&all),
            ["/run/a", "/run/user/7/graceful-run", "/run/graceful-run"].map(PathBuf::from)
        );
        assert_eq!(paths(&[("XDG_RUNTIME_DIR", "")]), [Path::new("/run/graceful-run")]);
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
        let mode = fs::metadata(base.path().join(DIRECTORY_NAME)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_directory_that_is_not_safe_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let around = environment(&[("XDG_RUNTIME_DIR", base.path())]);
        let ours = base.path().join(DIRECTORY_NAME);
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
        assert!(default_directory(&around).unwrap_err().to_string().contains("others can write to it"));
    }

    #[test]
    fn the_default_directory_is_not_created() {
        let base = tempfile::tempdir().unwrap();
        let around = environment(&[("XDG_RUNTIME_DIR", base.path())]);
        assert_eq!(default_directory(&around), Ok(base.path().join(DIRECTORY_NAME)));
        assert!(!base.path().join(DIRECTORY_NAME).exists());
        let nowhere = environment(&[("XDG_RUNTIME_DIR", &base.path().join("nowhere"))]);
        assert!(default_directory(&nowhere).unwrap_err().to_string().contains("nowhere: no such file"));
        let given = environment(&[("RUNTIME_DIRECTORY", &base.path().join("web"))]);
        assert!(
            default_directory(&given).unwrap_err().to_string().contains("no such file"),
            "it is not ours to make"
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
