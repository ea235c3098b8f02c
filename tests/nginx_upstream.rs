//! `examples/nginx-upstream`: hooks take a node out of nginx's upstream while it is replaced.

mod common;

use common::{Scene, Signal, Wrapper, says, tool};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

fn examples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nginx-upstream").join(name)
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

/// Two nodes, and nginx in front of them: its address.
struct Shop {
    nodes: Vec<(String, Wrapper)>,
    nginx: Nginx,
    address: String,
}

fn start(scene: &Scene, program: PathBuf) -> Shop {
    let (shop, host) = (scene.arg("shop"), common::host());
    fs::create_dir(&shop).unwrap();
    let own = |name: &str| {
        let sample = fs::read_to_string(examples(name)).unwrap();
        fs::write(
            scene.path("shop").join(name),
            sample.replace("/srv/shop", &shop).replace("127.0.0.1", &host),
        )
        .unwrap();
    };
    own("nodes.conf");
    own("nginx.conf");
    let hook = examples("upstream.sh").display().to_string();
    let nodes = ["5001", "5002"].map(|port| {
        let node = format!("{host}:{port}");
        let mut command = scene.command();
        command.args(["-b", &node, "--stop-first", "--soak", "1ms"]);
        command.args(["--hook", &format!("pre-stop={hook} down {node} && cp nodes.conf before-term")]);
        command.args(["--hook", &format!("post-ready={hook} up {node}")]);
        command.arg("--").arg(common::example("worker")).current_dir(&shop).env("SHOP", &shop);
        let wrapper = scene.spawn(command);
        wrapper.log.wait(&says::ready(1));
        (node, wrapper)
    });
    let address = format!("{host}:8080");
    let mut nginx = scene.mark(Command::new(program));
    nginx.arg("-c").arg(scene.path("shop/nginx.conf")).args(["-g", "daemon off;"]);
    let nginx = Nginx(scene.spawn(nginx));
    common::until("nginx does not answer", || get(&address).is_ok());
    Shop { nodes: nodes.into(), nginx, address }
}

#[test]
fn no_request_fails_while_nodes_leave_the_upstream_are_replaced_and_come_back() {
    const UPGRADES: u32 = 3;
    let Some(program) = tool("nginx").filter(|_| common::am_root()) else { return };
    let scene = Scene::new();
    let Shop { nodes, mut nginx, address } = start(&scene, program);
    let listed = || fs::read_to_string(scene.path("shop/nodes.conf")).unwrap();
    let done = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| client(scope, &address, &done)).collect();
        let load = common::End(&done);
        for to in 2..=1 + UPGRADES {
            for (node, wrapper) in &nodes {
                wrapper.signal(Signal::SIGHUP);
                wrapper.log.wait(&says::exited(to - 1, 0));
                let before_term = fs::read_to_string(scene.path("shop/before-term")).unwrap();
                assert!(before_term.contains(&format!("{node} down;")), "{before_term}");
                wrapper.log.wait(&says::ready(to));
                common::until("the node does not come back", || !listed().contains("down"));
            }
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
    for (_, wrapper) in nodes {
        wrapper.stop();
    }
}
