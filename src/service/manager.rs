//! Notifications to the service manager that started us (sd_notify(3)). Only this process sends
//! them: workers never see the manager's socket. Without NOTIFY_SOCKET nothing happens.
//!
//! Contract: every RELOADING=1 is followed by a READY=1, whether the upgrade succeeded or not,
//! and STOPPING=1 is the last state. The loop itself triggers WATCHDOG=1, so that a loop that
//! hangs stops sending it. A thread sends, because a manager that does not read must not block
//! the loop. MAINPID= is never sent: our process id does not change.

use super::extension::Extension;
use crossbeam_channel::{Sender, TrySendError, bounded};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The length of the queue to the thread. A manager that falls behind needs the last states only.
const QUEUE: usize = 64;
/// How long sending may take when we exit.
const FLUSH: Duration = Duration::from_secs(1);
/// How long sending may take before a re-execution.
const REEXEC_FLUSH: Duration = Duration::from_millis(50);
/// The pause before the last state is tried again, after the queue was full.
const RETRY: Duration = Duration::from_secs(1);
/// The shortest pause between two STATUS= of workers that are passed on.
const STATUS_PAUSE: Duration = Duration::from_millis(500);

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    queue: Option<Sender<Message>>,
    /// The last state, if the queue was full, and when it is tried again. It replaces the states
    /// before it.
    unsent: Option<(String, Instant)>,
    /// The pause between two WATCHDOG=1, and when the next is due.
    pings: Option<(Duration, Instant)>,
    extension: Option<Extension>,
    /// The last state that was queued.
    last: String,
    /// A status that waits for [`STATUS_PAUSE`] to pass.
    status: Option<String>,
    status_at: Instant,
    stopping: bool,
}

/// What is still to be sent, across an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    unsent: Option<String>,
    extension: Option<super::extension::Saved>,
    status: Option<String>,
}

#[derive(Debug)]
enum Message {
    State(String),
    Flush(Sender<()>),
}

impl ServiceManager {
    /// Reads NOTIFY_SOCKET (a path, or `@` and an abstract name), WATCHDOG_USEC and
    /// WATCHDOG_PID (sd_watchdog_enabled(3)), and starts the thread.
    pub fn new(environment: &[(OsString, OsString)]) -> ServiceManager {
        let variable =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
        let queue = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()).and_then(connect);
        let every = ping_pause(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        let now = Instant::now();
        ServiceManager {
            pings: every.filter(|_| queue.is_some()).map(|every| (every, now)),
            queue,
            unsent: None,
            extension: None,
            last: String::new(),
            status: None,
            status_at: now,
            stopping: false,
        }
    }

    /// Waits until everything is sent, for [`REEXEC_FLUSH`] at most. True if it was.
    pub fn flush(&self) -> bool {
        let (done, flushed) = bounded(1);
        let Some(queue) = &self.queue else { return true };
        queue.send_timeout(Message::Flush(done), REEXEC_FLUSH).is_ok()
            && flushed.recv_timeout(REEXEC_FLUSH).is_ok()
    }

    /// What is still to be sent, for an execve(2). Unless everything was `sent`, the last state
    /// is sent again, for it replaces those before it.
    pub fn save(&self, sent: bool) -> Saved {
        let last = || Some(self.last.clone()).filter(|last| !sent && !last.is_empty());
        Saved {
            unsent: self.unsent.as_ref().map(|(state, _)| state.clone()).or_else(last),
            extension: self.extension.map(|extension| extension.save(Instant::now())),
            status: self.status.clone(),
        }
    }

    /// The connection as it was saved.
    pub fn restore(environment: &[(OsString, OsString)], saved: Saved) -> ServiceManager {
        let now = Instant::now();
        let mut manager = ServiceManager::new(environment);
        manager.unsent = saved.unsent.map(|state| (state, now));
        manager.extension = saved.extension.map(|left| Extension::restore(left, now));
        manager.status = saved.status;
        manager
    }

    /// The first generation starts. We wait for it no longer than `limit`; with None, the
    /// manager's own timeout alone decides.
    pub fn starting(&mut self, limit: Option<Duration>) {
        self.extension = limit.map(|limit| Extension::new(Instant::now(), limit));
    }

