//! Opens the sockets of parsed BINDs: first come all checks that change nothing, then the binds.

use std::net::SocketAddr;
use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::address::{Address, Bind, UnixKind, check_length};
use super::apart::inode;
use super::baseline::Baseline;
use super::inherit::{self, Inherited};
use super::lifetime::FirstGeneration;
use super::listen_fds::{FIRST, ListenFds};
use super::options::{Options, digits};
use super::path::{self, BoundPath, PathBind, Permissions, START_LOCK_TIMEOUT};
use super::socket_file::SERVING_LOCK_TIMEOUT;
use super::tune::tune;
use super::{Kind, Listener, Listeners, inet};
use crate::dialect::{Dialect, check};
use crate::error::{Error, reason};
use crate::sys::fd;

/// A BIND with everything looked up that can be looked up before it is bound.
pub(super) enum Plan {
    Inet { ty: Type, candidates: Vec<SocketAddr> },
    Path(PathBind),
    Abstract { kind: UnixKind, name: String },
    Inherited(Inherited),
}

impl Listeners {
    /// Takes over the inherited sockets, then binds each BIND in order. A relative unix path is
    /// joined to `directory`; `reuseport` makes `slots` sockets. The `dialects` must be able to
    /// pass all of them on.
    ///
    /// # Errors
    /// [`Error::Usage`] for wrong usage that is found only on this machine: a host name with
    /// several addresses, a path that is too long once it is joined, an option that an inherited
    /// socket cannot have. [`Error::Inherited`] for a descriptor on which a worker cannot serve,
    /// [`Error::Bind`] for everything else. What was bound until then is closed and unlinked.
    pub fn open(
        listen_fds: ListenFds,
        binds: &[Bind],
        directory: &Path,
        slots: u32,
        dialects: &[Dialect],
    ) -> Result<Listeners, Error> {
        // All are checked before the first copy is made: a copy may get a number that the user has
        // given although nothing was open there.
        let given_numbers = binds.iter().filter_map(|bind| match bind.address {
            Address::Fd(number) => Some(number),
            _ => None,
        });
        for number in listen_fds.sockets().map(|(number, _)| number).chain(given_numbers) {
            inherit::require_open(number)?;
        }
        let mut list = Vec::new();
        for (number, name) in listen_fds.sockets() {
            let origin = format!("fd {number} of LISTEN_FDS");
            list.push(inherited_listener(inherit::inspect(number)?, name.to_owned(), origin));
        }
        let mut plans = Vec::new();
        for (index, bind) in binds.iter().enumerate() {
            refuse_duplicate(&listen_fds, binds, index)?;
            plans.push(plan(bind, directory)?);
        }
        let given = list.iter().map(|listener: &Listener| (listener.written.clone(), listener.kind));
        let planned = binds.iter().zip(&plans).map(|(bind, plan)| (bind.address.to_string(), plan.kind()));
        let unbound: Vec<check::UnboundListener> =
            given.chain(planned).map(|(written, kind)| check::UnboundListener { written, kind }).collect();
        check::listeners(dialects, &unbound).map_err(Error::Usage)?;
        if dialects.iter().any(|dialect| dialect.nonblock()) {
            for listener in &mut list {
                listener.nonblock = Some(true);
                SockRef::from(&listener.sockets[0])
                    .set_nonblocking(true)
                    .map_err(|error| failed(&listener.address, &error))?;
            }
        }
        // There is a copy of each. A second descriptor would keep the socket open after its
        // listener is closed.
        for (number, _) in listen_fds.sockets() {
            fd::close_inherited(number);
        }
        for (bind, plan) in binds.iter().zip(plans) {
            let name = bind.name.clone().unwrap_or_else(|| format!("socket{}", list.len()));
            let listener = open(bind, plan, name, slots.max(1), &list)?;
            list.push(listener);
        }
        for listener in &mut list {
            listener.baseline = Baseline::new(&listener.sockets);
        }
        Ok(Listeners { list })
    }
}

impl Plan {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Plan::Inet { ty, .. } if *ty == Type::STREAM => Kind::Tcp,
            Plan::Inet { .. } => Kind::Udp,
            Plan::Path(PathBind { kind, .. }) | Plan::Abstract { kind, .. } => unix_kind(*kind).0,
            Plan::Inherited(found) => found.kind,
        }
    }
}

