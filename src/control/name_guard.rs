//! A second hold on a name, which nobody can remove: an abstract unix socket (unix(7)). The lock
//! file can be removed with its directory, and a second instance could then lock another one.
//!
//! Contract: it belongs to a name in a directory, and to a network namespace. Where it cannot be
//! had, the lock file alone counts. Another user who takes the address keeps nobody from starting.

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long we wait for a holder that is just ending: its descriptors are not closed at once.
const ENDING: Duration = Duration::from_millis(200);

/// Holds the name whose lock is at `lock`; None if that cannot be done here.
///
/// # Errors
/// The pid of the instance of our own user that holds it.
pub(super) fn hold(lock: &Path) -> Result<Option<UnixListener>, i32> {
    let Ok(address) = address(lock) else { return Ok(None) };
    let start = Instant::now();
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.raw_os_error() != Some(Errno::EADDRINUSE as i32) => return Ok(None),
            Err(_) => {}
        }
        match holder(&address) {
            Some((uid, pid)) if uid == Uid::effective() => {
                if start.elapsed() > ENDING {
                    return Err(pid);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Some(_) => return Ok(None),
            // It has ended meanwhile.
            None if start.elapsed() > ENDING => return Ok(None),
            None => {}
        }
    }
}

fn address(lock: &Path) -> io::Result<SocketAddr> {
    // FNV-1a: every version of us has to find the same number, and a path may be too long.
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let number = lock.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    SocketAddr::from_abstract_name(format!("graceful-run/{}/{number:016x}", Uid::effective()))
}

/// The user and pid of who listens there.
fn holder(address: &SocketAddr) -> Option<(Uid, i32)> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    Some((Uid::from_raw(peer.uid()), peer.pid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_once() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["web.lock", "shop.lock"].map(|name| directory.path().join(name));
        let held = hold(&one).unwrap().unwrap();
        assert_eq!(hold(&one).unwrap_err(), std::process::id() as i32);
        assert!(hold(&other).unwrap().is_some());
        drop(held);
        assert!(hold(&one).unwrap().is_some());
    }
}
