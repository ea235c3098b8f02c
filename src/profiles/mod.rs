//! Profiles of known servers, found by the name of the program. They give advice in the log, and
//! change nothing else.

use crate::config::signals;
use crate::dialect::Dialect;
use nix::sys::signal::Signal;
use std::path::Path;

/// The profile of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habit {
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

const HABITS: [Habit; 24] = [
    of("apache2").stays_by("-D FOREGROUND"),
    of("dovecot").stays_by("-F"),
    of("exim4").stays_by("-bdf"),
    of("gunicorn").stays_by("no --daemon").takes(&[Dialect::ListenFds, Dialect::Gunicorn]),
    of("h2o").stays_by("-m worker").takes(&[Dialect::ServerStarter]),
    of("haproxy").stays_by("-db or -Ws, no -D").stops_by(Signal::SIGUSR1),
    of("httpd").stays_by("-D FOREGROUND"),
    of("hypnotoad").stays_by("-f"),
    of("lighttpd").stays_by("-D").stops_by(Signal::SIGINT),
    of("memcached").stays_by("no -d"),
    of("mpd").stays_by("--no-daemon"),
    of("named").stays_by("-f"),
    of("nginx").stays_by("-g 'daemon off;'").takes(&[Dialect::Nginx]).stops_by(Signal::SIGQUIT),
    of("php-fpm").stays_by("-F, no -D").takes(&[Dialect::PhpFpm]).stops_by(Signal::SIGQUIT),
    of("plackup").takes(&[Dialect::ServerStarter]),
    of("puma").takes(&[Dialect::ListenFds, Dialect::Puma]),
    of("redis-server").stays_by("--daemonize no"),
    of("rpcbind").stays_by("-f"),
    of("squid").stays_by("-N"),
    of("sshd").stays_by("-D"),
    of("starman").stays_by("no --daemonize").takes(&[Dialect::ServerStarter]).stops_by(Signal::SIGQUIT),
    of("twistd").stays_by("-n"),
    of("unicorn").stays_by("no -D").takes(&[Dialect::Unicorn, Dialect::ListenFds]).stops_by(Signal::SIGQUIT),
    of("uwsgi").stays_by("no --daemonize"),
];

const fn of(name: &'static str) -> Habit {
    Habit { name, foreground: None, dialects: &[], stop: None }
}

impl Habit {
    const fn stays_by(self, how: &'static str) -> Habit {
        Habit { foreground: Some(how), ..self }
    }

    const fn takes(self, dialects: &'static [Dialect]) -> Habit {
        Habit { dialects, ..self }
    }

    const fn stops_by(self, signal: Signal) -> Habit {
        Habit { stop: Some(signal), ..self }
    }
}

/// The profile of `command`, if there is one.
pub fn habit(command: &str) -> Option<Habit> {
    let name = file_name(command);
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // apache2 is no version of apache.
    HABITS.into_iter().find(|habit| [name, unversioned].contains(&habit.name))
}

/// How `command` is kept in the foreground, or why else it may have left orphans: in brackets,
/// after a blank.
pub fn stays(command: &str) -> String {
    let how = habit(command).and_then(|habit| Some(format!(" ({}: {})", habit.name, habit.foreground?)));
    how.unwrap_or_else(|| gives_way(command).into())
}

/// How a shell is made to execute the server in its own process: in brackets, after a blank.
pub fn gives_way(command: &str) -> &'static str {
    const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];
    let name = file_name(command);
    match SHELLS.contains(&name) || name.ends_with(".sh") {
        true => " (write exec before the last command)",
        false => "",
    }
}

/// Why `command` may not wait on the listeners that it was given in these `dialects`.
pub fn doubt(command: &str, dialects: &[Dialect]) -> String {
    let known = habit(command);
    let best = known.and_then(|habit| Some((habit, habit.dialects.first()?)));
    match best {
        Some((habit, best)) if !habit.dialects.iter().any(|dialect| dialects.contains(dialect)) => {
            format!("{} takes its sockets by --export {}", habit.name, best.name())
        }
        _ => {
            "does it listen on exactly the addresses of -b? does it take its sockets so? see --export, or --adopt if it binds its own".into()
        }
    }
}

/// What TERM, if it was not chosen, does to the requests of `command`.
pub fn cut_by_term(command: &str) -> Option<String> {
    let habit = habit(command)?;
    let signal = signals::name(habit.stop? as i32);
    let name = habit.name;
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
        assert_eq!(stays("/usr/sbin/php-fpm8.2"), " (php-fpm: -F, no -D)");
        assert_eq!(stays("apache2"), " (apache2: -D FOREGROUND)");
        assert_eq!(stays("/bin/sh"), " (write exec before the last command)");
        assert_eq!(stays("./server"), "");
        assert_eq!(habit(""), None);
    }

    #[test]
    fn a_known_server_is_told_its_dialect_unless_it_has_one() {
        let expected = [
            ("nginx", Dialect::ListenFds, Some("nginx takes its sockets by --export nginx")),
            ("/usr/sbin/php-fpm8.2", Dialect::Nginx, Some("php-fpm takes its sockets by --export php-fpm")),
            ("plackup", Dialect::ListenFds, Some("plackup takes its sockets by --export server-starter")),
            ("nginx", Dialect::Nginx, None),
            ("unicorn", Dialect::ListenFds, None),
            ("./server", Dialect::ListenFds, None),
        ];
        for (command, dialect, hint) in expected {
            let doubt = doubt(command, &[dialect]);
            assert_eq!(
                doubt,
                hint.unwrap_or(
                    "does it listen on exactly the addresses of -b? does it take its sockets so? see --export, or --adopt if it binds its own"
                )
            );
        }
    }

    #[test]
    fn servers_that_cut_on_term_are_known() {
        let warned = cut_by_term("/usr/bin/unicorn").unwrap();
        assert_eq!(
            warned,
            "unicorn stops gracefully by QUIT, not TERM: requests are cut at an upgrade (--stop-signal QUIT)"
        );
        assert_eq!(cut_by_term("gunicorn"), None);
    }
}
