//! The controlling terminal.

use nix::unistd::{getpgrp, tcgetpgrp};
use std::fs::File;
use std::io;

/// Whether we are in the foreground group of our terminal, so that its Ctrl-C
/// goes to us and to whoever shares our group (tcgetpgrp(3)). Without a terminal
/// a signal can only have been sent to us alone.
pub fn is_in_foreground() -> bool {
    open().is_ok_and(|terminal| tcgetpgrp(&terminal) == Ok(getpgrp()))
}

/// Whether we have a terminal.
pub fn exists() -> bool {
    open().is_ok()
}

/// Whether we have none, or one that was hung up. Any other failure to open it says nothing.
pub fn is_gone() -> bool {
    open().is_err_and(|error| [Some(libc::ENXIO), Some(libc::EIO)].contains(&error.raw_os_error()))
}

/// Opens /dev/tty, which is the terminal of whoever opens it (tty(4)).
fn open() -> io::Result<File> {
    File::open("/dev/tty")
}
