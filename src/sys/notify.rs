//! The receiving end of sd_notify(3): a datagram socket, one for each start of a worker, so that
//! the socket identifies the worker of a message.
//!
//! The address is a path, because common clients support nothing else (the crate sd-notify,
//! ruby-sd-notify). Where there is no directory for it, it is abstract, with 128 random bits, so
//! that other users cannot guess it.

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use libc::{c_int, c_uint};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt};

/// The longest message; sd_notify senders know this limit from systemd.
const MAX_MESSAGE: usize = 4096;

/// SCM_MAX_FD: the most descriptors that the kernel lets one message carry.
const MAX_FDS: usize = 253;

/// Room for the control messages in words, for their alignment: the sender's
/// credentials and the most descriptors, each behind its header.
const CONTROL_WORDS: usize = {
    // SAFETY: CMSG_SPACE only calculates.
    let bytes = unsafe {
        libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as c_uint)
            + libc::CMSG_SPACE(size_of::<libc::ucred>() as c_uint)
    };
    (bytes as usize).div_ceil(size_of::<u64>())
};

/// A bound socket that passes its senders' credentials.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    address: String,
    path: Option<PathBuf>,
}

/// A message, with its sender.
#[derive(Debug)]
pub struct Datagram {
    /// The pid of the sender, from the kernel; 0 for a process outside our pid namespace. Root may
    /// claim another pid.
    pub pid: i32,
    /// The user id of the sender, with the same exception for root.
    pub uid: u32,
    /// The message. It is empty also if it was dropped, because it was longer than 4096 bytes or
    /// not all of its descriptors arrived.
    pub text: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl NotifySocket {
    /// Binds a new socket to an abstract address; close-on-exec and non-blocking.
    ///
    /// # Errors
    /// EMFILE and the like. EADDRINUSE does not happen: the address is random.
    pub fn new() -> io::Result<Self> {
        let name = format!("graceful-run/{:032x}", random()?);
        let address = UnixAddr::new_abstract(name.as_bytes())?;
        Ok(NotifySocket { socket: bind_socket(&address)?, address: format!("@{name}"), path: None })
    }

    /// Binds a new socket to `path`, which is removed with the socket. Everybody may send, because
    /// a worker may run as another user; the pid of the sender decides whether a message counts.
    ///
    /// # Errors
    /// EADDRINUSE where the path exists; ENAMETOOLONG beyond 107 bytes.
    pub fn at(path: PathBuf) -> io::Result<Self> {
        let socket = bind_socket(&UnixAddr::new(&path)?)?;
        let address = path.to_string_lossy().into_owned();
        let socket = NotifySocket { socket, address, path: Some(path.clone()) };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(socket)
    }

    /// A socket that was bound before an execve(2).
    pub fn restore(socket: OwnedFd, address: String, path: Option<PathBuf>) -> Self {
        NotifySocket { socket, address, path }
    }

    /// The path, which is removed with the socket; None for an abstract address.
    pub fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// For `NOTIFY_SOCKET`: a path, or `@` for the NUL of an abstract address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next message; None when there is none at the moment.
    ///
    /// # Errors
    /// Those of recvmsg(2), other than EAGAIN and EINTR.
    pub fn receive(&self) -> io::Result<Option<Datagram>> {
        let mut text = [0_u8; MAX_MESSAGE];
        let mut control = [0_u64; CONTROL_WORDS];
        let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
        // SAFETY: an all-zero msghdr is valid (no address, no control).
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;

        let length = loop {
            // SAFETY: the header names buffers with their lengths, which all
            // live through the call.
            let result =
                unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
            match Errno::result(result) {
                Ok(length) => break length.unsigned_abs(),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };

        // SAFETY: recvmsg has just filled the header and what it points to.
        let (credentials, mut fds) = unsafe { take_control(&header) };
        let whole = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
        if !whole {
            fds.clear();
        }
        let (pid, uid) = credentials.map_or((0, u32::MAX), |sender| (sender.pid, sender.uid));
        let text = text.get(..length).filter(|_| whole).unwrap_or_default().to_vec();
        Ok(Some(Datagram { pid, uid, text, fds }))
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_socket(address: &UnixAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // Before the address exists, so that no message comes without credentials.
    setsockopt(&socket, sockopt::PassCred, &true)?;
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes ownership of what the control messages hold.
///
/// # Safety
/// `header` must be as recvmsg(2) filled it, its buffers must live, and this
/// must be called once for each message: it makes owners of the descriptors.
unsafe fn take_control(header: &libc::msghdr) -> (Option<libc::ucred>, Vec<OwnedFd>) {
    let mut credentials = None;
    let mut fds = Vec::new();
    // SAFETY: the macros walk the control messages within msg_controllen. Data
    // is read unaligned, as much of it as the message's length says, and the
    // kernel gave each number in it to us alone.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(present) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            #[allow(clippy::unnecessary_cast, reason = "musl has it as 32 bits")]
            let length = (present.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match (present.cmsg_level, present.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let numbers = data.cast::<c_int>();
                    for index in 0..length / size_of::<c_int>() {
                        let number = numbers.add(index).read_unaligned();
                        fds.push(OwnedFd::from_raw_fd(number));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    credentials = Some(data.cast::<libc::ucred>().read_unaligned());
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (credentials, fds)
}

/// 128 bits from getrandom(2).
///
/// # Errors
/// None that getrandom(2) documents for 16 bytes.
pub fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    loop {
        // SAFETY: the buffer is as long as said. Up to 256 bytes are never returned in part.
        let result = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match Errno::result(result) {
            Ok(_) => return Ok(u128::from_ne_bytes(bytes)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