/// Refuses a descriptor that is given twice: it would be one socket with two names.
fn refuse_duplicate(listen_fds: &ListenFds, binds: &[Bind], index: usize) -> Result<(), Error> {
    let Address::Fd(number) = binds[index].address else {
        return Ok(());
    };
    let refuse = |why: &str| Err(Error::Inherited { fd: number, why: why.to_owned() });
    if listen_fds.contains(number) {
        return refuse("LISTEN_FDS passes it on already");
    }
    if binds[..index].iter().any(|earlier| earlier.address == binds[index].address) {
        return refuse("it is given twice");
    }
    Ok(())
}

pub(super) fn plan(bind: &Bind, directory: &Path) -> Result<Plan, Error> {
    let usage = |why: String| Error::Usage(format!("bad BIND {:?}: {why}", bind.to_string()));
    match &bind.address {
        Address::Tcp { host, port } => {
            Ok(Plan::Inet { ty: Type::STREAM, candidates: inet::resolve(bind, host, *port)? })
        }
        Address::Udp { host, port } => {
            Ok(Plan::Inet { ty: Type::DGRAM, candidates: inet::resolve(bind, host, *port)? })
        }
        Address::Unix { kind, path } => {
            let path = path::absolute(directory, path);
            check_length(&path).map_err(usage)?;
            let (permissions, options) = (permissions(bind)?, bind.options.clone());
            Ok(Plan::Path(PathBind { kind: *kind, path, permissions, options }))
        }
        Address::Abstract { kind, name } => Ok(Plan::Abstract { kind: *kind, name: name.clone() }),
        Address::Fd(number) => {
            let found = inherit::inspect(*number)?;
            bind.options.check(found.kind.family()).map_err(usage)?;
            close_original_on_exec(*number)?;
            Ok(Plan::Inherited(found))
        }
    }
}

/// A worker gets our copy, not the original. It inherits 0, 1 and 2 as they are.
fn close_original_on_exec(number: RawFd) -> Result<(), Error> {
    if number < FIRST {
        return Ok(());
    }
    fd::close_on_exec(number).map_err(|error| Error::Inherited { fd: number, why: reason(&error) })
}

fn permissions(bind: &Bind) -> Result<Permissions, Error> {
    let Options { mode, user, group, .. } = &bind.options;
    let unknown = |why: String| Error::Bind { bind: bind.address.to_string(), why, advice: None };
    let id = |text: &str| digits(text).and_then(|text| text.parse().ok());
    let mut permissions = Permissions { mode: *mode, user: None, group: None };
    if let Some(name) = user {
        let uid = match id(name) {
            Some(uid) => Some(uid),
            None => User::from_name(name)
                .map_err(|errno| unknown(format!("cannot look up user {name}: {errno}")))?
                .map(|user| user.uid.as_raw()),
        };
        permissions.user = Some(uid.ok_or_else(|| unknown(format!("unknown user {name}")))?);
    }
    if let Some(name) = group {
        let gid = match id(name) {
            Some(gid) => Some(gid),
            None => Group::from_name(name)
                .map_err(|errno| unknown(format!("cannot look up group {name}: {errno}")))?
                .map(|group| group.gid.as_raw()),
        };
        permissions.group = Some(gid.ok_or_else(|| unknown(format!("unknown group {name}")))?);
    }
    Ok(permissions)
}

