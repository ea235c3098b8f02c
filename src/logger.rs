//! Log lines to stderr that never hold up the loop.
//!
//! A thread writes them. When stderr is a full pipe, lines that do not fit in the queue are dropped
//! and counted. When nobody reads it any more, lines are lost. Nothing else changes.
//!
//! Where stderr is the journal each line begins with its priority (`<4>`, sd-daemon(3)), which
//! journald takes away and keeps: without it, every line of a service is of priority 6.

use crate::cli::LogFormat;
use crate::sys::fd;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use env_logger::fmt::Formatter;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, Value as Json};
use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

/// The most lines that wait for a slow reader.
const QUEUE_LENGTH: usize = 1024;
/// How long the last flush may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a flush may take after which we go on.
const BRIEF_FLUSH_TIMEOUT: Duration = Duration::from_millis(50);

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Waits for what has been logged to be written.
#[derive(Debug, Clone)]
pub struct Flusher {
    queue: Sender<Message>,
}

/// The log of this process, once it has been started.
static STARTED: OnceLock<Flusher> = OnceLock::new();

/// Returns once everything logged so far is written, or after 50 ms.
pub fn flush_briefly() {
    if let Some(flusher) = STARTED.get() {
        flusher.flush_within(BRIEF_FLUSH_TIMEOUT);
    }
}

struct Queue {
    queue: Sender<Message>,
    dropped: u64,
}

/// Starts logging. RUST_LOG overrides `level`.
///
/// # Errors
/// When no thread can be started.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<Flusher> {
    let (queue, lines) = bounded(QUEUE_LENGTH);
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || write_lines(&lines))?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    // env_logger would complain by eprintln!, which panics if stderr is closed.
    let filters = std::env::var("RUST_LOG").unwrap_or_default();
    let understood = env_filter::Builder::new().try_parse(&filters).is_ok();
    if understood && !filters.is_empty() {
        builder.parse_filters(&filters);
    }
    builder
        .write_style(if colour { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never })
        .target(env_logger::Target::Pipe(Box::new(Queue { queue: queue.clone(), dropped: 0 })))
        .format(match format {
            LogFormat::Text => text,
            LogFormat::Json => json,
        });
    // A second logger in one process is a mistake that only tests can make.
    let _ = builder.try_init();
    if !understood {
        log::warn!("RUST_LOG is ignored: it cannot be parsed ({filters})");
    }
    Ok(STARTED.get_or_init(|| Flusher { queue }).clone())
}

impl Flusher {
    /// Returns once everything logged so far is written, or after a second.
    pub fn flush(&self) {
        self.flush_within(FLUSH_TIMEOUT);
    }

    fn flush_within(&self, limit: Duration) {
        let (done, written) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), limit).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }

    /// Writes why we end: as plain text in every format and level of the log, because people and
    /// scripts read the last line of stderr.
    pub fn last_line(&self, line: &str) {
        let _ = self.queue.send_timeout(Message::Line(format_line(line)), FLUSH_TIMEOUT);
        self.flush();
    }
}

/// Writes a line to stderr without a log.
pub fn write_line(line: &str) {
    let _ = io::stderr().write_all(&format_line(line));
}

fn format_line(line: &str) -> Vec<u8> {
    format!("{}graceful-run: {}\n", priority(Level::Error), escape(line)).into_bytes()
}

/// What the line of a record begins with: its priority where stderr is the journal, else nothing.
fn priority(level: Level) -> &'static str {
    static IS_JOURNAL: LazyLock<bool> = LazyLock::new(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        fd::device_and_inode(2).is_ok_and(|stderr| parse_stream(&stream) == Some(stderr))
    });
    match level {
        _ if !*IS_JOURNAL => "",
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// JOURNAL_STREAM of systemd.exec(5): device and inode. It is inherited by processes whose stderr
/// leads elsewhere, so it counts for this file alone.
fn parse_stream(value: &str) -> Option<(u64, u64)> {
    let (device, inode) = value.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

fn write_lines(lines: &Receiver<Message>) {
    let mut stderr = io::stderr();
    for message in lines {
        match message {
            // Without a reader the line is lost, nothing else.
            Message::Line(line) => drop(stderr.write_all(&line)),
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

/// env_logger writes one whole line with each call.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut bytes = Vec::with_capacity(line.len());
        if self.dropped > 0 {
            let (level, dropped) = (priority(Level::Warn), self.dropped);
            bytes = format!("{level}graceful-run: {dropped} log lines were lost, stderr was full\n").into();
        }
        bytes.extend_from_slice(line);
        match self.queue.try_send(Message::Line(bytes)) {
            Ok(()) => self.dropped = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped += 1,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn text(out: &mut Formatter, record: &Record) -> io::Result<()> {
    let message = escape(&record.args().to_string());
    let style = out.default_level_style(record.level());
    out.write_all(priority(record.level()).as_bytes())?;
    match record.level() {
        Level::Error | Level::Warn => writeln!(out, "graceful-run: {style}{message}{style:#}"),
        Level::Info => writeln!(out, "graceful-run: {message}"),
        Level::Debug | Level::Trace => writeln!(out, "graceful-run: {style}({message}){style:#}"),
    }
}

fn json(out: &mut Formatter, record: &Record) -> io::Result<()> {
    let mut object = Map::new();
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    object.insert("time".into(), time.into());
    object.insert("level".into(), record.level().as_str().to_lowercase().into());
    object.insert("message".into(), record.args().to_string().into());
    let _ = record.key_values().visit(&mut Fields(&mut object));
    writeln!(out, "{}{}", priority(record.level()), Json::Object(object))
}

struct Fields<'a>(&'a mut Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let json = match value.to_i64() {
            Some(number) => Json::from(number),
            None => Json::from(value.to_string()),
        };
        self.0.insert(key.to_string(), json);
        Ok(())
    }
}

/// Escapes control and format characters. A worker's output, file names and arguments may contain
/// them: they control the terminal, begin a new line, or change how a line is displayed.
pub fn escape(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for c in message.chars() {
        match c.is_control() || is_format(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Whether `c` is of Unicode's category Cf (directions, joiners, tags), or separates lines or
/// paragraphs.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::{escape, parse_stream};

    #[test]
    fn a_stream_is_a_device_and_an_inode() {
        assert_eq!(parse_stream("9:33921"), Some((9, 33921)));
        for value in ["", "9", "9:", ":9", "9:33921:1", "-1:2", "a:b"] {
            assert_eq!(parse_stream(value), None, "{value}");
        }
    }

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(escape("a\nb\x1b[31m\u{9b}\u{7f}é"), "a\\nb\\u{1b}[31m\\u{9b}\\u{7f}é");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{feff}"), "a\\u{202e}b\\u{2066}c\\u{feff}");
    }
}
