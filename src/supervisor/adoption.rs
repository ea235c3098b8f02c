//! Whether what the worker binds is adopted where nobody has said so (`--adopt=auto`).
//!
//! Contract: where this machine forbids it, or it would take privileges from the command that it cannot
//! do without, the command runs unadopted, after a warning that says what is missing. Where the user
//! insists (`--adopt`), the same is an error.

use super::adopt::check_machine;
use crate::config::Config;
use crate::error::{Error, reason};
use crate::launch::InheritedContext;
use crate::profiles;
use crate::sys::file_privileges::file_privileges;
use crate::sys::probe::{ProbeError, probe_bind_notification};
use log::{info, warn};
use nix::unistd::geteuid;
use std::ffi::OsString;

/// Programs that start another one as another user, and how the options begin of which they need one
/// for that.
const CHANGE_USER: [(&str, &[&str]); 10] = [
    ("sudo", &[]),
    ("su", &[]),
    ("doas", &[]),
    ("setpriv", &["--reuid", "--regid"]),
    ("runuser", &[]),
    ("gosu", &[]),
    ("su-exec", &[]),
    ("setuidgid", &[]),
    ("s6-setuidgid", &[]),
    ("chpst", &["-u"]),
];

/// The configuration that holds here. To be called while there is one thread, because it forks.
///
/// # Errors
/// What `--adopt` needs and cannot be had.
pub(super) fn choose(config: Config, surroundings: &InheritedContext) -> Result<Config, Error> {
    let Some(adopt) = &config.adopt else { return Ok(config) };
    if !adopt.auto {
        return check_machine().map(|()| config);
    }
    match obstacle(&config, surroundings) {
        Err(why) => {
            warn!("{why}");
            Ok(config.without_adoption())
        }
        Ok(true) => {
            info!(
                "to adopt what it binds, the worker runs with no_new_privs, as we lack CAP_SYS_ADMIN: sudo and setuid programs gain nothing in it (--adopt=never leaves that out)"
            );
            Ok(config)
        }
        Ok(false) => Ok(config),
    }
}

/// Whether the worker would run with no_new_privs if what it binds were adopted. To be called while
/// there is one thread, because it forks.
///
/// # Errors
/// Why it cannot be adopted here.
pub fn obstacle(config: &Config, surroundings: &InheritedContext) -> Result<bool, String> {
    let notified = probe_bind_notification();
    let why = match (check_machine(), &notified) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(()), Err(error)) => why_not_notified(error),
        (Ok(()), Ok(_)) => None,
    };
    if let Some(why) = why {
        return Err(format!(
            "{why}; the command runs without, so that it cannot be upgraded beside itself unless it takes its sockets from -b (graceful-run doctor)"
        ));
    }
    let with_no_new_privs = matches!(notified, Ok(true));
    match needs_privileges(config, surroundings).filter(|_| with_no_new_privs) {
        Some(how) => Err(format!(
            "what the worker binds is not adopted: that needs no_new_privs here, and would take away what the command needs ({how}): run graceful-run as root with --user instead, or give the server its sockets with -b"
        )),
        None => Ok(with_no_new_privs),
    }
}

/// The line of the log about what is adopted.
pub(super) fn line(config: &Config) -> &'static str {
    match config.adopt.as_ref().is_some_and(|adopt| adopt.auto) {
        true => {
            "whatever the worker binds is adopted (--adopt=never turns that off; -b ADDRESS is for a server that takes its socket from us)"
        }
        false => "whatever the worker binds is adopted",
    }
}

/// Why calls of a worker cannot be received; None where nothing is known.
fn why_not_notified(error: &ProbeError) -> Option<String> {
    let why = match error {
        ProbeError::Architecture => {
            format!("the system calls of {} are not known to us", std::env::consts::ARCH)
        }
        ProbeError::Child(_) => return None,
        ProbeError::Filter(errno) => format!("seccomp(2): {}", reason(&(*errno).into())),
        ProbeError::Filtered => "a system call filter kills who calls seccomp(2)".into(),
        ProbeError::Call(errno) => format!("a bind(2) is not seen: {}", reason(&(*errno).into())),
    };
    Some(format!("cannot adopt what workers bind: {why}"))
}

/// How the command gets privileges that no_new_privs takes away. Root needs none.
fn needs_privileges(config: &Config, surroundings: &InheritedContext) -> Option<String> {
    if geteuid().is_root() {
        return None;
    }
    let command = &config.worker.command;
    if let Some(name) = changes_user(command) {
        return Some(format!("{name} changes the user"));
    }
    let directory = config.worker.chdir.clone().unwrap_or_default();
    let directory = surroundings.directory.join(directory);
    let path = surroundings.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value);
    let program = command.get(profiles::program_of(command).unwrap_or_default())?;
    let found = which::which_in(program, path, directory).ok()?;
    file_privileges(&found).map(Into::into)
}

/// The program that starts the command as another user, if there is one.
fn changes_user(command: &[OsString]) -> Option<String> {
    let script = command.last().filter(|_| profiles::starts_shell(command));
    let words = |number: usize| -> Vec<String> {
        let words = command.iter().take(number).chain(script).map(|word| word.to_string_lossy());
        words.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let at = profiles::program_of(command);
    let before = words(at.unwrap_or_default() + 1);
    let names = before.iter().map(|word| word.rsplit('/').next().unwrap_or_default());
    // Behind an option that is not known it is not known where the program stands.
    let options = words(at.unwrap_or(command.len()));
    let has = |option: &&str| options.iter().any(|word| word.starts_with(*option));
    let changes = |name: &&str| {
        let known = CHANGE_USER.iter().find(|(known, _)| known == name);
        known.is_some_and(|(_, options)| options.is_empty() || options.iter().any(has))
    };
    names.into_iter().find(changes).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_it_as_another_user_is_known() {
        for (line, name) in [
            (&["sudo", "-u", "www", "nginx"][..], Some("sudo")),
            (&["/usr/bin/setpriv", "--reuid=33", "--clear-groups", "nginx"], Some("setpriv")),
            (&["setpriv", "--regid", "33", "nginx"], Some("setpriv")),
            (&["setpriv", "--no-new-privs", "nginx"], None),
            (&["nice", "runuser", "-u", "www", "--", "nginx"], Some("runuser")),
            (&["gosu", "www", "nginx"], Some("gosu")),
            (&["setuidgid", "www", "nginx"], Some("setuidgid")),
            (&["chpst", "-uwww", "nginx"], Some("chpst")),
            (&["chpst", "-o", "1024", "nginx"], None),
            (&["sh", "-c", "cd /srv && exec su-exec www nginx"], Some("su-exec")),
            (&["sh", "-c", "exec setpriv --reuid=33 nginx"], Some("setpriv")),
            (&["setpriv", "--dump", "--reuid=33", "nginx"], Some("setpriv")),
            (&["nginx", "-g", "user su;"], None),
            (&["./server", "--user", "su"], None),
        ] {
            let command: Vec<OsString> = line.iter().map(OsString::from).collect();
            assert_eq!(changes_user(&command).as_deref(), name, "{line:?}");
        }
    }
}