    /// A generation serves: a new one, or the old one after an upgrade that was undone.
    pub fn ready(&mut self, status: &str) {
        self.extension = None;
        self.status = None;
        self.send_unless_stopping(format!("READY=1\nSTATUS={status}\n"));
    }

    /// An upgrade begins. `Type=notify-reload` needs the time of that. Each step takes no longer
    /// than `limit`.
    pub fn reloading(&mut self, status: &str, limit: Option<Duration>) {
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let micros = Duration::from(now).as_micros();
            self.status = None;
            self.send_unless_stopping(format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS={status}\n"));
            self.starting(limit);
        }
    }

    /// The start, upgrade or stop may take `limit` from now on.
    pub fn prolong(&mut self, limit: Option<Duration>) {
        if let (Some(extension), Some(limit)) = (&mut self.extension, limit) {
            extension.prolong(Instant::now(), limit);
        }
    }

    /// The stop begins, and takes no longer than `limit`. No state follows.
    pub fn stopping(&mut self, limit: Option<Duration>) {
        self.status = None;
        self.send_unless_stopping("STOPPING=1\nSTATUS=stopping\n".into());
        self.stopping = true;
        self.starting(limit);
    }

    /// Reports a status of one line (STATUS=).
    pub fn status(&mut self, status: String) {
        if !self.stopping && self.queue.is_some() {
            self.status = Some(status);
        }
    }

    /// Sends what is due. The loop calls this in each turn.
    pub fn send_due(&mut self) {
        let Some(queue) = &self.queue else { return };
        let now = Instant::now();
        if let Some((state, _)) = self.unsent.take_if(|(_, at)| *at <= now) {
            return self.send(state);
        }
        let mut lines = Vec::new();
        if let Some((every, due)) = self.pings.as_mut().filter(|(_, due)| *due <= now) {
            *due = now + *every;
            lines.push("WATCHDOG=1\n".to_owned());
        }
        if let Some(by) = self.extension.as_mut().and_then(|extension| extension.request(now)) {
            lines.push(format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()));
        }
        if let Some(status) = self.status.take_if(|_| self.status_at <= now) {
            self.status_at = now + STATUS_PAUSE;
            lines.push(format!("STATUS={status}\n"));
        }
        // A manager that has not read the earlier messages does not need these.
        for line in lines.into_iter().filter(|_| queue.len() < QUEUE / 2) {
            let _ = queue.try_send(Message::State(line));
        }
    }

    /// How long the loop may wait before the next [`send_due`](Self::send_due).
    pub fn wait(&self) -> Option<Duration> {
        self.queue.as_ref()?;
        let unsent = self.unsent.as_ref().map(|(_, at)| *at);
        let ping = self.pings.map(|(_, due)| due);
        let status = self.status.as_ref().map(|_| self.status_at);
        let request = self.extension.as_ref().and_then(Extension::due);
        let next = [unsent, ping, status, request].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn send_unless_stopping(&mut self, state: String) {
        if !self.stopping {
            self.send(state);
        }
    }

    fn send(&mut self, state: String) {
        let Some(queue) = &self.queue else { return };
        self.last.clone_from(&state);
        self.unsent = match queue.try_send(Message::State(state)) {
            Err(TrySendError::Full(Message::State(state))) => {
                log::debug!("the service manager does not read what it is told");
                Some((state, Instant::now() + RETRY))
            }
            _ => None,
        };
    }
}

impl Drop for ServiceManager {
    /// Returns once everything is sent, or after [`FLUSH`].
    fn drop(&mut self) {
        let (done, sent) = bounded(1);
        let Some(queue) = &self.queue else { return };
        if let Some((state, _)) = self.unsent.take()
            && queue.send_timeout(Message::State(state), FLUSH).is_err()
        {
            return;
        }
        if queue.send_timeout(Message::Flush(done), FLUSH).is_ok() {
            let _ = sent.recv_timeout(FLUSH);
        }
    }
}

