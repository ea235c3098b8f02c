//! What a program's file gives to whoever executes it.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The privileges of this program's file, by the command that sets them: `setcap` for file
/// capabilities (capabilities(7)), `chmod u+s` for the set-user-ID and set-group-ID bits; None if it
/// has none, or cannot be read.
pub(crate) fn file_privileges(program: &Path) -> Option<&'static str> {
    let mode = fs::metadata(program).ok()?.permissions().mode();
    let path = CString::new(program.as_os_str().as_bytes()).ok()?;
    let name = c"security.capability";
    // SAFETY: both strings end with a NUL, and no buffer is given: the call tells the size alone.
    let size = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    match mode & 0o6000 {
        _ if size > 0 => Some("setcap"),
        0 => None,
        _ => Some("chmod u+s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_the_mode_are_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("program");
        fs::write(&file, "").expect("written");
        assert_eq!(file_privileges(&file), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("its own file");
        assert_eq!(file_privileges(&file), Some("chmod u+s"));
        assert_eq!(file_privileges(&dir.path().join("none")), None);
    }
}
