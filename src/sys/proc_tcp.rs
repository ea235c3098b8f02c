//! The TCP sockets of our network namespace, read from `/proc/net/tcp` and `tcp6` (proc_pid_net(5)):
//! for where sock_diag(7) cannot be had. It takes longer, and tells less of each connection.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A line of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its own address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Its state, as a bit (tcp_states.h). A handshake is SYN_RECV here, of either kind.
    pub state: u32,
    /// Bytes that the peer has not acknowledged.
    pub wqueue: u32,
    /// Bytes that were received and have not been read.
    pub rqueue: u32,
    /// Its inode, or zero.
    pub inode: u64,
}

/// The state of a listener, as a bit (tcp_states.h).
pub const LISTEN: u32 = 1 << 10;

/// Passes every row in one of these states to `each`. Of listeners alone that is quick: the kernel
/// lists them first, before all connections, of which there may be many.
///
/// # Errors
/// Those of open(2), without `/proc`.
pub fn for_each(states: u32, mut each: impl FnMut(&Row)) -> io::Result<()> {
    let four = File::open("/proc/self/net/tcp")?;
    // There is no such file without IPv6.
    let six = File::open("/proc/self/net/tcp6").ok();
    for table in [Some(four), six].into_iter().flatten() {
        for line in BufReader::new(table).lines().skip(1) {
            let Some(row) = parse(&line?) else { continue };
            if row.state != LISTEN && states == LISTEN {
                break;
            }
            if row.state & states != 0 {
                each(&row);
            }
        }
    }
    Ok(())
}

fn parse(line: &str) -> Option<Row> {
    let mut fields = line.split_whitespace();
    let local = address(fields.nth(1)?)?;
    let remote = address(fields.next()?)?;
    let state = u32::from_str_radix(fields.next()?, 16).ok().filter(|&state| state < 32)?;
    let (tx, rx) = fields.next()?.split_once(':')?;
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let inode = fields.nth(4)?.parse().ok()?;
    Some(Row { local, remote, state: 1 << state, wqueue: number(tx)?, rqueue: number(rx)?, inode })
}

/// An address in hexadecimal: 32-bit words in the order of this machine, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (number, part) in bytes.chunks_mut(4).enumerate() {
                part.copy_from_slice(&word(number * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn rows(states: u32, port: u16) -> Vec<Row> {
        let mut found = Vec::new();
        for_each(states, |row| found.extend(Some(*row).filter(|row| row.local.port() == port)))
            .expect("/proc");
        found
    }

    #[test]
    fn listeners_and_connections_are_read() {
        const ESTABLISHED: u32 = 1 << 1;
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let local = listener.local_addr().expect("an address");
            let client = TcpStream::connect(local).expect("connect");
            let (_server, remote) = listener.accept().expect("accept");
            // Another host of 127.0.0.0/8 may have the same port.
            let here = |state| rows(state, local.port()).into_iter().filter(move |row| row.local == local);
            let listening = here(LISTEN).next().expect("one listens");
            assert_eq!(listening.state, LISTEN);
            let open = here(ESTABLISHED).find(|row| row.remote == remote).expect("one is open");
            assert_eq!(open.rqueue, 0);
            assert!(open.inode != 0 && open.inode != listening.inode);
            drop(client);
        }
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        let good = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000001 00:00000000 00000000 0 0 77 1 0";
        assert_eq!(
            parse(good).map(|row| (row.local.to_string(), row.rqueue, row.inode)),
            Some(("127.0.0.1:8080".into(), 1, 77))
        );
        for line in
            ["", "sl local_address", "0: 0100007F:1F90", "0: 0100007:1F90 00000000:0000 0A 0:0 0:0 0 0 0 7"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
