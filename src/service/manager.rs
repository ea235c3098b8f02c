//! What the service manager above us is told (sd_notify(3)), by us alone: a
//! worker never sees its socket. Without NOTIFY_SOCKET nothing happens.
//!
//! Every RELOADING=1 is followed by a READY=1, whatever became of the upgrade, and
//! STOPPING=1 is the last state. WATCHDOG=1 is asked for by the loop, so that a
//! loop that hangs is silent. A thread sends, since a manager that does not read
//! must not hold up the loop. MAINPID= is never sent: our pid does not change.

use super::patience::Patience;
use crossbeam_channel::{Sender, TrySendError, bounded};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// States that wait for a slow manager; it needs the last ones only.
const QUEUE: usize = 64;
/// How long our last word may take.
const FLUSH: Duration = Duration::from_secs(1);
/// How long we wait for the manager before we are replaced.
const BRIEFLY: Duration = Duration::from_millis(50);
/// The pause between two tries to get rid of the last state.
const AGAIN: Duration = Duration::from_secs(1);
/// Words of workers are passed on no more often than this.
const STATUS_PAUSE: Duration = Duration::from_millis(500);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    queue: Option<Sender<Message>>,
    /// The last state, which found the queue full: it stands for those before it.
    kept: Option<(String, Instant)>,
    /// The pause between two pings, and when the next is due.
    pings: Option<(Duration, Instant)>,
    patience: Option<Patience>,
    /// The last state that the thread was given.
    last: String,
    /// A status that waits for the pause to be over.
    status: Option<String>,
    status_at: Instant,
    stopping: bool,
}

/// What is left to say when we are replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    kept: Option<String>,
    patience: Option<super::patience::Saved>,
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
            kept: None,
            patience: None,
            last: String::new(),
            status: None,
            status_at: now,
            stopping: false,
        }
    }

    /// Waits for a moment until everything is sent. True if it was.
    pub fn flush(&self) -> bool {
        let (done, sent) = bounded(1);
        let Some(queue) = &self.queue else { return true };
        queue.send_timeout(Message::Flush(done), BRIEFLY).is_ok() && sent.recv_timeout(BRIEFLY).is_ok()
    }

    /// What is left to say, for an execve(2). Unless all was `sent`, the last state
    /// stands for those before it.
    pub fn save(&self, sent: bool) -> Saved {
        let unsent = || Some(self.last.clone()).filter(|last| !sent && !last.is_empty());
        Saved {
            kept: self.kept.as_ref().map(|(state, _)| state.clone()).or_else(unsent),
            patience: self.patience.map(|patience| patience.save(Instant::now())),
            status: self.status.clone(),
        }
    }

    /// Goes on from what was left.
    pub fn restore(environment: &[(OsString, OsString)], saved: Saved) -> ServiceManager {
        let now = Instant::now();
        let mut upward = ServiceManager::new(environment);
        upward.kept = saved.kept.map(|state| (state, now));
        upward.patience = saved.patience.map(|left| Patience::restore(left, now));
        upward.status = saved.status;
        upward
    }

    /// The first generation starts, which we wait for no longer than `limit`; None:
    /// the manager's own patience counts.
    pub fn starting(&mut self, limit: Option<Duration>) {
        self.patience = limit.map(|limit| Patience::new(Instant::now(), limit));
    }

    /// A generation serves, or an upgrade was undone and the old one still does.
    pub fn ready(&mut self, status: &str) {
        self.patience = None;
        self.status = None;
        self.tell(format!("READY=1\nSTATUS={status}\n"));
    }

    /// An upgrade begins; `Type=notify-reload` wants the time of it. A step of it
    /// takes no longer than `limit`.
    pub fn reloading(&mut self, status: &str, limit: Option<Duration>) {
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let micros = Duration::from(now).as_micros();
            self.status = None;
            self.tell(format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS={status}\n"));
            self.starting(limit);
        }
    }

    /// What is waited for takes no longer than `limit` from now on.
    pub fn prolong(&mut self, limit: Option<Duration>) {
        if let (Some(patience), Some(limit)) = (&mut self.patience, limit) {
            patience.prolong(Instant::now(), limit);
        }
    }

    /// The stop begins, which takes no longer than `limit`: the last state.
    pub fn stopping(&mut self, limit: Option<Duration>) {
        self.status = None;
        self.tell("STOPPING=1\nSTATUS=stopping\n".into());
        self.stopping = true;
        self.starting(limit);
    }

    /// What goes on, in words of one line.
    pub fn status(&mut self, status: String) {
        if !self.stopping && self.queue.is_some() {
            self.status = Some(status);
        }
    }

    /// Sends what is due. The loop calls it, in each turn.
    pub fn turn(&mut self) {
        let Some(queue) = &self.queue else { return };
        let now = Instant::now();
        if let Some((state, _)) = self.kept.take_if(|(_, at)| *at <= now) {
            return self.send(state);
        }
        let mut lines = Vec::new();
        if let Some((every, due)) = self.pings.as_mut().filter(|(_, due)| *due <= now) {
            *due = now + *every;
            lines.push("WATCHDOG=1\n".to_owned());
        }
        if let Some(by) = self.patience.as_mut().and_then(|patience| patience.ask(now)) {
            lines.push(format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()));
        }
        if let Some(status) = self.status.take_if(|_| self.status_at <= now) {
            self.status_at = now + STATUS_PAUSE;
            lines.push(format!("STATUS={status}\n"));
        }
        // None of these is worth anything to one who has not read what came before.
        for line in lines.into_iter().filter(|_| queue.len() < QUEUE / 2) {
            let _ = queue.try_send(Message::State(line));
        }
    }

    /// How long the loop may wait before the next [`turn`](Self::turn).
    pub fn wait(&self) -> Option<Duration> {
        self.queue.as_ref()?;
        let kept = self.kept.as_ref().map(|(_, at)| *at);
        let ping = self.pings.map(|(_, due)| due);
        let status = self.status.as_ref().map(|_| self.status_at);
        let request = self.patience.as_ref().and_then(Patience::due);
        let next = [kept, ping, status, request].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn tell(&mut self, state: String) {
        if !self.stopping {
            self.send(state);
        }
    }

    fn send(&mut self, state: String) {
        let Some(queue) = &self.queue else { return };
        self.last.clone_from(&state);
        self.kept = match queue.try_send(Message::State(state)) {
            Err(TrySendError::Full(Message::State(state))) => {
                log::debug!("the service manager does not read what it is told");
                Some((state, Instant::now() + AGAIN))
            }
            _ => None,
        };
    }
}

