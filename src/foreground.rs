//! How servers that go into the background by themselves are kept from it: what
//! daemonises is no child of ours, and a supervisor of nothing.

use std::path::Path;

/// By the name of the program, a version at its end left out.
const HOW: [(&str, &str); 22] = [
    ("apache2", "apache2: -D FOREGROUND"),
    ("dovecot", "dovecot: -F"),
    ("exim4", "exim4: -bdf"),
    ("gunicorn", "gunicorn: no --daemon"),
    ("h2o", "h2o: -m worker"),
    ("haproxy", "haproxy: -db or -Ws, no -D"),
    ("httpd", "httpd: -D FOREGROUND"),
    ("hypnotoad", "hypnotoad: -f"),
    ("lighttpd", "lighttpd: -D"),
    ("memcached", "memcached: no -d"),
    ("mpd", "mpd: --no-daemon"),
    ("named", "named: -f"),
    ("nginx", "nginx: -g 'daemon off;'"),
    ("php-fpm", "php-fpm: -F"),
    ("redis-server", "redis-server: --daemonize no"),
    ("rpcbind", "rpcbind: -f"),
    ("squid", "squid: -N"),
    ("sshd", "sshd: -D"),
    ("starman", "starman: no --daemonize"),
    ("twistd", "twistd: -n"),
    ("unicorn", "unicorn: no -D"),
    ("uwsgi", "uwsgi: no --daemonize"),
];

/// What keeps `command` in the foreground, where we know it.
pub fn how(command: &str) -> Option<&'static str> {
    let name = Path::new(command).file_name()?.to_str()?;
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    // apache2 is no version of apache.
    HOW.iter().find(|(known, _)| [name, unversioned].contains(known)).map(|(_, how)| *how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
        assert_eq!(how("/usr/sbin/php-fpm8.2"), Some("php-fpm: -F"));
        assert_eq!(how("apache2"), Some("apache2: -D FOREGROUND"));
        assert_eq!(how("./server"), None);
        assert_eq!(how(""), None);
    }
}
