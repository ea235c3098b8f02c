//! Why a program could not be started, in words for the user.

use super::{LaunchSpec, Refused, interpreter, may_execute};
use crate::core::event::Refusal;
use crate::sys::child::{Launch, SpawnError, Step};
use crate::sys::file_privileges::file_privileges;
use crate::sys::identity::Identity;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why a start failed, and what the user can do about it.
pub fn refused(error: &SpawnError, launch: &Launch, spec: &LaunchSpec) -> Refused {
    let program = spec.program().display();
    let refusal = match (error.step, error.errno) {
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => Refusal::NotFound,
        (Step::Exec, Errno::ETXTBSY) => Refusal::Busy,
        (Step::Exec, _) => Refusal::NotExecutable,
        (Step::Fork, Errno::EAGAIN | Errno::ENOMEM) => Refusal::Exhausted,
        _ => Refusal::Other,
    };
    let why = crate::error::reason(&std::io::Error::from(error.errno));
    let message = match (error.step, error.errno) {
        (Step::Exec, Errno::ENOENT) if spec.program().exists() => {
            format!("cannot execute {program}: {}", interpreter::missing(spec.program()))
        }
        (Step::Exec, Errno::ENOENT | Errno::ENOTDIR) => {
            let spaced = spec.program().as_os_str().as_bytes().contains(&b' ');
            let next = if spaced { " (no shell splits words: give each argument by itself)" } else { "" };
            format!("cannot find {program}: {why}{next}")
        }
        (Step::Exec, Errno::ENOEXEC) => {
            format!("cannot execute {program}: {why} ({})", interpreter::unknown_format(spec.program()))
        }
        (Step::Exec, Errno::ETXTBSY) => {
            format!("cannot execute {program}: {why}, somebody still writes to it (install it by rename)")
        }
        (Step::Exec, Errno::EACCES) if spec.program().is_dir() => {
            format!("cannot execute {program}: is a directory")
        }
        (Step::Exec, Errno::EACCES) => {
            format!(
                "cannot execute {program}: {why} ({})",
                forbidden(spec.program(), launch.identity.as_ref())
            )
        }
        (Step::Exec, Errno::E2BIG) => format!("cannot execute {program}: {why}: {}", too_long(launch)),
        (Step::Exec, Errno::EPERM) if file_privileges(spec.real_program()) == Some("setcap") => format!(
            "cannot execute {program}: {why}: its file has capabilities (setcap) that we may not have (getcap shows them; a container: docker run --cap-add)"
        ),
        (Step::Exec, _) => format!("cannot execute {program}: {why}"),
        (Step::Filter, Errno::EBUSY) => format!(
            "cannot adopt {program}: somebody above us watches its system calls already (another --adopt, or a container's runtime); give the server its sockets with -b"
        ),
        (Step::Filter, Errno::EMFILE | Errno::ENFILE) => format!("cannot adopt {program}: {why}"),
        (Step::Filter, _) => format!(
            "cannot adopt {program}: {why} (seccomp with a listener: graceful-run doctor says what is missing; or give the server its sockets with -b)"
        ),
        (step, _) => format!("cannot start {program}: {step} failed: {why}"),
    };
    Refused { refusal, message }
}

/// What keeps us, or the user of the worker, from executing a program that is there (EACCES).
fn forbidden(program: &Path, identity: Option<&Identity>) -> String {
    let may = |file: &Path| match identity {
        Some(identity) => may_execute(file, identity),
        None => access(file, AccessFlags::X_OK).is_ok(),
    };
    let closed =
        program.ancestors().skip(1).filter(|directory| directory.is_absolute() && !may(directory)).last();
    let whose = identity.map_or(String::new(), |identity| format!(", as uid {}", identity.uid));
    match closed {
        Some(directory) => format!("the directory {} may not be entered{whose}", directory.display()),
        None if may(program) => "a noexec mount, or an interpreter that may not be executed".into(),
        None => format!("chmod +x{whose}"),
    }
}

/// What execve(2) has found too long: one string (MAX_ARG_STRLEN), or all of them together, which
/// may have a quarter of RLIMIT_STACK.
fn too_long(launch: &Launch) -> String {
    const LONGEST: usize = 128 * 1024;
    let length = |text: &CString| text.as_bytes_with_nul().len();
    // No argument is too long: we were given it as one.
    if let Some(text) = launch.env.iter().find(|text| length(text) > LONGEST) {
        let name = text.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        return format!(
            "the variable {name} has {} bytes, and the kernel takes {LONGEST} (write the value to a file, and pass its path)",
            length(text)
        );
    }
    let sum = |texts: &[CString]| texts.iter().map(length).sum::<usize>();
    format!(
        "the arguments have {} bytes, and the environment {} (raise ulimit -s: the kernel takes a quarter of it)",
        sum(&launch.argv),
        sum(&launch.env)
    )
}
