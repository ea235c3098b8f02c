//! The directories of control sockets.
//!
//! Contract: a directory of ours has to be safe: only its owner, who is our user, can write to it.

use crate::error::{Error, reason};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, Gid, Uid, faccessat};
use std::env::split_paths;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The name of our directory in one that several programs use.
pub(super) const DIRECTORY_NAME: &str = "graceful-run";

/// A directory for control sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether we create it. Otherwise it has to exist.
    pub(super) managed: bool,
}

/// The directories of control sockets: `$RUNTIME_DIRECTORY` (a service manager made it for us),
/// `$XDG_RUNTIME_DIR/graceful-run`, `/run/graceful-run`. A new socket goes into the first one.
///
/// Where XDG_RUNTIME_DIR is not set, as under cron and sudo, it is `/run/user/UID` if that is there;
/// but not for root, who can use `/run`, which stays when root logs out.
pub fn directories(environment: &[(OsString, OsString)]) -> Vec<Directory> {
    among(environment, user_base().filter(|_| !Uid::effective().is_root()))
}

/// Those in which a running instance is looked for. A server and `ctl` of one user may have been
/// started with and without XDG_RUNTIME_DIR, or with that of another user (su).
pub fn searched(environment: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let of_user = user_base().map(|base| base.join(DIRECTORY_NAME));
    let mut paths: Vec<PathBuf> = directories(environment).into_iter().map(|it| it.path).collect();
    let missing = of_user.filter(|path| !paths.contains(path));
    paths.splice(paths.len() - 1..paths.len() - 1, missing);
    paths.dedup();
    paths
}

/// The one that RuntimeDirectory=NAME of systemd.exec(5) makes, in which an instance of this name is
/// looked for as well.
pub fn of_unit(name: &str) -> PathBuf {
    Path::new("/run").join(name)
}

/// The first absolute path in a variable.
pub fn first_path(environment: &[(OsString, OsString)], name: &str) -> Option<PathBuf> {
    let value = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value)?;
    split_paths(value).find(|path| path.is_absolute())
}

/// `user` is used in the place of XDG_RUNTIME_DIR.
fn among(environment: &[(OsString, OsString)], user: Option<PathBuf>) -> Vec<Directory> {
    let given = first_path(environment, "RUNTIME_DIRECTORY");
    let base = first_path(environment, "XDG_RUNTIME_DIR").or(user);
    let bases = base.into_iter().chain(["/run".into()]);
    given
        .map(|path| Directory { path, managed: false })
        .into_iter()
        .chain(bases.map(|base| Directory { path: base.join(DIRECTORY_NAME), managed: true }))
        .collect()
}

/// The runtime directory of our user, which pam_systemd(8) makes, if it is there.
fn user_base() -> Option<PathBuf> {
    let uid = Uid::effective();
    let path = Path::new("/run/user").join(uid.to_string());
    let found = fs::symlink_metadata(&path).ok()?;
    (found.is_dir() && found.uid() == uid.as_raw()).then_some(path)
}

/// Creates the directory if it is managed, and checks whether it is safe.
pub(super) fn prepare(directory: &Directory, group: Option<Gid>) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &Path)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), value.as_os_str().into())).collect()
    }

    #[test]
    fn the_first_directory_that_is_given_counts() {
        let paths = |pairs: &[(&str, &str)]| -> Vec<PathBuf> {
            let pairs = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let found = among(&pairs.collect::<Vec<_>>(), None);
            found.into_iter().map(|directory| directory.path).collect()
        };
        assert_eq!(paths(&[]), [Path::new("/run/graceful-run")]);
        let all = [("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "/run/a:/run/b")];
        assert_eq!(
            paths(&all),
            ["/run/a", "/run/user/7/graceful-run", "/run/graceful-run"].map(PathBuf::from)
        );
        assert_eq!(paths(&[("XDG_RUNTIME_DIR", "")]), [Path::new("/run/graceful-run")]);
        let user = among(&[], Some("/run/user/7".into())).swap_remove(0);
        assert_eq!(user.path, Path::new("/run/user/7/graceful-run"));
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
}
