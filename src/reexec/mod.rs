//! graceful-run replaces itself: execve(2) of the binary at its path, in the same
//! process.
//!
//! Contract: until that system call has succeeded, nothing is released. The new binary
//! first shows, in a child, that it can read the state that it would get and the
//! arguments that we were started with. Its answer contains the digest of the state, so
//! that no other program can give it. If the execve(2) itself fails, we go on as before.
//! Only a state that has changed between the check and the execve(2), or a lack of threads
//! or descriptors, can end a new image; then it ends alone and leaves the workers as they
//! are.
//!
//! Kept are the pid, the children, descriptors by their numbers, pending signals (all are
//! blocked), and everything in the state. Threads are started anew, and the command line
//! is read again.

pub(crate) mod envelope;
pub mod fd_transfer;
pub(crate) mod program;
pub(crate) mod quiesce;

use crate::sys::fd;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

/// In our environment: the process that the state is for, and its descriptor.
/// Workers never see it.
pub const VARIABLE: &str = "GRACEFUL_RUN_REEXEC";
/// The first argument of a child that only checks whether it could take over.
pub const CHECK: &str = "reexec-check";

/// The value of [`VARIABLE`].
pub fn variable_value(pid: u32, fd: RawFd) -> String {
    format!("{pid}:{fd}")
}

/// The descriptor in a value of [`VARIABLE`] that is meant for the process `pid`. A value that
/// another process has left in the environment is ignored.
fn parse(value: &OsStr, pid: u32) -> Option<RawFd> {
    let (whose, fd) = value.to_str()?.split_once(':')?;
    (whose.parse() == Ok(pid)).then(|| fd.parse().ok())?.filter(|&fd| fd > libc::STDERR_FILENO)
}

/// The text of the state that this process got from the image before it.
///
/// # Errors
/// Why it cannot be read.
pub fn inherited_state() -> Option<Result<Vec<u8>, String>> {
    let fd = parse(&std::env::var_os(VARIABLE)?, std::process::id())?;
    let read = || {
        fd::device_and_inode(fd).map_err(|error| format!("descriptor {fd} of the state is lost: {error}"))?;
        let bytes = envelope::open(fd::take_ownership(fd))?;
        envelope::unwrap(&bytes).map(|(text, _)| text.to_vec())
    };
    Some(read())
}

/// If this process is only to check whether it could take over: the arguments that it would
/// be started with.
pub fn check_arguments(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let (name, rest) = arguments.split_first()?;
    let (first, rest) = rest.split_first()?;
    let is_check = first == CHECK && std::env::var_os(VARIABLE).is_some();
    is_check.then(|| [name].into_iter().chain(rest).cloned().collect())
}

/// The text of the state to check, which is another process's, and the answer to print once it
/// has been decoded.
///
/// # Errors
/// Why it cannot be read.
pub fn check() -> Result<(Vec<u8>, String), String> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    let fd = value.to_str().and_then(|value| value.split_once(':')?.1.parse().ok());
    let fd = fd.filter(|&fd| fd::device_and_inode(fd).is_ok()).ok_or("there is no state")?;
    let bytes = envelope::open(fd::take_ownership(fd))?;
    let (text, digest) = envelope::unwrap(&bytes)?;
    Ok((text.to_vec(), answer(env!("CARGO_PKG_VERSION"), &digest)))
}

/// The answer of a binary of this version that has read the state of this digest.
fn answer(version: &str, digest: &envelope::Digest) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("graceful-run {version} can take over {hex}\n")
}

/// The version in an answer for the state of this digest; None if it is another text.
pub fn version(output: &str, digest: &envelope::Digest) -> Option<String> {
    let version = output.strip_prefix("graceful-run ")?.split(' ').next()?;
    (answer(version, digest) == output && version.len() <= 64).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_for_one_process() {
        assert_eq!(parse(OsStr::new("71:9"), 71), Some(9));
        for value in ["", "71", ":9", "72:9", "71:2", "71:-1", "71:x", "71:9:"] {
            assert_eq!(parse(OsStr::new(value), 71), None, "{value}");
        }
        assert_eq!(parse(OsStr::new(&variable_value(71, 9)), 71), Some(9));
    }

    #[test]
    fn an_answer_needs_the_digest_of_the_state() {
        let (digest, other) = ([7; 20], [8; 20]);
        let said = answer("0.2.0", &digest);
        assert_eq!(version(&said, &digest).as_deref(), Some("0.2.0"));
        for wrong in ["", "graceful-run", "graceful-run 0.2.0 can take over \n", &answer("0.2.0", &other)] {
            assert_eq!(version(wrong, &digest), None, "{wrong}");
        }
    }
}
