//! What a worker can do to the sockets that it shares with every other worker, and
//! how that is repaired.
//!
//! Contract: the listeners are checked before each start, when a worker becomes ready
//! (servers call listen(2) once more as they start), when one ends, and when a unix path
//! is removed. Each check repairs what can be repaired. The log names the generation that
//! seems to have done the damage: the one whose worker became ready or ended, and before
//! a start the newest one that lives.
//!
//! - backlog: a listen(2) by one worker changes it for all. It is set again. The backlog
//!   of a unix socket cannot be read, so each check sets it, unless the socket was given
//!   to us and its backlog was never known.
//! - shutdown(2) by one worker ends the socket for all. A TCP socket is revived by
//!   listen(2), without the connections that waited. A unix socket cannot be revived: the
//!   workers that start next get a new one, at the same path. For a UDP socket there is
//!   only a message.
//! - O_NONBLOCK belongs to the open file description. What a BIND says is set again at
//!   once. Where a BIND says nothing, the flag stays as workers left it while one of them
//!   lives: clearing it would hang an event loop in accept(2), and setting it would break
//!   a server that waits there. Once no worker lives, the next one starts with the flag of
//!   the beginning.
//! - a unix path is restored: see [`hard_link`](super::hard_link).
//!
//! A check costs a few system calls for each listener. What cannot be repaired is logged once,
//! and what is repaired again and again is logged once for each generation.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use log::{debug, error, info, log, warn};
use nix::errno::Errno;
use socket2::{SockAddr, SockRef};

use super::apart::inode;
use super::baseline::{Damage, is_nonblocking};
use super::path::BoundPath;
use super::path_repair::PathState;
use super::{Kind, Listener, Listeners};
use crate::core::event::Generation;
use crate::core::{ShownStage, Supervisor};
use crate::error::reason;
use crate::sys::fd;

/// The occasion of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occasion {
    /// The generation that seems to have done the damage; None: no worker lives.
    pub generation: Option<Generation>,
    /// The slot of the worker: with `reuseport` its socket is checked.
    pub slot: u32,
    /// Whether a worker is about to start.
    pub starting: bool,
}

impl Occasion {
    /// The socket that is checked.
    fn socket<'a>(&self, listener: &'a Listener) -> BorrowedFd<'a> {
        listener.fd(self.generation.map_or(0, |generation| generation.0), self.slot)
    }

    /// A path was removed. Servers remove it when they close the socket, so it was most
    /// likely the oldest generation that drains.
    pub fn path_removed(core: &Supervisor) -> Occasion {
        let drains = core.workers().filter(|shown| shown.stage == ShownStage::Draining);
        let generation = drains.map(|shown| shown.generation).min().unwrap_or(core.generation());
        Occasion { generation: Some(generation), slot: 0, starting: false }
    }
}

/// `generation 3`, at the beginning of a line.
struct By(Option<Generation>);

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(generation) => write!(f, "{generation}"),
            None => f.write_str("somebody"),
        }
    }
}

/// A listener as a line names it.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.name)
    }
}

impl Listeners {
    /// Checks every listener, and repairs it.
    pub fn check(&mut self, occasion: Occasion) {
        for listener in &mut self.list {
            listener.check(occasion);
        }
    }

    /// Logs what has kept `generation` from being ready: O_NONBLOCK as another generation left
    /// it, set where `nonblock`, else cleared. It is logged once for each generation that did.
    pub fn hint(&mut self, generation: Generation, nonblock: bool) {
        for listener in &mut self.list {
            match listener.baseline.hint(generation, nonblock) {
                Some((by, true)) => info!(
                    generation = by.0;
                    "{listener} was made non-blocking by {by}: a program that waits in accept(2) gets EAGAIN \
                     there; if {generation} is one, say ,block in its -b, or --stop-first"
                ),
                Some((by, false)) => info!(
                    generation = by.0;
                    "{listener} was made blocking by {by}: an event loop can hang in accept(2) there; if \
                     {generation} is one, say ,nonblock in its -b, or --stop-first"
                ),
                None => {}
            }
        }
    }
}

