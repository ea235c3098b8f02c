//! Profiles of known servers, found by the name of the program. They give advice in the log, and
//! change nothing else.

use crate::config::signals;
use crate::dialect::Dialect;
use nix::sys::signal::Signal;
use std::path::Path;

/// The profile of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The name of its program, without a version at the end.
    pub name: &'static str,
    /// How it is kept in the foreground: a server in the background is not our child and cannot
    /// be supervised.
    pub foreground: Option<&'static str>,
    /// The dialects that it understands, the best first; empty: not known.
    pub dialects: &'static [Dialect],
    /// The signal by which it finishes its requests, where TERM cuts them.
    pub stop: Option<Signal>,
}

const PROFILES: [Profile; 24] = [
    server("apache2").foreground("-D FOREGROUND"),
    server("dovecot").foreground("-F"),
    server("exim4").foreground("-bdf"),
    server("gunicorn").foreground("no --daemon").dialects(&[Dialect::ListenFds, Dialect::Gunicorn]),
    server("h2o").foreground("-m worker").dialects(&[Dialect::ServerStarter]),
    server("haproxy").foreground("-db or -Ws, no -D").stop(Signal::SIGUSR1),
    server("httpd").foreground("-D FOREGROUND"),
    server("hypnotoad").foreground("-f"),
    server("lighttpd").foreground("-D").stop(Signal::SIGINT),
    server("memcached").foreground("no -d"),
    server("mpd").foreground("--no-daemon"),
    server("named").foreground("-f"),
    server("nginx").foreground("-g 'daemon off;'").dialects(&[Dialect::Nginx]).stop(Signal::SIGQUIT),
    server("php-fpm").foreground("-F, no -D").dialects(&[Dialect::PhpFpm]).stop(Signal::SIGQUIT),
    server("plackup").dialects(&[Dialect::ServerStarter]),
    server("puma").dialects(&[Dialect::ListenFds, Dialect::Puma]),
    server("redis-server").foreground("--daemonize no"),
    server("rpcbind").foreground("-f"),
    server("squid").foreground("-N"),
    server("sshd").foreground("-D"),
    server("starman").foreground("no --daemonize").dialects(&[Dialect::ServerStarter]).stop(Signal::SIGQUIT),
    server("twistd").foreground("-n"),
    server("unicorn")
        .foreground("no -D")
        .dialects(&[Dialect::Unicorn, Dialect::ListenFds])
        .stop(Signal::SIGQUIT),
    server("uwsgi").foreground("no --daemonize"),
];

const fn server(name: &'static str) -> Profile {
    Profile { name, foreground: None, dialects: &[], stop: None }
}

impl Profile {
    const fn foreground(self, how: &'static str) -> Profile {
        Profile { foreground: Some(how), ..self }
    }

    const fn dialects(self, dialects: &'static [Dialect]) -> Profile {
        Profile { dialects, ..self }
    }

    const fn stop(self, signal: Signal) -> Profile {
        Profile { stop: Some(signal), ..self }
    }
}

/// The profile of `command`, if there is one.
pub fn find_profile(command: &str) -> Option<Profile> {
    let name = file_name(command);
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // Both names are tried: the 2 of apache2 is no version.
    PROFILES.into_iter().find(|profile| [name, unversioned].contains(&profile.name))
}

/// A hint how `command` is kept in the foreground, or else as [`exec_hint`]: in brackets, after a
/// blank.
pub fn foreground_hint(command: &str) -> String {
    let how = find_profile(command)
        .and_then(|profile| Some(format!(" ({}: {})", profile.name, profile.foreground?)));
    how.unwrap_or_else(|| exec_hint(command).into())
}

/// A hint how a shell executes the server in its own process: in brackets, after a blank.
pub fn exec_hint(command: &str) -> &'static str {
    const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];
    let name = file_name(command);
    match SHELLS.contains(&name) || name.ends_with(".sh") {
        true => " (write exec before the last command)",
        false => "",
    }
}

/// Why `command` may not wait on the listeners that it was given in these `dialects`.
pub fn listener_hint(command: &str, dialects: &[Dialect]) -> String {
    let known = find_profile(command);
    let best = known.and_then(|profile| Some((profile, profile.dialects.first()?)));
    match best {
        Some((profile, best)) if !profile.dialects.iter().any(|dialect| dialects.contains(dialect)) => {
            format!("{} takes its sockets by --export {}", profile.name, best.name())
        }
        _ => {
            "does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or --adopt if it binds its own".into()
        }
    }
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

fn file_name(command: &str) -> &str {
    Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        assert_eq!(foreground_hint("/usr/sbin/php-fpm8.2"), " (php-fpm: -F, no -D)");
        assert_eq!(foreground_hint("apache2"), " (apache2: -D FOREGROUND)");
        assert_eq!(foreground_hint("/bin/sh"), " (write exec before the last command)");
        assert_eq!(foreground_hint("./server"), "");
        assert_eq!(find_profile(""), None);
    }

    #[test]
    fn a_known_server_without_its_dialect_gets_a_hint() {
        let expected = [
            ("nginx", Dialect::ListenFds, Some("nginx takes its sockets by --export nginx")),
            ("/usr/sbin/php-fpm8.2", Dialect::Nginx, Some("php-fpm takes its sockets by --export php-fpm")),
            ("plackup", Dialect::ListenFds, Some("plackup takes its sockets by --export server-starter")),
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
