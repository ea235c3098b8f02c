//! The only door to `/proc/PID`.
//!
//! Contract: what is read here is about processes of our own pid namespace. A `/proc` of another
//! one (`unshare --pid` without `--mount-proc`) shows strangers under the numbers of our
//! processes: it counts as absent. `/proc/self` and `/proc/sys` are about us in any case, and may
//! be read elsewhere.

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fs::{self, File, ReadDir};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Whose processes `/proc` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Those of our pid namespace.
    Ours,
    /// Those of another pid namespace, in which we have this number.
    Others(Pid),
    /// Nothing: it is not mounted, or we are not in it.
    Nothing,
}

/// Whose processes `/proc` shows: there, `self` is a link to our own number.
pub fn shows() -> Shows {
    let link = fs::read_link("/proc/self").ok();
    match link.and_then(|link| link.to_str()?.parse().ok()).map(Pid::from_raw) {
        Some(pid) if pid == Pid::this() => Shows::Ours,
        Some(pid) => Shows::Others(pid),
        None => Shows::Nothing,
    }
}

fn path(of: Pid, file: &str) -> io::Result<PathBuf> {
    match shows() {
        Shows::Ours => Ok(format!("/proc/{of}/{file}").into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// The content of a file of this process or thread.
///
/// # Errors
/// Those of open(2) and read(2); NotFound as well if `/proc` does not show our processes.
pub fn read(of: Pid, file: &str) -> io::Result<Vec<u8>> {
    fs::read(path(of, file)?)
}

/// The same, as text.
///
/// # Errors
/// As [`read`].
pub fn text(of: Pid, file: &str) -> io::Result<String> {
    fs::read_to_string(path(of, file)?)
}

/// Opens a file, or a directory, of this process or thread.
///
/// # Errors
/// As [`read`].
pub fn open(of: Pid, file: &str) -> io::Result<File> {
    File::open(path(of, file)?)
}

/// The directory that a link of this process or thread leads to, as it is for that one: with O_PATH,
/// for which no right to read it is needed.
///
/// # Errors
/// As [`read`].
pub fn directory(of: Pid, link: &str) -> io::Result<OwnedFd> {
    let path = path(of, link)?;
    Ok(nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The entries of a directory of this process or thread.
///
/// # Errors
/// As [`read`].
pub fn entries(of: Pid, directory: &str) -> io::Result<ReadDir> {
    fs::read_dir(path(of, directory)?)
}

/// Where a link of this process or thread leads.
///
/// # Errors
/// As [`read`].
pub fn link(of: Pid, file: &str) -> io::Result<PathBuf> {
    fs::read_link(path(of, file)?)
}

/// Every process; None if `/proc` does not show ours.
pub fn all() -> Option<impl Iterator<Item = Pid>> {
    let mut entries = fs::read_dir("/proc").ok().filter(|_| shows() == Shows::Ours)?.flatten().peekable();
    entries.peek()?;
    Some(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_proc_shows_us() {
        assert_eq!(shows(), Shows::Ours);
        assert!(text(Pid::this(), "stat").is_ok_and(|text| text.starts_with(&Pid::this().to_string())));
        assert!(all().is_some_and(|mut all| all.any(|pid| pid == Pid::this())));
    }
}
