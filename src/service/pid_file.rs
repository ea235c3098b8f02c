//! `--pid-file`: written atomically once the first generation is ready, so that a reader can
//! trust it, and removed at the end only if the file is still ours.

use crate::error::{Error, reason};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds, path};
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A pid file that is prepared, or in place.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    temporary: PathBuf,
    /// The file that we wrote. It is kept open so that its inode number, by which we recognise
    /// it, is not reused, and locked so that a second instance notices us.
    file: File,
}

/// A pid file across an execve(2); its lock stays with the open file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    #[serde(with = "path")]
    path: PathBuf,
    #[serde(with = "path")]
    temporary: PathBuf,
    file: Fd,
}

impl PidFile {
    /// Writes our process id beside `path`, so that a directory in which it
    /// cannot be written is known before anything is started.
    ///
    /// # Errors
    /// [`Error::Cannot`]: the directory is missing, not writable, or open to
    /// everybody without the sticky bit.
    pub fn prepare(path: &Path) -> Result<PidFile, Error> {
        let failed =
            |error: io::Error| Error::cannot(format!("write pid file {}", path.display()), reason(&error));
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = fs::metadata(directory).map_err(failed)?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(Error::Cannot {
                attempt: format!("write pid file {}", path.display()),
                why: format!("everybody can write to {}", directory.display()),
                advice: Some("use a directory of your own, or /run".into()),
            });
        }
        if path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(failed(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if let Some(kind) = not_a_file(path) {
            return Err(Error::Cannot {
                attempt: format!("write pid file {}", path.display()),
                why: format!("{kind} is there"),
                advice: Some("leave --pid-file out to have none".into()),
            });
        }
        if is_locked(path) {
            return Err(Error::Cannot {
                attempt: format!("write pid file {}", path.display()),
                why: "another graceful-run holds it".into(),
                advice: Some("stop that one, or give each a file of its own".into()),
            });
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let temporary = directory.join(name);
        let _ = fs::remove_file(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary).map_err(failed)?;
        // On a file system without locks there is no such check, but still a pid file.
        let _ = file.try_lock();
        let written = file.write_all(content().as_bytes());
        let prepared = PidFile { path: path.into(), temporary, file };
        written.map(|()| prepared).map_err(failed)
    }

    /// Lists its descriptor and copies the other values, for an execve(2).
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn save(&self, transfer: &mut FdTransfer) -> io::Result<Saved> {
        Ok(Saved {
            path: self.path.clone(),
            temporary: self.temporary.clone(),
            file: transfer.add(&self.file)?,
        })
    }

    /// The pid file as it was before an execve(2).
    pub fn restore(saved: Saved, fds: &mut InheritedFds) -> PidFile {
        let file = fds.take(saved.file).into();
        PidFile { path: saved.path, temporary: saved.temporary, file }
    }

    /// Moves the file to its path (rename(2)).
    ///
    /// # Errors
    /// As rename(2), or when something else than a file is at the path.
    pub fn publish(&self) -> io::Result<()> {
        if let Some(kind) = not_a_file(&self.path) {
            return Err(io::Error::other(format!("{kind} is there now")));
        }
        fs::rename(&self.temporary, &self.path)
    }
}

fn content() -> String {
    format!("{}\n", std::process::id())
}

/// What is at the path, if it is neither a file nor a symbolic link: that is never replaced.
/// A link is replaced and not followed.
fn not_a_file(path: &Path) -> Option<&'static str> {
    let found = fs::symlink_metadata(path).ok()?.file_type();
    match found {
        _ if found.is_file() || found.is_symlink() => None,
        _ if found.is_socket() => Some("a socket"),
        _ if found.is_fifo() => Some("a fifo"),
        _ if found.is_dir() => Some("a directory"),
        _ => Some("a device"),
    }
}

/// Whether another process has locked the file (flock(2)). The open follows no link and does not
/// block.
fn is_locked(path: &Path) -> bool {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let there = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    there.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|data| (data.dev(), data.ino()))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
        let there = fs::symlink_metadata(&self.path).ok().map(|data| (data.dev(), data.ino()));
        // The file is opened only if it is ours: opening another one, a fifo say, could block.
        let ours = || fs::read_to_string(&self.path).is_ok_and(|text| text == content());
        if there.is_some() && there == identity(&self.file) && ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [(&fifo, "a fifo is there"), (&socket, "a socket is there")] {
            assert!(PidFile::prepare(path).unwrap_err().to_string().contains(what));
        }
        let late = dir.path().join("late");
        let file = PidFile::prepare(&late).unwrap();
        nix::unistd::mkfifo(&late, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(file.publish().is_err());
        drop(file);
        assert!(fs::symlink_metadata(&late).unwrap().file_type().is_fifo());
    }

    #[test]
    fn it_appears_whole_and_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::prepare(&path).unwrap();
        assert!(!path.exists());
        file.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_file_at_the_path_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::prepare(&path).unwrap();
        file.publish().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_second_instance_is_refused_and_the_file_of_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::prepare(&path).unwrap();
        file.publish().unwrap();
        let error = PidFile::prepare(&path).unwrap_err();
        assert!(error.to_string().contains("another graceful-run holds it"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(file);
        fs::write(&path, "1\n").unwrap();
        PidFile::prepare(&path).unwrap();
    }

    #[test]
    fn a_link_at_its_path_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("pid"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        PidFile::prepare(&path).unwrap().publish().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_is_missing_or_open_to_all_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PidFile::prepare(&dir.path().join("no/pid")).unwrap_err().status(), 125);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = PidFile::prepare(&dir.path().join("pid")).unwrap_err();
        assert!(error.to_string().contains("everybody can write"), "{error}");
    }
}
