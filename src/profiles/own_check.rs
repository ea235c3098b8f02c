//! The check of its own configuration that a known server has, for a command line.

use super::check::quote;
use super::command::script;
use super::profile::Profile;
use super::recognise::arguments;
use std::ffi::OsString;

/// The check of its configuration that the server of this profile has, as a command for the shell. Its
/// arguments begin at `at` of the command line; None: they are in the script of a shell, or nobody knows
/// where they are.
pub fn own_check(profile: &Profile, command: &[OsString], at: Option<usize>) -> Option<String> {
    let check = profile.check?;
    let words = arguments(command, at);
    let (before, text, expanded) = match (script(command), at) {
        (Some((before, script)), _) => (before, script.to_owned(), true),
        (None, Some(_)) => {
            let quoted: Vec<String> = command.iter().map(|word| quote(word)).collect();
            ("", format!("exec {}", quoted.join(" ")), false)
        }
        // A flag might start the server instead.
        (None, None) => return None,
    };
    // What comes after `--` is a file, and no option.
    let has_files = words.iter().any(|word| word == "--");
    (!has_files).then(|| format!("{before}{}", check.command(&text, &words, expanded)))
}

#[cfg(test)]
mod tests {
    use super::super::known::by_name;
    use super::super::recognise::{arguments_of, find};
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
            (&["sh", "-c", "exec tini -- haproxy -db"], Some("exec tini -- haproxy -db -c >/dev/null")),
            (&["sh", "-c", "exec haproxy -db -- a.cfg"], None),
            (&["sh", "-c", "migrate; exec haproxy -db"], None),
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
                &["sh", "-c", "exec named -f -c \"$CONF\""],
                Some(
                    "command -v named-checkconf >/dev/null || exit 0; exec named-checkconf \"$CONF\" >/dev/null",
                ),
            ),
            (
                &["unbound", "-d"],
                Some("command -v unbound-checkconf >/dev/null || exit 0; exec unbound-checkconf >/dev/null"),
            ),
        ] {
            let command = words(line);
            let found = find(&command);
            let own = found.and_then(|found| own_check(found.profile, &command, found.at));
            assert_eq!(own.as_deref(), check, "{line:?}");
        }
    }

    #[test]
    fn a_profile_that_was_named_has_its_check_where_arguments_can_be_added() {
        let squid = by_name("squid").unwrap();
        let of = |line: &[&str]| {
            let command = words(line);
            own_check(squid, &command, arguments_of(&command))
        };
        let check = of(&["./proxy", "-f", "c"]);
        assert_eq!(check.as_deref(), Some("exec ./proxy -f c -k parse >/dev/null"));
        let check = of(&["sh", "-c", "exec nice -n 5 ./proxy"]);
        assert_eq!(check.as_deref(), Some("exec nice -n 5 ./proxy -k parse >/dev/null"));
        assert_eq!(of(&["python3", "proxy.py"]), None);
        assert_eq!(of(&["sh", "proxy.sh"]), None);
    }
}
