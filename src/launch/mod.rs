//! What a worker is started from: the program, the directory and the environment. They are read
//! again at every start, so that a symlink that was switched, a binary that was replaced and
//! settings that were changed take effect.

mod binary_id;
pub mod capture;
pub mod descriptors;
mod environment;
pub mod exec_error;
pub mod hook;
pub mod interpreter;
mod last_lines;
pub mod pin;
mod saved;
pub mod start;

pub use saved::Saved;

use crate::cli::ctl::is_verb;
use crate::config;
use crate::core::event::Refusal;
use crate::error::reason;
use crate::sys::identity::Identity;
use environment::Variables;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use pin::{FileId, Pinned, Program, resolve_parents};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reexec::fd_transfer::path;
use serde::{Deserialize, Serialize};

/// The search path of execvp(3) where PATH is not set.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The shell that runs hooks and checks.
pub const SHELL: &str = "/bin/sh";

/// The directory and the environment in which we were started.
#[derive(Debug, Clone)]
pub struct InheritedContext {
    /// The directory by the path that the user sees, with its symlinks.
    pub directory: PathBuf,
    /// Our environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl InheritedContext {
    /// Reads both. $PWD is used only if it is the current directory; a directory that has been
    /// deleted counts as `/`.
    pub fn read() -> InheritedContext {
        let logical = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
        let same = |path: &PathBuf| match (fs::metadata(path), fs::metadata(".")) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
            _ => false,
        };
        let directory = logical
            .filter(same)
            .or_else(|| std::env::current_dir().ok())
            .unwrap_or_else(|| PathBuf::from("/"));
        InheritedContext { directory, environment: std::env::vars_os().collect() }
    }
}

/// The program, directory and environment of a start, as they were read at one time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    program: ResolvedPath,
    directory: ResolvedPath,
    #[serde(with = "environment::pairs")]
    environment: Variables,
    /// What is odd about the variables that files set.
    #[serde(skip)]
    odd: Vec<String>,
    /// The command, if it differs from what the user wrote.
    command: Option<Vec<OsString>>,
    /// The file that is executed, if its path leads to another file by now.
    #[serde(skip)]
    image: Option<Arc<OwnedFd>>,
    pins: Option<Pins>,
}

/// The files of a start, kept so that the same can be started once more.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pins {
    program: Program,
    arguments: Vec<Pinned>,
    environment: Vec<(OsString, Pinned)>,
}

/// A path as it is written, and the file that it led to when it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ResolvedPath {
    #[serde(with = "path")]
    logical: PathBuf,
    /// Without symlinks before the last component.
    #[serde(with = "path")]
    named: PathBuf,
    #[serde(with = "path")]
    real: PathBuf,
}

/// Why a start is refused before anything is forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For the core.
    pub refusal: Refusal,
    /// For people.
    pub message: String,
}

impl ResolvedPath {
    fn new(logical: PathBuf) -> ResolvedPath {
        let real = fs::canonicalize(&logical).unwrap_or_else(|_| logical.clone());
        let named = resolve_parents(&logical).unwrap_or_else(|| real.clone());
        ResolvedPath { logical, named, real }
    }

    /// A path to the file that it led to: the path as written if that still leads there through
    /// the same directory; else the path without symlinks.
    fn as_before(&self) -> ResolvedPath {
        match ResolvedPath::new(self.logical.clone()) {
            same if same.real == self.real && same.named == self.named => same,
            _ if fs::canonicalize(&self.named).is_ok_and(|real| real == self.real) => {
                ResolvedPath { logical: self.named.clone(), ..self.clone() }
            }
            _ => ResolvedPath { logical: self.real.clone(), ..self.clone() },
        }
    }
}

impl LaunchSpec {
    /// Reads everything as it is now.
    ///
    /// # Errors
    /// [`Refused`] when the program cannot be found or a file cannot be read.
    pub fn read(
        worker: &config::Worker,
        surroundings: &InheritedContext,
        identity: Option<&Identity>,
    ) -> Result<LaunchSpec, Refused> {
        let mut spec = LaunchSpec::for_hook(worker, surroundings, identity)?;
        let name = worker.command.first().map(OsString::as_os_str).unwrap_or_default();
        let path = spec.environment.get(OsStr::new("PATH"));
        let program = find(name, path, &spec.directory.logical, identity)?;
        spec.program = ResolvedPath::new(program);
        Ok(spec)
    }

