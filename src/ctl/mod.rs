//! `graceful-run ctl`: sends one request, shows its progress, and exits with its outcome.
//!
//! Contract: stdout has the outcome and nothing else. Progress goes to stderr: on a terminal
//! it is one line that is redrawn, elsewhere one line for each event. With `--json` stdout has
//! exactly one object, whatever the outcome is. It is no error if nobody reads the output.

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
use find::connect_to_instance;
use progress::Progress;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use table::render_status;

/// The first argument that selects this command.
pub const WORD: &str = "ctl";
/// How often `status --watch` shows the status.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long an instance may take to exit after it has replied to `stop`.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Executes the verb. Returns our exit status, and our last line on stderr.
pub fn run(ctl: &Ctl) -> (u8, Option<String>) {
    let attempt = describe(&ctl.verb);
    let usage_error = |why: &str| {
        if ctl.json {
            print_usage_error(why);
        }
        (2, Some(format!("cannot {attempt}: {why}")))
    };
    let limit = match ctl.timeout.as_deref().map(|text| config::timeout("--timeout", text)).transpose() {
        Ok(limit) => limit.flatten(),
        Err(error) => return usage_error(&error.to_string()),
    };
    let mut request = Request::new(ctl.verb.clone());
    if let Verb::Signal { signal } = &ctl.verb
        && signals::signal_by_name(signal).is_none()
    {
        return usage_error("there is no such signal (write a name or a number, such as USR1 or 10)");
    }
    if let Verb::Weight { percent } | Verb::Upgrade { hold: Some(percent), .. } = &ctl.verb
        && !(percent.is_empty() && matches!(ctl.verb, Verb::Upgrade { .. }))
        && let Err(why) = config::weight(percent)
    {
        return usage_error(&format!("'{percent}' is {why}"));
    }
    if let Verb::Bind { bind } = &ctl.verb {
        match with_absolute_path(bind) {
            Ok(bind) => request.verb = Verb::Bind { bind },
            Err(why) => return usage_error(&why),
        }
    }
    let blocking_hooks = ["pre-upgrade", "pre-start", "pre-stop", "verify"].map(OsString::from);
    if std::env::var_os("GRACEFUL_RUN_EVENT").is_some_and(|event| blocking_hooks.contains(&event))
        && matches!(ctl.verb, Verb::Upgrade { .. })
        && request.wait
    {
        return usage_error("a hook that is waited for would wait for itself (--no-wait)");
    }
    let environment: Vec<_> = std::env::vars_os().collect();
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let completion = match connect_to_instance(ctl, &environment) {
        Ok(stream) => Session { stream, buffer: Vec::new(), deadline, json: ctl.json }.run(&request),
        Err(not_found) => {
            let result = match not_found.status {
                2 => Outcome::Invalid,
                4 => Outcome::Denied,
                _ => Outcome::Failed,
            };
            let reply = Some(Reply::because(result, not_found.why));
            Completion { status: not_found.status, reply, raw: None }
        }
    };
    let mut why = completion.reply.as_ref().and_then(|reply| reply.reason.clone());
    if completion.status == 124 {
        let limit = limit.map_or(String::new(), |limit| humantime::format_duration(limit).to_string());
        why = Some(match ctl.verb {
            Verb::Events | Verb::Status { watch: true } => format!("--timeout {limit} is over"),
            Verb::Status { .. } | Verb::Metrics => format!("there is no answer after {limit}"),
            _ => format!("there is no outcome after {limit}; what was begun goes on (see ctl status)"),
        });
    }
    if ctl.json {
        let from_reply =
            || completion.reply.as_ref().map(|reply| String::from_utf8_lossy(&line(reply)).into_owned());
        print(&completion.raw.clone().or_else(from_reply).unwrap_or_default());
    } else if completion.status == 0 {
        let done = completion.reply.as_ref().and_then(|reply| reply.done.as_deref()).unwrap_or_default();
        match ctl.verb {
            // These texts have several lines; they were escaped when they were made.
            Verb::Status { .. } | Verb::Metrics => print(done),
            _ => print(&escape(done)),
        };
    }
    let stderr = completion.reply.map(|reply| reply.stderr).filter(|lines| !ctl.json && !lines.is_empty());
    for line in stderr.iter().flatten() {
        logger::write_line(&format!("the worker's stderr: {line}"));
    }
    let failure = (completion.status != 0).then(|| format!("cannot {attempt}: {}", why.unwrap_or_default()));
    (completion.status, failure)
}

