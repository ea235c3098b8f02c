//! Readiness without co-operation: a worker is accepting once, for every
//! listener, some process of its tree waits for connections on it.
//!
//! Waiting is read from /proc (proc(5)): the listener's inode is in an epoll set (`tfd:` lines
//! of fdinfo), or a thread is blocked in accept, poll or select on it. io_uring is not seen.
//! Without the permission to read that (Yama, another user) the answer is no.

use crate::sys::bound::Bound;
use crate::sys::{bound, listeners, proc, proc_fd, tree};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;

/// A set of descriptors longer than this is not read.
const MOST_POLLED: usize = 4096;

/// Whether the process tree of `worker` waits on each of these socket inodes.
/// Without any inode the answer is no: nothing was seen.
pub fn is_accepting(worker: Pid, inodes: &BTreeSet<u64>) -> bool {
    !inodes.is_empty() && not_waited_on(worker, inodes).is_empty()
}

/// Whether the process `pid`, without its descendants, holds one of these socket inodes and a
/// thread of it waits on that now. A child may have inherited an epoll set with a listener that
/// it does not hold, and one that is busy waits on nothing.
pub fn waits_on_any(pid: Pid, inodes: &BTreeSet<u64>) -> bool {
    let held: BTreeSet<u64> = proc_fd::socket_inodes(pid).intersection(inodes).copied().collect();
    let mut missing = held.clone();
    if !held.is_empty() {
        remove_waited_on(pid, &mut missing);
    }
    missing.len() < held.len()
}

/// Whether the process `pid`, without its descendants, waits on one of these socket inodes, or holds
/// one and a connection that it has accepted there.
pub fn serves_on_any(pid: Pid, inodes: &BTreeSet<u64>) -> bool {
    if proc_fd::socket_inodes(pid).is_disjoint(inodes) {
        return false;
    }
    let has_accepted = |at: Bound| match at {
        Bound::Tcp(address) => listeners::have_accepted_on(&[pid], &[], address.port()),
        Bound::Unix(path) => bound::have_accepted_at(&[pid], path.as_os_str()),
        Bound::Udp(_) => false,
    };
    let held = bound::bound_sockets(pid, &BTreeSet::new()).into_iter();
    waits_on_any(pid, inodes)
        || held.filter(|(inode, _)| inodes.contains(inode)).any(|(_, at)| has_accepted(at))
}

/// Those of these socket inodes on which no process of the tree of `worker` waits.
pub fn not_waited_on(worker: Pid, inodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut missing = inodes.clone();
    let tree = std::iter::once(worker).chain(tree::descendants(worker));
    for pid in tree {
        if missing.is_empty() {
            break;
        }
        remove_epolled(pid, &mut missing);
        remove_waited_on(pid, &mut missing);
    }
    missing
}

/// Whether one of these processes waits on one of these socket inodes.
pub fn is_any_waited_on(pids: &[Pid], inodes: &BTreeSet<u64>) -> bool {
    let mut missing = inodes.clone();
    pids.iter().any(|&pid| {
        remove_epolled(pid, &mut missing);
        remove_waited_on(pid, &mut missing);
        missing.len() < inodes.len()
    })
}

/// By what the accepted connections of a listener are known.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A TCP port.
    Port(u16),
    /// A unix path, or an abstract name after `@`.
    Name(OsString),
    /// There are none: datagrams.
    Nothing,
}

/// Whether the worker waits on each of these listeners, or has accepted connections of it: a
/// worker that is always busy is never seen waiting.
pub fn is_serving(worker: Pid, listeners: &[(u64, Origin)]) -> bool {
    let tree: Vec<Pid> = std::iter::once(worker).chain(tree::descendants(worker)).collect();
    let mut missing: BTreeSet<u64> = listeners.iter().map(|(inode, _)| *inode).collect();
    for &pid in &tree {
        remove_epolled(pid, &mut missing);
        remove_waited_on(pid, &mut missing);
    }
    let served = |(inode, origin): &(u64, Origin)| !missing.contains(inode) || have_accepted(&tree, origin);
    !listeners.is_empty() && listeners.iter().all(served)
}

/// Whether one of these processes waits on this listener, or has accepted a connection of it.
pub fn serves_on(pids: &[Pid], inode: u64, origin: &Origin) -> bool {
    is_any_waited_on(pids, &BTreeSet::from([inode])) || have_accepted(pids, origin)
}

/// Whether we may see what this process waits on. Otherwise, that nothing was seen proves nothing.
pub fn can_be_seen(pid: Pid) -> bool {
    proc::read(pid, "syscall").is_ok() && proc::entries(pid, "fd").is_ok()
}

fn have_accepted(pids: &[Pid], origin: &Origin) -> bool {
    match origin {
        Origin::Port(port) => listeners::have_accepted_on(pids, &[], *port),
        Origin::Name(name) => bound::have_accepted_at(pids, name),
        Origin::Nothing => false,
    }
}

/// The connections that these processes have accepted of a listener, and have open now.
pub fn accepted(pids: &[Pid], origin: &Origin) -> BTreeSet<u64> {
    match origin {
        Origin::Port(port) => listeners::connections_through(pids, *port),
        Origin::Name(name) => bound::accepted_at(pids, name),
        Origin::Nothing => BTreeSet::new(),
    }
}

/// Whether none of `pids` accepts on one of these inodes any more, though some may keep a copy of
/// the descriptor (as Go programs do that have handed their listeners over). This can be seen
/// only of processes that wait with epoll and are not stopped.
pub fn have_stopped_accepting(pids: &[Pid], inodes: &BTreeSet<u64>) -> bool {
    pids.iter().all(|&pid| {
        let held: BTreeSet<u64> = proc_fd::socket_inodes(pid).intersection(inodes).copied().collect();
        if held.is_empty() {
            return true;
        }
        let mut missing = held.clone();
        let waits_with_epoll = remove_epolled(pid, &mut missing);
        remove_waited_on(pid, &mut missing);
        waits_with_epoll && missing == held
    })
}

