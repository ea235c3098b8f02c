//! Descriptors that are kept when we execute a new graceful-run: the process stays the
//! same, so a descriptor that is open under a number stays open under that number.
//!
//! Contract: a descriptor is close-on-exec except during the execve(2) for which it
//! was listed, so that no worker ever gets a copy. In the state it is an [`Fd`]: its
//! number, and the file that it has to be. The new image checks all of them before it
//! takes the first; each is taken once, and has an owner from then on.

use crate::logger;
use crate::sys::fd;
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// A descriptor as the state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd {
    number: RawFd,
    /// Device and inode, from fstat(2). Kinds of files without an inode of their own (pidfds
    /// before Linux 6.9) share one.
    file: (u64, u64),
}

/// The list of descriptors to keep over the next execve(2).
#[derive(Debug, Default)]
pub struct FdTransfer {
    listed: Vec<Fd>,
}

impl FdTransfer {
    /// Lists a descriptor.
    ///
    /// # Errors
    /// None that the kernel documents for an open one.
    pub fn add(&mut self, descriptor: &impl AsFd) -> io::Result<Fd> {
        let number = descriptor.as_fd().as_raw_fd();
        let stat = fstat(descriptor)?;
        let fd = Fd { number, file: (stat.st_dev, stat.st_ino) };
        self.listed.push(fd);
        Ok(fd)
    }

    /// As [`add`](FdTransfer::add), for an optional descriptor.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn add_some(&mut self, descriptor: Option<&impl AsFd>) -> io::Result<Option<Fd>> {
        descriptor.map(|descriptor| self.add(descriptor)).transpose()
    }

    /// Everything that has been listed.
    pub fn listed(&self) -> &[Fd] {
        &self.listed
    }

    /// Has execve(2) keep, or close, all of them.
    ///
    /// # Errors
    /// The first error; the other descriptors are changed all the same.
    pub fn keep(&self, keep: bool) -> io::Result<()> {
        let change = if keep { fd::keep_on_exec } else { fd::close_on_exec };
        self.listed.iter().map(|fd| change(fd.number)).fold(Ok(()), io::Result::and)
    }
}

/// Descriptors that were kept over an execve(2) and have no owner yet.
#[derive(Debug)]
pub struct InheritedFds {
    waiting: BTreeMap<RawFd, Fd>,
}

impl InheritedFds {
    /// Checks all descriptors that were listed, and makes them close-on-exec.
    ///
    /// # Errors
    /// The one that is missing, is listed twice or is another file than before. None has an
    /// owner then.
    pub fn new(listed: &[Fd]) -> Result<InheritedFds, String> {
        let mut waiting = BTreeMap::new();
        for &fd in listed {
            let number = fd.number;
            let is_standard = number <= libc::STDERR_FILENO;
            if is_standard || waiting.insert(number, fd).is_some() {
                return Err(format!("descriptor {number} cannot be kept"));
            }
            match fd::device_and_inode(number) {
                Ok(file) if file == fd.file => {}
                Ok(_) => return Err(format!("descriptor {number} is another file than before")),
                Err(error) => return Err(format!("descriptor {number} is lost: {error}")),
            }
            fd::close_on_exec(number).map_err(|error| format!("descriptor {number}: {error}"))?;
        }
        Ok(InheritedFds { waiting })
    }

    /// Takes ownership of a descriptor. If it was not listed, or was taken before, the
    /// state is wrong: see [`abandon`].
    pub fn take(&mut self, fd: Fd) -> OwnedFd {
        match self.waiting.remove(&fd.number) {
            Some(listed) if listed == fd => fd::take_ownership(fd.number),
            _ => abandon(&format!("descriptor {} was not kept", fd.number)),
        }
    }

    /// As [`take`](InheritedFds::take), for an optional descriptor.
    pub fn take_some(&mut self, fd: Option<Fd>) -> Option<OwnedFd> {
        fd.map(|fd| self.take(fd))
    }
}

impl Drop for InheritedFds {
    /// Closes those that were not taken: this image does not need them.
    fn drop(&mut self) {
        for &number in self.waiting.keys() {
            drop(fd::take_ownership(number));
        }
    }
}

/// Ends a new image that cannot take over. It exits at once and drops nothing: the
/// workers go on without a supervisor; the paths of their sockets and the pid file stay.
pub fn abandon(why: &str) -> ! {
    logger::write_line(&format!(
        "cannot take over from ourselves: {why}; the workers go on without a supervisor (manual takeover: stop them by their pids, then start again)"
    ));
    std::process::exit(125)
}

/// For `#[serde(with)]`: a path as its bytes, which need not be UTF-8.
pub mod path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    /// As an OsString.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(serializer)
    }

    /// From an OsString.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::os::fd::IntoRawFd;

    fn closes_on_exec(descriptor: &impl AsFd) -> nix::Result<bool> {
        let flags = fcntl(descriptor, FcntlArg::F_GETFD)?;
        Ok(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC))
    }

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn only_listed_descriptors_are_kept_and_only_until_it_is_undone() {
        let (ours, other) = (open(), open());
        let mut transfer = FdTransfer::default();
        transfer.add(&ours).unwrap();
        transfer.keep(true).unwrap();
        assert_eq!((closes_on_exec(&ours), closes_on_exec(&other)), (Ok(false), Ok(true)));
        transfer.keep(false).unwrap();
        assert_eq!(closes_on_exec(&ours), Ok(true));
    }

    #[test]
    fn a_taken_descriptor_is_close_on_exec_and_has_one_owner() {
        let ours = open();
        let mut transfer = FdTransfer::default();
        let fd = transfer.add(&ours).unwrap();
        transfer.keep(true).unwrap();
        let number = ours.into_raw_fd();
        let mut fds = InheritedFds::new(transfer.listed()).unwrap();
        let taken = fds.take(fd);
        assert_eq!(taken.as_raw_fd(), number);
        assert_eq!(closes_on_exec(&taken), Ok(true));
        assert!(fds.waiting.is_empty());
    }

    #[test]
    fn a_lost_or_changed_descriptor_is_noticed() {
        let (ours, pipe) = (open(), nix::unistd::pipe().unwrap().0);
        let mut transfer = FdTransfer::default();
        let fd = transfer.add(&ours).unwrap();
        let other = Fd { number: pipe.as_raw_fd(), ..fd };
        assert!(InheritedFds::new(&[other]).unwrap_err().contains("another file"));
        let lost = Fd { number: 1_000_000, ..fd };
        assert!(InheritedFds::new(&[lost]).unwrap_err().contains("is lost"));
        assert!(InheritedFds::new(&[fd, fd]).unwrap_err().contains("cannot be kept"));
        assert!(InheritedFds::new(&[Fd { number: 1, ..fd }]).unwrap_err().contains("cannot be kept"));
    }
}
