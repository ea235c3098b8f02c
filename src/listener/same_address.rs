//! Whether a socket that a worker has bound itself is at the address of a listener of ours.

use super::apart::inode;
use super::{Kind, Listener, inet};
use crate::sys::bound::{Bound, share_network, unix_file};
use nix::unistd::Pid;
use std::fs::{self, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

impl Listener {
    /// Whether clients of this listener reach the socket `inode` that process `pid` has bound to
    /// `bound`: in its stead at a path, or beside it at a port.
    pub fn is_same_address(&self, pid: Pid, inode: u64, bound: &Bound) -> bool {
        let overlaps = |address| {
            let held = self.inet.is_some_and(|held| inet::overlaps(held, self.v6only, address));
            held && share_network(pid, Pid::this())
        };
        match (self.kind, bound) {
            (Kind::Tcp, Bound::Tcp(address)) | (Kind::Udp, Bound::Udp(address)) => overlaps(*address),
            (Kind::Unix | Kind::UnixDatagram | Kind::UnixSeqpacket, Bound::Unix(written)) => {
                // Of a socket that we were given only the address is known.
                let path = Path::new(&self.address);
                let replaced = self.path.as_ref().is_some_and(|bound| !bound.is_at(path));
                is_same_entry(pid, written, path) || replaced && leads_to(path, inode)
            }
            _ => false,
        }
    }

    /// The inodes of its sockets in sockfs, of all slots.
    pub fn inodes(&self) -> impl Iterator<Item = u64> {
        self.all().map(|socket| inode(socket.as_fd()))
    }
}

/// Whether a path of process `pid` and a path of ours name the same entry of the same directory.
/// The process may have another root or working directory, and spell the path in another way.
fn is_same_entry(pid: Pid, theirs: &Path, ours: &Path) -> bool {
    if theirs == ours {
        return true;
    }
    let seen = match theirs.strip_prefix("/") {
        Ok(below) => Path::new("/proc").join(pid.to_string()).join("root").join(below),
        Err(_) => Path::new("/proc").join(pid.to_string()).join("cwd").join(theirs),
    };
    let identity = |path: &Path| Some(id(&fs::metadata(path.parent()?).ok()?));
    seen.file_name() == ours.file_name() && identity(&seen).is_some_and(|seen| identity(ours) == Some(seen))
}

/// Whether a path leads to the file of this socket, which may have been renamed to it.
fn leads_to(path: &Path, socket: u64) -> bool {
    let file = fs::metadata(path).ok().filter(|file| file.file_type().is_socket());
    file.is_some_and(|file| unix_file(socket) == Some(file.ino() as u32))
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
