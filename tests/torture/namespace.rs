//! A network of our own: nothing but this run ever touches its counters.
//!
//! Contract: unshare(2) moves only the thread that calls [`enter`], what that starts
//! comes with it, and who is not root can leave only before there is a second thread.
//! It ends with loopback up and
//! room for many short connections, or with the reason why that cannot be had.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::unistd::{getegid, geteuid};

/// Leaves the machine's network for an empty one with only loopback in it.
pub fn enter() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot unshare the network: {e}"))?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("cannot unshare users and network: {e}"))?;
        // user_namespaces(7): gid_map may be written only once setgroups is off.
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    }
    raise_loopback().map_err(|e| format!("cannot bring lo up: {e}"))?;
    // A closed-loop client that connects anew for each request would otherwise
    // run out of ports, which looks like a refusal and is none.
    write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")?;
    // Beyond this many the kernel forgets connections that have just ended, and answers what is
    // late on one with a reset: more than these ports can make.
    write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "2000000")
}

fn write(path: &str, value: &str) -> Result<(), String> {
    fs::write(path, value).map_err(|error| format!("cannot write {path}: {error}"))
}

/// RTM_NEWLINK with IFF_UP for interface 1, which loopback is in every new
/// network namespace; rtnetlink(7) has the layout.
fn raise_loopback() -> Result<(), Error> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const NLMSG_ERROR: u16 = 2;
    const IFF_UP: u32 = 1;
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes()); // length of header and body
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0; 4]); // family, padding, device type
    message.extend(1i32.to_ne_bytes()); // interface index
    message.extend(IFF_UP.to_ne_bytes()); // flags
    message.extend(IFF_UP.to_ne_bytes()); // which of the flags change
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if length < 20 || kind != NLMSG_ERROR {
        return Err(Error::new(ErrorKind::InvalidData, "an answer that is no acknowledgement"));
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        negative => Err(Error::from_raw_os_error(-negative)),
    }
}