impl Drop for ServiceManager {
    /// Returns once everything is sent, or after a second.
    fn drop(&mut self) {
        let (done, sent) = bounded(1);
        let Some(queue) = &self.queue else { return };
        if let Some((state, _)) = self.kept.take()
            && queue.send_timeout(Message::State(state), FLUSH).is_err()
        {
            return;
        }
        if queue.send_timeout(Message::Flush(done), FLUSH).is_ok() {
            let _ = sent.recv_timeout(FLUSH);
        }
    }
}

/// Half of what the manager allows, if it means us.
fn ping_pause(micros: Option<&OsStr>, pid: Option<&OsStr>, ours: u32) -> Option<Duration> {
    let micros: u64 = micros?.to_str()?.parse().ok().filter(|&micros| micros > 0)?;
    let means_us = pid.is_none_or(|pid| pid.to_str().is_some_and(|pid| pid.parse() == Ok(ours)));
    means_us.then_some(Duration::from_micros(micros) / 2)
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
    let thread = std::thread::Builder::new().name("upward".into()).stack_size(128 * 1024);
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
        for (manager, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            let mut upward = ServiceManager::new(&at(&address));
            upward.ready("generation 1 serves");
            upward.reloading("generation 2 starts", None);
            upward.stopping(None);
            drop(upward);
            for start in
                ["READY=1\nSTATUS=generation 1 serves\n", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1\n"]
            {
                let mut text = [0; 256];
                let length = manager.recv(&mut text).unwrap();
                assert!(text[..length].starts_with(start.as_bytes()), "{start}");
            }
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_up_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let mut upward = ServiceManager::new(&at(path.as_os_str()));
        for _ in 0..10_000 {
            upward.ready("still here");
            upward.turn();
        }
    }

    /// The states between are of no use to one who reads only now.
    #[test]
    fn one_who_reads_late_learns_the_last_state() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut upward = ServiceManager::new(&at(path.as_os_str()));
        for number in 0..10_000 {
            upward.reloading("starts", None);
            upward.ready(&format!("generation {number} serves"));
        }
        let reader = std::thread::spawn(move || {
            let mut text = [0; 256];
            loop {
                let length = manager.recv(&mut text).unwrap();
                if text[..length].ends_with(b"generation 9999 serves\n") {
                    return;
                }
            }
        });
        drop(upward);
        reader.join().unwrap();
    }

    #[test]
    fn nothing_is_said_after_the_last_state() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut upward = ServiceManager::new(&at(path.as_os_str()));
        upward.stopping(None);
        upward.stopping(None);
        upward.ready("too late");
        upward.status("too late as well".into());
        upward.turn();
        drop(upward);
        manager.set_nonblocking(true).unwrap();
        let mut text = [0; 256];
        let length = manager.recv(&mut text).unwrap();
        assert!(text[..length].starts_with(b"STOPPING=1\n"));
        assert!(manager.recv(&mut text).is_err());
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
    fn a_dead_address_is_no_trouble() {
        for address in [None, Some(""), Some("/nowhere/at/all"), Some("@nobody"), Some("vsock:2:1234")] {
            ServiceManager::new(&address.map_or(Vec::new(), |address| at(OsStr::new(address))))
                .stopping(None);
        }
    }
}
