//! Where the sockets that a worker speaks to lie: a directory of our own that nobody else can
//! list, and that every user can pass through, since a worker may run as any.

use super::end::EinhornSocket;
use crate::sys::notify::{NotifySocket, random};
use std::cell::{Cell, RefCell};
use std::env::split_paths;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// sockaddr_un holds 107 bytes; a socket's own name takes a slash and a number.
const LONGEST: usize = 107 - 11;

/// The directory, made for the first socket; it goes with us.
#[derive(Debug)]
pub struct Directory {
    places: Vec<PathBuf>,
    made: RefCell<Option<PathBuf>>,
    /// Numbers are never used twice: a late message to a socket that has gone
    /// reaches no other.
    next: Cell<u32>,
}

impl Directory {
    /// It will be in the first place that has room for it: RUNTIME_DIRECTORY,
    /// XDG_RUNTIME_DIR, /run, /tmp; where workers are `foreign`, another user, only
    /// one that they can pass through. Where none has, sockets are abstract.
    pub fn new(environment: &[(OsString, OsString)], foreign: bool) -> Directory {
        let variable = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let places = split_paths(&variable("RUNTIME_DIRECTORY"))
            .chain(split_paths(&variable("XDG_RUNTIME_DIR")))
            .chain(["/run".into(), "/tmp".into()])
            .filter(|place| place.is_absolute() && !(foreign && is_private(place)))
            .collect();
        Directory { places, made: RefCell::new(None), next: Cell::new(0) }
    }

    /// Where it is, and the next number.
    pub(super) fn save(&self) -> (Option<PathBuf>, u32) {
        let made = self.made.take();
        self.made.replace(made.clone());
        (made, self.next.get())
    }

    /// Goes on in one that was made before an execve(2).
    pub(super) fn restore(&self, made: Option<PathBuf>, next: u32) {
        self.made.replace(made);
        self.next.set(next);
    }

    /// A socket for one start.
    ///
    /// # Errors
    /// When there is no descriptor to spare.
    pub fn socket(&self) -> io::Result<NotifySocket> {
        match self.next_path() {
            Some(path) => NotifySocket::at(path),
            None => NotifySocket::new(),
        }
    }

    /// einhorn's control socket for one start. Its clients know no other than
    /// those with a path.
    ///
    /// # Errors
    /// When there is no descriptor to spare, or no directory.
    pub(super) fn einhorn(&self) -> io::Result<EinhornSocket> {
        let none = || io::Error::other("no directory for it");
        EinhornSocket::at(self.next_path().ok_or_else(none)?)
    }

    fn next_path(&self) -> Option<PathBuf> {
        let number = self.next.replace(self.next.get().wrapping_add(1)).to_string();
        // Cleaners of /tmp may have taken it away since the last start.
        let made = self.made.take().filter(|path| path.is_dir());
        let path = made.or_else(|| self.places.iter().find_map(|place| make_in(place).ok()));
        self.made.replace(path.clone());
        path.map(|path| path.join(number))
    }
}

/// Whether others cannot pass: systemd makes RUNTIME_DIRECTORY like that when
/// RuntimeDirectoryMode says so.
fn is_private(place: &Path) -> bool {
    let searchable = |dir: &Path| fs::metadata(dir).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    !place.ancestors().all(searchable)
}

fn make_in(place: &Path) -> io::Result<PathBuf> {
    let name = format!("graceful-run-{}-{:08x}", std::process::id(), random()? as u32);
    let path = place.join(name);
    if path.as_os_str().len() > LONGEST {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    DirBuilder::new().mode(0o711).create(&path)?;
    // Whatever our umask is.
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
    fn it_takes_the_place_that_we_were_given_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), place.path().into())];
        let directory = Directory::new(&environment, false);
        let [one, two] = [(); 2].map(|()| directory.socket().unwrap());
        assert!(one.address().starts_with(place.path().to_str().unwrap()), "{}", one.address());
        assert_ne!(one.address(), two.address());
        drop((one, two, directory));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_a_foreign_worker_cannot_pass_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), place.path().into())];
        let foreign = Directory::new(&environment, true);
        assert!(!foreign.places.contains(&place.path().into()), "it is 0700");
        assert!(Directory::new(&environment, false).places.contains(&place.path().into()));
    }

    #[test]
    fn without_a_place_sockets_are_abstract() {
        let mut directory = Directory::new(&[], false);
        directory.places = vec!["/nowhere".into()];
        let socket = directory.socket().unwrap();
        assert!(socket.address().starts_with('@'));
    }

    #[test]
    fn one_that_was_cleaned_away_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let environment = [("RUNTIME_DIRECTORY".into(), place.path().into())];
        let directory = Directory::new(&environment, false);
        drop(directory.socket().unwrap());
        fs::remove_dir_all(directory.made.borrow().as_ref().unwrap()).unwrap();
        assert!(Path::new(directory.socket().unwrap().address()).starts_with(place.path()));
    }

    #[test]
    fn a_place_whose_name_is_too_long_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        assert!(make_in(&long).is_err());
        assert_eq!(fs::read_dir(long).unwrap().count(), 0);
    }
}
