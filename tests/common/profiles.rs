//! The profiles of servers as their files have them: what tests and docs need of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The file of one server.
#[derive(Debug, Deserialize)]
pub struct Profile {
    /// Its name, which is the file's.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// The version that was tried.
    #[serde(default)]
    pub version: String,
    /// The section of docs/servers.md.
    #[serde(default)]
    pub section: String,
    /// Its command lines.
    #[serde(default, rename = "line")]
    pub lines: Vec<Line>,
}

/// A command line.
#[derive(Debug, Deserialize)]
pub struct Line {
    /// For people, where there are several.
    #[serde(default)]
    pub title: String,
    /// What follows `graceful-run`.
    pub command: String,
    /// Where the server listens, if it binds its own sockets.
    #[serde(default)]
    pub address: String,
    /// What its clients speak.
    #[serde(default)]
    pub protocol: String,
    /// What a client of `plain` sends.
    #[serde(default)]
    pub ask: String,
    /// What every answer to it begins with.
    #[serde(default)]
    pub answer: String,
    /// Requests that the server itself loses in ten upgrades.
    #[serde(default)]
    pub loses: u64,
    /// What to know about it.
    #[serde(default)]
    pub caveat: String,
    /// Whether a test runs it.
    #[serde(default)]
    pub tested: bool,
    /// The samples that it needs.
    #[serde(default)]
    pub files: Vec<String>,
    /// `FILE: LINE`: with this line in this file it does not start.
    #[serde(default)]
    pub broken: String,
    /// A sample that becomes the program, where the program by itself would not do.
    #[serde(default)]
    pub launcher: String,
    /// A directory that is there for it.
    #[serde(default)]
    pub directory: String,
    /// It has to be started by root.
    #[serde(default)]
    pub root: bool,
}

/// The profile of this name.
pub fn profile(name: &str) -> Profile {
    read(&directory().join(format!("{name}.toml")))
}

/// All of them, by name.
pub fn all() -> Vec<Profile> {
    let entries = fs::read_dir(directory()).expect("there are profiles").flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Profile {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/profiles/servers")
}
