//! Finds the running instance that `ctl` talks to, and connects to it.

use crate::cli::ctl::Ctl;
use crate::config::is_name;
use crate::control::instance;
use crate::error::reason;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq)]
pub struct NotFound {
    /// The exit status of ctl: 2, 3 or 4.
    pub status: u8,
    /// The end of the message.
    pub why: String,
}

fn not_found(status: u8, why: impl Into<String>) -> NotFound {
    NotFound { status, why: why.into() }
}

/// Connects to the instance that was named. Without a name it is the instance whose worker
/// we are, or else the only one that is running.
///
/// # Errors
/// [`NotFound`].
pub fn connect_to_instance(ctl: &Ctl, environment: &[(OsString, OsString)]) -> Result<UnixStream, NotFound> {
    let mut searched: Vec<PathBuf> =
        instance::directories(environment).into_iter().map(|directory| directory.path).collect();
    searched.dedup();
    if let Some(path) = &ctl.socket {
        return connect(path);
    }
    if let Some(name) = &ctl.name {
        if !is_name(name) {
            return Err(not_found(2, format!("'{name}' is no name (letters, digits, '.', '_' and '-')")));
        }
        // RuntimeDirectory=NAME of systemd.exec(5).
        searched.push(Path::new("/run").join(name));
        return connect_by_name(name, &searched);
    }
    let own = environment.iter().find(|(name, value)| name == "GRACEFUL_RUN_CONTROL" && !value.is_empty());
    match own {
        Some((_, path)) => connect(Path::new(path)),
        None => connect_to_only(&searched),
    }
}

fn connect(path: &Path) -> Result<UnixStream, NotFound> {
    UnixStream::connect(path).map_err(|error| {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                not_found(3, format!("nothing is running at {path}"))
            }
            io::ErrorKind::PermissionDenied => not_found(
                4,
                format!("{path}: permission denied (only its own user and root may, or --control-group)"),
            ),
            io::ErrorKind::InvalidInput => not_found(2, format!("{path} is no path of a unix socket")),
            _ => not_found(3, format!("{path}: {}", reason(&error))),
        }
    })
}

/// Connects to the first instance of this name that is running. If there is none, an instance
/// that does not accept us is reported rather than that there is none in another directory.
fn connect_by_name(name: &str, searched: &[PathBuf]) -> Result<UnixStream, NotFound> {
    let mut worst: Option<NotFound> = None;
    for directory in searched {
        match connect(&directory.join(format!("{name}.sock"))) {
            Ok(stream) => return Ok(stream),
            Err(error) if worst.as_ref().is_none_or(|worst| error.status > worst.status) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(match worst {
        Some(error) if error.status != 3 => error,
        _ => not_found(3, format!("nothing of the name '{name}' is running ({})", looked_in(searched))),
    })
}

fn connect_to_only(searched: &[PathBuf]) -> Result<UnixStream, NotFound> {
    let mut found: Vec<(PathBuf, UnixStream)> = Vec::new();
    let mut forbidden: Option<NotFound> = None;
    for directory in searched {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = format!(
                    "{}: permission denied (name one with --socket, or be its user)",
                    directory.display()
                );
                forbidden = Some(not_found(4, why));
                continue;
            }
            Err(_) => continue,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "sock") {
                continue;
            }
            match connect(&path) {
                Ok(stream) => found.push((path, stream)),
                Err(error) if error.status == 4 => forbidden = Some(error),
                Err(_) => {}
            }
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0).1),
        0 => Err(forbidden
            .unwrap_or_else(|| not_found(3, format!("nothing is running ({})", looked_in(searched))))),
        _ => {
            let mut all: Vec<String> = found.iter().map(|(path, _)| path.display().to_string()).collect();
            all.sort();
            Err(not_found(2, format!("several are running (say --name or --socket): {}", all.join(", "))))
        }
    }
}

fn looked_in(searched: &[PathBuf]) -> String {
    let all: Vec<String> = searched.iter().map(|directory| directory.display().to_string()).collect();
    format!("looked in {}", all.join(", "))
}
