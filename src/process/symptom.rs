//! What the last lines of a worker's stderr say of the cause of its end.
//!
//! The words are those of the C library's strerror(3) and of the languages and servers that have
//! words of their own. A line that nobody knows says nothing: a wrong cause is worse than none.

/// A cause that workers name in words of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Symptom {
    /// An address that it binds is in use.
    AddressInUse(Named),
    /// Something that can exist only once (a pid file, a lock) belongs to another process.
    RunsAlready,
    /// It waited on a socket that does not block (EAGAIN).
    WouldBlock,
    /// A permission is missing (EACCES, EPERM).
    NotPermitted,
    /// The dynamic loader does not find this shared library.
    MissingLibrary(String),
}

/// The addresses that a line names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Ports.
    pub ports: Vec<u16>,
    /// Paths, of which one may be that of a unix socket.
    pub paths: Vec<String>,
}

/// The cause that these lines name; the one that explains most, if they name several.
pub fn symptom(lines: &[String]) -> Option<Symptom> {
    let lower: Vec<String> = lines.iter().map(|line| line.to_lowercase()).collect();
    let find =
        |is: fn(&str) -> bool| lines.iter().zip(&lower).find(|(_, lower)| is(lower)).map(|(line, _)| line);
    let address = find(address_in_use).map(|line| Symptom::AddressInUse(named(line)));
    // A lock that is held gives EAGAIN or EACCES too.
    let already = || find(runs_already).map(|_| Symptom::RunsAlready);
    let blocks = || find(would_block).map(|_| Symptom::WouldBlock);
    let forbidden = || find(not_permitted).map(|_| Symptom::NotPermitted);
    let library = || lines.iter().find_map(|line| missing_library(line)).map(Symptom::MissingLibrary);
    library().or(address).or_else(already).or_else(blocks).or_else(forbidden)
}

fn has_any(line: &str, words: &[&str]) -> bool {
    words.iter().any(|word| line.contains(word))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric()).any(|one| one == word)
}

fn address_in_use(line: &str) -> bool {
    has_any(line, &["address already in use", "address in use", "eaddrinuse"])
        || has_any(line, &["socket"]) && has_any(line, &["already in use", "already exists", "file exists"])
        || has_word(line, "port")
            && has_any(line, &["in use", "already allocated", "taken", "occupied", "not free", "isn't free"])
}

fn runs_already(line: &str) -> bool {
    let one = &["already running", "is running, pid", "another instance", "is another "];
    let file = &[".pid", "pidfile", "pid file"];
    let lock = &[" lock", "lock file", "lockfile", "flock"];
    let fails = &["unable", "cannot", "can't", "could not", "couldn't", "fail", "held", "error"];
    let other = &["process", "instance", "server", "daemon", "copy"];
    let lives =
        &["running", "found", "already", "listening", "in use", "started", "active", "holds", "has the"];
    let taken = &["already listening", "already active", "already started", "already bound", "already open"];
    let whose = &["socket", "server", "daemon", "process", "instance", "service", "control"];
    has_any(line, one)
        || has_word(line, "another") && has_any(line, other) && has_any(line, lives)
        || has_any(line, whose) && has_any(line, taken)
        || has_any(line, file) && has_any(line, &["already exists", "in use", "is locked"])
        || has_any(line, lock) && has_any(line, fails)
}

fn would_block(line: &str) -> bool {
    let words =
        &["resource temporarily unavailable", "eagain", "ewouldblock", "would block", "blockingioerror"];
    // These are EAGAIN too, and have nothing to do with a socket.
    has_any(line, words) && !has_any(line, &["fork", "thread", "lock file", "process"])
}

/// The words of the loaders of glibc and musl.
fn missing_library(line: &str) -> Option<String> {
    let after = ["shared libraries: ", "shared library "];
    let name = after.iter().find_map(|words| line.split_once(words))?.1.split(": ").next()?;
    Some(name.to_owned()).filter(|name| name.contains(".so"))
}

fn not_permitted(line: &str) -> bool {
    has_any(line, &["permission denied", "operation not permitted", "eacces", "eperm"])
}

