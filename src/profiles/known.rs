//! The table of known servers.

use super::check::Check;
use crate::dialect::Dialect;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
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
    /// Whether it always binds its own sockets.
    pub binds: bool,
    /// The signal by which it finishes its requests, where TERM cuts them.
    pub stop: Option<Signal>,
    /// What belongs to one instance of it: a second one does not start beside it.
    pub only_one: Option<&'static str>,
    /// Two words, one after the other, by which it has nothing of that kind.
    free: Option<[&'static str; 2]>,
    /// How it checks its own configuration.
    pub check: Option<Check>,
}

const PROFILES: [Profile; 31] = [
    server("apache2")
        .foreground("-D FOREGROUND")
        .binds()
        .only_one("a PidFile (-c 'PidFile …')")
        .check(Check::Flags(&["-t"])),
    server("dovecot").foreground("-F").only_one("a base_dir (-o base_dir=…)").check(Check::Flags(&["-n"])),
    server("exim4").foreground("-bdf").binds(),
    server("gunicorn").foreground("no --daemon").dialects(&[Dialect::ListenFds, Dialect::Gunicorn]),
    server("h2o").foreground("-m worker").dialects(&[Dialect::ServerStarter]).check(Check::Flags(&["-t"])),
    server("haproxy").foreground("-db or -Ws, no -D").stop(Signal::SIGUSR1).check(Check::Flags(&["-c"])),
    server("httpd")
        .foreground("-D FOREGROUND")
        .only_one("a PidFile (-c 'PidFile …')")
        .check(Check::Flags(&["-t"])),
    server("http.server").binds(),
    server("hypnotoad").foreground("-f"),
    server("lighttpd").foreground("-D").stop(Signal::SIGINT).check(Check::Flags(&["-t"])),
    server("memcached").foreground("no -d").binds(),
    server("mpd").foreground("--no-daemon"),
    server("named").foreground("-f").binds().check(Check::Program("named-checkconf", &[], "-c", None)),
    server("nginx")
        .foreground("-g 'daemon off;'")
        .dialects(&[Dialect::Nginx])
        .stop(Signal::SIGQUIT)
        .check(Check::Flags(&["-t"])),
    server("php-fpm")
        .foreground("-F, no -D")
        .dialects(&[Dialect::PhpFpm])
        .stop(Signal::SIGQUIT)
        .check(Check::Flags(&["-t"])),
    server("php -S").binds(),
    server("plackup").dialects(&[Dialect::ServerStarter]),
    server("postgres").binds().check(Check::Flags(&["-C", "max_connections"])),
    server("prometheus").binds().check(Check::Program(
        "promtool",
        &["check", "config"],
        "--config.file",
        Some("prometheus.yml"),
    )),
    server("puma").dialects(&[Dialect::ListenFds, Dialect::Puma]),
    server("redis-server").foreground("--daemonize no").binds(),
    server("rpcbind").foreground("-f"),
    server("squid")
        .foreground("-N")
        .binds()
        .only_one("a pid_filename ('none' will do)")
        .free(["pid_filename", "none"])
        .check(Check::Flags(&["-k", "parse"])),
    server("sshd").foreground("-D").check(Check::Flags(&["-t"])),
    server("starman").foreground("no --daemonize").dialects(&[Dialect::ServerStarter]).stop(Signal::SIGQUIT),
    server("stunnel").foreground("foreground = yes"),
    server("twistd")
        .foreground("-n")
        .only_one("a pid file (--pidfile …; an empty one will do)")
        .free(["--pidfile", ""]),
    server("unbound").foreground("-d").check(Check::Program("unbound-checkconf", &[], "-c", None)),
    server("unicorn")
        .foreground("no -D")
        .dialects(&[Dialect::Unicorn, Dialect::ListenFds])
        .stop(Signal::SIGQUIT),
    server("uwsgi").foreground("no --daemonize"),
    server("varnishd").foreground("-F").binds().only_one("a working directory (-n …)"),
];

const fn server(name: &'static str) -> Profile {
    Profile {
        name,
        foreground: None,
        dialects: &[],
        binds: false,
        stop: None,
        only_one: None,
        free: None,
        check: None,
    }
}

impl Profile {
    const fn foreground(self, how: &'static str) -> Profile {
        Profile { foreground: Some(how), ..self }
    }