impl Listener {
    fn check(&mut self, occasion: Occasion) {
        let broken = match self.kind {
            Kind::Tcp => self.check_tcp(occasion),
            Kind::Udp => self.check_udp(occasion),
            _ => self.check_unix(occasion),
        };
        if broken.is_none() {
            self.baseline.is_whole();
        }
        self.check_flag(occasion);
    }

    fn check_tcp(&mut self, occasion: Occasion) -> Option<Damage> {
        // What a worker does to a socket that it alone has is its own affair; and one that it gives up
        // as it leaves would only get connections again.
        if self.has_own_socket(occasion) {
            return None;
        }
        let (socket, ours) = (occasion.socket(self), self.backlog);
        let by = By(occasion.generation);
        let found = fd::tcp_backlog(socket).unwrap_or(Some(ours));
        if found == Some(ours) {
            return None;
        }
        let repaired = match found {
            Some(_) => listen(socket, ours),
            None => rebind(self, socket).and_then(|()| listen(socket, ours)),
        };
        if let Err(error) = repaired {
            if self.baseline.is_news(Damage::ShutDown) {
                let why = reason(&error);
                error!("{by}: shut down {self} for everybody; it cannot be revived: {why} (restart us)");
            }
            return Some(Damage::ShutDown);
        }
        let Some(before) = found else {
            self.has_joined_again(inode(occasion.socket(self)));
            let level = self.baseline.level(Damage::ShutDown, occasion.generation);
            log!(
                level,
                "{by}: shut down {self} for everybody: it listens again, connections that waited are lost"
            );
            return None;
        };
        let level = self.baseline.level(Damage::Backlog, occasion.generation);
        match fd::tcp_backlog(occasion.socket(self)) {
            // Another worker may have changed it again meanwhile: then the next look repairs it.
            Ok(Some(now)) if now < ours && somaxconn().is_none_or(|most| most == now) => {
                info!("the backlog of {self} is {now} from now on, it was {ours} (somaxconn)");
                self.backlog = now;
            }
            _ => log!(
                level,
                "{by}: the backlog of {self} was changed from {ours} to {before}, and is {ours} again"
            ),
        }
        None
    }

    /// Whether the socket is that of one worker, which is on hold or leaves after a hold.
    fn has_own_socket(&self, occasion: Occasion) -> bool {
        occasion.generation.is_some_and(|generation| self.apart(generation.0, occasion.slot).is_some())
    }

    /// Nothing clears the shutdown of a datagram socket.
    fn check_udp(&mut self, occasion: Occasion) -> Option<Damage> {
        if !fd::is_shut_down(occasion.socket(self)) {
            return None;
        }
        if self.baseline.is_news(Damage::ShutDown) {
            let by = By(occasion.generation);
            error!("{by}: shut down udp {self} for everybody, and it cannot be revived (restart us)");
        }
        Some(Damage::ShutDown)
    }

    fn check_unix(&mut self, occasion: Occasion) -> Option<Damage> {
        let by = By(occasion.generation);
        let damage = match self.path.as_mut().map(BoundPath::repair) {
            _ if fd::is_shut_down(self.fd(0, 0)) => Some(Damage::ShutDown),
            Some(PathState::Lost) => Some(Damage::Path),
            None if self.path_bind.is_some() => Some(Damage::Path),
            Some(PathState::Taken(why)) => Some(Damage::Taken(why)),
            Some(PathState::Restored) => {
                let level = self.baseline.level(Damage::Path, occasion.generation);
                log!(
                    level,
                    "{by}: removed {self}: it has its name back, and clients that came in between found nothing"
                );
                None
            }
            Some(PathState::Ours) | None => None,
        };
        let repaired = match damage {
            Some(Damage::ShutDown | Damage::Path) if occasion.starting && self.path_bind.is_some() => {
                self.replace(occasion)
            }
            Some(damage) if self.baseline.is_news(damage) => {
                self.log_broken(occasion, damage);
                false
            }
            _ => damage.is_none(),
        };
        if repaired && self.kind.listens() && self.backlog_known {
            // An error that it could give has been given by the first listen(2).
            let _ = listen(self.fd(0, 0), self.backlog);
        }
        damage.filter(|_| !repaired)
    }

