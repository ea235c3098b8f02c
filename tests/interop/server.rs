//! A real server: the command line that runs it, and what is known of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Target;
use crate::place::{find, host_of_our_own, tell};
use crate::protocol::Protocol;
use crate::wrapper::binary;
use crate::wrapper::surroundings::has_own_run;

/// The host and the directory of every sample. A test has its own in their place.
const SAMPLE_HOST: &str = "127.0.0.1";
const SAMPLE_DIRECTORY: &str = "/srv/shop";

/// The directory of a test that its PATH begins with.
pub const SHIMS: &str = "shims";

/// Whatever a line names as its launcher, the others may need too.
const LAUNCHERS: [&str; 2] = ["answer-from-files", "apart"];

/// A real server.
pub struct Server {
    /// What follows `graceful-run`.
    pub line: String,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Requests that the server itself may lose in all upgrades together:
    /// accepted, then closed unanswered. Another supervisor would see the same.
    pub may_lose: u64,
    /// A sample that becomes the program, where the program by itself would not do.
    pub launcher: Option<String>,
    /// A directory of this name is there for it.
    pub directory: Option<String>,
    /// Where it listens, if it is not told by `-b`.
    pub address: Option<String>,
    /// The samples that it needs; `None`: all.
    pub files: Option<Vec<String>>,
    /// A file, and the line with which in it a release does not start.
    pub broken: Option<(String, String)>,
    /// graceful-run and the server run without any privilege.
    pub as_nobody: bool,
}

/// A server of no profile's line.
pub fn unlisted(line: &str) -> Server {
    Server {
        line: line.into(),
        protocol: Protocol::Http,
        may_lose: 0,
        launcher: None,
        directory: None,
        address: None,
        files: None,
        broken: None,
        as_nobody: false,
    }
}

impl Server {
    /// What its clients speak, where that is not HTTP.
    pub fn speaks(self, protocol: Protocol) -> Self {
        Server { protocol, ..self }
    }

    /// The name of its program; behind `sh -c '…exec PROGRAM …'` too.
    pub fn name(&self) -> String {
        let words = words(&self.line);
        let program = program(&words);
        let script = words.get(program + 2).filter(|_| words[program] == "sh");
        let executed = script.and_then(|script| script.split_once("exec ")).map(|(_, rest)| rest);
        let name = executed.and_then(|rest| rest.split(' ').next());
        name.unwrap_or(&words[program]).to_owned()
    }

    /// Is the program on this machine? If not it may be left out, and is said to be.
    pub fn is_here(&self) -> bool {
        if self.name() == "java" && which::which("javac").is_err() {
            // It is too large to be installed for one server.
            tell("java: left out, this machine has no JDK");
            return false;
        }
        find(&self.name()).is_some()
    }

    /// Puts the samples into a directory and says how the server is run there.
    pub fn prepare(&self, directory: &Path) -> Prepared {
        // A directory of the machine's run is one of the test's own.
        has_own_run();
        let host = host_of_our_own();
        let path = directory.to_str().expect("a temporary directory is UTF-8");
        let own = |text: &str| text.replace(SAMPLE_HOST, &host).replace(SAMPLE_DIRECTORY, path);
        // Servers that give up root must be able to read it.
        std::fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("it is ours");
        if let Some(name) = &self.directory {
            std::fs::create_dir_all(directory.join(name)).expect("it is ours");
        }
        for sample in std::fs::read_dir(servers()).expect("there are samples").flatten() {
            let name = sample.file_name().into_string().expect("a name is UTF-8");
            let needed = self.files.as_ref().is_none_or(|files| files.contains(&name));
            if !needed && !LAUNCHERS.contains(&name.as_str()) {
                continue;
            }
            let text = std::fs::read_to_string(sample.path()).expect("samples are UTF-8");
            let mode = sample.metadata().expect("a sample is there").permissions();
            write(&directory.join(name), &own(&text), mode);
        }
        let words: Vec<String> = words(&self.line).into_iter().map(|word| own(&word)).collect();
        let program = program(&words);
        if let Some(launcher) = &self.launcher {
            launch(launcher, &words[program], directory);
        }
        let binds = words[..program].windows(2).filter(|pair| pair[0] == "-b").map(|pair| pair[1].clone());
        let targets = binds.chain(self.address.as_deref().map(own));
        let targets = targets.map(|address| target(&address, directory)).collect();
        if self.as_nobody {
            give_to_nobody(directory);
        }
        Prepared { arguments: words, targets, as_nobody: self.as_nobody }
    }
}

/// A server in a directory of its own.
pub struct Prepared {
    /// What graceful-run is started with.
    pub arguments: Vec<String>,
    /// What it listens on.
    pub targets: Vec<Target>,
    /// graceful-run and the server run without any privilege.
    pub as_nobody: bool,
}

/// The user who owns nothing.
pub const NOBODY: u32 = 65534;

/// Where graceful-run is in the directory of a server of nobody's.
pub const COPY: &str = "graceful-run";

/// By a process of its own: a descriptor that a test beside this one inherits would keep it busy.
fn copied(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

/// The directory, and a copy of graceful-run in it: whatever the tests are in need not be open to all.
fn give_to_nobody(directory: &Path) {
    copied(&binary(), &directory.join(COPY));
    std::os::unix::fs::chown(directory, Some(NOBODY), Some(NOBODY)).expect("we are root");
}

/// Where the command starts.
fn program(words: &[String]) -> usize {
    words.iter().position(|word| word == "--").expect("a line has --") + 1
}

/// Puts a script of the program's name before it, as version managers do, so that the command line
/// stays as it is: the launcher that becomes the program.
fn launch(launcher: &str, program: &str, directory: &Path) {
    let shims = directory.join(SHIMS);
    std::fs::create_dir(&shims).expect("it is ours");
    let launcher = directory.join(launcher);
    let script = format!("#!/bin/sh\nPATH=${{PATH#*:}}\nexec {} {program} \"$@\"\n", launcher.display());
    write(&shims.join(program), &script, Permissions::from_mode(0o755));
}

fn write(file: &Path, text: &str, mode: Permissions) {
    std::fs::write(file, text).expect("it is ours");
    std::fs::set_permissions(file, mode).expect("it is ours");
}

fn target(bind: &str, directory: &Path) -> Target {
    let address = bind.split(',').next().expect("a word");
    match address.parse() {
        Ok(address) => Target::Tcp(address),
        Err(_) => Target::Unix(directory.join(address)),
    }
}

/// Where the samples are.
pub fn servers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/servers")
}

/// The words of a line as a shell reads it, which knows single and double quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(String::new()),
            _ => words.last_mut().expect("one was pushed").push(c),
        }
    }
    words
}
