//! The OPTIONs of a BIND, such as `,backlog=128,mode=0660`: they are parsed, and checked against
//! the family of the address. Nothing is looked up or set here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The options of a BIND. With `None` and `false` the default of the kernel holds (for `backlog`
/// it is somaxconn).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `backlog=N`: connections that wait to be accepted, listen(2).
    pub backlog: Option<i32>,
    /// `reuseport`: one SO_REUSEPORT socket for each slot, instead of one for all.
    pub reuseport: bool,
    /// `v6only`: an IPv6 wildcard does not accept IPv4, ipv6(7).
    pub v6only: bool,
    /// `nonblock` is true, `block` is false. With neither, a socket that we make is blocking, and
    /// one that we inherited stays as it is.
    pub nonblock: Option<bool>,
    /// `mode=0660`: permission bits of a unix path.
    pub mode: Option<u32>,
    /// `user=`: owner of a unix path, a name or a number.
    pub user: Option<String>,
    /// `group=`: group of a unix path, a name or a number.
    pub group: Option<String>,
    /// `freebind`: binds an address even if no interface has it yet, ip(7).
    pub freebind: bool,
    /// `defer-accept=SECS`: TCP_DEFER_ACCEPT, tcp(7).
    pub defer_accept: Option<i32>,
    /// `fastopen=N`: TCP_FASTOPEN, how many fast open requests may wait, tcp(7).
    pub fastopen: Option<i32>,
    /// `rcvbuf=BYTES`: SO_RCVBUF, socket(7).
    pub rcvbuf: Option<i32>,
    /// `sndbuf=BYTES`: SO_SNDBUF, socket(7).
    pub sndbuf: Option<i32>,
    /// `nodelay`: TCP_NODELAY, which accepted connections inherit.
    pub nodelay: bool,
}

/// The properties of an address that decide which options it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// TCP; `v6` unless the host is an IPv4 address.
    Tcp {
        /// Whether the host may be an IPv6 one.
        v6: bool,
    },
    /// UDP; `v6` unless the host is an IPv4 address.
    Udp {
        /// Whether the host may be an IPv6 one.
        v6: bool,
    },
    /// A unix socket; `stream` unless it is a datagram one, `path` unless it is abstract.
    Unix {
        /// Whether it can listen.
        stream: bool,
        /// Whether it has a file.
        path: bool,
    },
    /// A socket that is bound already. Its family is not known before it is inspected.
    Fd,
}

impl Family {
    /// The family as a message names it.
    pub fn describe(self) -> &'static str {
        match self {
            Family::Tcp { v6: false } => "a tcp address of IPv4",
            Family::Tcp { v6: true } => "a tcp address",
            Family::Udp { v6: false } => "a udp address of IPv4",
            Family::Udp { v6: true } => "a udp address",
            Family::Unix { path: false, .. } => "an abstract unix socket",
            Family::Unix { stream: false, .. } => "a unix datagram socket",
            Family::Unix { .. } => "a unix socket",
            Family::Fd => "a socket that is bound already",
        }
    }

    fn can_have(self, option: &str) -> bool {
        match option {
            "backlog" => matches!(self, Family::Tcp { .. } | Family::Unix { stream: true, .. } | Family::Fd),
            "reuseport" | "freebind" => matches!(self, Family::Tcp { .. } | Family::Udp { .. }),
            "v6only" => matches!(self, Family::Tcp { v6: true } | Family::Udp { v6: true }),
            "mode" | "user" | "group" => matches!(self, Family::Unix { path: true, .. }),
            "defer-accept" | "fastopen" | "nodelay" => {
                matches!(self, Family::Tcp { .. } | Family::Fd)
            }
            _ => true,
        }
    }
}