    /// As [`read`](Self::read), for a hook, which the shell runs. The program of the workers is not
    /// looked up, because the hook may be there to install it.
    ///
    /// # Errors
    /// [`Refused`] when a file cannot be read.
    pub fn for_hook(
        worker: &config::Worker,
        surroundings: &InheritedContext,
        identity: Option<&Identity>,
    ) -> Result<LaunchSpec, Refused> {
        let directory = match &worker.chdir {
            Some(path) => surroundings.directory.join(path),
            None => surroundings.directory.clone(),
        };
        let (mut environment, odd) = environment::read(
            &worker.environment,
            &surroundings.environment,
            identity,
            &surroundings.directory,
        )
        .map_err(|message| Refused { refusal: Refusal::Other, message })?;
        let is_set = worker.environment.set.iter().any(|(name, _)| name == "PWD");
        if !worker.environment.clear && !is_set {
            environment.insert("PWD".into(), directory.clone().into());
        }
        Ok(LaunchSpec {
            program: ResolvedPath::new(SHELL.into()),
            directory: ResolvedPath::new(directory),
            environment,
            odd,
            command: None,
            image: None,
            pins: None,
        })
    }

    /// Notes the files as they are now, for [`as_before`](Self::as_before).
    pub fn pin(&mut self, command: &[OsString]) {
        let directory = &self.directory.real;
        let variables = self.environment.iter();
        let variables = variables.map(|(name, value)| (name.clone(), Pinned::new(value, directory, false)));
        self.pins = Some(Pins {
            program: Program::new(&self.program.real),
            arguments: command.iter().map(|word| Pinned::new(word, directory, true)).collect(),
            environment: variables.filter(|(_, value)| !value.is_empty()).collect(),
        });
    }

    /// The same program, arguments, directory and environment, even where their paths lead to
    /// other files by now.
    pub fn as_before(&self) -> LaunchSpec {
        let mut spec = LaunchSpec {
            program: self.program.as_before(),
            directory: self.directory.as_before(),
            ..self.clone()
        };
        let Some(pins) = &self.pins else { return spec };
        if !pins.program.is_at(&spec.program.logical) {
            spec.image = pins.program.image().cloned();
        }
        let directory = &self.directory.real;
        let before = |(at, word): (usize, &Pinned)| word.as_before(directory, at == 0);
        spec.command = Some(pins.arguments.iter().enumerate().map(before).collect());
        for (name, value) in &pins.environment {
            spec.environment.insert(name.clone(), value.as_before(directory, false));
        }
        spec
    }

    /// As [`as_before`](Self::as_before), if none of it is lost.
    ///
    /// # Errors
    /// [`Refused`], naming the files that are lost.
    pub fn exactly(&self) -> Result<LaunchSpec, Refused> {
        let lost = self.lost();
        if lost.is_empty() {
            return Ok(self.as_before());
        }
        let state = |path: &PathBuf| if path.exists() { "is another file" } else { "is gone" };
        let lost: Vec<String> =
            lost.iter().map(|path| format!("{} {}", path.display(), state(path))).collect();
        Err(Refused {
            refusal: Refusal::Other,
            message: format!(
                "not as it was: {} (install each release in a directory of its own, and keep the one before)",
                lost.join(", ")
            ),
        })
    }

    /// Its files that have been changed or removed, so that another start would use what is there
    /// now.
    pub fn lost(&self) -> Vec<PathBuf> {
        let Some(pins) = &self.pins else { return Vec::new() };
        let program = &self.program.real;
        let gone = pins.program.is_lost(program);
        let real = &self.directory.real;
        let directory = Some(real).filter(|directory| !directory.is_dir()).cloned();
        let arguments = pins.arguments.iter().skip(1).flat_map(|word| word.lost(real));
        let mut lost: Vec<PathBuf> =
            gone.then(|| program.clone()).into_iter().chain(directory).chain(arguments).collect();
        lost.dedup();
        lost
    }

    /// The files of a start, for comparison with another.
    pub fn files(&self) -> Vec<(PathBuf, Option<FileId>)> {
        let Some(pins) = &self.pins else { return Vec::new() };
        let program = (self.program.real.clone(), pins.program.file());
        let arguments = pins.arguments.iter().skip(1).flat_map(Pinned::files);
        std::iter::once(program).chain(arguments).collect()
    }

