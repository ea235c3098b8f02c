//! The sockets that we inherited by LISTEN_FDS, as in sd_listen_fds(3): if LISTEN_PID is our own
//! pid, descriptors 3..3+LISTEN_FDS are ours, and LISTEN_FDNAMES, if set, has one name for each.
//!
//! Only the three values are checked here. [`super::Listeners::open`] checks the descriptors.

use std::ffi::OsStr;
use std::os::fd::RawFd;

use super::options::digits;
use crate::error::Error;

/// The first descriptor: SD_LISTEN_FDS_START.
pub const FIRST: RawFd = 3;

/// No usual limit allows more open descriptors than this.
const MAX_COUNT: RawFd = 65_536;

/// The sockets that the process which started us says it has passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenFds {
    count: RawFd,
    names: Option<Vec<String>>,
    warning: Option<String>,
}

impl ListenFds {
    /// Parses LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES. Values for another process are ignored,
    /// with a [`ListenFds::warning`].
    ///
    /// # Errors
    /// [`Error::Cannot`] if the values are for us and LISTEN_FDS is not a number, or there are
    /// more or fewer names than sockets.
    pub fn read(
        listen_pid: Option<&OsStr>,
        listen_fds: Option<&OsStr>,
        listen_fdnames: Option<&OsStr>,
        own_pid: u32,
    ) -> Result<ListenFds, Error> {
        let Some(fds) = listen_fds else {
            return Ok(ListenFds::default());
        };
        let fds = fds.to_string_lossy();
        let pid = listen_pid.map(OsStr::to_string_lossy);
        let for_us = pid.as_deref().and_then(digits).and_then(|pid| pid.parse().ok());
        if for_us != Some(own_pid) {
            let whose = match &pid {
                Some(pid) => format!("LISTEN_PID={pid:?} is not our pid {own_pid}"),
                None => "LISTEN_PID is not set".to_owned(),
            };
            let warning = (fds != "0").then(|| format!("LISTEN_FDS={fds:?} is ignored: {whose}"));
            return Ok(ListenFds { warning, ..ListenFds::default() });
        }
        let attempt = format!("take over the sockets of LISTEN_FDS={fds:?}");
        let count = match digits(&fds).and_then(|fds| fds.parse::<RawFd>().ok()) {
            Some(count) if count <= MAX_COUNT => count,
            _ => return Err(Error::cannot(attempt, "it is not a number of descriptors")),
        };
        let names = match listen_fdnames.map(OsStr::to_str) {
            None | Some(Some("")) => None,
            _ if count == 0 => None,
            Some(None) => return Err(Error::cannot(attempt, "LISTEN_FDNAMES is not UTF-8")),
            Some(Some(names)) => Some(names.split(':').map(str::to_owned).collect::<Vec<_>>()),
        };
        if let Some(names) = names.as_ref().filter(|names| names.len() != count as usize) {
            let why = format!("LISTEN_FDNAMES has {} names for {count} sockets", names.len());
            return Err(Error::cannot(attempt, why));
        }
        Ok(ListenFds { count, names, warning: None })
    }

    /// How many sockets we inherited.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// A warning to log: there are sockets, but for another process.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Each descriptor and its name, which is `unknown` if there are no names.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (RawFd, &str)> {
        (0..self.count).map(|index| {
            let name = self.names.as_ref().map(|names| names[index as usize].as_str());
            (FIRST + index, name.unwrap_or("unknown"))
        })
    }

    pub(super) fn contains(&self, fd: RawFd) -> bool {
        (FIRST..FIRST + self.count).contains(&fd)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pid: Option<&str>, fds: Option<&str>, names: Option<&str>) -> Result<ListenFds, Error> {
        ListenFds::read(pid.map(OsStr::new), fds.map(OsStr::new), names.map(OsStr::new), 71)
    }

    fn sockets(inherited: &ListenFds) -> Vec<(RawFd, &str)> {
        inherited.sockets().collect()
    }

    #[test]
    fn only_our_own_pid_is_listened_to() {
        for pid in [None, Some("1"), Some("72"), Some(""), Some("x"), Some("-71"), Some("+71")] {
            for fds in ["0", "1", "2"] {
                let inherited = read(pid, Some(fds), Some("a:b:c")).unwrap();
                assert_eq!(inherited.count(), 0, "{pid:?} {fds}");
                assert_eq!(inherited.warning().is_some(), fds != "0", "{pid:?} {fds}");
            }
        }
        let warning = read(Some("1"), Some("2"), None).unwrap().warning;
        let expected = "LISTEN_FDS=\"2\" is ignored: LISTEN_PID=\"1\" is not our pid 71";
        assert_eq!(warning.as_deref(), Some(expected));
        assert_eq!(read(Some("1"), None, None).unwrap(), ListenFds::default());
        for (fds, count) in [("0", 0), ("1", 1), ("2", 2)] {
            assert_eq!(read(Some("71"), Some(fds), None).unwrap().count(), count);
        }
    }

    #[test]
    fn names_are_unknown_or_one_for_each() {
        let inherited = read(Some("71"), Some("2"), None).unwrap();
        assert_eq!(sockets(&inherited), [(3, "unknown"), (4, "unknown")]);
        let inherited = read(Some("71"), Some("2"), Some("http:https")).unwrap();
        assert_eq!(sockets(&inherited), [(3, "http"), (4, "https")]);
        for names in ["a", "a:b:c"] {
            let error = read(Some("71"), Some("2"), Some(names)).unwrap_err();
            assert_eq!(error.status(), 125);
            assert!(error.to_string().contains("LISTEN_FDNAMES"), "{error}");
        }
    }

    #[test]
    fn a_count_that_is_none_is_refused() {
        for fds in ["", "x", "-1", "1.5", "65537", "2147483644", "99999999999"] {
            let error = read(Some("71"), Some(fds), None).unwrap_err();
            assert_eq!(error.status(), 125, "{fds}");
            assert!(error.to_string().contains(&format!("LISTEN_FDS={fds:?}")), "{error}");
        }
        assert_eq!(read(Some("71"), Some("65536"), None).unwrap().count(), 65_536);
    }

    proptest! {
        #[test]
        fn any_three_values_agree_with_the_rules(
            pid in proptest::option::of("71|[0-9]{0,4}|\\PC{0,4}"),
            fds in proptest::option::of("[0-9]|-?[0-9]{0,12}|\\PC{0,4}"),
            names in proptest::option::of("\\PC{0,12}|[a-z:]{0,6}"),
        ) {
            let ours = pid.as_deref().is_some_and(|pid| pid.parse() == Ok(71) && !pid.contains('+'));
            match read(pid.as_deref(), fds.as_deref(), names.as_deref()) {
                Ok(inherited) if ours && fds.is_some() => {
                    prop_assert_eq!(Ok(inherited.count()), fds.unwrap().parse::<usize>());
                    prop_assert!(inherited.sockets().take(20).all(|(fd, _)| inherited.contains(fd)));
                    prop_assert!(!inherited.contains(2));
                    prop_assert!(!inherited.contains(3 + inherited.count() as RawFd));
                }
                Ok(inherited) => prop_assert_eq!(inherited.count(), 0),
                Err(_) => prop_assert!(ours),
            }
        }
    }
}
