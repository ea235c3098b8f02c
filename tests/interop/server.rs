//! A real server: the line of docs/servers.md that runs it, and what is known of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::client::Target;
use crate::place::{find, host_of_our_own};
use crate::protocol::Protocol;

/// The host and the directory of every sample. A test has its own in their place.
const SAMPLE_HOST: &str = "127.0.0.1";
const SAMPLE_DIRECTORY: &str = "/srv/shop";

const LISTED: &str = include_str!("../../docs/servers.md");

/// A real server.
pub struct Server {
    /// What follows `graceful-run` in docs/servers.md.
    line: &'static str,
    /// What its clients speak.
    pub protocol: Protocol,
    /// Requests that the server itself may lose in all upgrades together:
    /// accepted, then closed unanswered. Another supervisor would see the same.
    pub may_lose: u64,
    /// A sample that becomes the program, where the program by itself would not do.
    launcher: Option<&'static str>,
    directory: Option<&'static str>,
}

/// The server that this line of docs/servers.md runs.
pub fn server(line: &'static str) -> Server {
    assert!(
        LISTED.contains(&format!("`graceful-run {line}`")),
        "docs/servers.md does not have this line: {line}"
    );
    unlisted(line)
}

/// A server that docs/servers.md does not list.
pub fn unlisted(line: &'static str) -> Server {
    Server { line, protocol: Protocol::Http, may_lose: 0, launcher: None, directory: None }
}

impl Server {
    /// What its clients speak, where that is not HTTP.
    pub fn speaks(self, protocol: Protocol) -> Self {
        Server { protocol, ..self }
    }

    /// The requests that it loses by itself in ten upgrades.
    pub fn may_lose(self, may_lose: u64) -> Self {
        Server { may_lose, ..self }
    }

    /// The answer stands in its files, as they cannot read the environment.
    pub fn answers_from_files(self) -> Self {
        self.launched_by("answer-from-files")
    }

    /// A sample of ours stands before the program and becomes it.
    pub fn launched_by(self, launcher: &'static str) -> Self {
        Server { launcher: Some(launcher), ..self }
    }

    /// A directory of this name is there for it.
    pub fn with_directory(self, directory: &'static str) -> Self {
        Server { directory: Some(directory), ..self }
    }

    /// The name of its program; behind `sh -c 'exec PROGRAM …'` too.
    pub fn name(&self) -> String {
        let words = words(self.line);
        let program = words.iter().position(|word| word == "--").map_or(0, |dashes| dashes + 1);
        let executed = words.get(program + 2).and_then(|script| script.strip_prefix("exec "));
        match executed.and_then(|rest| rest.split(' ').next()) {
            Some(name) if words[program] == "sh" => name.to_owned(),
            _ => words[program].clone(),
        }
    }

    /// Is the program on this machine? If not it may be left out, and is said to be.
    pub fn is_here(&self) -> bool {
        find(&self.name()).is_some()
    }

    /// Puts the samples into a directory and says how the server is run there.
    pub fn prepare(&self, directory: &Path) -> Prepared {
        let host = host_of_our_own();
        let path = directory.to_str().expect("a temporary directory is UTF-8");
        let own = |text: &str| text.replace(SAMPLE_HOST, &host).replace(SAMPLE_DIRECTORY, path);
        // Servers that give up root must be able to read it.
        std::fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("it is ours");
        if let Some(name) = self.directory {
            std::fs::create_dir(directory.join(name)).expect("it is ours");
        }
        for sample in std::fs::read_dir(servers()).expect("there are samples").flatten() {
            let text = std::fs::read_to_string(sample.path()).expect("samples are UTF-8");
            let copy = directory.join(sample.file_name());
            std::fs::write(&copy, own(&text)).expect("a sample is copied");
            let mode = sample.metadata().expect("a sample is there").permissions();
            std::fs::set_permissions(copy, mode).expect("a sample keeps its mode");
        }
        let mut words: Vec<String> = words(self.line).into_iter().map(|word| own(&word)).collect();
        let program = words.iter().position(|word| word == "--").expect("a line has --") + 1;
        if let Some(launcher) = self.launcher {
            words.insert(program, format!("./{launcher}"));
        }
        let binds = words[..program].windows(2).filter(|pair| pair[0] == "-b").map(|pair| &pair[1]);
        let targets = binds.map(|bind| target(bind, directory)).collect();
        Prepared { arguments: words, targets }
    }
}

/// A server in a directory of its own.
pub struct Prepared {
    /// What graceful-run is started with.
    pub arguments: Vec<String>,
    /// What it listens on.
    pub targets: Vec<Target>,
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
