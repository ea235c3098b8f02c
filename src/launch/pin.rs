//! Keeps the files of a start, so that the same can be started again after symlinks were switched
//! and files replaced.
//!
//! Contract: a path through symbolic links, in an argument or a variable, is resolved once, when
//! its generation is first started, and replaced by the result if it leads elsewhere later. So is
//! one within a text of several words, as of `sh -c`; what cannot be replaced there is lost.
//!
//! A word without a slash may be no path. It counts as one if it has an extension and led to a file,
//! or if an argument is exactly the name of a symbolic link in the working directory (`-I current`,
//! `-Icurrent`, `--dir=current`): a subcommand or a value that has the name of such a link as well is
//! replaced too, which matters only once that link leads elsewhere. Not so a link to a package of
//! Python, which may be meant as a module (`-m app`); in a script, a link to a file, which may be
//! meant as a command; and the value of a variable (`RAILS_ENV=production`). These stay, and are
//! lost.
//!
//! A native program is kept open: it can be executed (execveat(2)) even if another file, or none,
//! has its name by now. A script cannot, because its interpreter opens it by name; nor can a file
//! that was overwritten, or one that an interpreter loads by itself. Files that are lost are named.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reexec::fd_transfer::path;

/// Directories whose entries lead to another file in each process.
const NOT_FILES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The identity and the state of a file, to recognise that it was replaced or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
    is_file: bool,
    size: u64,
    modified: (i64, i64),
}

impl FileId {
    /// The file that `path` leads to; None if there is none.
    pub fn of(path: &Path) -> Option<FileId> {
        FileId::new(&fs::metadata(path).ok()?)
    }

    fn of_descriptor(file: &Arc<OwnedFd>) -> Option<FileId> {
        FileId::new(&File::from(file.try_clone().ok()?).metadata().ok()?)
    }

    fn new(data: &fs::Metadata) -> Option<FileId> {
        Some(FileId {
            device: data.dev(),
            inode: data.ino(),
            is_file: data.is_file(),
            // Size and time of a directory change with its entries, which do not count.
            size: if data.is_file() { data.size() } else { 0 },
            modified: if data.is_file() { (data.mtime(), data.mtime_nsec()) } else { (0, 0) },
        })
    }
}

/// A path within a text, and the file that it led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    /// The number of the part of the text.
    part: usize,
    /// The same file without symlinks before the last component. A program may depend on that
    /// component (a virtual environment, a binary with several names).
    #[serde(with = "path")]
    named: PathBuf,
    #[serde(with = "path")]
    real: PathBuf,
    file: FileId,
    /// Whether it is the name of a link that is taken for a path.
    #[serde(default)]
    is_link: bool,
}

impl Pin {
    /// Whether the word is meant as a path.
    fn is_path(&self, word: &[u8]) -> bool {
        let has_extension = || Path::new(OsStr::from_bytes(word)).extension().is_some();
        word.contains(&b'/') || self.is_link || has_extension() && self.file.is_file
    }
}

/// Whether a word without a slash, which leads to `real`, is the name of a link in the directory and
/// is taken for a path.
fn is_name_of_link(word: &[u8], directory: &Path, real: &Path, is_script: bool) -> bool {
    let is_link = || directory.join(OsStr::from_bytes(word)).is_symlink();
    let is_package = || ["__init__.py", "__main__.py"].iter().any(|file| real.join(file).exists());
    !word.contains(&b'/') && is_link() && (real.is_dir() || !is_script) && !is_package()
}

/// An argument, or the value of a variable, with the paths in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    text: OsString,
    /// Whether it is several words, as a command for a shell.
    is_script: bool,
    pins: Vec<Pin>,
}

impl Pinned {
    /// Resolves the paths in `text`, relative ones from `directory`. Of an argument, paths without
    /// symlinks are kept too.
    pub fn new(text: &OsStr, directory: &Path, is_argument: bool) -> Pinned {
        let has_blank = text.as_bytes().iter().any(u8::is_ascii_whitespace);
        // The name of a file may have a blank.
        let is_script = has_blank && resolve(text.as_bytes(), directory).is_none();
        let pin = |(part, bytes): (usize, &[u8])| {
            let (named, real) = resolve(bytes, directory)?;
            let through_links = real != normalised(&directory.join(OsStr::from_bytes(bytes)));
            let file = FileId::of(&real)?;
            let wanted = through_links || is_argument && real.is_file();
            let is_link = is_argument
                && !is_in_list(bytes, text.as_bytes())
                && is_name_of_link(bytes, directory, &real, is_script);
            wanted.then_some(Pin { part, named, real, file, is_link })
        };
        let pins = parts(text.as_bytes(), is_script).into_iter().enumerate().filter_map(pin).collect();
        Pinned { text: text.into(), is_script, pins }
    }

    /// Whether no path was found.
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The text, with each path that leads elsewhere by now replaced by the file that it led to,
    /// even if that is gone: the other file may be the release that has just failed. A word that
    /// may be no path stays. `name` says that the last component of a path
    /// stays, because the program depends on it.
    pub fn as_before(&self, directory: &Path, name: bool) -> OsString {
        let text = self.text.as_bytes();
        let mut written = Vec::with_capacity(text.len());
        let mut end = 0;
        for (part, bytes) in parts(text, self.is_script).into_iter().enumerate() {
            let start = bytes.as_ptr() as usize - text.as_ptr() as usize;
            written.extend_from_slice(&text[end..start]);
            end = start + bytes.len();
            let pin = self.pins.iter().find(|pin| pin.part == part && pin.is_path(bytes));
            let now = resolve(bytes, directory);
            let before = pin.and_then(|pin| match &now {
                Some((named, real)) if *named == pin.named && (name || *real == pin.real) => None,
                _ if name || leads_to(&pin.named, &pin.real) => Some(&pin.named),
                _ => Some(&pin.real),
            });
            let before = before.filter(|path| self.may_replace(bytes, path));
            written.extend_from_slice(before.map_or(bytes, |path| path.as_os_str().as_bytes()));
        }
        written.extend_from_slice(&text[end..]);
        OsString::from_vec(written)
    }

