//! `examples/nginx-upstream`: a server that takes no socket is replaced behind nginx, by hooks.

mod common;

use common::{Scene, Signal, Wrapper, says, tool};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

/// It binds its own socket and answers with its generation; at TERM it accepts what is there,
/// answers that, and ends.
const SERVER: &str = "
import os, signal, socket, sys, threading
generation, path = os.environ['GRACEFUL_RUN_GENERATION'], sys.argv[1]
if os.path.exists(path): os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o666)
listener.listen(128)
wake, waker = socket.socketpair()
waker.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.set_wakeup_fd(waker.fileno())
def serve(client):
    request = b''
    while b'\\r\\n\\r\\n' not in request:
        more = client.recv(4096)
        if not more: return
        request += more
    body = ('generation ' + generation).encode()
    client.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
    client.close()
def accept():
    try: client, _ = listener.accept()
    except BlockingIOError: return False
    client.setblocking(True)
    threading.Thread(target=serve, args=(client,)).start()
    return True
listener.setblocking(False)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
import select
while wake not in select.select([listener, wake], [], [])[0]:
    accept()
while accept(): pass
listener.close()
os.unlink(path)
";

fn examples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nginx-upstream").join(name)
}

/// The clients end with it, also where the test fails.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// nginx, killed, would leave its workers behind.
struct Nginx(Wrapper);

impl Drop for Nginx {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            self.0.signal(Signal::SIGTERM);
            self.0.exit_status();
        }
    }
}

/// One request on a connection of its own, never tried again.
fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(common::WATCHDOG))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks until it is told to stop; how many were answered, and what went wrong.
fn client<'a>(
    scope: &'a Scope<'a, '_>,
    address: &'a str,
    done: &'a AtomicBool,
) -> impl FnOnce() -> (u64, Vec<String>) + use<'a> {
    let thread = scope.spawn(move || {
        let (mut answered, mut failed) = (0, Vec::new());
        while !done.load(Ordering::Relaxed) {
            match get(address) {
                Ok(answer) if answer.contains(" 200 OK") && answer.contains("generation ") => answered += 1,
                other => failed.push(format!("{other:?}")),
            }
        }
        (answered, failed)
    });
    || thread.join().expect("a client")
}

fn start(scene: &Scene, program: PathBuf) -> (Wrapper, Nginx, String) {
    let shop = scene.arg("shop");
    fs::create_dir(&shop).unwrap();
    fs::write(scene.path("shop/server.py"), SERVER).unwrap();
    let hook = examples("upstream.sh").display().to_string();
    let path = format!(
        "{}:{}",
        common::binary().parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = scene.command();
    command.args(["--ack", "notify", "--soak", "1ms"]);
    command.args(["--hook", &format!("post-ready={hook}"), "--hook", &format!("pre-stop={hook}")]);
    command.args(["--", "sh", "-c", "exec python3 server.py \"$PWD/$GRACEFUL_RUN_GENERATION.sock\""]);
    command.current_dir(&shop).env("PWD", &shop).env("SHOP", &shop).env("PATH", &path);
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    common::until("nothing tells nginx", || Path::new(&shop).join("upstream.conf").exists());

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let sample = fs::read_to_string(examples("nginx.conf")).unwrap();
    let conf = sample.replace("/srv/shop", &shop).replace("127.0.0.1:8080", &address);
    fs::write(scene.path("shop/nginx.conf"), conf).unwrap();
    let mut nginx = scene.mark(Command::new(program));
    nginx.arg("-c").arg(scene.path("shop/nginx.conf")).args(["-g", "daemon off;"]);
    let nginx = Nginx(scene.spawn(nginx));
    common::until("nginx does not answer", || get(&address).is_ok());
    (wrapper, nginx, address)
}

#[test]
fn no_request_fails_while_nginx_is_sent_from_one_generation_to_the_next() {
    const UPGRADES: u32 = 5;
    let Some(program) = tool("nginx").filter(|_| common::am_root()) else { return };
    let scene = Scene::new();
    let (wrapper, mut nginx, address) = start(&scene, program);
    let done = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| client(scope, &address, &done)).collect();
        let load = Load(&done);
        for to in 2..=1 + UPGRADES {
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::exited(to - 1, 0));
            assert!(get(&address).unwrap().ends_with(&format!("generation {to}")));
        }
        drop(load);
        clients.into_iter().map(|client| client()).collect::<Vec<_>>()
    });
    let failed: Vec<_> = results.iter().flat_map(|(_, failed)| failed).collect();
    let answered: u64 = results.iter().map(|(answered, _)| answered).sum();
    assert!(failed.is_empty(), "{} of {answered}: {:?}", failed.len(), failed.first());
    assert!(answered > 100, "{answered}");
    nginx.0.signal(Signal::SIGQUIT);
    assert_eq!(nginx.0.exit_status(), 0);
    wrapper.stop();
}