pub(super) fn open(
    bind: &Bind,
    plan: Plan,
    name: String,
    slots: u32,
    earlier: &[Listener],
) -> Result<Listener, Error> {
    let options = &bind.options;
    let origin = bind.to_string();
    match plan {
        Plan::Inet { ty, candidates } => open_inet(bind, ty, &candidates, name, slots, earlier),
        Plan::Path(file) => {
            let address = file.path.display().to_string();
            if let Some(other) = earlier.iter().find(|other| is_at(other, &file.path)) {
                return Err(in_use(address, other));
            }
            let (kind, backlog, socket, bound) = bind_path(&file, START_LOCK_TIMEOUT)?;
            let mut listener = Listener::new(name, address, origin, kind);
            if let Address::Unix { path, .. } = &bind.address {
                listener.written = path.display().to_string();
            }
            listener.path = Some(bound);
            listener.backlog = backlog;
            listener.nonblock = options.nonblock;
            listener.sockets.push(socket.into());
            listener.path_bind = Some(file);
            Ok(listener)
        }
        Plan::Abstract { kind, name: abstract_name } => {
            let address = format!("@{abstract_name}");
            let (kind, backlog, socket) = unix_socket(kind, options, &address)?;
            SockAddr::unix(format!("\0{abstract_name}"))
                .and_then(|address| socket.bind(&address))
                .and_then(|()| listen(&socket, kind, backlog))
                .map_err(|error| {
                    let holder = earlier.iter().find(|other| other.address == address);
                    match holder.filter(|_| is_in_use(&error)) {
                        Some(other) => in_use(address.clone(), other),
                        None => failed(&address, &error),
                    }
                })?;
            let mut listener = Listener::new(name, address, origin, kind);
            listener.backlog = backlog;
            listener.nonblock = options.nonblock;
            listener.sockets.push(socket.into());
            Ok(listener)
        }
        Plan::Inherited(found) => {
            let mut listener = inherited_listener(found, name, origin);
            listener.nonblock = options.nonblock;
            let result = tune(&listener.sockets[0], options).and_then(|()| match options.backlog {
                Some(backlog) => {
                    listener.backlog = effective_backlog(options.backlog);
                    listener.backlog_known = true;
                    SockRef::from(&listener.sockets[0]).listen(backlog)
                }
                None => Ok(()),
            });
            result.map_err(|error| failed(&bind.address.to_string(), &error))?;
            Ok(listener)
        }
    }
}

fn open_inet(
    bind: &Bind,
    ty: Type,
    candidates: &[SocketAddr],
    name: String,
    slots: u32,
    earlier: &[Listener],
) -> Result<Listener, Error> {
    let options = &bind.options;
    let kind = if ty == Type::STREAM { Kind::Tcp } else { Kind::Udp };
    let shown = |address: SocketAddr| match kind {
        Kind::Udp => format!("udp://{address}"),
        _ => address.to_string(),
    };
    let backlog = if kind.listens() { effective_backlog(options.backlog) } else { 0 };
    let count = if options.reuseport { slots } else { 1 };
    // With SO_REUSEPORT the kernel would bind the same address twice, and share the connections
    // between two listeners.
    let same = |other: &&Listener| {
        let held = other.inet.filter(|held| other.kind == kind && held.port() != 0);
        held.is_some_and(|held| {
            candidates.iter().any(|&wanted| {
                let apart = options.v6only && wanted.is_ipv6() && held.is_ipv4();
                held == wanted || options.reuseport && !apart && inet::overlaps(held, other.v6only, wanted)
            })
        })
    };
    if let Some(other) = earlier.iter().find(same) {
        return Err(in_use(shown(candidates[0]), other));
    }
    let made =
        inet::with_available_address(candidates, |address| inet::open(ty, address, options, backlog, count));
    let (sockets, address) = made.map_err(|(address, error)| {
        let holds = |other: &&Listener| {
            other.kind == kind && other.inet.is_some_and(|held| inet::overlaps(held, other.v6only, address))
        };
        match earlier.iter().find(holds).filter(|_| is_in_use(&error)) {
            Some(other) => in_use(shown(address), other),
            None => Error::Bind {
                bind: shown(address),
                why: reason(&error),
                advice: inet::advice(&error, ty, address),
            },
        }
    })?;
    let mut listener = Listener::new(name, address.to_string(), bind.to_string(), kind);
    if let Address::Tcp { host, .. } | Address::Udp { host, .. } = &bind.address {
        listener.written = format!("{host}:{}", address.port());
    }
    listener.sockets = sockets.into_iter().map(Into::into).collect();
    listener.backlog = backlog;
    listener.nonblock = options.nonblock;
    listener.inet = Some(address);
    listener.reuseport = options.reuseport;
    if options.reuseport {
        listener.inet_options = Some(options.clone());
        listener.order = listener.sockets.iter().map(|socket| inode(socket.as_fd())).collect();
    }
    listener.v6only = options.v6only;
    Ok(listener)
}

impl Listener {
    fn new(name: String, address: String, origin: String, kind: Kind) -> Listener {
        Listener {
            path: None,
            sockets: Vec::new(),
            name,
            written: address.clone(),
            address,
            origin: format!("{origin} of this command line"),
            kind,
            backlog: 0,
            backlog_known: true,
            nonblock: None,
            path_bind: None,
            inet: None,
            reuseport: false,
            inet_options: None,
            apart: Vec::new(),
            order: Vec::new(),
            v6only: false,
            baseline: Baseline::default(),
            since: FirstGeneration::Generation(0),
            until: None,
        }
    }

