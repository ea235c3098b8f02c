//! The two ways in which a listening socket outlives its server.

use std::path::Path;
use std::process::Command;

/// The mode of this executable in which it binds its own sockets and dies of TERM.
pub const CARELESS: &str = "serve-careless";

/// How a server comes to its sockets.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// They are ours, and are handed to it. It drains by itself when it is asked to stop.
    Handed,
    /// They are its own, and `--adopt` steers connections to its successor's. It dies of TERM
    /// with whatever it has in its hands, so it is we who must know when that is nothing.
    Adopted,
}

impl Way {
    /// The word of the report.
    pub fn name(self) -> &'static str {
        match self {
            Way::Handed => "handed over",
            Way::Adopted => "adopted",
        }
    }

    /// Whether it listens on a unix socket too: those are not adopted.
    pub fn has_unix(self) -> bool {
        matches!(self, Way::Handed)
    }

    /// Has graceful-run start this executable as a server at `port`.
    pub fn wrap<'a>(
        self,
        command: &'a mut Command,
        myself: &Path,
        port: u16,
        unix: &Path,
    ) -> &'a mut Command {
        let addresses = [format!("0.0.0.0:{port}"), format!("[::1]:{port}")];
        match self {
            Way::Handed => command
                .args(addresses.iter().flat_map(|address| ["-b", address]))
                .args(["-b", &format!("unix:{}", unix.display())])
                .args(["--ack", "notify", "--ack-timeout", "4s", "--soak", "500ms", "--"])
                .arg(myself)
                .arg("serve"),
            // Connections whose request is sent late are waited for like any other. Where little
            // is left of the processors, a look at them all may take seconds.
            Way::Adopted => command
                .args(["--adopt", "--ack", "listen", "--ack-timeout", "8s"])
                .args(["--idle", "1h", "--drain-timeout", "2m", "--"])
                .arg(myself)
                .arg(CARELESS)
                .args(addresses),
        }
    }
}
