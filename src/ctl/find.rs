//! Which running instance `ctl` is to talk to, and the way to it.

use crate::cli::ctl::Ctl;
use crate::config::is_name;
use crate::control::instance;
use crate::error::reason;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why there is none: the exit status, and the end of a sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct NotFound {
    /// 2, 3 or 4.
    pub status: u8,
    /// Why.
    pub why: String,
}

fn not_found(status: u8, why: impl Into<String>) -> NotFound {
    NotFound { status, why: why.into() }
}

/// Connects to the instance that was named; without a name, to the one that we are
/// a worker of, else to the only one.
///
/// # Errors
/// [`NotFound`].
pub fn find(ctl: &Ctl, environment: &[(OsString, OsString)]) -> Result<UnixStream, NotFound> {
    let mut places: Vec<PathBuf> =
        instance::directories(environment).into_iter().map(|directory| directory.path).collect();
    places.dedup();
    if let Some(path) = &ctl.socket {
        return connect(path);
    }
    if let Some(name) = &ctl.name {
        if !is_name(name) {
            return Err(not_found(2, format!("'{name}' is no name (letters, digits, '.', '_' and '-')")));
        }
        // Where systemd's RuntimeDirectory=NAME is.
        places.push(Path::new("/run").join(name));
        return named(name, &places);
    }
    let ours = environment.iter().find(|(name, value)| name == "GRACEFUL_RUN_CONTROL" && !value.is_empty());
    match ours {
        Some((_, path)) => connect(Path::new(path)),
        None => only(&places),
    }
}

fn connect(path: &Path) -> Result<UnixStream, NotFound> {
    UnixStream::connect(path).map_err(|error| {
        let place = path.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                not_found(3, format!("nothing is running at {place}"))
            }
            io::ErrorKind::PermissionDenied => not_found(
                4,
                format!("{place}: permission denied (only its own user and root may, or --control-group)"),
            ),
            io::ErrorKind::InvalidInput => not_found(2, format!("{place} is no path of a unix socket")),
            _ => not_found(3, format!("{place}: {}", reason(&error))),
        }
    })
}

/// The first that lives; one that is there and may not be asked is told of rather
/// than that there is none elsewhere.
fn named(name: &str, places: &[PathBuf]) -> Result<UnixStream, NotFound> {
    let mut worst: Option<NotFound> = None;
    for place in places {
        match connect(&place.join(format!("{name}.sock"))) {
            Ok(stream) => return Ok(stream),
            Err(error) if worst.as_ref().is_none_or(|worst| error.status > worst.status) => {
                worst = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(match worst {
        Some(error) if error.status != 3 => error,
        _ => not_found(3, format!("nothing of the name '{name}' is running ({})", looked_in(places))),
    })
}

fn only(places: &[PathBuf]) -> Result<UnixStream, NotFound> {
    let mut found: Vec<(PathBuf, UnixStream)> = Vec::new();
    let mut forbidden: Option<NotFound> = None;
    for place in places {
        let entries = match fs::read_dir(place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = format!(
                    "{}: permission denied (name one with --socket, or be its user)",
                    place.display()
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
        0 => {
            Err(forbidden
                .unwrap_or_else(|| not_found(3, format!("nothing is running ({})", looked_in(places)))))
        }
        _ => {
            let mut all: Vec<String> = found.iter().map(|(path, _)| path.display().to_string()).collect();
            all.sort();
            Err(not_found(2, format!("several are running (say --name or --socket): {}", all.join(", "))))
        }
    }
}

fn looked_in(places: &[PathBuf]) -> String {
    let all: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    format!("looked in {}", all.join(", "))
}