/// Ports behind the word, or behind the host of an address; and paths.
fn named(line: &str) -> Named {
    let words = line.split(|c: char| c.is_whitespace() || "()[]{}'\"`,;=".contains(c));
    let words = words.map(|word| word.trim_end_matches([':', '.'])).filter(|word| !word.is_empty());
    let mut after_port = false;
    let mut found = Named::default();
    for word in words {
        let (host, number) = word.rsplit_once(':').unwrap_or(("", word));
        // 12:34:56 is a time.
        let is_address = word.contains(':') && !host.bytes().any(|byte| byte.is_ascii_digit())
            || host.contains(['.', '*']);
        if (after_port || is_address)
            && let Ok(port) = number.parse()
        {
            found.ports.push(port);
        }
        let path = word.strip_prefix("unix:").unwrap_or(word);
        if path.starts_with('/') {
            found.paths.push(path.trim_start_matches("//").into());
        }
        after_port = word.eq_ignore_ascii_case("port");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Symptom> {
        symptom(&["it begins".into(), line.into()])
    }

    #[test]
    fn an_address_in_use_is_known_in_the_words_of_many() {
        for (line, ports) in [
            ("OSError: [Errno 98] Address already in use", &[][..]),
            ("Error: listen EADDRINUSE: address already in use 127.0.0.1:3000", &[3000]),
            ("Error: listen EADDRINUSE: address already in use :::8080", &[8080]),
            ("listen tcp :9090: bind: address already in use", &[9090]),
            ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", &[80]),
            ("(98)Address already in use: AH00072: make_sock: could not bind to address [::]:80", &[80]),
            ("12:34:56 Web server failed to start. Port 8080 was already in use.", &[8080]),
            ("port 22555 is in use", &[22555]),
            ("Error: Port 5173 is taken", &[5173]),
            ("commBind Cannot bind socket FD 9 to 0.0.0.0:3128: (98) Address in use", &[3128]),
        ] {
            assert_eq!(
                of(line),
                Some(Symptom::AddressInUse(Named { ports: ports.to_vec(), paths: Vec::new() })),
                "{line}"
            );
        }
    }

    #[test]
    fn the_path_of_a_socket_is_found() {
        for line in [
            "nginx: [emerg] bind() to unix:/run/App.sock failed (98: Address already in use)",
            "listen unix /run/App.sock: bind: address already in use",
            "Error: listen EADDRINUSE: address already in use /run/App.sock",
            "the socket file '/run/App.sock' already exists",
        ] {
            let named = Named { ports: Vec::new(), paths: vec!["/run/App.sock".into()] };
            assert_eq!(of(line), Some(Symptom::AddressInUse(named)), "{line}");
        }
    }

    #[test]
    fn what_runs_already_is_not_taken_for_eagain() {
        for line in [
            "httpd (pid 4711) already running",
            "FATAL: Squid is already running: Found fresh instance PID file (/run/squid.pid) with PID 3",
            "Another twistd server is running, PID 12",
            "another server is running",
            "Error: Found another Vite dev process for this project at http://127.0.0.1:22101/ (PID 12).",
            "control: control socket already listening",
            "server already started with pid 12",
            "Fatal: Dovecot is already running with PID 12 (read from /run/dovecot/master.pid)",
            "opening lock file: lock DB directory: resource temporarily unavailable, cannot go on",
            "FATAL:  lock file \"postmaster.pid\" already exists, held by pid 3",
            "A server is already running (pid: 12, file: /app/tmp/pids/server.pid). Exiting",
        ] {
            assert_eq!(of(line), Some(Symptom::RunsAlready), "{line}");
        }
    }

    #[test]
    fn a_missing_library_is_named() {
        for line in [
            "./server: error while loading shared libraries: libX.so.1: cannot open shared object file: No such file",
            "Error loading shared library libX.so.1: No such file or directory (needed by ./server)",
        ] {
            assert_eq!(of(line), Some(Symptom::MissingLibrary("libX.so.1".into())), "{line}");
        }
    }

    #[test]
    fn other_causes_and_none() {
        let blocks = "BlockingIOError: [Errno 11] Resource temporarily unavailable";
        assert_eq!(of(blocks), Some(Symptom::WouldBlock));
        assert_eq!(of("accept: Resource temporarily unavailable"), Some(Symptom::WouldBlock));
        assert_eq!(of("fork: retry: Resource temporarily unavailable"), None);
        assert_eq!(of("bind: Permission denied"), Some(Symptom::NotPermitted));
        for line in [
            "cannot reach another server",
            "support for what is in use ends",
            "no such database",
            "Syntax error on line 3",
            "the clock is blocked",
            "",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(symptom(&[]), None);
    }
}