/// Removes from `missing` what an epoll set of `pid` holds; false if it has no such set.
fn remove_epolled(pid: Pid, missing: &mut BTreeSet<u64>) -> bool {
    let polled = proc_fd::epoll_inodes(pid);
    missing.retain(|inode| !polled.as_ref().is_some_and(|polled| polled.contains(inode)));
    polled.is_some()
}

/// Removes from `missing` what a thread of `pid` waits on now.
fn remove_waited_on(pid: Pid, missing: &mut BTreeSet<u64>) {
    for thread in proc::entries(pid, "task").into_iter().flatten().flatten() {
        let Ok(line) = fs::read_to_string(thread.path().join("syscall")) else { continue };
        for fd in waited_for(pid, &line) {
            if let Some(inode) = socket_inode(pid, fd) {
                missing.remove(&inode);
            }
        }
        if let Some(polled) = polled_by(pid, &line) {
            missing.retain(|inode| !polled.contains(inode));
        }
    }
}

/// The descriptors that the system call in a `syscall` line waits for.
fn waited_for(pid: Pid, line: &str) -> Vec<u64> {
    let mut words = line.split_whitespace();
    let number = words.next().and_then(|word| word.parse::<i64>().ok());
    let arguments: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
    let (Some(number), &[first, second, ..]) = (number, arguments.as_slice()) else { return Vec::new() };
    match Call::of(number) {
        Some(Call::One) => vec![first],
        Some(Call::List) => polled(pid, first, second).unwrap_or_default(),
        Some(Call::Set) => selected(pid, first, second).unwrap_or_default(),
        None => Vec::new(),
    }
}

/// The inodes of the epoll set that the system call in a `syscall` line waits for.
fn polled_by(pid: Pid, line: &str) -> Option<BTreeSet<u64>> {
    #[cfg(target_arch = "x86_64")]
    const WAITS: [i64; 3] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
    #[cfg(not(target_arch = "x86_64"))]
    const WAITS: [i64; 2] = [libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
    let mut words = line.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let set = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
    WAITS.contains(&number).then(|| proc_fd::epoll_set_inodes(pid, set))
}

/// Where the arguments of a system call name the descriptors that it waits on.
enum Call {
    /// Its first argument is the descriptor.
    One,
    /// An array of pollfd, and its length.
    List,
    /// The highest descriptor plus one, and a bit set.
    Set,
}

impl Call {
    fn of(number: i64) -> Option<Call> {
        const ONE: [i64; 6] = [
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_recvmmsg,
            libc::SYS_read,
        ];
        if ONE.contains(&number) {
            return Some(Call::One);
        }
        #[cfg(target_arch = "x86_64")]
        match number {
            libc::SYS_poll => return Some(Call::List),
            libc::SYS_select => return Some(Call::Set),
            _ => {}
        }
        match number {
            libc::SYS_ppoll => Some(Call::List),
            libc::SYS_pselect6 => Some(Call::Set),
            _ => None,
        }
    }
}

fn memory(pid: Pid, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    proc::open(pid, "mem").ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}

/// poll(2): the descriptor is the first half of each eight bytes.
fn polled(pid: Pid, address: u64, count: u64) -> Option<Vec<u64>> {
    let count = usize::try_from(count).ok()?.min(MOST_POLLED);
    let bytes = memory(pid, address, count * 8)?;
    let fds = bytes.chunks_exact(8).filter_map(|entry| entry.first_chunk().copied());
    Some(fds.map(i32::from_ne_bytes).filter_map(|fd| u64::try_from(fd).ok()).collect())
}

/// select(2): one bit for each descriptor, in machine words.
fn selected(pid: Pid, count: u64, address: u64) -> Option<Vec<u64>> {
    let count = usize::try_from(count).ok()?.min(MOST_POLLED);
    let words = memory(pid, address, count.div_ceil(64) * 8)?;
    let words = words.chunks_exact(8).filter_map(|word| word.first_chunk().copied()).map(u64::from_ne_bytes);
    let bits = words.enumerate().flat_map(|(index, word)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u64 * 64 + bit)
    });
    Some(bits.collect())
}

fn socket_inode(pid: Pid, fd: u64) -> Option<u64> {
    let target = proc::link(pid, &format!("fd/{fd}")).ok()?;
    proc_fd::parse_socket_link(target.to_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::device_and_inode;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Nobody waits on these listeners.
    #[test]
    fn a_busy_server_is_known_by_its_connections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = tcp.local_addr().unwrap();
        let inode = |fd: i32| device_and_inode(fd).unwrap().1;
        let origins = [Origin::Port(address.port()), Origin::Name(path.clone().into())];
        let listeners: Vec<(u64, Origin)> =
            [inode(tcp.as_raw_fd()), inode(unix.as_raw_fd())].into_iter().zip(origins).collect();
        assert!(listeners.iter().all(|one| !is_serving(Pid::this(), std::slice::from_ref(one))));
        let clients = (TcpStream::connect(address).unwrap(), UnixStream::connect(&path).unwrap());
        let served = (tcp.accept().unwrap(), unix.accept().unwrap());
        assert!(is_serving(Pid::this(), &listeners));
        let datagrams = [(listeners[0].0, Origin::Nothing)];
        assert!(!is_serving(Pid::this(), &datagrams), "datagrams leave nothing to be seen");
        drop((clients, served));
    }
}