/// The pause between two WATCHDOG=1: half of what the manager allows, if it watches us.
fn ping_pause(micros: Option<&OsStr>, pid: Option<&OsStr>, ours: u32) -> Option<Duration> {
    let micros: u64 = micros?.to_str()?.parse().ok().filter(|&micros| micros > 0)?;
    let is_ours = pid.is_none_or(|pid| pid.to_str().is_some_and(|pid| pid.parse() == Ok(ours)));
    is_ours.then_some(Duration::from_micros(micros) / 2)
}

fn connect(address: &OsStr) -> Option<Sender<Message>> {
    let name = address.as_bytes();
    let socket = || -> io::Result<UnixDatagram> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(socket)
    };
    let socket =
        socket().inspect_err(|error| log::debug!("cannot reach the service manager: {error}")).ok()?;
    let (queue, messages) = bounded(QUEUE);
    let thread = std::thread::Builder::new().name("manager".into()).stack_size(128 * 1024);
    let started = thread.spawn(move || {
        for message in messages {
            match message {
                Message::State(state) => drop(socket.send(state.as_bytes())),
                Message::Flush(done) => drop(done.send(())),
            }
        }
    });
    started.ok().map(|_| queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &OsStr) -> Vec<(OsString, OsString)> {
        vec![("NOTIFY_SOCKET".into(), address.into())]
    }

    #[test]
    fn states_arrive_in_order_by_path_and_by_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let name = format!("graceful-run-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            let mut manager = ServiceManager::new(&at(&address));
            manager.ready("generation 1 serves");
            manager.reloading("generation 2 starts", None);
            manager.stopping(None);
            drop(manager);
            for start in
                ["READY=1\nSTATUS=generation 1 serves\n", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1\n"]
            {
                let mut text = [0; 256];
                let length = socket.recv(&mut text).unwrap();
                assert!(text[..length].starts_with(start.as_bytes()), "{start}");
            }
        }
    }

    #[test]
    fn a_manager_that_does_not_read_blocks_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::new(&at(path.as_os_str()));
        for _ in 0..10_000 {
            manager.ready("still here");
            manager.send_due();
        }
    }

    /// A manager that reads late needs the last state only.
    #[test]
    fn a_manager_that_reads_late_learns_the_last_state() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::new(&at(path.as_os_str()));
        for number in 0..10_000 {
            manager.reloading("starts", None);
            manager.ready(&format!("generation {number} serves"));
        }
        let reader = std::thread::spawn(move || {
            let mut text = [0; 256];
            loop {
                let length = socket.recv(&mut text).unwrap();
                if text[..length].ends_with(b"generation 9999 serves\n") {
                    return;
                }
            }
        });
        drop(manager);
        reader.join().unwrap();
    }

    #[test]
    fn nothing_is_sent_after_the_last_state() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = ServiceManager::new(&at(path.as_os_str()));
        manager.stopping(None);
        manager.stopping(None);
        manager.ready("too late");
        manager.status("too late as well".into());
        manager.send_due();
        drop(manager);
        socket.set_nonblocking(true).unwrap();
        let mut text = [0; 256];
        let length = socket.recv(&mut text).unwrap();
        assert!(text[..length].starts_with(b"STOPPING=1\n"));
        assert!(socket.recv(&mut text).is_err());
    }

    #[test]
    fn pings_are_for_the_process_that_is_meant() {
        let pause =
            |micros: &str, pid: Option<&str>| ping_pause(Some(OsStr::new(micros)), pid.map(OsStr::new), 71);
        assert_eq!(pause("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(pause("3000000", Some("71")), Some(Duration::from_millis(1500)));
        for (micros, pid) in [("3000000", "72"), ("3000000", ""), ("0", "71"), ("", "71"), ("-1", "71")] {
            assert_eq!(pause(micros, Some(pid)), None, "{micros} {pid}");
        }
        assert_eq!(ping_pause(None, None, 71), None);
    }

    #[test]
    fn an_address_that_nobody_listens_on_does_no_harm() {
        for address in [None, Some(""), Some("/nowhere/at/all"), Some("@nobody"), Some("vsock:2:1234")] {
            ServiceManager::new(&address.map_or(Vec::new(), |address| at(OsStr::new(address))))
                .stopping(None);
        }
    }
}
