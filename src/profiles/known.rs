//! The table of known servers.

use super::check::Check;
use super::profile::{Addition, Line, Profile, Recognise, Warning, Way};

static PROFILES: &[Profile] = &include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// All profiles, in the order of their names.
pub fn all() -> &'static [Profile] {
    PROFILES
}

/// The profile of this name, or else the nearest name.
///
/// # Errors
/// The name that is most like it.
pub fn by_name(name: &str) -> Result<&'static Profile, &'static str> {
    let found = PROFILES.iter().find(|profile| profile.name == name);
    let likeness = |profile: &&Profile| strsim::damerau_levenshtein(profile.name, name);
    found.ok_or_else(|| PROFILES.iter().min_by_key(likeness).map_or("none", |profile| profile.name))
}

/// The profile of this name.
///
/// # Errors
/// That there is none, for people.
pub fn named(name: &str) -> Result<&'static Profile, String> {
    by_name(name).map_err(|nearest| {
        format!("there is no profile '{name}' (the nearest is {nearest}; graceful-run profiles lists them)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_there_once_and_finds_its_profile() {
        let names: BTreeSet<&str> = all().iter().map(|profile| profile.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().len() >= 60);
        assert_eq!(by_name("nginx").map(|profile| profile.name), Ok("nginx"));
        assert_eq!(by_name("ngnix"), Err("nginx"));
    }

    #[test]
    fn what_each_generation_has_of_its_own_is_known() {
        let apart = |name: &str, arguments: &[&str], file: &str| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            by_name(name).is_ok_and(|profile| profile.is_apart(&arguments, &[file.to_owned()]))
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
