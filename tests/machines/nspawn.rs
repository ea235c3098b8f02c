//! A machine of its own: systemd as process 1 of a container, with this machine's /usr, and with the
//! shop of `examples/systemd` in it.
//!
//! It has a control group of its own, because containers in one group get in each other's way. It is
//! ended by TERM: after KILL of `systemd-nspawn` what is in it may live on.

use crate::common::{Scene, WATCHDOG, copy_binary, example};
use crate::groups::Groups;
use crate::{cannot, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user of the shop, and who systemd itself needs. /etc is empty otherwise.
const USERS: [(&str, &str); 2] = [
    (
        "passwd",
        "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    ),
    ("group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"),
];

/// A machine that is up.
pub struct Machine<'a> {
    scene: &'a Scene,
    nspawn: Child,
    /// Its process 1, as we see it.
    pub leader: i32,
    _groups: Groups,
}

impl Machine<'_> {
    /// Boots one. `units` are written beside the example's own: name and content.
    pub fn boot<'a>(scene: &'a Scene, units: &[(&str, &str)]) -> Option<Machine<'a>> {
        let [program, _] = tools(["systemd-nspawn", "nsenter"])?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("graceful-run-{}-{number}", std::process::id());
        let groups = Groups::new(&name);
        if !groups.make() {
            return cannot("no control group can be made (systemd-nspawn needs one of its own)");
        }
        furnish(scene, units);
        let told = scene.path("told");
        let socket = UnixDatagram::bind(&told).expect("a socket");
        socket.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");

        let mut shell = scene.mark(Command::new("sh"));
        let join = "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\" || exit; shift; done; shift; exec \"$@\"";
        shell.args(["-euc", join, "sh"]).args(groups.paths()).arg("--").arg(program);
        shell.args(["--quiet", "--directory=/", "--volatile=yes", "--boot", "--register=no", "--keep-unit"]);
        shell.args(["--private-network", "--link-journal=no", "--console=pipe", "--notify-ready=yes"]);
        // For --adopt.
        shell.arg("--system-call-filter=pidfd_getfd").arg(format!("--machine={name}"));
        let bind = |how: &str, from: &str, to: &str| format!("--{how}={}:{to}", scene.arg(from));
        shell.arg(bind("bind", "shop", "/srv/shop")).arg(bind("bind-ro", "local", "/usr/local"));
        shell.arg(bind("bind-ro", "units", "/etc/systemd/system"));
        shell.args(USERS.map(|(file, _)| bind("bind-ro", file, &format!("/etc/{file}"))));
        // No more of the machine's own services than the journal needs.
        shell.args(["systemd.unit=sysinit.target", "systemd.mask=systemd-firstboot.service"]);
        shell.arg("systemd.mask=systemd-sysusers.service").env("NOTIFY_SOCKET", &told);
        let console = fs::File::create(scene.path("console")).expect("a file");
        shell.stdout(console.try_clone().unwrap()).stderr(console);
        let nspawn = shell.spawn().expect("start systemd-nspawn");
        // From here on its end is seen to.
        let mut machine = Machine { scene, nspawn, leader: 0, _groups: groups };
        machine.await_boot(&socket);
        Some(machine)
    }

    fn await_boot(&mut self, socket: &UnixDatagram) {
        let mut text = [0; 4096];
        let mut up = false;
        while !up || self.leader == 0 {
            let console = || fs::read_to_string(self.scene.path("console")).unwrap_or_default();
            let length = socket.recv(&mut text).unwrap_or_else(|error| panic!("{error}: {}", console()));
            for line in String::from_utf8_lossy(&text[..length]).lines() {
                match line.split_once('=') {
                    Some(("X_NSPAWN_LEADER_PID", pid)) => self.leader = pid.parse().expect("a pid"),
                    Some(("READY", "1")) => up = true,
                    _ => {}
                }
            }
        }
    }

    /// A command in the machine, to its end.
    pub fn run(&self, command: &[&str]) -> Output {
        let mut enter = self.scene.mark(Command::new("nsenter"));
        enter.args(["-t", &self.leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]);
        enter.args(command).env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin").env_remove("XDG_RUNTIME_DIR");
        enter.stdout(Stdio::piped()).output().expect("start nsenter")
    }

    /// `systemctl ARGUMENTS`: its exit status.
    pub fn systemctl(&self, arguments: &[&str]) -> i32 {
        self.run(&[&["systemctl"], arguments].concat()).status.code().expect("an exit status")
    }

    /// A property of the shop.
    pub fn shop(&self, property: &str) -> String {
        let output = self.run(&["systemctl", "show", "shop.service", "--value", "-p", property]);
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// The messages of the journal of the shop that are at least as urgent.
    pub fn journal(&self, priority: &str) -> String {
        self.run(&["journalctl", "--sync"]);
        let arguments = ["journalctl", "-u", "shop", "-o", "cat", "--no-pager", "-p", priority];
        String::from_utf8_lossy(&self.run(&arguments).stdout).into_owned()
    }

    /// Makes `release` the current one.
    pub fn switch(&self, release: &str) {
        let fresh = self.scene.path("shop/current.new");
        symlink(format!("releases/{release}"), &fresh).expect("a link");
        fs::rename(fresh, self.scene.path("shop/current")).expect("a rename");
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.nspawn.id().cast_signed()), Signal::SIGTERM);
        let start = std::time::Instant::now();
        while !matches!(self.nspawn.try_wait(), Ok(Some(_))) {
            if start.elapsed() > WATCHDOG {
                // Process 1 of a pid namespace takes all of it along.
                for pid in [self.leader, self.nspawn.id().cast_signed()].into_iter().filter(|pid| *pid > 1) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = self.nspawn.wait();
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

/// What is bound into the machine: graceful-run, the units, and the releases of the shop. `good` serves,
/// `bad` ends at its start, and `deaf` ignores TERM once it has given its ack, on descriptor 9.
fn furnish(scene: &Scene, units: &[(&str, &str)]) {
    for directory in ["local/bin", "units", "shop/releases/good", "shop/releases/bad", "shop/releases/deaf"] {
        fs::create_dir_all(scene.path(directory)).expect("a directory");
    }
    let run = |script: &str, to: &str| {
        fs::write(scene.path(to), format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(scene.path(to), fs::Permissions::from_mode(0o755)).expect("a mode");
    };
    copy_binary(scene.path("local/bin/graceful-run"));
    let copied =
        Command::new("cp").arg(example("worker")).arg(scene.path("shop/releases/good/server")).status();
    assert!(copied.expect("cp").success());
    run("echo no such database >&2; exit 3", "shop/releases/bad/server");
    run("trap '' TERM; echo >&9; while :; do sleep 1; done", "shop/releases/deaf/server");
    symlink("releases/good", scene.path("shop/current")).expect("a link");
    for (file, content) in USERS {
        fs::write(scene.path(file), content).expect("a file");
    }
    for unit in ["shop.service", "shop.socket"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd").join(unit);
        fs::copy(from, scene.path("units").join(unit)).expect("the example's unit");
    }
    for (name, content) in units {
        let path = scene.path("units").join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a unit");
    }
}
