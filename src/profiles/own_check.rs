//! The check of its own configuration that a known server has, for a command line.

use super::check::quote;
use super::command::{script, words_of};
use super::recognise::find;
use std::ffi::OsString;

/// The check of its configuration that the server of this command line has, as a command for the
/// shell.
pub fn own_check(command: &[OsString]) -> Option<String> {
    let found = find(command)?;
    let check = found.profile.check?;
    let (before, text, words) = match script(command) {
        Some((before, script)) => (before, script.to_owned(), words_of(script).map(OsString::from).collect()),
        None => {
            let quoted: Vec<String> = command.iter().map(|word| quote(word)).collect();
            let own = command[found.at.unwrap_or_default().min(command.len())..].to_vec();
            ("", format!("exec {}", quoted.join(" ")), own)
        }
    };
    // What comes after `--` is a file, and no option.
    (!words.iter().any(|word| word == "--")).then(|| format!("{before}{}", check.command(&text, &words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_check_is_the_command_line_with_a_flag() {
        for (line, check) in [
            (&["apache2", "-f", "a b.conf"][..], Some("exec apache2 -f 'a b.conf' -t >/dev/null")),
            (&["sh", "-c", "exec squid -N -f $CONF"], Some("exec squid -N -f $CONF -k parse >/dev/null")),
            (
                &["sh", "-c", "cd d && exec squid -N -f c"],
                Some("cd d && exec squid -N -f c -k parse >/dev/null"),
            ),
            (&["env", "A=it's", "haproxy", "-db"], Some("exec env 'A=it'\\''s' haproxy -db -c >/dev/null")),
            (&["haproxy", "-db", "--", "a.cfg"], None),
            (&["tini", "--", "haproxy", "-db"], Some("exec tini -- haproxy -db -c >/dev/null")),
            (&["memcached"], None),
            (&["sh", "-c", "exec ./server"], None),
            (
                &["prometheus", "--config.file=p.yml"],
                Some("command -v promtool >/dev/null || exit 0; exec promtool check config p.yml >/dev/null"),
            ),
            (
                &["prometheus"],
                Some(
                    "command -v promtool >/dev/null || exit 0; exec promtool check config prometheus.yml >/dev/null",
                ),
            ),
            (
                &["named", "-f", "-c", "n.conf"],
                Some(
                    "command -v named-checkconf >/dev/null || exit 0; exec named-checkconf n.conf >/dev/null",
                ),
            ),
            (
                &["unbound", "-d"],
                Some("command -v unbound-checkconf >/dev/null || exit 0; exec unbound-checkconf >/dev/null"),
            ),
        ] {
            assert_eq!(own_check(&words(line)).as_deref(), check, "{line:?}");
        }
    }
}
