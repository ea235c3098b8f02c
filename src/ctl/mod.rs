//! `graceful-run ctl`: sends one request, shows how it goes, exits as it ended.
//!
//! Contract: the outcome is on stdout, and so is nothing else; on a terminal one line
//! of progress is drawn over and over on stderr, elsewhere a line for what happens;
//! with `--json` stdout has exactly one object, whatever happened. A reader that has
//! gone changes nothing.

mod find;
mod progress;
mod table;

use crate::cli::ctl::{Ctl, Verb};
use crate::config;
use crate::config::signals;
use crate::control::protocol::{Outcome, Reply, Request, Status, VERSION, line};
use crate::error::{Error, reason};
use crate::listener::Bind;
use crate::listener::address::Address;
use crate::logger::{self, escape};
use find::find;
use progress::Progress;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use table::show;

/// Our word for it, as the first argument.
pub const WORD: &str = "ctl";
/// Between two looks of `status --watch`.
const WATCH: Duration = Duration::from_secs(1);
/// How long one that has said that it ends may take to.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// Does what was asked for. Our exit status, and our last line on stderr.
pub fn run(ctl: &Ctl) -> (u8, Option<String>) {
    let attempt = attempt(&ctl.verb);
    let mistaken = |why: &str| {
        if ctl.json {
            mistake(why);
        }
        (2, Some(format!("cannot {attempt}: {why}")))
    };
    let limit = match ctl.timeout.as_deref().map(|text| config::timeout("--timeout", text)).transpose() {
        Ok(limit) => limit.flatten(),
        Err(error) => return mistaken(&error.to_string()),
    };
    let mut request = Request::new(ctl.verb.clone());
    if let Verb::Signal { signal } = &ctl.verb
        && signals::signal_by_name(signal).is_none()
    {
        return mistaken("there is no such signal (write USR1 or WINCH)");
    }
    if let Verb::Bind { bind } = &ctl.verb {
        match from_here(bind) {
            Ok(bind) => request.verb = Verb::Bind { bind },
            Err(why) => return mistaken(&why),
        }
    }
    let waited_for = ["pre-upgrade", "pre-start", "pre-stop"].map(OsString::from);
    if std::env::var_os("GRACEFUL_RUN_EVENT").is_some_and(|event| waited_for.contains(&event))
        && matches!(ctl.verb, Verb::Upgrade { .. })
        && request.wait
    {
        return mistaken("a hook that is waited for would wait for itself (--no-wait)");
    }
    let environment: Vec<_> = std::env::vars_os().collect();
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let ended = match find(ctl, &environment) {
        Ok(stream) => Session { stream, buffer: Vec::new(), deadline, json: ctl.json }.run(&request),
        Err(not_found) => {
            let result = match not_found.status {
                2 => Outcome::Invalid,
                4 => Outcome::Denied,
                _ => Outcome::Failed,
            };
            Ended { status: not_found.status, reply: Some(Reply::because(result, not_found.why)), raw: None }
        }
    };
    let mut why = ended.reply.as_ref().and_then(|reply| reply.reason.clone());
    if ended.status == 124 {
        let limit = limit.map_or(String::new(), |limit| humantime::format_duration(limit).to_string());
        why = Some(match ctl.verb {
            Verb::Events | Verb::Status { watch: true } => format!("--timeout {limit} is over"),
            Verb::Status { .. } | Verb::Metrics => format!("there is no answer after {limit}"),
            _ => format!("there is no outcome after {limit}; what was begun goes on (see ctl status)"),
        });
    }
    if ctl.json {
        let made = || ended.reply.as_ref().map(|reply| String::from_utf8_lossy(&line(reply)).into_owned());
        print(&ended.raw.clone().or_else(made).unwrap_or_default());
    } else if ended.status == 0 {
        let done = ended.reply.as_ref().and_then(|reply| reply.done.as_deref()).unwrap_or_default();
        match ctl.verb {
            // Lines, with nothing in them that is not to be there.
            Verb::Status { .. } | Verb::Metrics => print(done),
            _ => print(&escape(done)),
        };
    }
    let stderr = ended.reply.map(|reply| reply.stderr).filter(|lines| !ctl.json && !lines.is_empty());
    for line in stderr.iter().flatten() {
        logger::write_line(&format!("the worker's stderr: {line}"));
    }
    (ended.status, (ended.status != 0).then(|| format!("cannot {attempt}: {}", why.unwrap_or_default())))
}