impl Options {
    /// Parses the options after the address, without the leading comma.
    ///
    /// # Errors
    /// A clause that says what is wrong: an option is unknown, is given twice, lacks a value, has
    /// one that it may not have, or is out of range.
    pub fn parse(list: &str) -> Result<Options, String> {
        let mut options = Options::default();
        let mut seen: Vec<&str> = Vec::new();
        for item in list.split(',') {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (item, None),
            };
            if seen.contains(&key) {
                return Err(format!("option {key} is given twice"));
            }
            options.set(key, value)?;
            seen.push(key);
        }
        if seen.contains(&"block") && seen.contains(&"nonblock") {
            return Err("block and nonblock exclude each other".to_owned());
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        match key {
            "backlog" => self.backlog = Some(number(key, value)?),
            "defer-accept" => self.defer_accept = Some(number(key, value)?),
            "fastopen" => self.fastopen = Some(number(key, value)?),
            "rcvbuf" => self.rcvbuf = Some(number(key, value)?),
            "sndbuf" => self.sndbuf = Some(number(key, value)?),
            "mode" => self.mode = Some(mode(value)?),
            "user" => self.user = Some(account(key, value)?),
            "group" => self.group = Some(account(key, value)?),
            "reuseport" => self.reuseport = flag(key, value)?,
            "v6only" => self.v6only = flag(key, value)?,
            "freebind" => self.freebind = flag(key, value)?,
            "nodelay" => self.nodelay = flag(key, value)?,
            "nonblock" => self.nonblock = Some(flag(key, value)?),
            "block" => self.nonblock = Some(!flag(key, value)?),
            "" => return Err("there is nothing between two commas, or after the last".to_owned()),
            _ => {
                return Err(format!("unknown option {key:?} (a path or a name cannot contain a comma)"));
            }
        }
        Ok(())
    }

    /// Checks that an address of this family can have these options.
    ///
    /// # Errors
    /// A clause such as `option mode does not go with a tcp address`.
    pub fn check(&self, family: Family) -> Result<(), String> {
        match self.items().iter().find(|(key, _)| !family.can_have(key)) {
            Some((key, _)) => Err(format!("option {key} does not go with {}", family.describe())),
            None => Ok(()),
        }
    }

    /// The options that are set, in the order of the man page.
    fn items(&self) -> Vec<(&'static str, Option<String>)> {
        let number = |value: Option<i32>| value.map(|value| value.to_string());
        let valued = [
            ("backlog", number(self.backlog)),
            ("mode", self.mode.map(|mode| format!("{mode:04o}"))),
            ("user", self.user.clone()),
            ("group", self.group.clone()),
            ("defer-accept", number(self.defer_accept)),
            ("fastopen", number(self.fastopen)),
            ("rcvbuf", number(self.rcvbuf)),
            ("sndbuf", number(self.sndbuf)),
        ];
        let flags = [
            ("reuseport", self.reuseport),
            ("v6only", self.v6only),
            ("nonblock", self.nonblock == Some(true)),
            ("block", self.nonblock == Some(false)),
            ("freebind", self.freebind),
            ("nodelay", self.nodelay),
        ];
        let valued = valued.into_iter().filter(|(_, value)| value.is_some());
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(key, _)| (key, None));
        valued.chain(flags).collect()
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in self.items() {
            match value {
                Some(value) => write!(f, ",{key}={value}")?,
                None => write!(f, ",{key}")?,
            }
        }
        Ok(())
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None => Ok(true),
        Some(_) => Err(format!("option {key} takes no value")),
    }
}

fn number(key: &str, value: Option<&str>) -> Result<i32, String> {
    let wanted = || format!("option {key} needs a number from 1 to {}", i32::MAX);
    match digits(value.unwrap_or_default()).and_then(|text| text.parse().ok()) {
        Some(number) if number >= 1 => Ok(number),
        _ => Err(wanted()),
    }
}

fn mode(value: Option<&str>) -> Result<u32, String> {
    let text = digits(value.unwrap_or_default());
    match text.and_then(|text| u32::from_str_radix(text, 8).ok()) {
        Some(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("option mode needs an octal number from 0 to 0777".to_owned()),
    }
}

fn account(key: &str, value: Option<&str>) -> Result<String, String> {
    let value = value.unwrap_or_default();
    if value.is_empty() || value.contains(char::is_control) {
        return Err(format!("option {key} needs a name or a number"));
    }
    // For chown(2) the number 2^32-1 means "do not change", so it is no account.
    if digits(value).is_some() && value.parse().is_ok_and(|id: u64| id >= u64::from(u32::MAX)) {
        return Err(format!("option {key} needs a number below {}", u32::MAX));
    }
    Ok(value.to_owned())
}

/// Returns `text` if it consists of ASCII digits; `str::parse` alone accepts `+5` as well.
pub fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}
