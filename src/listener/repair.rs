//! What a worker can do to the sockets that it shares with every other, and
//! what is done about it.
//!
//! Contract: a look is taken before each start, when a worker becomes ready
//! (servers listen once more as they start), when one ends and when a unix path
//! goes. Whatever can be mended is mended in it, and the log names the
//! generation that seems to have done it: the one whose worker became ready or
//! ended, and before a start the newest that lives.
//!
//! - backlog: listen(2) by one changes it for all. It is set again. That of a
//!   unix socket cannot be read, so it is set at each look, unless we were given
//!   the socket and never knew it.
//! - shutdown(2) by one ends the socket for all. A TCP socket comes back by
//!   listen(2), without the connections that waited. A unix socket does not: the
//!   workers that start next get a new one, at the same path. Of a UDP socket it is
//!   told.
//! - O_NONBLOCK lives on the open file description. What a BIND says is put back
//!   at once. Where none says anything, it stays as workers made it while one
//!   lives: cleared, it would hang an event loop in accept(2), set, it would break
//!   a server that waits there. Once none lives, the next starts with what was
//!   there in the beginning.
//! - a unix path gets its name back: see [`hard_link`](super::hard_link).
//!
//! A look costs a few system calls a listener. What cannot be mended is told
//! once, and what is mended again and again once for each generation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use log::{Level, debug, error, info, log, warn};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, SockRef};

use super::path_repair::Found;
use super::{Kind, Listener, Listeners};
use crate::core::event::Generation;
use crate::core::{ShownStage, Supervisor};
use crate::error::reason;
use crate::sys::fd;

/// On what occasion a look is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Whose doing it seems to be; None: no worker lives.
    pub generation: Option<Generation>,
    /// The slot of the worker: with `reuseport` its socket is looked at.
    pub slot: u32,
    /// Whether a worker is about to start.
    pub starting: bool,
}

impl Look {
    /// When a path has gone: it goes with a server that closes it, so most likely
    /// with the oldest that drains.
    pub fn at_paths(core: &Supervisor) -> Look {
        let drains = core.workers().filter(|shown| shown.stage == ShownStage::Draining);
        let generation = drains.map(|shown| shown.generation).min().unwrap_or(core.generation());
        Look { generation: Some(generation), slot: 0, starting: false }
    }
}

/// What is known of each listener.
#[derive(Debug)]
pub struct Repair {
    baselines: Vec<Baseline>,
}