    /// Replaces the socket by a new one at the same path, for the workers that start from now on:
    /// the old one was shut down, or clients cannot reach it. The old one is closed.
    ///
    /// # Errors
    /// As for the first bind. The listener then has no path, and keeps the old socket.
    pub(super) fn replace_socket(&mut self) -> Result<(), Error> {
        let Some(file) = &self.path_bind else { return Ok(()) };
        self.path = None;
        let (_, backlog, socket, bound) = bind_path(file, SERVING_LOCK_TIMEOUT)?;
        self.path = Some(bound);
        self.backlog = backlog;
        self.sockets = vec![socket.into()];
        self.baseline.replace_sockets(&self.sockets);
        Ok(())
    }
}

fn bind_path(file: &PathBind, timeout: Duration) -> Result<(Kind, u32, Socket, BoundPath), Error> {
    let (kind, backlog, socket) = unix_socket(file.kind, &file.options, &file.path.display().to_string())?;
    let listen = || listen(&socket, kind, backlog);
    let bound = path::bind(&socket, &file.path, file.permissions, timeout, listen)?;
    Ok((kind, backlog, socket, bound))
}

/// A listener from an inherited socket. The backlog of a unix socket cannot be read: it is assumed
/// to be the largest.
fn inherited_listener(found: Inherited, name: String, origin: String) -> Listener {
    let mut listener = Listener::new(name, found.address, String::new(), found.kind);
    listener.origin = origin;
    listener.backlog = match found.kind {
        Kind::Tcp => {
            let backlog = fd::tcp_backlog(found.socket.as_fd());
            backlog.ok().flatten().unwrap_or_else(|| effective_backlog(None))
        }
        kind if kind.listens() => effective_backlog(None),
        _ => 0,
    };
    listener.backlog_known = found.kind == Kind::Tcp;
    listener.inet = found.inet;
    // The address as Go programs spell it.
    if let Some(address) = found.inet.filter(|address| address.is_ipv6() && address.ip().is_unspecified()) {
        listener.written = format!(":{}", address.port());
    }
    listener.v6only = found.inet.is_some_and(|address| address.is_ipv6())
        && SockRef::from(&found.socket).only_v6().unwrap_or(false);
    listener.sockets.push(found.socket);
    listener
}

fn unix_kind(kind: UnixKind) -> (Kind, Type) {
    match kind {
        UnixKind::Stream => (Kind::Unix, Type::STREAM),
        UnixKind::Datagram => (Kind::UnixDatagram, Type::DGRAM),
        UnixKind::Seqpacket => (Kind::UnixSeqpacket, Type::SEQPACKET),
    }
}

fn unix_socket(kind: UnixKind, options: &Options, address: &str) -> Result<(Kind, u32, Socket), Error> {
    let (kind, ty) = unix_kind(kind);
    let socket = Socket::new(Domain::UNIX, ty, None).map_err(|error| failed(address, &error))?;
    tune(&socket, options).map_err(|error| failed(address, &error))?;
    let backlog = if kind.listens() { effective_backlog(options.backlog) } else { 0 };
    Ok((kind, backlog, socket))
}

fn listen(socket: &Socket, kind: Kind, backlog: u32) -> std::io::Result<()> {
    if kind.listens() {
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    }
    Ok(())
}

/// The backlog that listen(2) sets for the requested one: at most somaxconn.
fn effective_backlog(requested: Option<i32>) -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let somaxconn = text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(4096);
    requested.map_or(somaxconn, |requested| requested.unsigned_abs().min(somaxconn))
}

fn is_at(listener: &Listener, path: &Path) -> bool {
    listener.path.as_ref().is_some_and(|bound| bound.is_at(path))
}

fn is_in_use(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EADDRINUSE as i32)
}

fn in_use(bind: String, holder: &Listener) -> Error {
    let why = "address already in use".to_owned();
    Error::Bind { bind, why, advice: Some(format!("{} holds it", holder.origin)) }
}

fn failed(bind: &str, error: &std::io::Error) -> Error {
    Error::Bind { bind: bind.to_owned(), why: reason(error), advice: None }
}
