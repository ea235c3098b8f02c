//! The image of `examples/docker`, built by its Dockerfile as it lies there, and run as process 1.
//!
//! The daemon is the test's own: its data, its sockets and its control group go with the test. Its
//! network is the loopback interface of each container, so nothing of the machine's is touched. The
//! base image has the C library of this machine, and the name that the Dockerfile asks for.

use crate::clients::Clients;
use crate::common::{Scene, Signal, Wrapper, copy_binary, example, says};
use crate::groups::Groups;
use crate::{cannot, place, tools};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A daemon that has the image `shop`.
struct Docker<'a> {
    scene: &'a Scene,
    client: PathBuf,
    /// It has to end before its group can be removed.
    daemon: Option<Wrapper>,
    _group: Groups,
}

impl Docker<'_> {
    fn start(scene: &Scene) -> Option<Docker<'_>> {
        let [daemon, client] = tools(["dockerd", "docker"])?;
        // Another client, of another version, may be found before it.
        let client = [PathBuf::from("/usr/bin/docker"), client].into_iter().find(|it| it.exists())?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("graceful-run-docker-{}-{number}", std::process::id());
        let group = Groups::new(&name);
        if !group.make() {
            return cannot("no control group can be made (the Docker daemon needs them)");
        }
        let mut command = scene.mark(Command::new(daemon));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["--host", &format!("unix://{}", scene.arg("docker.sock"))]);
        command.args(["--data-root", &scene.arg("data"), "--exec-root", &scene.arg("exec")]);
        command.args(["--pidfile", &scene.arg("docker.pid"), &format!("--cgroup-parent=/{name}")]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        let daemon = scene.spawn(command);
        daemon.log.wait("API listen on");
        let docker = Docker { scene, client, daemon: Some(daemon), _group: group };
        docker.furnish();
        docker.import_base();
        docker.done(&["build", "-t", "shop", &scene.arg("context")]);
        Some(docker)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scene.mark(Command::new(&self.client));
        command.args(["-H", &format!("unix://{}", self.scene.arg("docker.sock"))]).args(arguments);
        command.env("DOCKER_CONFIG", self.scene.arg("config")).env("DOCKER_BUILDKIT", "0");
        command.stdout(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("start docker")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// What lies beside the Dockerfile.
    fn furnish(&self) {
        let context = self.scene.path("context");
        fs::create_dir_all(&context).expect("a directory");
        let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docker/Dockerfile");
        fs::copy(dockerfile, context.join("Dockerfile")).expect("the example");
        copy_binary(context.join("graceful-run"));
        let copied = Command::new("cp").arg(example("worker")).arg(context.join("server")).status();
        assert!(copied.expect("cp").success());
    }

    /// The libraries of what is in the context.
    fn import_base(&self) {
        let root = self.scene.path("root");
        for directory in ["run", "tmp"] {
            fs::create_dir_all(root.join(directory)).expect("a directory");
        }
        let programs = ["graceful-run", "server"].map(|name| self.scene.path("context").join(name));
        let linked = Command::new("ldd").args(programs).output().expect("ldd");
        for library in String::from_utf8_lossy(&linked.stdout).split_whitespace() {
            if library.starts_with('/') && library.contains(".so") {
                let copied = Command::new("cp").args(["--parents", "-L", library]).arg(&root).status();
                assert!(copied.expect("cp").success(), "{library}");
            }
        }
        let tar = self.scene.arg("base.tar");
        let made = Command::new("tar").arg("-C").arg(&root).args(["-cf", &tar, "."]).status();
        assert!(made.expect("tar").success());
        self.done(&["import", &tar, "debian:bookworm-slim"]);
    }

    /// `docker run`, in the foreground: the log is the container's, and the exit status too.
    fn container(&self, name: &str, arguments: &[&str]) -> Wrapper {
        let all = [&["run", "--name", name, "--network", "none"], arguments].concat();
        let mut command = self.command(&all);
        command.stdout(Stdio::null());
        self.scene.spawn(command)
    }

    fn pid(&self, name: &str) -> i32 {
        self.done(&["inspect", "-f", "{{.State.Pid}}", name]).parse().expect("a pid")
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let all = self.run(&["ps", "-aq"]);
        let all = String::from_utf8_lossy(&all.stdout).into_owned();
        let all: Vec<&str> = all.split_whitespace().collect();
        if !all.is_empty() {
            self.run(&[&["rm", "-f"], &all[..]].concat());
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::SIGTERM);
            daemon.exit_status();
        }
    }
}

