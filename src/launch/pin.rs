//! Keeps the files of a start, so that the same can be started again after symlinks were switched
//! and files replaced.
//!
//! Contract: a path through symbolic links, in an argument or a variable, is resolved once, when
//! its generation is first started, and replaced by the result if it leads elsewhere later. So is
//! one within a text of several words, as of `sh -c`; what cannot be replaced there is lost. A
//! native program is kept open: it can be executed (execveat(2)) even if another file, or none,
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
}

impl Pin {
    /// Whether the word is surely meant as a path. Without a slash it may be the name of a module or
    /// a command, unless it has an extension and led to a file (`java -jar app.jar`).
    fn is_path(&self, word: &[u8]) -> bool {
        let has_extension = || Path::new(OsStr::from_bytes(word)).extension().is_some();
        word.contains(&b'/') || has_extension() && self.file.is_file
    }
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
    /// Resolves the paths in `text`, relative ones from `directory`. `files` says whether paths
    /// without symlinks are kept too.
    pub fn new(text: &OsStr, directory: &Path, files: bool) -> Pinned {
        let pin = |(part, bytes): (usize, &[u8])| {
            let (named, real) = resolve(bytes, directory)?;
            let through_links = real != normalised(&directory.join(OsStr::from_bytes(bytes)));
            let file = FileId::of(&real)?;
            let wanted = through_links || files && real.is_file();
            wanted.then_some(Pin { part, named, real, file })
        };
        let has_blank = text.as_bytes().iter().any(u8::is_ascii_whitespace);
        // The name of a file may have a blank.
        let is_script = has_blank && resolve(text.as_bytes(), directory).is_none();
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
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn text(text: &str) -> OsString {
        OsString::from(text)
    }

    #[test]
    fn a_link_that_was_switched_leads_where_it_led() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        for release in ["r1", "r2"] {
            fs::create_dir(dir.join(release)).unwrap();
            fs::write(dir.join(release).join("app.py"), release).unwrap();
        }
        symlink("r1", dir.join("current")).unwrap();
        let current = dir.join("current").display().to_string();
        let texts = [
            format!("{current}/app.py"),
            "current/app.py".into(),
            format!("--config={current}/app.py"),
            format!("/nowhere:{current}:{current}/app.py"),
            "r1/app.py".into(),
            "-x".into(),
            "http://127.0.0.1:80/current".into(),
        ];
        let pinned = texts.clone().map(|it| Pinned::new(&text(&it), &dir, true));
        for (pinned, written) in pinned.iter().zip(&texts) {
            assert_eq!(pinned.as_before(&dir, false), text(written), "nothing has changed");
        }
        fs::remove_file(dir.join("current")).unwrap();
        symlink("r2", dir.join("current")).unwrap();
        let r1 = dir.join("r1").display().to_string();
        let expected = [
            format!("{r1}/app.py"),
            format!("{r1}/app.py"),
            format!("--config={r1}/app.py"),
            format!("/nowhere:{r1}:{r1}/app.py"),
            "r1/app.py".into(),
            "-x".into(),
            "http://127.0.0.1:80/current".into(),
        ];
        for (pinned, expected) in pinned.iter().zip(expected) {
            assert_eq!(pinned.as_before(&dir, false), text(&expected));
            assert!(pinned.lost(&dir).is_empty());
        }
        fs::write(dir.join("r1/app.py"), "another").unwrap();
        assert_eq!(pinned[1].lost(&dir), [dir.join("r1/app.py")]);
        fs::remove_dir_all(dir.join("r1")).unwrap();
        assert_eq!(pinned[1].as_before(&dir, false), text(&format!("{r1}/app.py")), "r2 is not what it was");
    }

