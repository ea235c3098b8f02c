//! Our own path, at which a new graceful-run will be installed.
//!
//! `/proc/self/exe` follows the file and not the name: after another file was renamed
//! over ours, it still leads to the old one. So we keep the name by which we were
//! executed, with its symbolic links, if it leads to us.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::reason;
use crate::sys::process;
use nix::unistd::Uid;

/// The identity of a file and its content: it differs for another file or another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
}

/// The absolute path of the running program, by the name that was used. `first` is its
/// first argument, and `directory` the one in which we were started.
pub fn find(first: &OsStr, directory: &Path, path: Option<&OsString>) -> Option<PathBuf> {
    let this = fs::metadata("/proc/self/exe").ok();
    let is_this = |found: &PathBuf| match (&this, fs::metadata(found)) {
        (Some(this), Ok(found)) => (found.dev(), found.ino()) == (this.dev(), this.ino()),
        _ => false,
    };
    let executed = process::exec_filename().map(|name| directory.join(name));
    let named = || {
        let with_slash = first.as_encoded_bytes().contains(&b'/').then(|| directory.join(first));
        with_slash.or_else(|| which::which_in(first, path, directory).ok())
    };
    executed
        .filter(is_this)
        .or_else(|| named().filter(is_this))
        .or_else(|| fs::read_link("/proc/self/exe").ok())
        // Without `.` components.
        .map(|path| path.components().collect())
}

/// Reads the identity of the file that is there now.
///
/// # Errors
/// In words, with the path.
pub fn read(program: &Path) -> Result<FileIdentity, String> {
    let shown = program.display();
    let failed = |error: io::Error| format!("cannot find {shown}: {}", reason(&error));
    let data: Metadata = fs::metadata(program).map_err(failed)?;
    if !data.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if Uid::effective().is_root() && is_writable_by_others(&data) {
        return Err(format!(
            "{shown} could have been written by somebody else than root (chown root, chmod go-w)"
        ));
    }
    Ok(FileIdentity {
        file: (data.dev(), data.ino()),
        size: data.size(),
        written: (data.mtime(), data.mtime_nsec()),
    })
}

/// Whether another user than root can write to the file. Group 0 counts as root.
fn is_writable_by_others(data: &Metadata) -> bool {
    let by_group = data.mode() & 0o020 != 0 && data.gid() != 0;
    data.uid() != 0 || by_group || data.mode() & 0o002 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_found_by_its_own_name() {
        let found = find(OsStr::new("no such name"), Path::new("/"), None).unwrap();
        let (found, this) = (found.canonicalize().unwrap(), std::env::current_exe().unwrap());
        assert_eq!(found, this.canonicalize().unwrap());
    }

    #[test]
    fn a_replaced_file_has_another_identity() {
        let place = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| place.path().join(name));
        fs::write(&old, "x").unwrap();
        fs::write(&new, "x").unwrap();
        let before = read(&old).unwrap();
        assert_eq!(read(&old).unwrap(), before);
        fs::rename(&new, &old).unwrap();
        assert_ne!(read(&old).unwrap(), before);
        assert!(read(&new).unwrap_err().contains("no such file"));
        assert!(read(place.path()).unwrap_err().ends_with("is not a file"));
    }

    #[test]
    fn what_another_can_write_is_not_executed_as_root() {
        use std::os::unix::fs::PermissionsExt;
        if !Uid::effective().is_root() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, refused) in [(0o755, false), (0o775, false), (0o757, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(file.path()).is_err(), refused, "{mode:o}");
        }
        std::os::unix::fs::chown(file.path(), Some(1), None).unwrap();
        assert!(read(file.path()).unwrap_err().contains("somebody else"));
    }
}