#[derive(Debug)]
struct Baseline {
    /// O_NONBLOCK of each socket.
    flags: Vec<Flag>,
    /// Who was told of for what, last.
    said: BTreeMap<Trouble, Option<Generation>>,
    /// It cannot be mended, and that has been said.
    broken: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Flag {
    first: bool,
    seen: bool,
    /// Who has changed it since.
    by: Option<Generation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Backlog,
    /// That the flag may be the reason of a failure has been said.
    Hinted,
    Nonblock,
    ShutDown,
    Path,
    Taken(&'static str),
}

/// What is known of O_NONBLOCK, on its way through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Saved {
    flags: Vec<Vec<Flag>>,
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

impl Repair {
    /// Notes how the sockets are.
    pub fn new(listeners: &Listeners) -> Repair {
        Repair { baselines: listeners.iter().map(Baseline::new).collect() }
    }

    /// Looks after one more, the last of the list.
    pub fn add(&mut self, listener: &Listener) {
        self.baselines.push(Baseline::new(listener));
    }

    /// Forgets the one at this place of the list.
    pub fn remove(&mut self, place: usize) {
        self.baselines.remove(place);
    }

    pub(super) fn save(&self) -> Saved {
        Saved { flags: self.baselines.iter().map(|baseline| baseline.flags.clone()).collect() }
    }

    /// What was said is not kept: after a change of us it may be said again.
    pub(super) fn restore(saved: &Saved, listeners: &Listeners) -> Repair {
        let mut repair = Repair::new(listeners);
        for (baseline, flags) in repair.baselines.iter_mut().zip(&saved.flags) {
            if baseline.flags.len() == flags.len() {
                baseline.flags.clone_from(flags);
            }
        }
        repair
    }

    /// Looks at every listener and mends it.
    pub fn look(&mut self, listeners: &mut Listeners, look: Look) {
        for (baseline, listener) in self.baselines.iter_mut().zip(&mut listeners.list) {
            baseline.look(listener, look);
        }
    }

    /// Says what may have kept `generation` from being ready: the flag as another
    /// has left it.
    /// Once for each that has.
    pub fn hint(&mut self, listeners: &Listeners, generation: Generation) {
        for (baseline, listener) in self.baselines.iter_mut().zip(listeners) {
            let flipped = baseline.flags.iter().find_map(|flag| match flag.by {
                Some(by) if by != generation && flag.seen != flag.first => Some((by, flag.seen)),
                _ => None,
            });
            let flipped =
                flipped.filter(|(by, _)| baseline.said.insert(Trouble::Hinted, Some(*by)) != Some(Some(*by)));
            match flipped {
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

fn flags(listener: &Listener) -> Vec<Flag> {
    let flag = |socket| {
        let first = is_nonblocking(socket);
        Flag { first, seen: first, by: None }
    };
    listener.sockets.iter().map(flag).collect()
}

impl Baseline {
    fn new(listener: &Listener) -> Baseline {
        Baseline { flags: flags(listener), said: BTreeMap::new(), broken: None }
    }

    fn look(&mut self, listener: &mut Listener, look: Look) {
        let broken = match listener.kind {
            Kind::Tcp => self.look_at_tcp(listener, look),
            Kind::Udp => self.look_at_udp(listener, look),
            _ => self.look_at_unix(listener, look),
        };
        if broken.is_none() {
            self.broken = None;
        }
        self.look_at_flag(listener, look);
    }

    /// True once for each trouble that cannot be mended.
    fn is_news(&mut self, trouble: Trouble) -> bool {
        self.broken.replace(trouble) != Some(trouble)
    }

    /// How loud it is said: a generation of 200 workers is told of once.
    fn level(&mut self, trouble: Trouble, look: Look) -> Level {
        match self.said.insert(trouble, look.generation) {
            Some(before) if before == look.generation => Level::Debug,
            // Many servers listen again at each start, with a backlog of their own.
            _ if trouble == Trouble::Backlog => Level::Info,
            _ => Level::Warn,
        }
    }

    fn look_at_tcp(&mut self, listener: &mut Listener, look: Look) -> Option<Trouble> {
        let (socket, ours) = (listener.fd(look.slot), listener.backlog);
        let by = By(look.generation);
        let found = fd::tcp_backlog(socket).unwrap_or(Some(ours));
        if found == Some(ours) {
            return None;
        }
        let mended = match found {
            Some(_) => listen(socket, ours),
            None => rebind(listener, look.slot).and_then(|()| listen(socket, ours)),
        };
        if let Err(error) = mended {
            if self.is_news(Trouble::ShutDown) {
                let why = reason(&error);
                error!("{by}: shut down {listener} for everybody; it cannot be revived: {why} (restart us)");
            }
            return Some(Trouble::ShutDown);
        }
        let Some(before) = found else {
            let level = self.level(Trouble::ShutDown, look);
            log!(
                level,
                "{by}: shut down {listener} for everybody: it listens again, connections that waited are lost"
            );
            return None;
        };
        let level = self.level(Trouble::Backlog, look);
        match fd::tcp_backlog(socket) {
            // somaxconn is lower than it was.
            Ok(Some(now)) if now != ours => {
                info!("the backlog of {listener} is {now} from now on, it was {ours} (somaxconn)");
                listener.backlog = now;
            }
            _ => log!(
                level,
                "{by}: the backlog of {listener} was changed from {ours} to {before}, and is {ours} again"
            ),
        }
        None
    }

    /// A datagram socket that was shut down stays so: nothing clears that.
    fn look_at_udp(&mut self, listener: &Listener, look: Look) -> Option<Trouble> {
        if !fd::is_shut_down(listener.fd(look.slot)) {
            return None;
        }
        if self.is_news(Trouble::ShutDown) {
            let by = By(look.generation);
            error!("{by}: shut down udp {listener} for everybody, and it cannot be revived (restart us)");
        }
        Some(Trouble::ShutDown)
    }

    fn look_at_unix(&mut self, listener: &mut Listener, look: Look) -> Option<Trouble> {
        let by = By(look.generation);
        let trouble = match listener.path.as_mut().map(super::path::BoundPath::keep) {
            _ if fd::is_shut_down(listener.fd(0)) => Some(Trouble::ShutDown),
            Some(Found::Lost) => Some(Trouble::Path),
            None if listener.again.is_some() => Some(Trouble::Path),
            Some(Found::Taken(why)) => Some(Trouble::Taken(why)),
            Some(Found::LinkedBack) => {
                let level = self.level(Trouble::Path, look);
                log!(
                    level,
                    "{by}: removed {listener}: it has its name back, and clients that came in between found nothing"
                );
                None
            }
            Some(Found::Ours) | None => None,
        };
        let mended = match trouble {
            Some(Trouble::ShutDown | Trouble::Path) if look.starting && listener.again.is_some() => {
                self.bind_again(listener, look)
            }
            Some(trouble) if self.is_news(trouble) => {
                self.lament(listener, look, trouble);
                false
            }
            _ => trouble.is_none(),
        };
        if mended && listener.kind.listens() && listener.backlog_known {
            // What else it could fail with, it has failed with before.
            let _ = listen(listener.fd(0), listener.backlog);
        }
        trouble.filter(|_| !mended)
    }

    fn bind_again(&mut self, listener: &mut Listener, look: Look) -> bool {
        match listener.bind_again() {
            Ok(()) => {
                self.flags = flags(listener);
                let by = By(look.generation);
                warn!(
                    "{listener} is bound anew for the workers that start now; those of before ({by}) have the old socket, which nobody can reach"
                );
                true
            }
            Err(error) => {
                error!("{error}: nobody can reach {listener}");
                false
            }
        }
    }

    /// Says what is broken, and what to do about it.
    fn lament(&self, listener: &Listener, look: Look, trouble: Trouble) {
        let by = By(look.generation);
        match trouble {
            Trouble::ShutDown if listener.again.is_some() => error!(
                "{by}: shut down {listener} for everybody, and a unix socket cannot be revived: clients are refused \
                 until a worker starts, on a new one (upgrade now, with HUP; give a program that does this --stop-first)"
            ),
            Trouble::ShutDown => error!(
                "{by}: shut down {listener} for everybody, and a unix socket cannot be revived: clients are refused \
                 (restart us, or whoever gave it to us)"
            ),
            Trouble::Taken(why) => error!(
                "{by}: {listener} does not lead to our socket: {why}, and is left alone (remove it, or have the \
                 worker take the socket from LISTEN_FDS instead of binding one)"
            ),
            _ => error!(
                "{by}: removed {listener}, which has no other name: clients find nothing until a worker starts, on \
                 a new one (upgrade now, with HUP)"
            ),
        }
    }

    fn look_at_flag(&mut self, listener: &Listener, look: Look) {
        let count = self.flags.len().max(1);
        let Some(flag) = self.flags.get_mut(look.slot as usize % count) else { return };
        let socket = listener.fd(look.slot);
        let now = is_nonblocking(&socket);
        if now != flag.seen {
            (flag.seen, flag.by) = (now, look.generation);
        }
        let alone = look.starting && look.generation.is_none();
        let Some(wanted) = listener.nonblock.or(alone.then_some(flag.first)).filter(|&wanted| wanted != now)
        else {
            return;
        };
        if SockRef::from(&socket).set_nonblocking(wanted).is_err() {
            return;
        }
        (flag.seen, flag.by) = (wanted, None);
        match look.generation.filter(|_| listener.nonblock.is_some()) {
            Some(by) => {
                let level = self.level(Trouble::Nonblock, look);
                let (was, is) = (word(now), word(wanted));
                log!(level, "{by}: made {listener} {was} for everybody: it is {is} again, as was asked for");
            }
            None => debug!("{listener} is {} again: no worker lives", word(wanted)),
        }
    }
}

/// O_NONBLOCK, which fcntl(2) can always tell of an open descriptor.
fn is_nonblocking(socket: &impl AsFd) -> bool {
    let flags = fcntl(socket, FcntlArg::F_GETFL);
    flags.is_ok_and(|flags| OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK))
}

fn word(nonblock: bool) -> &'static str {
    if nonblock { "non-blocking" } else { "blocking" }
}

fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    SockRef::from(&socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// shutdown(2) of a listening socket gives back a port that the kernel chose:
/// listen(2) alone would have it choose another. One that was asked for is still
/// bound, which is EINVAL.
fn rebind(listener: &Listener, slot: u32) -> io::Result<()> {
    let Some(address) = listener.inet else { return Ok(()) };
    match SockRef::from(&listener.fd(slot)).bind(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(Errno::EINVAL as i32) => Err(error),
        _ => Ok(()),
    }
}