    /// Forgets a file that the server itself writes to: a change of it does not count.
    pub fn forget_written(&mut self, path: &Path) {
        if let Some(pins) = &mut self.pins {
            pins.arguments.iter_mut().for_each(|word| word.forget_written(path));
        }
    }

    /// The descriptor of the program, if it is kept open.
    pub fn open_program(&self) -> Option<&Arc<OwnedFd>> {
        self.pins.as_ref()?.program.image()
    }

    /// Sets the descriptor of the program that was kept over an execve(2).
    pub fn restore_program(&mut self, image: OwnedFd) {
        if let Some(pins) = &mut self.pins {
            pins.program.restore_image(image);
        }
    }

    /// The command and its arguments, if they differ from what the user wrote.
    pub fn command(&self) -> Option<&[OsString]> {
        self.command.as_deref()
    }

    /// The file to execute instead of the one at [`program`](Self::program).
    pub fn image(&self) -> Option<&Arc<OwnedFd>> {
        self.image.as_ref()
    }

    /// The path to execute.
    pub fn program(&self) -> &Path {
        &self.program.logical
    }

    /// The file that this path led to.
    pub fn real_program(&self) -> &Path {
        &self.program.real
    }

    /// What is odd about the variables that files set: the files, the lines, and why.
    pub fn odd_variables(&self) -> &[String] {
        &self.odd
    }

    /// The variables, before those of the dialect.
    pub fn environment(&self) -> &Variables {
        &self.environment
    }

    /// The directory that it starts in.
    pub fn directory(&self) -> &Path {
        &self.directory.logical
    }

    /// Opens the directory (open(2), O_PATH).
    ///
    /// # Errors
    /// [`Refused`], naming the directory.
    pub fn open_directory(&self) -> Result<OwnedFd, Refused> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(&self.directory.logical, flags, Mode::empty()).map_err(|errno| Refused {
            refusal: Refusal::Other,
            message: format!(
                "cannot enter directory {}: {}",
                self.directory.logical.display(),
                reason(&io::Error::from(errno))
            ),
        })
    }
}

/// Whether the mode of `file` lets `identity` execute it.
fn may_execute(file: &Path, identity: &Identity) -> bool {
    let Ok(data) = fs::metadata(file) else { return false };
    let bits = match data.uid() == identity.uid {
        _ if identity.uid == 0 => 0o111,
        true => 0o100,
        false if data.gid() == identity.gid || identity.groups.contains(&data.gid()) => 0o010,
        false => 0o001,
    };
    data.mode() & bits != 0
}

/// The program's path. A name with a slash is a path, which execve(2) will check; another is
/// searched in the worker's PATH.
fn find(
    name: &OsStr,
    path: Option<&OsString>,
    directory: &Path,
    identity: Option<&Identity>,
) -> Result<PathBuf, Refused> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Ok(directory.join(name));
    }
    let default = OsString::from(DEFAULT_PATH);
    let path = path.unwrap_or(&default);
    // The worker may not be permitted to execute what we, as root, are. As execvp(3) does, the
    // search then goes on.
    let mut found = which::which_in_all(name, Some(path), directory).into_iter().flatten();
    let first = found.next();
    let may = |file: &PathBuf| identity.is_none_or(|identity| may_execute(file, identity));
    if let Some(file) = first.iter().cloned().chain(found).find(may).or(first) {
        return Ok(file);
    }
    let shown = name.to_string_lossy();
    let there =
        std::env::split_paths(path).map(|dir| directory.join(dir).join(name)).find(|file| file.is_file());
    Err(match there {
        Some(file) => Refused {
            refusal: Refusal::NotExecutable,
            message: format!("cannot execute {}: permission denied (chmod +x)", file.display()),
        },
        None => {
            let next = match name.as_encoded_bytes().contains(&b' ') {
                _ if is_verb(&shown) => format!("to ask one that runs: graceful-run ctl {shown}"),
                true => "no shell splits words: give each argument by itself".into(),
                false => "give its path, or set PATH with --env".into(),
            };
            Refused {
                refusal: Refusal::NotFound,
                message: format!(
                    "cannot find '{shown}' in the worker's PATH {} ({next})",
                    path.to_string_lossy()
                ),
            }
        }
    })
}
