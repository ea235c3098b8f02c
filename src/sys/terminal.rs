//! The controlling terminal.

use nix::unistd::{getpgrp, tcgetpgrp};
use std::fs::File;

/// Whether we are in the foreground group of our terminal, so that its Ctrl-C
/// goes to us and to whoever shares our group (tcgetpgrp(3)). Without a terminal
/// a signal can only have been sent to us alone.
pub fn is_in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal) == Ok(getpgrp()))
}
