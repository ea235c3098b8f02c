//! A real server as it comes: how it is started, stopped and asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::client::Target;
use crate::place::{find, host_of_our_own, installed, path};
use crate::protocol::Protocol;
use crate::wrapper::binary;

/// The host that commands and samples name. A test has its own in its place.
const SAMPLE_HOST: &str = "127.0.0.1";

/// A server that knows nothing of inherited sockets.
#[derive(Clone, Copy)]
pub struct Server {
    /// What reports call it.
    pub name: &'static str,
    command: &'static str,
    /// What asks it to leave.
    pub stop: Signal,
    /// What its clients speak.
    pub protocol: Protocol,
    of_files: bool,
    edit: Option<(&'static str, &'static str)>,
    /// Its supervisor is nobody, has no capabilities and can never get any.
    pub as_nobody: bool,
}

/// The server that this command starts: words, with spaces between them.
pub const fn server(name: &'static str, command: &'static str) -> Server {
    Server {
        name,
        command,
        stop: Signal::SIGTERM,
        protocol: Protocol::Http,
        of_files: false,
        edit: None,
        as_nobody: false,
    }
}

impl Server {
    /// What its clients speak, where that is not HTTP.
    pub const fn speaks(self, protocol: Protocol) -> Self {
        Server { protocol, ..self }
    }

    /// What asks it to leave, where that is not TERM.
    pub const fn stopped_by(self, stop: Signal) -> Self {
        Server { stop, ..self }
    }

    /// It serves the files of the directory that it is started in.
    pub const fn of_files(self) -> Self {
        Server { of_files: true, ..self }
    }

    /// Its sample says `new` where it says `old`.
    pub const fn with(self, old: &'static str, new: &'static str) -> Self {
        Server { edit: Some((old, new)), ..self }
    }

    /// Its supervisor is nobody, has no capabilities and can never get any.
    pub const fn as_nobody(self) -> Self {
        Server { as_nobody: true, ..self }
    }

    /// Puts the samples into a directory, and the command that starts the server there.
    /// `None`: it is not on this machine, which has been told.
    pub fn prepare(&self, directory: &Path) -> Option<Prepared> {
        let (name, _) = self.command.split_once(' ').expect("a server has arguments");
        let mut program = find(name)?;
        let host = host_of_our_own();
        let own = |text: &str| text.replace(SAMPLE_HOST, &host);
        fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("it is ours");
        // Those of the interop first: of two of one name this test's own counts.
        let samples = ["tests/interop/servers", "tests/adopt/servers"].map(|place| {
            fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(place)).expect("there are samples")
        });
        for sample in samples.into_iter().flatten().flatten() {
            let mut text = fs::read_to_string(sample.path()).expect("samples are UTF-8");
            if let Some((old, new)) = self.edit {
                text = text.replace(old, new);
            }
            let copy = directory.join(sample.file_name());
            fs::write(&copy, own(&text)).expect("a sample is copied");
            let mode = sample.metadata().expect("a sample is there").permissions();
            fs::set_permissions(copy, mode).expect("a sample keeps its mode");
        }
        if self.as_nobody {
            let nobody = nobody();
            chown(directory, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("it is ours");
            // What we built may stand where nobody may not look.
            if program.starts_with(installed()) {
                fs::copy(&program, directory.join(name)).expect("a program is copied");
                program = directory.join(name);
            }
        }
        let mut command = vec![program.into_os_string().into_string().expect("a path is UTF-8")];
        command.extend(own(self.command).split(' ').skip(1).map(str::to_owned));
        if self.of_files {
            command.insert(0, "./answer-in-files".to_owned());
        }
        let address = format!("{host}:8000").parse().expect("an address");
        Some(Prepared { command, targets: vec![Target::Tcp(address)] })
    }

    /// graceful-run, about to start in this directory.
    pub fn supervisor(&self, directory: &Path) -> Command {
        let built = binary();
        let mut command = match self.as_nobody {
            false => Command::new(built),
            true => {
                let copy = directory.join("supervisor");
                fs::copy(built, &copy).expect("it is copied");
                let nobody = nobody();
                let mut command = Command::new("setpriv");
                if geteuid().is_root() {
                    command.arg(format!("--reuid={}", nobody.uid)).arg(format!("--regid={}", nobody.gid));
                    command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
                }
                command.args(["--no-new-privs", "--"]).arg(copy);
                command
            }
        };
        environment(&mut command, directory);
        command
    }
}

/// A server in a directory of its own.
pub struct Prepared {
    /// Its command.
    pub command: Vec<String>,
    /// What it listens on.
    pub targets: Vec<Target>,
}

/// What servers find in their environment.
pub fn environment(command: &mut Command, directory: &Path) {
    command.env("PATH", path()).env("PYTHONPATH", directory).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("CLASSPATH", installed().join("java"));
}

fn nobody() -> User {
    User::from_name("nobody").expect("users can be looked up").expect("there is nobody")
}
