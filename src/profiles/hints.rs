//! Advice for the log, by the name of the program.

use super::known::{file_name, find_profile, is_shell};
use crate::config::signals;
use crate::dialect::Dialect;
use std::ffi::OsStr;

/// A hint how `command` is kept in the foreground, or else as [`exec_hint`] of what its process was
/// called when it ended: in brackets, after a blank.
pub fn foreground_hint(command: &str, ended_as: &str) -> String {
    let how = find_profile(command)
        .and_then(|profile| Some(format!(" ({}: {})", profile.name, profile.foreground?)));
    how.unwrap_or_else(|| exec_hint(command, ended_as).into())
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

/// Why `command` may not wait on the listeners that it was given in these `dialects`.
pub fn listener_hint(command: &str, dialects: &[Dialect]) -> String {
    let known = find_profile(command).and_then(|profile| profile.socket_hint(dialects));
    known.unwrap_or_else(|| {
        "does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or --adopt if it binds its own".into()
    })
}

/// A warning if TERM cuts the requests of `command`; for a stop signal that was not chosen.
pub fn stop_signal_hint(command: &str) -> Option<String> {
    let profile = find_profile(command)?;
    let signal = signals::name(profile.stop? as i32);
    let name = profile.name;
    Some(format!(
        "{name} stops gracefully by {signal}, not TERM: requests are cut at an upgrade (--stop-signal {signal})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        assert_eq!(foreground_hint("/usr/sbin/php-fpm8.2", "sh"), " (php-fpm: -F, no -D)");
        assert_eq!(foreground_hint("apache2", "apache2"), " (apache2: -D FOREGROUND)");
        let exec = " (write exec before the last command)";
        for (command, name) in
            [("/bin/sh", "sh"), ("env", "dash"), ("./docker-entrypoint.sh", "docker-entrypoi")]
        {
            assert_eq!(foreground_hint(command, name), exec);
        }
        // The shell has executed it.
        assert_eq!(foreground_hint("/bin/sh", "flask"), "");
        assert_eq!(foreground_hint("./run.sh", "flask"), "");
        assert_eq!(foreground_hint("./run.sh", ""), "");
        assert_eq!(foreground_hint("./server", "server"), "");
    }

    #[test]
    fn a_known_server_without_its_dialect_gets_a_hint() {
        let expected = [
            ("nginx", Dialect::ListenFds, Some("nginx takes its sockets by --export nginx")),
            ("/usr/sbin/php-fpm8.2", Dialect::Nginx, Some("php-fpm takes its sockets by --export php-fpm")),
            ("plackup", Dialect::ListenFds, Some("plackup takes its sockets by --export server-starter")),
            (
                "/usr/sbin/apache2",
                Dialect::ListenFds,
                Some("apache2 binds its own sockets: leave -b out, and say --adopt"),
            ),
            ("nginx", Dialect::Nginx, None),
            ("unicorn", Dialect::ListenFds, None),
            ("./server", Dialect::ListenFds, None),
        ];
        for (command, dialect, hint) in expected {
            let actual = listener_hint(command, &[dialect]);
            assert_eq!(
                actual,
                hint.unwrap_or(
                    "does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or --adopt if it binds its own"
                )
            );
        }
    }

    #[test]
    fn servers_that_cut_on_term_are_known() {
        let warned = stop_signal_hint("/usr/bin/unicorn").unwrap();
        assert_eq!(
            warned,
            "unicorn stops gracefully by QUIT, not TERM: requests are cut at an upgrade (--stop-signal QUIT)"
        );
        assert_eq!(stop_signal_hint("gunicorn"), None);
    }
}
