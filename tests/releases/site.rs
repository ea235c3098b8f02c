//! Where releases are deployed: a directory for each, and the link `current` to one of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What a release does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Serves.
    Good,
    /// Fails when it has loaded, before it accepts.
    Exits,
    /// Never gets as far as to accept.
    Hangs,
    /// Serves, and dies after three seconds.
    Dies,
    /// Serves, and crashes at its first request.
    Crashes,
}

impl Kind {
    /// Every bad one.
    pub const BAD: [Kind; 4] = [Kind::Exits, Kind::Hangs, Kind::Dies, Kind::Crashes];

    /// The word for it in the file `RELEASE`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Good => "good",
            Kind::Exits => "exits",
            Kind::Hangs => "hangs",
            Kind::Dies => "dies",
            Kind::Crashes => "crashes",
        }
    }
}

/// A directory with the releases of one server, and graceful-run's own.
pub struct Site {
    directory: TempDir,
    files: PathBuf,
    deployed: u32,
}

impl Site {
    /// Its releases have these files, and differ in `RELEASE` alone.
    pub fn of(files: PathBuf) -> Self {
        Site { directory: tempfile::tempdir().expect("a directory of our own"), files, deployed: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes one more release and switches the link to it. Returns its number: it is called
    /// `r1`, `r2`, ...
    pub fn deploy(&mut self, kind: Kind) -> u32 {
        self.deployed += 1;
        let name = format!("r{}", self.deployed);
        let release = self.path().join(&name);
        copy(&self.files, &release);
        fs::write(release.join("RELEASE"), format!("{name} {}\n", kind.word())).expect("it is ours");
        let fresh = self.path().join("current.new");
        symlink(&name, &fresh).expect("it is ours");
        fs::rename(fresh, self.path().join("current")).expect("a link is renamed over another");
        self.deployed
    }

    /// What bad releases have written down.
    pub fn ledger(&self) -> String {
        fs::read_to_string(self.path().join("ledger")).unwrap_or_default()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("it is ours");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &copied),
            false => drop(fs::copy(&path, &copied).expect("a sample is copied")),
        }
    }
}