    const fn dialects(self, dialects: &'static [Dialect]) -> Profile {
        Profile { dialects, ..self }
    }

    const fn binds(self) -> Profile {
        Profile { binds: true, ..self }
    }

    const fn stop(self, signal: Signal) -> Profile {
        Profile { stop: Some(signal), ..self }
    }

    const fn only_one(self, what: &'static str) -> Profile {
        Profile { only_one: Some(what), ..self }
    }

    const fn free(self, words: [&'static str; 2]) -> Profile {
        Profile { free: Some(words), ..self }
    }

    const fn check(self, check: Check) -> Profile {
        Profile { check: Some(check), ..self }
    }

    /// Whether one of these texts gives each generation its own of what there can be one of: the
    /// arguments, and the files that they name.
    pub fn is_apart(&self, arguments: &[String], files: &[String]) -> bool {
        // What a shell expands to something else in each process.
        let own = |text: &String| ["$$", "mktemp"].iter().any(|word| text.contains(word));
        let texts = || arguments.iter().chain(files);
        if arguments.iter().any(own) || texts().any(|text| text.contains("GRACEFUL_RUN_GENERATION")) {
            return true;
        }
        let uncommented =
            files.iter().flat_map(|text| text.lines()).filter(|line| !line.trim_start().starts_with('#'));
        let lines = arguments.iter().map(String::as_str).chain(uncommented);
        // An empty argument is a word.
        let split = |line: &'_ str| -> Vec<String> {
            let words = if line.is_empty() { vec![line] } else { line.split_whitespace().collect() };
            let parts = words.into_iter().flat_map(|word| word.split('='));
            parts.map(|part| part.trim_matches(['\'', '"']).into()).collect()
        };
        let words: Vec<String> = lines.flat_map(split).collect();
        self.free.is_some_and(|free| words.windows(2).any(|pair| pair == free))
    }

    /// How it gets its sockets, if it is given none of its dialects: none that it could take.
    pub fn socket_hint(&self, given: &[Dialect]) -> Option<String> {
        match self.dialects.first() {
            _ if self.binds => {
                Some(format!("{} binds its own sockets: leave -b out, and say --adopt", self.name))
            }
            Some(best) if !self.dialects.iter().any(|dialect| given.contains(dialect)) => {
                Some(format!("{} takes its sockets by --export {}", self.name, best.name()))
            }
            _ => None,
        }
    }
}

/// The profile of `command`, if there is one.
pub fn find_profile(command: &str) -> Option<Profile> {
    let name = file_name(command);
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // Both names are tried: the 2 of apache2 is no version.
    PROFILES.into_iter().find(|profile| [name, unversioned].contains(&profile.name))
}

pub(super) fn is_shell(program: &OsStr) -> bool {
    const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];
    program.to_str().is_some_and(|program| SHELLS.contains(&file_name(program)))
}

pub(super) fn file_name(command: &str) -> &str {
    Path::new(command).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_there_once() {
        let names: BTreeSet<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        assert_eq!(names.len(), PROFILES.len());
        assert_eq!(find_profile(""), None);
    }

    #[test]
    fn what_each_generation_has_of_its_own_is_known() {
        let apart = |name: &str, arguments: &[&str], file: &str| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            find_profile(name).is_some_and(|profile| profile.is_apart(&arguments, &[file.to_owned()]))
        };
        assert!(apart("squid", &["-N"], "http_port 3128\npid_filename  none\n"));
        assert!(!apart("squid", &["-N"], "#pid_filename none\npid_filename /run/squid.pid\n"));
        for arguments in [&["--pidfile", ""][..], &["--pidfile=", "-n"], &["exec twistd --pidfile '' -n"]] {
            assert!(apart("twistd", arguments, ""), "{arguments:?}");
        }
        assert!(!apart("twistd", &["--pidfile=a.pid", "-n"], ""));
        for script in ["-n w.$GRACEFUL_RUN_GENERATION", "-n w.$$", "-n \"$(mktemp -d)\""] {
            assert!(apart("varnishd", &["-c", script], ""), "{script}");
        }
        assert!(apart("apache2", &["-f", "conf"], "PidFile ${GRACEFUL_RUN_GENERATION}.pid"));
        assert!(!apart("apache2", &["-f", "conf"], "PidFile a.pid"));
    }
}