/// What `--json` has for a mistake of whoever called.
pub fn mistake(why: &str) {
    print(&String::from_utf8_lossy(&line(&Reply::because(Outcome::Invalid, why))));
}

/// A BIND, with a path of ours told to one that is elsewhere.
fn from_here(given: &str) -> Result<String, String> {
    let in_words = |error: Error| error.to_string();
    let mut bind: Bind = given.parse().map_err(in_words)?;
    let Address::Unix { path, .. } = &mut bind.address else { return Ok(given.to_owned()) };
    if path.is_absolute() {
        return Ok(given.to_owned());
    }
    let here = std::env::current_dir().map_err(|error| format!("where we are: {}", reason(&error)))?;
    *path = here.join(&*path).components().collect();
    let whole = bind.to_string();
    let read: Bind = whole.parse().map_err(in_words)?;
    if read == bind { Ok(whole) } else { Err(format!("no BIND can have the path {}", here.display())) }
}

/// What was attempted, in the words of a failure.
fn attempt(verb: &Verb) -> String {
    match verb {
        Verb::Status { .. } => "show the status".into(),
        Verb::Upgrade { .. } => "upgrade".into(),
        Verb::Commit(_) => "commit".into(),
        Verb::Rollback(_) => "roll back".into(),
        Verb::Scale { workers, .. } => format!("scale to {workers}"),
        Verb::Stop { .. } => "stop".into(),
        Verb::Signal { signal } => format!("pass on signal {signal}"),
        Verb::Hammer => "hammer".into(),
        Verb::Events => "show events".into(),
        Verb::Reexec => "reexec".into(),
        Verb::Bind { bind } => format!("bind {bind}"),
        Verb::Unbind { listener } => format!("unbind {listener}"),
        Verb::Metrics => "show metrics".into(),
    }
}

/// How it ended.
struct Ended {
    status: u8,
    reply: Option<Reply>,
    /// What `--json` prints, as it came.
    raw: Option<String>,
}

/// What comes next.
enum Next {
    Line(Vec<u8>),
    /// The other end has gone.
    Closed,
    TooLate,
}

struct Session {
    stream: UnixStream,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
    json: bool,
}

impl Session {
    fn run(mut self, request: &Request) -> Ended {
        match &request.verb {
            Verb::Events => self.events(request),
            Verb::Status { watch: true } => self.watch(request),
            _ => {
                let mut ended = self.ask(request);
                if let Some(status) = ended.reply.as_ref().and_then(|reply| reply.status.as_ref()) {
                    let shown = serde_json::from_str(status.get()).map(|status: Status| show(&status));
                    ended.raw = Some(status.get().to_owned());
                    ended.reply = shown.ok().map(Reply::done);
                }
                if let Some(text) = ended.reply.as_mut().and_then(|reply| reply.metrics.take()) {
                    ended.reply = Some(Reply::done(text));
                }
                if matches!(request.verb, Verb::Stop { .. }) && request.wait && ended.status == 0 {
                    self.until_it_has_gone();
                }
                ended
            }
        }
    }

