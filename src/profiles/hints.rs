//! Advice for the log, by the name of the program.

use super::profile::Profile;
use crate::dialect::Dialect;
use std::ffi::OsStr;
use std::path::Path;

/// A hint how the server is kept in the foreground, or else as [`exec_hint`] of what its process was
/// called when it ended: in brackets, after a blank.
pub fn foreground_hint(server: Option<&Profile>, command: &str, ended_as: &str) -> String {
    match server.filter(|server| !server.foreground.is_empty()) {
        Some(server) => format!(" ({}: {})", server.name, server.foreground),
        None => exec_hint(command, ended_as).into(),
    }
}

/// A hint how a shell executes the server in its own process, if the process of `command` was a
/// shell to its end: in brackets, after a blank. A script has its own name then, and the kernel keeps
/// the first 15 bytes of it.
pub fn exec_hint(command: &str, ended_as: &str) -> &'static str {
    let script = || command.ends_with(".sh") && file_name(command).starts_with(ended_as);
    match !ended_as.is_empty() && (is_shell(OsStr::new(ended_as)) || script()) {
        true => " (write exec before the last command)",
        false => "",
    }
}

/// Why a worker may not wait on the listeners that it was given in these `dialects`.
pub fn listener_hint(server: Option<&Profile>, dialects: &[Dialect]) -> String {
    let known = server.and_then(|server| server.socket_hint(dialects));
    known.unwrap_or_else(|| {
        "does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or leave -b out if it binds its own".into()
    })
}

pub(super) fn is_shell(program: &OsStr) -> bool {
    const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];
    program.to_str().is_some_and(|program| SHELLS.contains(&file_name(program)))
}

fn file_name(command: &str) -> &str {
    Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::known::by_name;
    use super::*;

    fn known(name: &str) -> Option<&'static Profile> {
        by_name(name).ok()
    }

    #[test]
    fn a_server_is_kept_in_the_foreground_in_its_own_way() {
        assert_eq!(foreground_hint(known("php-fpm"), "php-fpm", "sh"), " (php-fpm: -F, no -D)");
        assert_eq!(foreground_hint(known("apache2"), "apache2", "apache2"), " (apache2: -D FOREGROUND)");
        let exec = " (write exec before the last command)";
        for (command, name) in
            [("/bin/sh", "sh"), ("env", "dash"), ("./docker-entrypoint.sh", "docker-entrypoi")]
        {
            assert_eq!(foreground_hint(None, command, name), exec);
        }
        // The shell has executed it.
        assert_eq!(foreground_hint(None, "/bin/sh", "flask"), "");
        assert_eq!(foreground_hint(None, "./run.sh", "flask"), "");
        assert_eq!(foreground_hint(None, "./run.sh", ""), "");
        assert_eq!(foreground_hint(None, "./server", "server"), "");
    }

    #[test]
    fn a_known_server_without_its_dialect_gets_a_hint() {
        let own = "does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or leave -b out if it binds its own";
        for (name, dialect, hint) in [
            ("nginx", Dialect::ListenFds, "nginx takes its sockets by --export nginx"),
            ("php-fpm", Dialect::Nginx, "php-fpm takes its sockets by --export php-fpm"),
            ("plackup", Dialect::ListenFds, "plackup takes its sockets by --export server-starter"),
            ("apache2", Dialect::ListenFds, "apache2 binds its own sockets: leave -b out"),
            ("nginx", Dialect::Nginx, own),
            ("unicorn", Dialect::ListenFds, own),
            ("no server", Dialect::ListenFds, own),
        ] {
            assert_eq!(listener_hint(known(name), &[dialect]), hint, "{name}");
        }
    }
}
