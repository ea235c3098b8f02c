//! The user that a worker runs as. Names are resolved here, before any fork, because that may read
//! files, ask a daemon and allocate.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getresgid, getresuid};
use serde::{Deserialize, Serialize};

/// A user with everything that its processes carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: libc::uid_t,
    /// Primary group id.
    pub gid: libc::gid_t,
    /// Supplementary group ids; the primary one is among them.
    pub groups: Vec<libc::gid_t>,
    /// For USER and LOGNAME: the number in digits where there is no name.
    pub name: String,
    /// For HOME; `/` where there is no passwd entry.
    pub home: String,
    /// For SHELL; `/bin/sh` where there is no passwd entry.
    pub shell: String,
}

impl Identity {
    /// Whether we are this user already, without privileges to give up: all three user and group
    /// ids are these.
    pub fn is_ours(&self) -> bool {
        let (Ok(uids), Ok(gids)) = (getresuid(), getresgid()) else {
            return false;
        };
        let uids = [uids.real, uids.effective, uids.saved];
        let gids = [gids.real, gids.effective, gids.saved];
        self.uid != 0
            && uids.iter().all(|uid| uid.as_raw() == self.uid)
            && gids.iter().all(|gid| gid.as_raw() == self.gid)
    }
}

/// Reads `USER[:GROUP]`; each is a name, or a number where no such name exists.
///
/// The supplementary groups are those that the group database gives USER. A
/// number without a passwd entry has none, and needs GROUP.
///
/// # Errors
/// A message that says what is unknown, or that we may not become this user; exit status 125.
pub fn find_identity(spec: &str) -> Result<Identity, String> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    if user.is_empty() || group == Some("") {
        return Err(format!("cannot run as {spec}: it is not USER or USER:GROUP"));
    }
    let cannot = |why: &dyn std::fmt::Display| format!("cannot run as {spec}: {why}");

    let number = parse_id(user);
    let mut entry = User::from_name(user).map_err(|errno| cannot(&errno.desc().to_lowercase()))?;
    if let (None, Some(uid)) = (&entry, number) {
        entry = User::from_uid(Uid::from_raw(uid)).map_err(|errno| cannot(&errno.desc().to_lowercase()))?;
    }
    let gid = match group {
        None => None,
        Some(group) => {
            let found = Group::from_name(group).map_err(|errno| cannot(&errno.desc().to_lowercase()))?;
            let gid = found.map(|found| found.gid.as_raw()).or_else(|| parse_id(group));
            Some(gid.ok_or_else(|| cannot(&format_args!("no group {group}")))?)
        }
    };

    let identity = match (entry, number, gid) {
        (Some(user), _, gid) => {
            let gid = gid.unwrap_or(user.gid.as_raw());
            let groups = CString::new(user.name.as_str()).map_err(|_| cannot(&"NUL in its name")).and_then(
                |name| {
                    getgrouplist(&name, Gid::from_raw(gid))
                        .map_err(|errno| cannot(&errno.desc().to_lowercase()))
                },
            )?;
            Identity {
                uid: user.uid.as_raw(),
                gid,
                groups: groups.into_iter().map(Gid::as_raw).collect(),
                name: user.name,
                home: user.dir.to_string_lossy().into_owned(),
                shell: user.shell.to_string_lossy().into_owned(),
            }
        }
        (None, Some(uid), Some(gid)) => Identity {
            uid,
            gid,
            groups: vec![gid],
            name: uid.to_string(),
            home: "/".to_owned(),
            shell: "/bin/sh".to_owned(),
        },
        (None, Some(uid), None) => {
            return Err(cannot(&format_args!(
                "uid {uid} has no passwd entry that tells its group (give {uid}:GROUP)"
            )));
        }
        (None, None, _) => return Err(cannot(&format_args!("no user {user}"))),
    };

    let us = Uid::effective();
    if !us.is_root() && !identity.is_ours() {
        return Err(cannot(&format_args!("we are uid {us}, and only root can become another user")));
    }
    Ok(identity)
}

/// Digits only. The highest number means "leave as it is" to setresuid(2).
fn parse_id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| digits && id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        find_identity(spec).expect_err(spec)
    }

    #[test]
    fn a_name_and_its_number_are_the_same_user() {
        let us = User::from_uid(Uid::effective()).expect("look-up").expect("passwd entry");
        let by_name = find_identity(&us.name).expect("ourselves");
        assert_eq!(by_name, find_identity(&us.uid.to_string()).expect("ourselves"));
        assert_eq!((by_name.uid, by_name.gid), (us.uid.as_raw(), us.gid.as_raw()));
        assert!(by_name.groups.contains(&by_name.gid));
        assert_eq!(by_name.home, us.dir.to_string_lossy());
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert!(error("no-such-user").contains("no user no-such-user"));
        assert!(error("0:no-such-group").contains("no group no-such-group"));
        assert!(error("4294967295:0").contains("no user 4294967295"));
        assert!(error("+0").contains("no user +0"));
        for spec in ["", ":", "0:", ":0"] {
            assert!(error(spec).contains("USER:GROUP"), "{spec}");
        }
    }

    #[test]
    fn a_number_without_entry_needs_a_group() {
        assert!(error("3999999999").contains("give 3999999999:GROUP"));
        match find_identity("3999999999:3999999998") {
            Ok(identity) => {
                assert!(Uid::effective().is_root());
                assert_eq!((identity.uid, identity.gid), (3_999_999_999, 3_999_999_998));
                assert_eq!(identity.groups, [3_999_999_998]);
                assert_eq!(identity.name, "3999999999");
            }
            Err(message) => assert!(message.contains("only root"), "{message}"),
        }
    }
}