    /// Whether a path in the text can be replaced. In a script the new path must need no quotes,
    /// and a relative one must not be meant from another directory.
    fn may_replace(&self, written: &[u8], path: &Path) -> bool {
        let is_plain =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,@%".contains(byte) || *byte >= 0x80;
        let moves = |word: &[u8]| [&b"cd"[..], b"pushd"].contains(&word);
        let elsewhere = || script_words(self.text.as_bytes()).any(moves);
        !self.is_script
            || path.as_os_str().as_bytes().iter().all(is_plain) && (written.starts_with(b"/") || !elsewhere())
    }

    /// The files that were changed or removed, and the symlinks that lead elsewhere by now though
    /// they cannot be replaced: words that may be no paths, and some in a script.
    pub fn lost(&self, directory: &Path) -> Vec<PathBuf> {
        let parts = parts(self.text.as_bytes(), self.is_script);
        let lost = |pin: &Pin| {
            let stays = |word: &&&[u8]| !pin.is_path(word) || !self.may_replace(word, &pin.real);
            let word = parts.get(pin.part).filter(stays)?;
            resolve(word, directory).filter(|(_, real)| *real != pin.real)?;
            Some(directory.join(OsStr::from_bytes(word)))
        };
        let changed = |pin: &Pin| (FileId::of(&pin.real) != Some(pin.file)).then(|| pin.real.clone());
        self.pins.iter().filter_map(|pin| changed(pin).or_else(|| lost(pin))).collect()
    }

    /// Forgets a file that the server itself writes to: a change of it does not count.
    pub fn forget_written(&mut self, path: &Path) {
        self.pins.retain(|pin| pin.real != path);
    }

    /// The files that the paths led to, for comparison with another start.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Option<FileId>)> {
        self.pins.iter().map(|pin| (pin.real.clone(), Some(pin.file)))
    }
}

/// The parts of a text that may be paths, of each word of a script: of `--option=PATH` what comes after the sign, of
/// `-IPATH` what comes after the letter, and of a list with colons each entry.
fn parts(text: &[u8], is_script: bool) -> Vec<&[u8]> {
    match is_script {
        true => script_words(text).flat_map(parts_of_word).collect(),
        false => parts_of_word(text),
    }
}

/// The words of a script, without the signs that have a meaning to the shell.
fn script_words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_sign = |byte: &u8| byte.is_ascii_whitespace() || b";&|()<>'\"`".contains(byte);
    text.split(is_sign).filter(|word| !word.is_empty())
}

fn parts_of_word(text: &[u8]) -> Vec<&[u8]> {
    let value = match text.iter().position(|&byte| byte == b'=') {
        Some(at) if !text[..at].contains(&b'/') => &text[at + 1..],
        _ if text.len() > 2 && text[0] == b'-' && text[1].is_ascii_alphabetic() => &text[2..],
        _ => text,
    };
    value.split(|&byte| byte == b':').filter(|part| !part.is_empty()).collect()
}

/// Whether a part of a text has others beside it, with colons between.
fn is_in_list(part: &[u8], text: &[u8]) -> bool {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    let after = text.get(start + part.len());
    start > 0 && text[start - 1] == b':' || after == Some(&b':')
}

/// The file that a path leads to: with its own last component, and without any symlink. None if
/// there is none, or each process has its own.
fn resolve(bytes: &[u8], directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let path = directory.join(OsStr::from_bytes(bytes));
    if NOT_FILES.iter().any(|root| path.starts_with(root)) {
        return None;
    }
    let real = fs::canonicalize(&path).ok()?;
    Some((resolve_parents(&path).unwrap_or_else(|| real.clone()), real))
}

/// A path without symlinks before its last component.
pub fn resolve_parents(path: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?))
}

fn leads_to(path: &Path, real: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|there| there == real)
}

/// The path without `.` and doubled slashes.
fn normalised(path: &Path) -> PathBuf {
    path.components().collect()
}

/// The program of a start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    file: Option<FileId>,
    /// The open file, if it is native code. Its descriptor is passed on separately.
    #[serde(skip)]
    image: Option<Arc<OwnedFd>>,
}

impl Program {
    /// The program at `real`.
    pub fn new(real: &Path) -> Program {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let image = is_native(real).then(|| open(real, flags, Mode::empty()).ok()).flatten();
        Program { file: FileId::of(real), image: image.map(Arc::new) }
    }

    /// The descriptor to execute if the path leads to another file.
    pub fn image(&self) -> Option<&Arc<OwnedFd>> {
        self.image.as_ref()
    }

    /// Sets the descriptor that was kept over an execve(2).
    pub fn restore_image(&mut self, image: OwnedFd) {
        self.image = Some(Arc::new(image));
    }

    /// Whether `path` still leads to it.
    pub fn is_at(&self, path: &Path) -> bool {
        FileId::of(path).is_some_and(|file| Some(file) == self.file)
    }

    /// Whether it was overwritten or, if it is not kept open, replaced.
    pub fn is_lost(&self, path: &Path) -> bool {
        match &self.image {
            Some(image) => FileId::of_descriptor(image) != self.file,
            None => !self.is_at(path),
        }
    }

    /// Its identity, for comparison with another start.
    pub fn file(&self) -> Option<FileId> {
        self.file
    }
}

/// Whether the kernel executes it without an interpreter that would open it by name.
fn is_native(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests;
