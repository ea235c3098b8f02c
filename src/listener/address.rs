//! Parses one `-b`. Nothing is resolved, looked up or bound here.
//!
//! `[NAME=]ADDRESS[,OPTION]...`
//!
//! NAME has at most 255 letters, digits, `_`, `.` and `-`, and ends at the first `=`. If there is
//! any other character before that `=` (the `/` of a path, the `:` of a port, the comma before an
//! option), there is no NAME, and the `=` is part of the address or of the option. ADDRESS starts
//! after NAME and ends at the first comma, so neither a path nor an abstract name can contain one.
//! Three slashes at the start of a path (`unix:///run/app.sock`) are the same as one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::options::{Family, Options, digits};
use crate::error::Error;

/// How many bytes a unix path or an abstract name may have: `sun_path` of unix(7) has 108, one
/// of which is the NUL that ends a path or starts an abstract name.
pub const UNIX_LIMIT: usize = 107;

/// How many characters a NAME may have, as in sd_listen_fds(3).
const NAME_LIMIT: usize = 255;

/// One `-b`: what to bind, under which name, with which options.
///
/// `Display` writes the canonical form, which parses back to the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Its name in LISTEN_FDNAMES; by default `socket` and its position.
    pub name: Option<String>,
    /// Where it is bound.
    pub address: Address,
    /// How it is bound.
    pub options: Options,
}

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `:5001`, `5001`, `tcp:5001`, `HOST:5001`, `tcp://HOST:5001`.
    Tcp {
        /// The host part.
        host: Host,
        /// The port; with 0 the kernel chooses one.
        port: u16,
    },
    /// `udp:5001`, `udp://HOST:5001`.
    Udp {
        /// The host part.
        host: Host,
        /// The port; with 0 the kernel chooses one.
        port: u16,
    },
    /// `unix:PATH`, `unix-dgram:PATH`, `unix-seqpacket:PATH`, or a path that
    /// starts with `/`, `./` or `../`.
    Unix {
        /// Type of the socket.
        kind: UnixKind,
        /// As given; a relative one is joined to the directory of `open`.
        path: PathBuf,
    },
    /// `@NAME`, `unix:@NAME` and so on: the abstract namespace of Linux, unix(7).
    Abstract {
        /// Type of the socket.
        kind: UnixKind,
        /// Without the `@`.
        name: String,
    },
    /// `fd://N`: a socket that we were started with. 0 is allowed (inetd).
    Fd(RawFd),
}

/// The host part of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// No host was given: `[::]`, or `0.0.0.0` if the machine has no IPv6.
    Any,
    /// An IPv4 address; `*` is 0.0.0.0.
    V4(Ipv4Addr),
    /// An IPv6 address, with its zone: `[fe80::1%eth0]`.
    V6(Ipv6Addr, Option<String>),
    /// A name, which is resolved when the socket is opened.
    Name(String),
}

/// Type of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixKind {
    /// `unix:`
    Stream,
    /// `unix-dgram:`
    Datagram,
    /// `unix-seqpacket:`
    Seqpacket,
}

impl UnixKind {
    const ALL: [UnixKind; 3] = [UnixKind::Stream, UnixKind::Datagram, UnixKind::Seqpacket];

    fn scheme(self) -> &'static str {
        match self {
            UnixKind::Stream => "unix:",
            UnixKind::Datagram => "unix-dgram:",
            UnixKind::Seqpacket => "unix-seqpacket:",
        }
    }
}

/// Schemes: before a colon these words are no host names.
const SCHEMES: [&str; 6] = ["tcp", "udp", "unix", "unix-dgram", "unix-seqpacket", "fd"];

impl Address {
    /// The family of the address, which decides which options it can have.
    pub fn family(&self) -> Family {
        match self {
            Address::Tcp { host, .. } => Family::Tcp { v6: !matches!(host, Host::V4(_)) },
            Address::Udp { host, .. } => Family::Udp { v6: !matches!(host, Host::V4(_)) },
            Address::Unix { kind, .. } => Family::Unix { stream: *kind != UnixKind::Datagram, path: true },
            Address::Abstract { kind, .. } => {
                Family::Unix { stream: *kind != UnixKind::Datagram, path: false }
            }
            Address::Fd(_) => Family::Fd,
        }
    }
}

impl FromStr for Bind {
    type Err = Error;

    /// # Errors
    /// [`Error::Usage`], which quotes the argument and shows the accepted form.
    fn from_str(given: &str) -> Result<Bind, Error> {
        parse(given).map_err(|why| {
            Error::Usage(format!(
                "bad BIND {given:?}: {why} (expected [NAME=]ADDRESS[,OPTION]..., such as \
                 :5001, 127.0.0.1:5001, [::1]:5001, udp://:5001, /run/app.sock, @name or fd://3)"
            ))
        })
    }
}

fn parse(given: &str) -> Result<Bind, String> {
    if given.contains(char::is_control) {
        return Err("it contains a control character".to_owned());
    }
    let (name, rest) = split_name(given)?;
    let (address, options) = match rest.split_once(',') {
        Some((address, options)) => (address, Options::parse(options)?),
        None => (rest, Options::default()),
    };
    let address = parse_address(address)?;
    options.check(address.family())?;
    Ok(Bind { name, address, options })
}

fn split_name(given: &str) -> Result<(Option<String>, &str), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    match given.split_once('=') {
        Some(("", _)) => Err("the name before = is empty".to_owned()),
        Some((name, rest)) if name.chars().all(allowed) => {
            if name.len() > NAME_LIMIT {
                return Err(format!("the name is longer than {NAME_LIMIT} characters"));
            }
            Ok((Some(name.to_owned()), rest))
        }
        _ => Ok((None, given)),
    }
}