#[test]
fn the_image_loses_nothing_over_upgrades_and_stops_in_time() {
    let scene = Scene::new();
    let Some(docker) = Docker::start(&scene) else { return };
    let mut shop = docker.container("shop", &["shop"]);
    shop.log.wait("graceful-run: pid 1: ");
    shop.log.wait(&says::ready(1));
    let clients = Clients::start(docker.pid("shop"), "127.0.0.1:8080");
    docker.done(&["kill", "--signal", "HUP", "shop"]);
    shop.log.wait(&says::ready(2));
    clients.more();
    for generation in 3..5 {
        docker.done(&["exec", "shop", "graceful-run", "ctl", "upgrade"]);
        assert!(shop.log.has(&says::ready(generation)), "it waits for the end of the upgrade");
        clients.more();
    }
    clients.lost_nothing();
    // Ten seconds, then KILL: the default of docker stop.
    docker.done(&["stop", "shop"]);
    assert_eq!(shop.exit_status(), 0);
}

/// The control: the container is stopped and started.
#[test]
fn a_restart_of_the_container_loses_requests() {
    let scene = Scene::new();
    let Some(docker) = Docker::start(&scene) else { return };
    let shop = docker.container("shop", &["shop"]);
    shop.log.wait(&says::ready(1));
    let clients = Clients::start(docker.pid("shop"), "127.0.0.1:8080");
    docker.done(&["restart", "shop"]);
    let (answered, failed) = clients.end();
    assert!(!failed.is_empty(), "of {answered}");
}

/// A server that knows nothing of inherited sockets, which `tests/all` builds.
fn plain() -> Option<String> {
    let plain = place::installed().join("go/go-plain");
    if !plain.exists() {
        place::leave_out("go-plain");
        return None;
    }
    Some(format!("{}:/app/plain:ro", plain.display()))
}

#[test]
fn with_sys_ptrace_a_server_is_adopted_and_without_it_the_reason_is_told() {
    let Some(plain) = plain() else { return };
    let scene = Scene::new();
    let Some(docker) = Docker::start(&scene) else { return };
    let ours = ["-v", &plain, "--entrypoint", "graceful-run", "shop"];
    let serve = ["--adopt", "--idle", "1s", "--ack-timeout", "2s", "--", "/app/plain", ":8080"];

    let shop = docker.container("shop", &[&["--cap-add", "SYS_PTRACE"], &ours[..], &serve].concat());
    shop.log.wait(&says::ready(1));
    let clients = Clients::start_with(docker.pid("shop"), "127.0.0.1:8080", ["/", "/"]);
    for _ in 0..3 {
        docker.done(&["exec", "shop", "graceful-run", "ctl", "upgrade"]);
        clients.more();
    }
    clients.lost_nothing();
    docker.done(&["stop", "shop"]);

    let mut shop = docker.container("bare", &[&ours[..], &serve].concat());
    assert_ne!(shop.exit_status(), 0, "--adopt insists");
    let log = shop.log.wait_end().join("\n");
    assert!(log.contains("docker run --cap-add SYS_PTRACE"), "{log}");

    for (capability, state) in [("SYS_PTRACE", "ok "), ("CHOWN", "missing ")] {
        let options = ["run", "--network", "none", "--cap-add", capability];
        let said = docker.run(&[&options[..], &ours, &["doctor"]].concat());
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let found = said.lines().find(|line| line.contains(" pidfd_getfd: ")).unwrap_or_default();
        assert!(found.starts_with(state), "{capability}: {said}");
        assert!(state == "ok " || found.contains("docker run --cap-add SYS_PTRACE"), "{found}");
    }
}