    /// A virtual environment, whose python is that of the machine; a binary of many names; words.
    #[test]
    fn names_stay_and_words_are_no_paths() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        fs::write(dir.join("machine"), "").unwrap();
        for release in ["r1", "r2"] {
            fs::create_dir(dir.join(release)).unwrap();
            fs::create_dir(dir.join(release).join("lib")).unwrap();
            symlink("../machine", dir.join(release).join("python")).unwrap();
        }
        symlink("r1", dir.join("current")).unwrap();
        symlink("current", dir.join("app")).unwrap();
        let python = Pinned::new(OsStr::new("current/python"), &dir, true);
        let [word, flag] = ["app", "-Icurrent/lib"].map(|it| Pinned::new(OsStr::new(it), &dir, true));
        fs::remove_file(dir.join("current")).unwrap();
        symlink("r2", dir.join("current")).unwrap();
        let r1 = dir.join("r1").display().to_string();
        for name in [true, false] {
            assert_eq!(python.as_before(&dir, name), text(&format!("{r1}/python")));
        }
        assert_eq!(word.as_before(&dir, false), text("app"));
        assert_eq!(word.lost(&dir), [dir.join("app")], "as a module it would be another");
        assert_eq!(flag.as_before(&dir, false), text(&format!("-I{r1}/lib")));
    }

    /// A link to a file, named without a directory; and a module of the same name.
    #[test]
    fn a_file_name_with_an_extension_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        for release in ["a.jar", "b.jar"] {
            fs::write(dir.join(release), release).unwrap();
        }
        for link in ["app.jar", "app"] {
            symlink("a.jar", dir.join(link)).unwrap();
        }
        let [jar, module] = ["app.jar", "app"].map(|it| Pinned::new(OsStr::new(it), &dir, true));
        for link in ["app.jar", "app"] {
            fs::remove_file(dir.join(link)).unwrap();
            symlink("b.jar", dir.join(link)).unwrap();
        }
        assert_eq!(jar.as_before(&dir, false), dir.join("a.jar"));
        assert_eq!((jar.lost(&dir), module.lost(&dir)), (vec![], vec![dir.join("app")]));
        assert_eq!(module.as_before(&dir, false), "app");
    }

    #[test]
    fn paths_in_a_script_lead_where_they_led_or_are_lost() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        for release in ["r1", "r 2"] {
            fs::create_dir(dir.join(release)).unwrap();
            fs::write(dir.join(release).join("app.py"), release).unwrap();
        }
        let switch = |to: &str| {
            let _ = fs::remove_file(dir.join("current"));
            symlink(to, dir.join("current")).unwrap();
        };
        let (at, r1) = (dir.display().to_string(), dir.join("r1").display().to_string());
        let scripts = [
            format!("exec python3 '{at}/current/app.py' --config={at}/current:x"),
            "exec python3 current/app.py".into(),
            "cd current && exec python3 ./app.py".into(),
            "cd .; exec python3 current/app.py".into(),
        ];
        switch("r1");
        let pinned = scripts.clone().map(|it| Pinned::new(&text(&it), &dir, true));
        for (pinned, written) in pinned.iter().zip(&scripts) {
            assert_eq!((pinned.as_before(&dir, false), pinned.lost(&dir)), (text(written), vec![]));
        }
        switch("r 2");
        let expected = [
            (format!("exec python3 '{r1}/app.py' --config={r1}:x"), vec![]),
            (format!("exec python3 {r1}/app.py"), vec![]),
            (scripts[2].clone(), vec![dir.join("current")]),
            (scripts[3].clone(), vec![dir.join("current/app.py")]),
        ];
        for (pinned, (command, lost)) in pinned.iter().zip(expected) {
            assert_eq!((pinned.as_before(&dir, false), pinned.lost(&dir)), (text(&command), lost));
        }
        let spaced = Pinned::new(&text(&scripts[1]), &dir, true);
        switch("r1");
        assert_eq!(spaced.as_before(&dir, false), text(&scripts[1]), "it would need quotes");
        assert_eq!(spaced.lost(&dir), [dir.join("current/app.py")]);
        let blank = Pinned::new(OsStr::new("r 2/app.py"), &dir, true);
        assert!(!blank.is_script && !blank.is_empty());
    }

    #[test]
    fn devices_are_left_alone() {
        let pinned = Pinned::new(OsStr::new("/dev/stdin"), Path::new("/"), true);
        assert!(pinned.is_empty());
        assert_eq!(pinned.as_before(Path::new("/"), false), text("/dev/stdin"));
    }

    #[test]
    fn native_programs_are_kept_open_and_scripts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(Program::new(&script).image().is_none());
        let sh = fs::canonicalize("/bin/sh").unwrap();
        let program = Program::new(&sh);
        assert!(program.image().is_some() && program.is_at(&sh) && !program.is_at(&script));
    }
}
