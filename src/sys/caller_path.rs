//! Paths that a process passes to a system call, as that process sees them: below its own root and
//! working directory (chroot(2), mount_namespaces(7)).
//!
//! Contract: a path is resolved up to its last name, which is not followed, as bind(2), unlink(2) and
//! rename(2) have it. It is resolved at another moment than the kernel does it, so what depends on it has
//! to compare the file as well.

use super::proc;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, stat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A file, by device and inode.
pub type FileId = (u64, u64);

/// A name in a directory.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    name: OsString,
    /// The same, as we see it.
    pub path: PathBuf,
}

impl Place {
    /// The socket file at this place.
    pub fn socket(&self) -> Option<FileId> {
        let file = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        socket_file(&file)
    }

    /// When the directory was made, if its owner alone may use it, as mkdtemp(3) has it: in nanoseconds
    /// since the epoch. None where the file system does not know.
    pub fn private_directory_born(&self) -> Option<u64> {
        let link = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let directory = std::fs::metadata(link).ok().filter(|it| it.mode() & 0o7777 == 0o700)?;
        let born = directory.created().ok()?;
        born.duration_since(UNIX_EPOCH).ok()?.as_nanos().try_into().ok()
    }

    /// Removes the name.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self) -> nix::Result<()> {
        unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
    }
}

/// The socket file at a path of ours.
pub fn socket_at(path: &Path) -> Option<FileId> {
    socket_file(&nix::sys::stat::lstat(path).ok()?)
}

fn socket_file(file: &nix::sys::stat::FileStat) -> Option<FileId> {
    let kind = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT;
    (kind == SFlag::S_IFSOCK).then_some((file.st_dev, file.st_ino))
}

/// The bytes of a path in the memory of the task, without the NUL at its end.
///
/// # Errors
/// ENAMETOOLONG if it does not end, and those of process_vm_readv(2).
pub fn read(thread: Pid, at: u64) -> nix::Result<Vec<u8>> {
    /// What follows the path may not be readable, so that no more than one page is read at a time. Most
    /// paths are shorter than this.
    const PART: u64 = 256;
    let mut path = Vec::new();
    while path.len() < libc::PATH_MAX as usize {
        let from = at.wrapping_add(path.len() as u64);
        let mut bytes = [0; PART as usize];
        let length = (PART - from % PART) as usize;
        let read = process_vm_readv(
            thread,
            &mut [IoSliceMut::new(&mut bytes[..length])],
            &[RemoteIoVec { base: from as usize, len: length }],
        )?;
        match bytes[..read].iter().position(|&byte| byte == 0) {
            Some(end) => {
                path.extend(&bytes[..end]);
                return Ok(path);
            }
            None if read == 0 => return Err(Errno::EFAULT),
            None => path.extend(&bytes[..read]),
        }
    }
    Err(Errno::ENAMETOOLONG)
}

/// The last name of a path, which may be followed by nothing.
pub fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// Where a path leads that the task passes, relative to its descriptor `directory` (or AT_FDCWD). None if
/// its last name is that of a directory.
///
/// # Errors
/// Those of open(2): ENOENT if its directory does not exist, EACCES or EPERM if we may not look there.
pub fn resolve(thread: Pid, directory: RawFd, path: &[u8]) -> nix::Result<Option<Place>> {
    let name = last_name(path);
    let parent = &path[..path.len() - name.len()];
    if matches!(name, b"" | b"." | b"..") {
        return Ok(None);
    }
    let link = match path.first() {
        Some(b'/') => "root".to_owned(),
        _ if directory == libc::AT_FDCWD => "cwd".to_owned(),
        _ => format!("fd/{directory}"),
    };
    let base = proc::directory(thread, &link).map_err(errno)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let below = &parent[parent.iter().take_while(|&&byte| byte == b'/').count()..];
    let below = OsStr::from_bytes(if below.is_empty() { b"." } else { below });
    let elsewhere = link == "root" && !is_our_root(&base);
    let directory = match elsewhere {
        true => openat2(&base, below, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT))?,
        false => openat(&base, below, flags, Mode::empty())?,
    };
    let shown = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).map_err(errno)?;
    let name = OsStr::from_bytes(name).to_owned();
    let path = shown.join(&name);
    Ok(Some(Place { directory, name, path }))
}

fn is_our_root(root: &OwnedFd) -> bool {
    let same = |one: nix::sys::stat::FileStat, other: nix::sys::stat::FileStat| {
        (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    };
    fstat(root).and_then(|root| Ok(same(root, stat("/")?))).unwrap_or(false)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn read_own(text: &[u8]) -> nix::Result<Vec<u8>> {
        read(Pid::this(), text.as_ptr() as u64)
    }

    #[test]
    fn a_path_is_read_up_to_its_end() {
        for length in [0, 1, 255, 256, 257, 4000] {
            let mut text = vec![b'x'; length];
            text.push(0);
            assert_eq!(read_own(&text).map(|path| path.len()), Ok(length));
        }
        assert_eq!(read_own(&[b'x'; 8192]), Err(Errno::ENAMETOOLONG));
        assert_eq!(read(Pid::this(), 0), Err(Errno::EFAULT));
    }

    #[test]
    fn every_way_to_a_name_leads_to_the_same_place() {
        let scene = tempfile::tempdir().expect("a directory");
        let own = scene.path().canonicalize().expect("it is there");
        fs::create_dir(own.join("d")).expect("it is ours");
        symlink("d", own.join("link")).expect("it is ours");
        let _listener = UnixListener::bind(own.join("d/s")).expect("bind");
        let opened = File::open(&own).expect("it is ours");
        let id = socket_at(&own.join("d/s"));
        assert!(id.is_some());
        let here = Pid::this();
        let absolute = |text: &str| {
            resolve(here, libc::AT_FDCWD, own.join(text).as_os_str().as_bytes()).expect("it resolves")
        };
        let relative = |text: &str| resolve(here, opened.as_raw_fd(), text.as_bytes()).expect("it resolves");
        for text in ["d/s", "link/s", "d/../d//s", "./d/./s"] {
            for place in [absolute(text), relative(text)] {
                let place = place.expect("a name");
                assert_eq!((place.path.as_path(), place.socket()), (own.join("d/s").as_path(), id), "{text}");
            }
        }
        for text in ["", "d/", "d/.", ".."] {
            assert!(relative(text).is_none(), "{text:?}");
        }
        assert_eq!(resolve(here, opened.as_raw_fd(), b"nowhere/s").err(), Some(Errno::ENOENT));
        let other = relative("d/other").expect("a name");
        assert_eq!(other.socket(), None, "nothing is there");
        assert!(relative("d").expect("a name").socket().is_none(), "a directory is no socket");
        absolute("d/s").expect("a name").remove().expect("it is ours");
        assert_eq!(socket_at(&own.join("d/s")), None);
    }

    #[test]
    fn the_last_name_follows_the_last_slash() {
        for (path, name) in [("a/b", "b"), ("b", "b"), ("/b", "b"), ("a/", ""), ("", "")] {
            assert_eq!(last_name(path.as_bytes()), name.as_bytes());
        }
    }
}