    fn replace(&mut self, occasion: Occasion) -> bool {
        match self.replace_socket() {
            Ok(()) => {
                let by = By(occasion.generation);
                warn!(
                    "{self} is bound anew for the workers that start now; those of before ({by}) have the old socket, which nobody can reach"
                );
                true
            }
            Err(error) => {
                error!("{error}: nobody can reach {self}");
                false
            }
        }
    }

    /// Logs what is broken, and what to do about it.
    fn log_broken(&self, occasion: Occasion, damage: Damage) {
        let by = By(occasion.generation);
        match damage {
            Damage::ShutDown if self.path_bind.is_some() => error!(
                "{by}: shut down {self} for everybody, and a unix socket cannot be revived: clients are refused \
                 until a worker starts, on a new one (upgrade now, with HUP; give a program that does this --stop-first)"
            ),
            Damage::ShutDown => error!(
                "{by}: shut down {self} for everybody, and a unix socket cannot be revived: clients are refused \
                 (restart us, or whoever gave it to us)"
            ),
            Damage::Taken(why) => error!(
                "{by}: {self} does not lead to our socket: {why}, and is left alone (remove it, or have the \
                 worker take the socket from LISTEN_FDS instead of binding one)"
            ),
            _ => error!(
                "{by}: removed {self}, which has no other name: clients find nothing until a worker starts, on \
                 a new one (upgrade now, with HUP)"
            ),
        }
    }

    fn check_flag(&mut self, occasion: Occasion) {
        if self.has_own_socket(occasion) {
            return;
        }
        let index = occasion.slot as usize % self.baseline.flags.len().max(1);
        let Some(&(mut flag)) = self.baseline.flags.get(index) else { return };
        let socket = occasion.socket(self);
        let now = is_nonblocking(&socket);
        if now != flag.seen {
            (flag.seen, flag.by) = (now, occasion.generation);
        }
        let alone = occasion.starting && occasion.generation.is_none();
        let wanted = self.nonblock.or(alone.then_some(flag.first)).filter(|&wanted| wanted != now);
        let set = wanted.filter(|&wanted| SockRef::from(&socket).set_nonblocking(wanted).is_ok());
        if let Some(wanted) = set {
            (flag.seen, flag.by) = (wanted, None);
        }
        self.baseline.flags[index] = flag;
        let Some(wanted) = set else { return };
        match occasion.generation.filter(|_| self.nonblock.is_some()) {
            Some(by) => {
                let level = self.baseline.level(Damage::Nonblock, occasion.generation);
                let (was, is) = (word(now), word(wanted));
                log!(level, "{by}: made {self} {was} for everybody: it is {is} again, as was asked for");
            }
            None => debug!("{self} is {} again: no worker lives", word(wanted)),
        }
    }
}

fn word(nonblock: bool) -> &'static str {
    if nonblock { "non-blocking" } else { "blocking" }
}

fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    SockRef::from(&socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Undoes what shutdown(2) leaves, before listen(2).
///
/// The first call releases a port that the kernel chose, and listen(2) alone would let the
/// kernel choose another one. A port that was asked for is still bound, which is EINVAL. A
/// second call finds a socket that does not listen, and marks it as shut down.
fn rebind(listener: &Listener, socket: BorrowedFd<'_>) -> io::Result<()> {
    fd::disconnect(socket)?;
    let Some(address) = listener.inet else { return Ok(()) };
    match SockRef::from(&socket).bind(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(Errno::EINVAL as i32) => Err(error),
        _ => Ok(()),
    }
}

/// The highest backlog that listen(2) gives, in our network namespace; None without /proc.
fn somaxconn() -> Option<u32> {
    fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}