/// Prints the object that `--json` has for wrong usage.
pub fn print_usage_error(why: &str) {
    print(&String::from_utf8_lossy(&line(&Reply::because(Outcome::Invalid, why))));
}

/// Makes the path of a BIND absolute: the instance may have another working directory.
fn with_absolute_path(given: &str) -> Result<String, String> {
    let in_words = |error: Error| error.to_string();
    let mut bind: Bind = given.parse().map_err(in_words)?;
    let Address::Unix { path, .. } = &mut bind.address else { return Ok(given.to_owned()) };
    if path.is_absolute() {
        return Ok(given.to_owned());
    }
    let current = std::env::current_dir().map_err(|error| format!("where we are: {}", reason(&error)))?;
    *path = current.join(&*path).components().collect();
    let text = bind.to_string();
    let parsed: Bind = text.parse().map_err(in_words)?;
    if parsed == bind { Ok(text) } else { Err(format!("no BIND can have the path {}", current.display())) }
}

/// The verb as a failure message has it, after "cannot".
fn describe(verb: &Verb) -> String {
    match verb {
        Verb::Status { .. } => "show the status".into(),
        Verb::Upgrade { .. } => "upgrade".into(),
        Verb::Commit(_) => "commit".into(),
        Verb::Rollback(_) => "roll back".into(),
        Verb::Weight { percent } => format!("set the weight to {percent}"),
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

/// The end of a request.
struct Completion {
    /// Our exit status.
    status: u8,
    reply: Option<Reply>,
    /// What `--json` prints, as it was received.
    raw: Option<String>,
}

/// What was received from the instance.
enum Received {
    Line(Vec<u8>),
    /// The instance has closed the connection.
    Closed,
    /// The time limit is over.
    TimedOut,
}

struct Session {
    stream: UnixStream,
    buffer: Vec<u8>,
    deadline: Option<Instant>,
    json: bool,
}

impl Session {
    fn run(mut self, request: &Request) -> Completion {
        match &request.verb {
            Verb::Events => self.events(request),
            Verb::Status { watch: true } => self.watch(request),
            _ => {
                let mut completion = self.execute(request);
                if let Some(status) = completion.reply.as_ref().and_then(|reply| reply.status.as_ref()) {
                    let shown =
                        serde_json::from_str(status.get()).map(|status: Status| render_status(&status));
                    completion.raw = Some(status.get().to_owned());
                    completion.reply = shown.ok().map(Reply::done);
                }
                if let Some(text) = completion.reply.as_mut().and_then(|reply| reply.metrics.take()) {
                    completion.reply = Some(Reply::done(text));
                }
                if matches!(request.verb, Verb::Stop { .. }) && request.wait && completion.status == 0 {
                    self.wait_for_exit();
                }
                completion
            }
        }
    }

    /// Sends one request and waits for its result.
    fn execute(&mut self, request: &Request) -> Completion {
        let mut progress = Progress::new(self.json);
        let request = Request { progress: progress.redraws, ..request.clone() };
        let written = self.stream.write_all(&line(&request));
        let completion = loop {
            match self.receive() {
                Received::Line(text) => match serde_json::from_slice::<Reply>(&text) {
                    Ok(reply) => {
                        let status = match reply.result {
                            Outcome::Ok => 0,
                            Outcome::Denied => 4,
                            Outcome::Failed | Outcome::Superseded | Outcome::Invalid | Outcome::Other => 1,
                        };
                        let raw = Some(String::from_utf8_lossy(&text).into_owned());
                        break Completion { status, reply: Some(reply), raw };
                    }
                    Err(_) => progress.event(&text),
                },
                Received::Closed => {
                    let why = match &written {
                        Ok(()) => "graceful-run closed the connection without an answer".into(),
                        Err(error) => format!("cannot send the request: {}", reason(error)),
                    };
                    break Completion { status: 1, reply: Some(Reply::failed(why)), raw: None };
                }
                Received::TimedOut => {
                    let only_reads = matches!(request.verb, Verb::Status { .. } | Verb::Metrics);
                    let why = if only_reads { "no answer" } else { "still under way" };
                    let reply = Reply::because(Outcome::Other, why);
                    let raw = format!(r#"{{"version":{VERSION},"result":"timeout","reason":"{why}"}}"#);
                    break Completion { status: 124, reply: Some(reply), raw: Some(raw) };
                }
            }
        };
        progress.clear();
        completion
    }

    /// Prints every event, until the instance closes the connection.
    fn events(&mut self, request: &Request) -> Completion {
        let _ = self.stream.write_all(&line(request));
        let (mut status, mut refused) = (0, None);
        loop {
            match self.receive() {
                Received::Line(text) => {
                    if let Ok(reply) = serde_json::from_slice::<Reply>(&text) {
                        status = if reply.result == Outcome::Denied { 4 } else { 1 };
                        refused = Some(reply);
                        break;
                    }
                    if !print(&String::from_utf8_lossy(&text)) {
                        break;
                    }
                }
                Received::Closed => break,
                Received::TimedOut => {
                    status = 124;
                    break;
                }
            }
        }
        Completion { status, reply: refused, raw: Some(String::new()) }
    }

    /// Prints the status every second, until the instance closes the connection.
    fn watch(&mut self, request: &Request) -> Completion {
        let screen = io::stdout().is_terminal() && !self.json;
        loop {
            let completion = self.execute(request);
            let status = completion.reply.as_ref().and_then(|reply| reply.status.as_ref());
            let Some(status) = status else {
                let closed = completion.status == 1 && completion.raw.is_none();
                return match closed {
                    true => Completion { status: 0, reply: None, raw: Some(String::new()) },
                    false => completion,
                };
            };
            let text = match (self.json, serde_json::from_str::<Status>(status.get())) {
                (false, Ok(status)) => render_status(&status),
                _ => status.get().to_owned(),
            };
            // Moves the cursor to the top left and clears the screen.
            let text = if screen { format!("\x1b[H\x1b[2J{text}") } else { text };
            if !print(&text) {
                return Completion { status: 0, reply: None, raw: Some(String::new()) };
            }
            std::thread::sleep(WATCH_INTERVAL);
        }
    }

    /// The connection closes when the process has ended. Only then may the caller start the
    /// next instance.
    fn wait_for_exit(&mut self) {
        let end = Instant::now() + EXIT_LIMIT;
        self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        while let Received::Line(_) = self.receive() {}
    }

    fn receive(&mut self) -> Received {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Received::Line(line);
            }
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Received::TimedOut;
            }
            let mut bytes = [0; 16 * 1024];
            let read = self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut bytes));
            match read {
                Ok(0) => return Received::Closed,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    _ => return Received::Closed,
                },
            }
        }
    }
}

/// Prints the text on stdout, with a newline at its end. False if nobody reads it.
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
    fn a_relative_path_is_joined_to_the_working_directory() {
        let current = std::env::current_dir().unwrap().display().to_string();
        let bind = with_absolute_path("web=unix:./run/x.sock,backlog=9").unwrap();
        assert_eq!(bind, format!("web={current}/run/x.sock,backlog=9"));
        for same in [":5001", "unix:/run//x.sock", "@abstract", "udp:5"] {
            assert_eq!(with_absolute_path(same).unwrap(), same);
        }
        assert!(with_absolute_path(":99999").unwrap_err().contains("port"));
        assert!(with_absolute_path(&format!("./{}", "x".repeat(100))).is_err());
    }
}
