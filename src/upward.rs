//! What the service manager above us is told (sd_notify(3)), by us alone: a
//! worker never sees its socket. A thread sends, since a manager that does not
//! read must not hold up the loop; without NOTIFY_SOCKET nothing happens.

use crossbeam_channel::{Sender, bounded};
use nix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// States that wait for a slow manager; it needs the last ones only.
const QUEUE: usize = 64;
/// How long our last word may take.
const FLUSH: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Upward {
    queue: Option<Sender<Message>>,
}

#[derive(Debug)]
enum Message {
    State(String),
    Flush(Sender<()>),
}

impl Upward {
    /// Reads the value of NOTIFY_SOCKET, a path or `@` and an abstract name, and
    /// starts the thread.
    pub fn new(address: Option<&OsStr>) -> Upward {
        Upward { queue: address.filter(|address| !address.is_empty()).and_then(connect) }
    }

    /// A generation serves, or an upgrade was undone and the old one still does.
    pub fn ready(&self, status: &str) {
        self.tell(format!("READY=1\nSTATUS={status}\n"));
    }

    /// An upgrade begins; `Type=notify-reload` wants the time of it.
    pub fn reloading(&self, status: &str) {
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let micros = Duration::from(now).as_micros();
            self.tell(format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS={status}\n"));
        }
    }

    /// The stop begins; the last word.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping\n".into());
    }

    fn tell(&self, state: String) {
        if let Some(queue) = &self.queue
            && queue.try_send(Message::State(state)).is_err()
        {
            log::debug!("the service manager does not read what it is told");
        }
    }
}

impl Drop for Upward {
    /// Returns once everything is sent, or after a second.
    fn drop(&mut self) {
        let (done, sent) = bounded(1);
        if let Some(queue) = &self.queue
            && queue.send_timeout(Message::Flush(done), FLUSH).is_ok()
        {
            let _ = sent.recv_timeout(FLUSH);
        }
    }
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
            let upward = Upward::new(Some(&address));
            upward.ready("generation 1 serves");
            upward.reloading("generation 2 starts");
            upward.stopping();
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
        let upward = Upward::new(Some(path.as_os_str()));
        for _ in 0..10_000 {
            upward.ready("still here");
        }
    }

    #[test]
    fn a_dead_address_is_no_trouble() {
        for address in [None, Some(""), Some("/nowhere/at/all"), Some("@nobody"), Some("vsock:2:1234")] {
            Upward::new(address.map(OsStr::new)).stopping();
        }
    }
}
