//! Queries to the kernel about sockets of our own network namespace: sock_diag(7). They can leave
//! out sockets in TIME_WAIT, of which `/proc/net/tcp` of a busy server is full, and they are faster
//! than reading that file.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;

/// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCPDIAG_GETSOCK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;

/// Offsets in struct inet_diag_msg, the size of its request (linux/inet_diag.h), and the states as
/// bits (tcp_states.h).
pub(super) mod inet {
    /// struct inet_diag_req_v2.
    pub(in crate::sys) const REQUEST: usize = 56;
    pub(in crate::sys) const LOCAL_PORT: usize = 4;
    pub(in crate::sys) const INODE: usize = 68;
    pub(in crate::sys) const ESTABLISHED: u32 = 1 << 1;
    pub(in crate::sys) const FIN_WAIT1: u32 = 1 << 4;
    pub(in crate::sys) const FIN_WAIT2: u32 = 1 << 5;
    pub(in crate::sys) const CLOSE_WAIT: u32 = 1 << 8;
    pub(in crate::sys) const LAST_ACK: u32 = 1 << 9;
}

/// Which sockets a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// Every socket that matches; the reply is several messages, the last of which is NLMSG_DONE.
    Dump,
    /// Every TCP socket that matches, of both families, in one pass of the kernel through its
    /// table. This is the older request (struct inet_diag_req), which ss(8) still uses.
    TcpDump,
    /// One socket; the reply is one message, or an error.
    Single,
}

/// Sends a query, and passes each message of the reply, without its header, to `each`.
///
/// # Errors
/// Those of socket(2); EAGAIN where a filter between us and the kernel drops the query; ENOENT for
/// a socket that does not exist, or for a kind of socket that the kernel was built without.
pub(super) fn send_query(query: Query, body: &[u8], mut each: impl FnMut(&[u8])) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, Some(SockProtocol::NetlinkSockDiag))?;
    // The kernel replies at once; a filter in between may drop the query.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(200))?;
    send(socket.as_raw_fd(), &request(query, body), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !read_messages(&buffer[..length], &mut each)? || query == Query::Single {
            return Ok(());
        }
    }
}

fn request(query: Query, body: &[u8]) -> Vec<u8> {
    let (kind, flags) = match query {
        Query::Dump => (SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP),
        Query::TcpDump => (TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP),
        Query::Single => (SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST),
    };
    let mut text = Vec::with_capacity(HEADER + body.len());
    text.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    text.extend(kind.to_ne_bytes());
    text.extend(flags.to_ne_bytes());
    text.extend([0; 8]);
    text.extend(body);
    text
}

/// Reads the messages of one datagram; false after the last message of the reply.
fn read_messages(mut text: &[u8], each: &mut impl FnMut(&[u8])) -> nix::Result<bool> {
    while let Some(length) = read_u32(text, 0) {
        let length = length as usize;
        let Some(message) = text.get(..length).filter(|_| length >= HEADER) else { return Ok(false) };
        match u16::from_ne_bytes([message[4], message[5]]) {
            SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => each(&message[HEADER..]),
            // Both begin with a negative errno, or zero.
            NLMSG_ERROR | NLMSG_DONE => {
                return match read_u32(message, HEADER).map_or(0, |error| (error as i32).wrapping_neg()) {
                    0 => Ok(false),
                    errno => Err(Errno::from_raw(errno)),
                };
            }
            _ => return Ok(false),
        }
        text = text.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The number of 32 bits at the offset `at`.
pub(super) fn read_u32(text: &[u8], at: usize) -> Option<u32> {
    text.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The attribute `kind` in the list of attributes at the offset `at`.
pub(super) fn attribute(message: &[u8], at: usize, kind: u16) -> Option<&[u8]> {
    let mut text = message.get(at..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(text.get(..2)?.try_into().ok()?));
        let attribute = text.get(..length).filter(|_| length >= 4)?;
        if attribute[2..4] == kind.to_ne_bytes() {
            return Some(&attribute[4..]);
        }
        text = text.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_message_ends_the_reply() {
        let mut count = 0;
        let mut each = |_: &[u8]| count += 1;
        assert_eq!(read_messages(&[], &mut each), Ok(true), "nothing yet");
        assert_eq!(read_messages(&[3, 0, 0, 0], &mut each), Ok(false), "shorter than its header");
        assert_eq!(read_messages(&[255; 16], &mut each), Ok(false), "longer than it is");
        let message = |kind: u16, error: i32| {
            let head = [20_u32.to_ne_bytes(), u32::from(kind).to_ne_bytes(), [0; 4], [0; 4]].concat();
            [head, error.to_ne_bytes().to_vec()].concat()
        };
        assert_eq!(read_messages(&message(NLMSG_DONE, 0), &mut each), Ok(false));
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            assert_eq!(read_messages(&message(kind, -libc::ENOENT), &mut each), Err(Errno::ENOENT));
        }
        assert_eq!(count, 0);
    }

    #[test]
    fn attributes_are_found_behind_others() {
        let text = [[5, 0, 1, 0, b'x', 0, 0, 0], [8, 0, 4, 0, 1, 2, 3, 4]].concat();
        assert_eq!(attribute(&text, 0, 1), Some(&b"x"[..]));
        assert_eq!(attribute(&text, 0, 4), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&text, 0, 2), None);
        for broken in [&[][..], &[3, 0, 1, 0], &[0; 8], &[9, 0, 2, 0, 0]] {
            assert_eq!(attribute(broken, 0, 2), None, "{broken:?}");
        }
    }
}
