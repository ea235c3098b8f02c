//! The group of the listening TCP sockets with SO_REUSEPORT on one address, and the program that
//! selects the member for a new connection.
//!
//! The kernel guarantees: a socket joins at listen(2), as the last member of its group. When a
//! member leaves, the last member takes its index. An index beyond the last selects any member, by
//! hash. The program belongs to the group, is replaced in one step, and stays until the last member
//! has left: socket(7), SO_ATTACH_REUSEPORT_CBPF.

use super::fd;
use libc::{BPF_ABS, BPF_ALU, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use socket2::SockRef;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The whole of the new connections, in the parts of a weight.
const WHOLE: u16 = 10_000;

/// Steers new connections of the group of `socket`, a listening member of it, to its members at
/// `indices`, each with the same probability.
///
/// # Errors
/// EINVAL if there is no index, more than the kernel takes a program for (2047), or if SO_REUSEPORT
/// was not set when listen(2) was called on `socket`; ENOMEM: socket(7).
pub fn attach(socket: BorrowedFd<'_>, indices: &[u32]) -> nix::Result<()> {
    attach_program(socket, even(indices))
}

/// As [`attach`], to `chosen` with the probability of `weight` ten-thousandths, and else to `others`.
///
/// # Errors
/// As [`attach`]. There may be all indices but four.
pub fn attach_weighed(
    socket: BorrowedFd<'_>,
    weight: u16,
    chosen: &[u32],
    others: &[u32],
) -> nix::Result<()> {
    attach_program(socket, weighed(weight, chosen, others))
}

/// Removes the program from the group of `socket`: the kernel selects the member by hash.
///
/// # Errors
/// ENOPROTOOPT before Linux 5.3, ENOENT if there is no program.
pub fn detach(socket: BorrowedFd<'_>) -> nix::Result<()> {
    fd::detach_reuseport_program(socket).map_err(errno)
}

fn attach_program(socket: BorrowedFd<'_>, mut program: Vec<libc::sock_filter>) -> nix::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    setsockopt(&socket, sockopt::AttachReusePortCbpf, &program)
}

/// Lets other sockets of the same user bind the address of `socket`. To be called before listen(2),
/// or the socket joins no group.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_reuseport(socket: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&socket, sockopt::ReusePort, &true)
}

/// Removes a listening socket from its group at once, also if other processes have descriptors of
/// it. It does not listen any more, and the connections in its queue are reset.
///
/// # Errors
/// ENOTCONN if it does not listen: shutdown(2).
pub fn leave_group(socket: BorrowedFd<'_>) -> nix::Result<()> {
    shutdown(socket.as_raw_fd(), Shutdown::Read)
}

/// Makes a bound socket listen, as the last member of its group; one that listens already only gets
/// another backlog. The kernel limits the backlog.
///
/// # Errors
/// Those of listen(2), for example EADDRINUSE.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> nix::Result<()> {
    SockRef::from(&socket).listen(backlog).map_err(errno)
}

/// How many connections wait to be accepted; 0 if the socket does not listen any more.
///
/// # Errors
/// Those of getsockopt(2).
pub fn queue_length(socket: BorrowedFd<'_>) -> nix::Result<u32> {
    Ok(fd::tcp_queue(socket).map_err(errno)?.map_or(0, |queue| queue.length))
}

fn errno(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EINVAL)
}

/// A program that returns one of `indices` at random. Each index has two instructions of its own,
/// so that no jump is longer than one instruction: the kernel has 8 bits for it.
fn even(indices: &[u32]) -> Vec<libc::sock_filter> {
    let Some((last, others)) = indices.split_last() else { return Vec::new() };
    let mut program = Vec::new();
    if !others.is_empty() {
        program.extend(draw(indices.len() as u32));
    }
    for (drawn, index) in (0..).zip(others) {
        program.push(instruction(BPF_JMP | BPF_JEQ | BPF_K, drawn, 1));
        program.push(instruction(BPF_RET | BPF_K, *index, 0));
    }
    program.push(instruction(BPF_RET | BPF_K, *last, 0));
    program
}

