//! A real server: where its files are, and how it is run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Target;
use crate::place::{find, host_of_our_own, installed, path};
use crate::site::Site;
use crate::wrapper::Wrapper;

/// The address in every line. A site has its own in its place.
const SAMPLE: &str = "127.0.0.1:8000";

/// A real server.
#[derive(Clone, Copy)]
pub struct Server {
    /// What reports call it, and where its files are below `servers`.
    pub name: &'static str,
    /// What follows `graceful-run --name shop`.
    pub line: &'static str,
    /// How many requests it may lose by itself when it is asked to stop.
    pub may_lose: usize,
}

impl Server {
    /// Is its program on this machine? If not it may be left out, and is said to be.
    pub fn is_here(&self) -> bool {
        let (_, command) = self.line.split_once(" -- ").expect("a line has --");
        find(command.split(' ').next().expect("a command")).is_some()
    }

    /// The files of a release.
    pub fn files(&self) -> PathBuf {
        match self.name {
            // Compiled where there is a JDK.
            "java" => installed().join("shop"),
            name => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases/servers").join(name),
        }
    }

    /// graceful-run with it, and the address on which it will be found.
    pub fn start(&self, site: &Site) -> (Wrapper, Target) {
        let address = format!("{}:8000", host_of_our_own());
        let line = self.line.replace(SAMPLE, &address);
        let wrapper = Wrapper::start(site.path(), |command: &mut Command| {
            command.args(["--name", "shop"]).args(line.split(' ')).env("PATH", path());
            command.env("PYTHONDONTWRITEBYTECODE", "1");
        });
        (wrapper, Target::Tcp(address.parse().expect("an address")))
    }
}