    /// One request, to its result.
    fn ask(&mut self, request: &Request) -> Ended {
        let mut progress = Progress::new(self.json);
        let request = Request { progress: progress.drawn, ..request.clone() };
        let written = self.stream.write_all(&line(&request));
        let ended = loop {
            match self.next() {
                Next::Line(text) => match serde_json::from_slice::<Reply>(&text) {
                    Ok(reply) => {
                        let status = match reply.result {
                            Outcome::Ok => 0,
                            Outcome::Denied => 4,
                            Outcome::Failed | Outcome::Superseded | Outcome::Invalid | Outcome::Other => 1,
                        };
                        let raw = Some(String::from_utf8_lossy(&text).into_owned());
                        break Ended { status, reply: Some(reply), raw };
                    }
                    Err(_) => progress.event(&text),
                },
                Next::Closed => {
                    let why = match &written {
                        Ok(()) => "graceful-run closed the connection without an answer".into(),
                        Err(error) => format!("cannot send the request: {}", reason(error)),
                    };
                    break Ended { status: 1, reply: Some(Reply::failed(why)), raw: None };
                }
                Next::TooLate => {
                    let asked = matches!(request.verb, Verb::Status { .. } | Verb::Metrics);
                    let why = if asked { "no answer" } else { "still under way" };
                    let reply = Reply::because(Outcome::Other, why);
                    let raw = format!(r#"{{"version":{VERSION},"result":"timeout","reason":"{why}"}}"#);
                    break Ended { status: 124, reply: Some(reply), raw: Some(raw) };
                }
            }
        };
        progress.clear();
        ended
    }

    /// Every line as it comes, until the other end goes.
    fn events(&mut self, request: &Request) -> Ended {
        let _ = self.stream.write_all(&line(request));
        let (mut status, mut refused) = (0, None);
        loop {
            match self.next() {
                Next::Line(text) => {
                    if let Ok(reply) = serde_json::from_slice::<Reply>(&text) {
                        status = if reply.result == Outcome::Denied { 4 } else { 1 };
                        refused = Some(reply);
                        break;
                    }
                    if !print(&String::from_utf8_lossy(&text)) {
                        break;
                    }
                }
                Next::Closed => break,
                Next::TooLate => {
                    status = 124;
                    break;
                }
            }
        }
        Ended { status, reply: refused, raw: Some(String::new()) }
    }

    /// The status, each second, until the other end goes.
    fn watch(&mut self, request: &Request) -> Ended {
        let screen = io::stdout().is_terminal() && !self.json;
        loop {
            let ended = self.ask(request);
            let status = ended.reply.as_ref().and_then(|reply| reply.status.as_ref());
            let Some(status) = status else {
                let gone = ended.status == 1 && ended.raw.is_none();
                return match gone {
                    true => Ended { status: 0, reply: None, raw: Some(String::new()) },
                    false => ended,
                };
            };
            let text = match (self.json, serde_json::from_str::<Status>(status.get())) {
                (false, Ok(status)) => show(&status),
                _ => status.get().to_owned(),
            };
            // Home, then what is there goes.
            let text = if screen { format!("\x1b[H\x1b[2J{text}") } else { text };
            if !print(&text) {
                return Ended { status: 0, reply: None, raw: Some(String::new()) };
            }
            std::thread::sleep(WATCH);
        }
    }

    /// Its last descriptor closes when it has ended: whoever is told that it has
    /// stopped may start the next.
    fn until_it_has_gone(&mut self) {
        let end = Instant::now() + LAST_BREATH;
        self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        while let Next::Line(_) = self.next() {}
    }

    fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Next::Line(line);
            }
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Next::TooLate;
            }
            let mut bytes = [0; 16 * 1024];
            let read = self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut bytes));
            match read {
                Ok(0) => return Next::Closed,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    _ => return Next::Closed,
                },
            }
        }
    }
}

/// Text on stdout, with a newline at its end; false if nobody reads any more.
fn print(text: &str) -> bool {
    let text = text.trim_end();
    let mut stdout = io::stdout();
    text.is_empty() || stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn what_is_typed_is_a_request_that_the_server_reads() {
        for words in [
            &["status"][..],
            &["status", "--watch"],
            &["upgrade", "--hold", "--no-wait"],
            &["upgrade", "--now"],
            &["commit"],
            &["rollback"],
            &["scale", "3"],
            &["stop", "--now"],
            &["signal", "USR1"],
            &["hammer"],
            &["reexec"],
            &["events"],
            &["bind", ":1"],
            &["unbind", "a"],
            &["metrics"],
        ] {
            let ctl = Ctl::try_parse_from(["ctl"].iter().chain(words)).unwrap();
            let request = Request::new(ctl.verb);
            let read = Request::read(&line(&request)).unwrap();
            assert_eq!(read.wait, !words.contains(&"--no-wait"));
            let sent = words.iter().filter(|word| !["--no-wait", "--watch"].contains(word));
            assert_eq!(read.verb.to_string(), sent.copied().collect::<Vec<_>>().join(" "));
        }
    }

    #[test]
    fn a_relative_path_is_of_the_directory_that_we_are_in() {
        let here = std::env::current_dir().unwrap().display().to_string();
        let there = from_here("web=unix:./run/x.sock,backlog=9").unwrap();
        assert_eq!(there, format!("web={here}/run/x.sock,backlog=9"));
        for same in [":5001", "unix:/run//x.sock", "@abstract", "udp:5"] {
            assert_eq!(from_here(same).unwrap(), same);
        }
        assert!(from_here(":99999").unwrap_err().contains("port"));
        assert!(from_here(&format!("./{}", "x".repeat(100))).is_err());
    }
}