fn parse_address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Err("the address is empty".to_owned());
    }
    if let Some(number) = text.strip_prefix("fd://") {
        return match digits(number).and_then(|number| number.parse().ok()) {
            Some(fd) => Ok(Address::Fd(fd)),
            None => Err(format!("{number:?} is not the number of a descriptor")),
        };
    }
    for kind in UnixKind::ALL {
        if let Some(location) = text.strip_prefix(kind.scheme()) {
            return parse_unix(kind, location);
        }
    }
    if ["/", "./", "../", "@"].iter().any(|start| text.starts_with(start)) {
        return parse_unix(UnixKind::Stream, text);
    }
    if let Some(rest) = text.strip_prefix("udp:") {
        let (host, port) = parse_inet(rest.strip_prefix("//").unwrap_or(rest))?;
        return Ok(Address::Udp { host, port });
    }
    let rest = match text.strip_prefix("tcp:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if text.starts_with("fd:") => return Err("a descriptor is fd://N".to_owned()),
        None => text,
    };
    let (host, port) = parse_inet(rest)?;
    Ok(Address::Tcp { host, port })
}

fn parse_unix(kind: UnixKind, location: &str) -> Result<Address, String> {
    if let Some(name) = location.strip_prefix('@') {
        if name.is_empty() {
            return Err("the abstract name is empty".to_owned());
        }
        if name.len() > UNIX_LIMIT {
            return Err(format!("the abstract name is longer than {UNIX_LIMIT} bytes"));
        }
        return Ok(Address::Abstract { kind, name: name.to_owned() });
    }
    if location.is_empty() {
        return Err("the path is empty".to_owned());
    }
    // For Linux several slashes at the start are one. They are removed, so that paths can be
    // compared.
    let path = match location.strip_prefix('/') {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => location.to_owned(),
    };
    if matches!(path.rsplit('/').next(), Some("" | "." | "..")) {
        return Err(format!("{path} can only be a directory"));
    }
    let path = PathBuf::from(path);
    if path.is_absolute() {
        check_length(&path)?;
    }
    Ok(Address::Unix { kind, path })
}

/// Checks the length of a unix path.
///
/// # Errors
/// A clause that names the limit.
pub fn check_length(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length > UNIX_LIMIT {
        return Err(format!("the path has {length} bytes, a unix socket takes {UNIX_LIMIT}"));
    }
    Ok(())
}

fn parse_inet(text: &str) -> Result<(Host, u16), String> {
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("unknown scheme {scheme:?}"));
    }
    if text.contains('/') {
        return Err("a path starts with /, ./ or ../ or is spelled unix:PATH".to_owned());
    }
    if let Some(inside) = text.strip_prefix('[') {
        let Some((address, rest)) = inside.split_once(']') else {
            return Err("the ] of the IPv6 address is missing".to_owned());
        };
        let port = rest.strip_prefix(':').ok_or("a port has to follow the ], as in [::1]:5001")?;
        return Ok((parse_v6(address)?, parse_port(port)?));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", text),
    };
    if host.contains(':') {
        return Err("an IPv6 address goes in brackets, as in [::1]:5001".to_owned());
    }
    if digits(port).is_none() && !text.contains(':') {
        return Err(format!("{text:?} has no port (a path needs a slash)"));
    }
    let port = parse_port(port)?;
    let host = match host {
        "" => Host::Any,
        "*" => Host::V4(Ipv4Addr::UNSPECIFIED),
        _ => parse_host(host)?,
    };
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, String> {
    match digits(text).and_then(|text| text.parse().ok()) {
        Some(port) => Ok(port),
        None if text.is_empty() => Err("the port is missing".to_owned()),
        None => Err(format!("{text:?} is not a port, a number from 0 to 65535")),
    }
}

fn parse_v6(text: &str) -> Result<Host, String> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    if zone.is_some_and(|zone| zone.is_empty() || zone.contains(['[', ']', '%', '/', ' '])) {
        return Err("the zone after % is not the name of an interface".to_owned());
    }
    match address.parse() {
        Ok(address) => Ok(Host::V6(address, zone.map(str::to_owned))),
        Err(_) => Err(format!("{address:?} is not an IPv6 address")),
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Ok(address) = text.parse() {
        return Ok(Host::V4(address));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.len() > 253 || !text.chars().all(allowed) {
        return Err(format!("{text:?} is neither an address nor a host name"));
    }
    // The resolver would read 127.1 and 2130706433 as 127.0.0.1.
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("{text:?} is not an IPv4 address"));
    }
    Ok(Host::Name(text.to_owned()))
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        write!(f, "{}{}", self.address, self.options)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host: host @ Host::Name(name), port } if SCHEMES.contains(&name.as_str()) => {
                write!(f, "tcp://{host}:{port}")
            }
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Udp { host, port } => write!(f, "udp://{host}:{port}"),
            Address::Unix { kind: UnixKind::Stream, path }
                if ["/", "./", "../"]
                    .iter()
                    .any(|s| path.as_os_str().as_encoded_bytes().starts_with(s.as_bytes())) =>
            {
                write!(f, "{}", path.display())
            }
            Address::Unix { kind, path } => write!(f, "{}{}", kind.scheme(), path.display()),
            Address::Abstract { kind: UnixKind::Stream, name } => write!(f, "@{name}"),
            Address::Abstract { kind, name } => write!(f, "{}@{name}", kind.scheme()),
            Address::Fd(fd) => write!(f, "fd://{fd}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Any => Ok(()),
            Host::V4(address) => write!(f, "{address}"),
            Host::V6(address, None) => write!(f, "[{address}]"),
            Host::V6(address, Some(zone)) => write!(f, "[{address}%{zone}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests;
