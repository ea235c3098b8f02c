//! A command line of a profile, as a server that can be run.

use crate::driver::upgrade_under_load;
use crate::place::tell;
use crate::profiles::{Line, profile};
use crate::protocol::Protocol;
use crate::server::Server;

/// Upgrades the server of this line of this profile under load.
pub fn run(name: &str, index: usize) {
    let mut profile = profile(name);
    let line = profile.lines.swap_remove(index);
    if line.root && !nix::unistd::geteuid().is_root() {
        return tell(&format!("{name}: left out, it has to be started by root"));
    }
    let title = if line.title.is_empty() { profile.title } else { line.title.clone() };
    upgrade_under_load(&title, &server(line));
}

/// Upgrades the server of the first line without `-b` of this profile under load, without any privilege.
pub fn run_as_nobody(name: &str) {
    if !nix::unistd::geteuid().is_root() {
        return tell(&format!("{name}: left out, only root may become nobody"));
    }
    let bare = |line: &Line| line.command.starts_with("-- ");
    let line = profile(name).lines.into_iter().find(bare).expect("it has a line without -b");
    let server = Server { as_nobody: true, ..server(line) };
    upgrade_under_load(&format!("{name}, as nobody"), &server);
}

fn server(line: Line) -> Server {
    let broken = line.broken.split_once(": ");
    Server {
        protocol: protocol(&line),
        may_lose: line.loses,
        broken: broken.map(|(file, line)| (file.to_owned(), line.to_owned())),
        launcher: some(line.launcher),
        directory: some(line.directory),
        address: some(line.address),
        files: Some(line.files),
        as_nobody: false,
        line: line.command,
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn protocol(line: &Line) -> Protocol {
    match line.protocol.as_str() {
        "http" => Protocol::Http,
        "fastcgi" if line.files.iter().any(|file| file == "answer.php") => Protocol::FastCgi("answer.php"),
        "fastcgi" => Protocol::FastCgi("./answer.cgi"),
        "dns" => Protocol::Dns,
        "mysql" => Protocol::MySql,
        "redis" => Protocol::Redis,
        "rpc" => Protocol::Rpc,
        // A few for the whole run: what they hold need never be given back.
        "plain" if line.answer.is_empty() => panic!("an answer is needed: a connection alone shows nothing"),
        "page" => Protocol::Page(line.ask.clone().leak()),
        "plain" => Protocol::Plain(line.ask.clone().leak(), line.answer.clone().leak()),
        other => panic!("no client speaks {other}"),
    }
}
