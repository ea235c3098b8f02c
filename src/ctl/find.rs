//! Finds the running instance that `ctl` talks to, and connects to it.

use crate::cli::ctl::Ctl;
use crate::config::is_name;
use crate::control::directory;
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
    if let Some(path) = &ctl.socket {
        return connect(path);
    }
    let mut search = Search::new(environment);
    if let Some(name) = &ctl.name {
        if !is_name(name) {
            return Err(not_found(2, format!("'{name}' is no name (letters, digits, '.', '_' and '-')")));
        }
        search.directories.push(directory::of_unit(name));
        return search.by_name(name);
    }
    let own = environment.iter().find(|(name, value)| name == "GRACEFUL_RUN_CONTROL" && !value.is_empty());
    match own {
        Some((_, path)) => connect(Path::new(path)),
        None => search.only_one(),
    }
}

/// Where an instance is looked for.
struct Search {
    directories: Vec<PathBuf>,
    /// Directories of another user, into which we may not look: nothing of ours is there.
    foreign: Vec<PathBuf>,
    /// XDG_RUNTIME_DIR is not set, as under cron and sudo, or leads to a directory of another user.
    hint: Option<&'static str>,
}

impl Search {
    fn new(environment: &[(OsString, OsString)]) -> Search {
        let (foreign, directories): (Vec<PathBuf>, Vec<PathBuf>) =
            directory::searched(environment).into_iter().partition(|path| is_foreign(path));
        let base = directory::first_path(environment, "XDG_RUNTIME_DIR");
        let hint = match base {
            None => Some(
                "XDG_RUNTIME_DIR is not set: set it as the server has it, or name the socket with --socket",
            ),
            Some(base) if is_foreign(&base) => Some(
                "XDG_RUNTIME_DIR is that of another user: set it as the server has it, or name the socket with --socket",
            ),
            Some(base) if !base.is_dir() => Some(
                "XDG_RUNTIME_DIR is no directory: set it as the server has it, or name the socket with --socket",
            ),
            Some(_) => None,
        };
        Search { directories, foreign, hint }
    }

    /// Connects to the first instance of this name that is running. If there is none, an instance
    /// that does not accept us is reported rather than that there is none in another directory.
    fn by_name(&self, name: &str) -> Result<UnixStream, NotFound> {
        let mut worst: Option<NotFound> = None;
        for directory in &self.directories {
            match connect(&directory.join(format!("{name}.sock"))) {
                Ok(stream) => return Ok(stream),
                Err(error) if worst.as_ref().is_none_or(|worst| error.status > worst.status) => {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        // Such a directory may let us pass though not look.
        let passed = self.foreign.iter().find_map(|it| connect(&it.join(format!("{name}.sock"))).ok());
        if let Some(stream) = passed {
            return Ok(stream);
        }
        Err(match worst {
            Some(error) if error.status != 3 => error,
            _ => not_found(3, format!("nothing of the name '{name}' is running ({})", self.looked_in())),
        })
    }

    fn only_one(&self) -> Result<UnixStream, NotFound> {
        let mut found: Vec<(PathBuf, UnixStream)> = Vec::new();
        let mut forbidden: Option<NotFound> = None;
        for directory in &self.directories {
            let Ok(entries) = fs::read_dir(directory) else { continue };
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
                .unwrap_or_else(|| not_found(3, format!("nothing is running ({})", self.looked_in())))),
            _ => {
                let mut all: Vec<String> = found.iter().map(|(path, _)| path.display().to_string()).collect();
                all.sort();
                Err(not_found(2, format!("several are running (say --name or --socket): {}", all.join(", "))))
            }
        }
    }

    fn looked_in(&self) -> String {
        let all = |paths: &[PathBuf]| {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            shown.join(", ")
        };
        let mut text = format!("looked in {}", all(&self.directories));
        if !self.foreign.is_empty() {
            text += &format!("; not in {}, which is for another user", all(&self.foreign));
        }
        if let Some(hint) = self.hint {
            text += &format!("; {hint}");
        }
        text
    }
}

/// Whether the directory is there, and only another user may look into it.
fn is_foreign(directory: &Path) -> bool {
    fs::read_dir(directory).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
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
