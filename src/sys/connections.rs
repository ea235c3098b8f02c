//! TCP connections by the port that they came in through, asked of the kernel
//! (sock_diag(7)), which leaves out what waits for its end: `/proc/net/tcp` of a
//! busy server is mostly that, and older than the connections by the time that
//! it has been read.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

/// linux/netlink.h, linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
/// struct inet_diag_req_v2, and struct inet_diag_msg up to its last field.
const REQUEST: usize = 56;
const INODE: std::ops::Range<usize> = 68..72;

/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT and LAST_ACK (tcp_states.h):
/// whatever a process may still have a descriptor of.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9;

/// The inodes of the connections whose local port is `port`, in our network
/// namespace. Empty where the kernel cannot be asked.
pub fn at_port(port: u16) -> BTreeSet<u64> {
    let families = [libc::AF_INET, libc::AF_INET6].map(|family| ask(family as u8, port).unwrap_or_default());
    families.into_iter().flatten().collect()
}

fn ask(family: u8, port: u16) -> nix::Result<Vec<u64>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, Some(SockProtocol::NetlinkSockDiag))?;
    // The kernel answers at once; a filter in between may not.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(200))?;
    send(socket.as_raw_fd(), &request(family, port), MsgFlags::empty())?;
    let mut inodes = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !read(&buffer[..length], &mut inodes) {
            return Ok(inodes);
        }
    }
}

fn request(family: u8, port: u16) -> Vec<u8> {
    let mut text = Vec::with_capacity(HEADER + REQUEST);
    text.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    text.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    text.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    text.extend([0; 8]);
    text.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    text.extend(STATES.to_ne_bytes());
    text.extend(port.to_be_bytes());
    text.resize(HEADER + REQUEST, 0);
    text
}

/// Reads the messages of one datagram; false once there will be no more.
fn read(mut text: &[u8], inodes: &mut Vec<u64>) -> bool {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    while let Some(length) = text.get(..4).and_then(number) {
        let length = length as usize;
        let Some(message) = text.get(..length).filter(|_| length >= HEADER) else { return false };
        if message[4..6] != SOCK_DIAG_BY_FAMILY.to_ne_bytes() {
            return false;
        }
        inodes.extend(message[HEADER..].get(INODE).and_then(number).map(u64::from));
        text = text.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::listening::inode_of;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_found_by_the_port_of_its_listener() {
        for host in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let port = listener.local_addr().expect("an address").port();
            let client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            let (server, _) = listener.accept().expect("accept");
            let link = std::fs::read_link(format!("/proc/self/fd/{}", server.as_raw_fd())).expect("a link");
            let inode = inode_of(&link.to_string_lossy()).expect("a socket");
            assert_eq!(at_port(port), BTreeSet::from([inode]), "{host}");
            drop((server, client));
            assert!(!at_port(port).contains(&inode), "{host}");
        }
    }

    #[test]
    fn what_is_not_understood_ends_the_answer() {
        let mut inodes = Vec::new();
        assert!(read(&[], &mut inodes), "nothing yet");
        assert!(!read(&[3, 0, 0, 0], &mut inodes), "shorter than its header");
        assert!(!read(&[255; 16], &mut inodes), "longer than it is");
        let mut done = 16_u32.to_ne_bytes().to_vec();
        done.extend([3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!read(&done, &mut inodes), "NLMSG_DONE");
        assert!(inodes.is_empty());
    }
}
