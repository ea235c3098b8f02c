//! The program of a known server: whether it is what its name says, and whether it is written as it
//! has to be.

use crate::profiles::{Profile, program_of, words_behind};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A warning where the server starts only by its absolute path, and is written without.
pub(super) fn relative(profile: &Profile, command: &[OsString]) -> Option<String> {
    let words: Vec<OsString> = words_behind(command).into_iter().map(Into::into).collect();
    let program = words.get(program_of(&words)?)?;
    let is_relative = profile.absolute && Path::new(program).is_relative();
    is_relative.then(|| {
        let found =
            which::which_global(program).unwrap_or_else(|_| Path::new("/usr/sbin").join(profile.name));
        format!("{} starts only by its absolute path: write {}", profile.name, found.display())
    })
}

/// Scripts of official images, and of Erlang, that execute their server.
const EXECUTE: [&str; 3] = ["httpd-foreground", "apache2-foreground", "erl"];

/// Whether this is a script of the shell that happens to have the name of a server, or busybox. Version
/// managers and package managers have such scripts too, which pass everything on. `env`: what --env sets.
pub(super) fn is_wrapper(program: &OsStr, chdir: Option<&Path>, env: &[OsString]) -> bool {
    let named = Path::new(program);
    let path = match program.to_string_lossy().contains('/') {
        true => Some(chdir.map_or_else(PathBuf::new, Path::to_owned).join(named)),
        false => {
            let given = env.iter().rev().find_map(|pair| pair.to_str()?.strip_prefix("PATH="));
            let path = given.map(OsString::from).or_else(|| std::env::var_os("PATH"));
            which::which_in_global(program, path).ok().and_then(|mut found| found.next())
        }
    };
    let Some(path) = path else { return false };
    let directory = path.parent().and_then(Path::file_name);
    if directory.is_some_and(|name| name == "shims" || name == ".bin") {
        return false;
    }
    // One program of many names, whose options are others.
    let real = std::fs::canonicalize(&path).ok();
    if real.as_deref().and_then(Path::file_name).is_some_and(|name| name == "busybox" || name == "toybox") {
        return true;
    }
    if path.file_name().is_some_and(|name| EXECUTE.iter().any(|known| name == *known)) {
        return false;
    }
    let mut start = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(256).read_to_end(&mut start));
    let start = String::from_utf8_lossy(&start);
    let mut lines = start.lines();
    let line = lines.next().unwrap_or_default();
    // Where the path of an interpreter of python is too long for the first line, a shell executes it.
    if lines.next().is_some_and(|line| line.starts_with("'''exec'")) {
        return false;
    }
    let mut words = line.strip_prefix("#!").unwrap_or_default().split_whitespace();
    let shell = |word: &str| {
        ["sh", "bash", "dash", "ash", "ksh", "zsh"].contains(&word.rsplit('/').next().unwrap_or_default())
    };
    read.is_ok() && words.any(shell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::named;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_wrapper_is_found_where_the_worker_finds_it() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("nginx", "#!/bin/sh\nexec /usr/sbin/nginx\n");
        write("gunicorn", "#!/usr/bin/python3\n");
        write("busybox", "\x7fELF");
        write("httpd-foreground", "#!/bin/sh\n");
        symlink("busybox", place.path().join("httpd")).unwrap();
        let env = [OsString::from(format!("PATH={}", place.path().display()))];
        for (program, is_one) in [
            ("nginx", true),
            ("httpd", true),
            ("gunicorn", false),
            ("httpd-foreground", false),
            ("no-such-program", false),
        ] {
            assert_eq!(is_wrapper(program.as_ref(), None, &env), is_one, "{program}");
            let path = format!("./{program}");
            assert_eq!(is_wrapper(path.as_ref(), Some(place.path()), &[]), is_one, "{path}");
        }
    }

    #[test]
    fn a_server_that_needs_its_absolute_path_is_told_of() {
        for (name, command, told) in [
            ("sshd", &["sshd", "-e"][..], true),
            ("sshd", &["env", "A=b", "./sshd"], true),
            ("sshd", &["sh", "-c", "exec sshd"], true),
            ("sshd", &["/usr/sbin/sshd"], false),
            ("sshd", &["sh", "-c", "cd /run && exec /usr/sbin/sshd -e"], false),
            ("nginx", &["nginx"], false),
        ] {
            let command: Vec<OsString> = command.iter().map(OsString::from).collect();
            let warning = relative(named(name).unwrap(), &command);
            let said = |text: String| text.starts_with("sshd starts only by its absolute path: write /");
            assert_eq!(warning.map(said), told.then_some(true), "{command:?}");
        }
    }
}