/// A program that draws a number below 10,000 first: below `weight` it goes on with the program for
/// `chosen`, else with that for `others`. The jump between them is one without a condition, which
/// has 32 bits for its length.
fn weighed(weight: u16, chosen: &[u32], others: &[u32]) -> Vec<libc::sock_filter> {
    let (first, second) = (even(chosen), even(others));
    match (weight, first.is_empty(), second.is_empty()) {
        (0, _, false) | (_, true, _) => return second,
        (WHOLE, _, _) | (_, _, true) => return first,
        _ => {}
    }
    let mut program = Vec::from(draw(WHOLE.into()));
    program.push(instruction(BPF_JMP | BPF_JGE | BPF_K, weight.into(), 1));
    program.push(instruction(BPF_JMP | BPF_JA, first.len() as u32, 0));
    program.extend(first);
    program.extend(second);
    program
}

/// Loads a random number below `limit`.
fn draw(limit: u32) -> [libc::sock_filter; 2] {
    let random = libc::SKF_AD_OFF + libc::SKF_AD_RANDOM;
    [
        instruction(BPF_LD | BPF_W | BPF_ABS, random as u32, 0),
        instruction(BPF_ALU | BPF_MOD | BPF_K, limit, 0),
    ]
}

/// `otherwise`: how many instructions are skipped if a comparison fails.
fn instruction(code: u32, k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: otherwise, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use proptest::prelude::*;
    use socket2::{Domain, SockAddr, Socket, Type};
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::os::fd::AsFd;

    /// Interprets the program, which draws these numbers; returns its result.
    fn run(program: &[libc::sock_filter], random: &[u32]) -> u32 {
        let (mut at, mut a, mut random) = (0, 0, random.iter());
        loop {
            let now = program[at];
            at += 1;
            match u32::from(now.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    a = *random.next().expect("a number to draw");
                }
                code if code == BPF_ALU | BPF_MOD | BPF_K => a %= now.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += usize::from(if a == now.k { now.jt } else { now.jf });
                }
                code if code == BPF_JMP | BPF_JGE | BPF_K => {
                    at += usize::from(if a >= now.k { now.jt } else { now.jf });
                }
                code if code == BPF_JMP | BPF_JA => at += now.k as usize,
                code if code == BPF_RET | BPF_K => return now.k,
                code => panic!("no such instruction: {code:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_draws_each_index_as_often(indices in prop::collection::vec(any::<u32>(), 1..300)) {
            let program = even(&indices);
            let drawn: Vec<u32> = (0..indices.len() as u32).map(|random| run(&program, &[random])).collect();
            prop_assert_eq!(drawn, indices);
        }

        #[test]
        fn the_program_gives_exactly_the_weight(
            weight in prop_oneof![Just(0), Just(10_000), 0_u16..=10_000],
            chosen in prop::collection::vec(0_u32..1000, 1..300),
            others in prop::collection::vec(1000_u32..2000, 1..300),
            second in any::<u32>(),
        ) {
            let program = weighed(weight, &chosen, &others);
            for first in 0..10_000_u32 {
                // With a weight of 0 or of the whole the first number is that of the member.
                let numbers = if weight % 10_000 == 0 { vec![second] } else { vec![first, second] };
                let drawn = run(&program, &numbers);
                let expected = if first < weight.into() { &chosen } else { &others };
                prop_assert_eq!(drawn, expected[second as usize % expected.len()]);
            }
        }
    }

    fn bound(address: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        set_reuseport(socket.as_fd()).expect("SO_REUSEPORT");
        socket.bind(&SockAddr::from(address)).expect("bind");
        socket
    }

    /// Sockets that are bound in one order and start to listen in the other.
    fn group(size: usize) -> (Vec<Socket>, SocketAddr) {
        let mut sockets = vec![bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
        let address = sockets[0].local_addr().expect("an address").as_socket().expect("of IPv4");
        sockets.extend((1..size).map(|_| bound(address)));
        sockets.reverse();
        sockets.iter().for_each(|socket| listen(socket.as_fd(), 16).expect("listen"));
        (sockets, address)
    }

    /// Which of `sockets` the next connection goes to.
    fn reached(sockets: &[Socket], address: SocketAddr) -> usize {
        let _client = TcpStream::connect(address).expect("connect");
        let mut polled: Vec<PollFd> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, PollTimeout::NONE).expect("poll");
        let readable = |fd: &PollFd| fd.revents() == Some(PollFlags::POLLIN);
        let found = polled.iter().position(readable).expect("one is readable");
        assert_eq!(queue_length(sockets[found].as_fd()), Ok(1));
        sockets[found].accept().expect("accept");
        found
    }

    #[test]
    fn indices_are_in_the_order_of_listen_and_the_last_fills_a_gap() {
        let (mut sockets, address) = group(5);
        for index in [3, 0, 4, 1, 2] {
            attach(sockets[0].as_fd(), &[index]).expect("attach");
            assert_eq!(reached(&sockets, address), index as usize);
        }
        let copy = sockets[1].try_clone().expect("a copy");
        leave_group(sockets[1].as_fd()).expect("leave");
        assert_eq!(leave_group(copy.as_fd()), Err(Errno::ENOTCONN));
        assert_eq!(queue_length(copy.as_fd()), Ok(0));
        sockets.swap_remove(1);
        for index in [0, 1, 2, 3] {
            attach(sockets[3].as_fd(), &[index]).expect("attach");
            assert_eq!(reached(&sockets, address), index as usize);
        }
        listen(copy.as_fd(), 1 << 20).expect("listen once more");
        sockets.push(copy);
        for index in [4, 1] {
            attach(sockets[0].as_fd(), &[index]).expect("attach");
            assert_eq!(reached(&sockets, address), index as usize);
        }
    }

    #[test]
    fn an_index_beyond_the_last_means_any_member() {
        let (sockets, address) = group(3);
        attach(sockets[0].as_fd(), &[3]).expect("attach");
        let reached: BTreeSet<usize> = (0..60).map(|_| reached(&sockets, address)).collect();
        assert!(reached.len() > 1, "{reached:?}");
    }

    /// The group is larger than the longest jump.
    #[test]
    fn a_connection_goes_to_none_but_the_selected_of_a_large_group() {
        let (sockets, address) = group(310);
        let selected: Vec<u32> = (0..310).filter(|index| index % 3 != 0).collect();
        attach(sockets[7].as_fd(), &selected).expect("attach");
        let reached: BTreeSet<usize> = (0..400).map(|_| reached(&sockets, address)).collect();
        assert!(reached.iter().all(|index| index % 3 != 0), "{reached:?}");
        assert!(reached.len() > 50 && reached.iter().any(|&index| index > 256), "{reached:?}");
    }

    /// 10 % of 10,000 connections, in a group that is larger than the longest jump; then 100 %, then by
    /// hash again.
    #[test]
    fn the_kernel_gives_the_weight() {
        let (sockets, address) = group(300);
        let (chosen, others): (Vec<u32>, Vec<u32>) = (0..300).partition(|index| index % 2 == 1);
        attach_weighed(sockets[3].as_fd(), 1000, &chosen, &others).expect("attach");
        let share = (0..10_000).filter(|_| reached(&sockets, address) % 2 == 1).count();
        assert!((850..=1150).contains(&share), "{share} of 10,000");
        attach_weighed(sockets[3].as_fd(), 10_000, &chosen, &others).expect("attach");
        assert!((0..100).all(|_| reached(&sockets, address) % 2 == 1));
        detach(sockets[3].as_fd()).expect("detach");
        assert!((0..100).any(|_| reached(&sockets, address) % 2 == 0));
        assert_eq!(detach(sockets[3].as_fd()), Err(Errno::ENOENT));
    }

    #[test]
    fn what_the_kernel_takes_no_program_for_is_refused() {
        let (sockets, address) = group(1);
        assert_eq!(attach(sockets[0].as_fd(), &[]), Err(Errno::EINVAL));
        attach(sockets[0].as_fd(), &[0; 2047]).expect("the longest there is");
        assert_eq!(reached(&sockets, address), 0);
        assert_eq!(attach(sockets[0].as_fd(), &[0; 2048]), Err(Errno::EINVAL));
        assert_eq!(attach(sockets[0].as_fd(), &[0; 40_000]), Err(Errno::EINVAL));
        let alone = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        assert_eq!(attach(alone.as_fd(), &[0]), Err(Errno::EINVAL));
    }
}
