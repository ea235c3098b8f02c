//! What lies in `examples` is read by the tool that it is for, and run.

mod common;

use common::{Scene, Signal, Wrapper, example, says, tool};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

fn examples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(examples(name)).expect("an example")
}

/// What a Python program that is given `argument` prints, as JSON; None where its modules are not.
fn python(modules: &str, code: &str, argument: &Path) -> Option<Value> {
    let program = tool("python3")?;
    let imports = Command::new(&program).args(["-c", &format!("import {modules}")]).output().unwrap();
    let required = std::env::var_os("GRACEFUL_RUN_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(imports.status.success() || !required, "{imports:?}");
    if !imports.status.success() {
        return None;
    }
    let code = format!("import json, sys, {modules}\n{code}");
    let done = Command::new(program).args(["-c", &code]).arg(argument).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    Some(serde_json::from_slice(&done.stdout).expect("JSON"))
}

/// The words of an example's command, with ours in place of what it has installed.
fn localised(words: &[String], replace: &[(&str, &str)]) -> Vec<String> {
    let other = |word: &String| replace.iter().find(|(from, _)| from == word).map(|(_, to)| (*to).to_owned());
    words.iter().map(|word| other(word).unwrap_or_else(|| word.clone())).collect()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

/// The seconds after an option, as a runtime counts them.
fn seconds(words: &[String], option: &str) -> u64 {
    let at = words.iter().position(|word| word == option).expect("the option");
    humantime::parse_duration(&words[at + 1]).expect("a duration").as_secs()
}

fn upgrade(wrapper: &Wrapper, to: u32) {
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(to));
}

#[test]
fn the_units_are_what_systemd_understands() {
    let Some(program) = tool("systemd-analyze") else { return };
    let scene = Scene::new();
    let unit = read("systemd/shop.service").replace("/usr/local/bin/graceful-run", "/bin/true");
    fs::write(scene.path("shop.service"), unit).unwrap();
    fs::copy(examples("systemd/shop.socket"), scene.path("shop.socket")).unwrap();
    let mut verify = Command::new(program);
    verify.arg("verify").args([scene.path("shop.service"), scene.path("shop.socket")]);
    let done = verify.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && !said.contains("shop."), "{said}");
}

#[test]
fn the_unit_leaves_us_the_time_that_we_take() {
    let unit = read("systemd/shop.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let command: Vec<String> = value("ExecStart").split(' ').map(str::to_owned).collect();
    let time = |key: &str| humantime::parse_duration(&value(key)).unwrap().as_secs();
    assert!(time("TimeoutStopSec") > seconds(&command, "--stop-timeout"));
    assert!(time("TimeoutStartSec") > seconds(&command, "--ack-timeout"));
    assert_eq!((value("KillMode"), value("NotifyAccess")), ("mixed".into(), "main".into()));
    // What the guide quotes is what lies there.
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide.md")).unwrap();
    let quoted = guide.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a quote");
    assert!(quoted.lines().count() > 5 && quoted.lines().all(|line| unit.lines().any(|it| it == line)));
}

#[test]
fn the_container_stops_in_time_and_runs() {
    const CODE: &str = "
from dockerfile_parse import DockerfileParser
parser = DockerfileParser(fileobj=open(sys.argv[1], 'rb'))
print(json.dumps({it['instruction']: it['value'] for it in parser.structure if it['instruction'] != 'COMMENT'}))";
    let Some(parsed) = python("dockerfile_parse", CODE, &examples("docker/Dockerfile")) else { return };
    let list = |name: &str| -> Vec<String> {
        serde_json::from_str(parsed[name].as_str().expect("an instruction")).expect("the exec form")
    };
    let (entrypoint, command) = (list("ENTRYPOINT"), list("CMD"));
    assert_eq!(parsed["STOPSIGNAL"], "SIGTERM");
    assert!(seconds(&entrypoint, "--stop-timeout") < 10, "docker stop");
    let scene = Scene::new();
    let worker = example("worker");
    let here = [(":8080", "127.0.0.1:0"), ("/app/server", worker.to_str().unwrap())];
    let all = localised(&[entrypoint, command].concat(), &here);
    let mut command = scene.command();
    command.args(&all[1..]);
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    upgrade(&wrapper, 2);
    wrapper.stop();
}

#[test]
fn the_pod_stops_in_time_and_a_changed_configmap_is_an_upgrade() {
    const CODE: &str = "print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let Some(all) = python("yaml", CODE, &examples("kubernetes/shop.yaml")) else { return };
    let deployment = &all[0];
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments = words(&container["args"]);
    let pause = words(&container["lifecycle"]["preStop"]["exec"]["command"]);
    let pause: u64 = pause[1].parse().unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(pause + seconds(&arguments, "--stop-timeout") < grace);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], all[2]["spec"]["selector"]);
    assert_eq!(all[2]["spec"]["ports"][0]["targetPort"], container["ports"][0]["containerPort"]);
    assert_eq!(container["command"], serde_json::json!(["graceful-run"]));

    // As kubelet lays out a ConfigMap: it writes another directory and switches ..data.
    let scene = Scene::new();
    let settings = |number: u32| {
        fs::create_dir(scene.path(&format!("..{number}"))).unwrap();
        fs::write(scene.path(&format!("..{number}/settings")), number.to_string()).unwrap();
        symlink(format!("..{number}"), scene.path("..data_tmp")).unwrap();
        fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
    };
    settings(1);
    let (data, worker) = (scene.arg("..data"), example("worker"));
    let here =
        [(":8080", "127.0.0.1:0"), ("/etc/shop/..data", &data), ("/app/server", worker.to_str().unwrap())];
    let mut command = scene.command();
    command.args(localised(&arguments, &here));
    let wrapper = scene.spawn(command);
    wrapper.log.wait(&says::ready(1));
    settings(2);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn the_procfile_is_one_and_runs() {
    let Some(honcho) = tool("honcho") else { return };
    let scene = Scene::new();
    let checked = Command::new(honcho).arg("-f").arg(examples("procfile/Procfile")).arg("check").output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    fs::create_dir(scene.path("current")).unwrap();
    fs::copy(example("worker"), scene.path("current/server")).unwrap();
    let line = read("procfile/Procfile");
    let mut shell = scene.mark(Command::new("sh"));
    shell.args(["-c", line.trim().strip_prefix("web: ").expect("web")]).env("PORT", "0").env("PATH", path());
    let wrapper = scene.spawn(shell);
    wrapper.log.wait(&says::ready(1));
    upgrade(&wrapper, 2);
    wrapper.stop();
}

/// PATH, with our own binary before all else.
fn path() -> String {
    let ours = common::binary().parent().unwrap().display().to_string();
    format!("{ours}:{}", std::env::var("PATH").unwrap_or_default())
}

/// A script whose stderr is read while it runs.
struct Heard {
    child: Child,
    said: BufReader<ChildStderr>,
    all: String,
}

impl Heard {
    fn start(mut command: Command) -> Heard {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Heard { child, said, all: String::new() }
    }

    /// Reads on to the next line with these words.
    fn wait(&mut self, words: &str) {
        loop {
            let from = self.all.len();
            assert!(self.said.read_line(&mut self.all).unwrap() > 0, "it ended: {}", self.all);
            if self.all[from..].contains(words) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn end(mut self) -> Output {
        self.said.read_to_string(&mut self.all).unwrap();
        let status = self.child.wait().unwrap();
        Output { status, stdout: Vec::new(), stderr: self.all.into_bytes() }
    }
}

/// A machine with a shop, of which release 1 is current.
struct Machine<'a> {
    scene: &'a Scene,
    name: &'a str,
}

impl Machine<'_> {
    fn start(&self) -> Wrapper {
        self.start_with(&[])
    }

    /// Releases 1 and 2 are good; 3 is broken, 4 as well once the gate is open, 5 but in slot 0; 6 is good
    /// once the gate is open.
    fn start_with(&self, more: &[&str]) -> Wrapper {
        self.scene.gate("gate");
        let worker = format!("'{}'", example("worker").display());
        let wait = format!("head -c 1 <'{}' >/dev/null", self.scene.arg("gate"));
        let mixed = format!("[ $GRACEFUL_RUN_SLOT = 0 ] || exit 3; exec {worker}");
        let exec = format!("exec {worker}");
        let servers = [
            exec.clone(),
            exec.clone(),
            "exit 3".into(),
            format!("{wait}; exit 3"),
            mixed,
            format!("{wait}; {exec}"),
        ];
        for (server, release) in servers.iter().zip(1..) {
            let place = self.path(&format!("releases/{release}"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("server"), format!("#!/bin/sh\n{server}\n")).unwrap();
            fs::set_permissions(place.join("server"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("releases/1", self.path("current")).unwrap();
        let server = self.path("current/server");
        let args = [&["--name", self.name, "-b", "127.0.0.1:0", "--soak", "1ms"], more].concat();
        let wrapper = self.scene.start_command(&args, &[server.to_str().unwrap()]);
        wrapper.log.wait(&says::ready(1));
        wrapper
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.scene.path(self.name).join(inside)
    }

    fn current(&self) -> String {
        fs::read_link(self.path("current")).unwrap().display().to_string()
    }

    fn command(&self, release: u32) -> Command {
        let mut deploy = self.scene.with_own_run(examples("deploy/deploy.sh"));
        deploy.arg(release.to_string()).env("SHOP", self.path("")).env("NAME", self.name).env("PATH", path());
        deploy
    }

    fn deploy(&self, release: u32) -> Output {
        self.command(release).output().unwrap()
    }

    /// Fails or not with this status, leads to this release then, and says this.
    fn ends(&self, deploy: Output, status: i32, current: u32, words: &str) {
        let said = String::from_utf8_lossy(&deploy.stderr).into_owned();
        assert_eq!(deploy.status.code(), Some(status), "{said}");
        assert_eq!(self.current(), format!("releases/{current}"), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(!self.path("current.new").is_symlink());
    }
}

#[test]
fn a_deploy_that_is_refused_leaves_everything_as_it_was() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start();
    machine.ends(machine.deploy(2), 0, 2, "");
    wrapper.log.wait(&says::ready(2));
    machine.ends(machine.deploy(3), 1, 2, "releases/3 was refused, releases/2 is current again");
    wrapper.log.wait(&says::failed(3));
    machine.ends(machine.deploy(9), 2, 2, "/releases/9");
    let mut by_socket = machine.command(1);
    by_socket.env("NAME", "none").env("SOCKET", scene.control().join("shop.sock"));
    machine.ends(by_socket.output().unwrap(), 0, 1, "");
    wrapper.log.wait(&says::ready(4));
    wrapper.stop();
    machine.ends(machine.deploy(2), 3, 1, "releases/2 was not tried, releases/1 stays current");
    fs::remove_file(machine.path("current")).unwrap();
    let first = machine.deploy(1);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.code() == Some(2) && said.contains("ln -s releases/1 current"), "{said}");
}

#[test]
fn of_two_deploys_at_once_the_second_comes_after_the_first() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start();
    let first = machine.command(6).stderr(Stdio::piped()).spawn().unwrap();
    wrapper.log.wait(&says::started(2));
    let mut second = Heard::start(machine.command(3));
    second.wait("another deploy is under way");
    scene.release("gate", 1);
    machine.ends(second.end(), 1, 6, "releases/3 was refused, releases/6 is current again");
    assert!(first.wait_with_output().unwrap().status.success());
    wrapper.stop();
}

#[test]
fn a_deploy_that_is_still_under_way_is_not_undone() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start();
    machine.ends(machine.command(6).env("TIMEOUT", "2s").output().unwrap(), 124, 6, "still under way");
    scene.release("gate", 1);
    wrapper.log.wait(&says::ready(2));
    wrapper.stop();
}

#[test]
fn a_deploy_that_is_told_to_stop_waits_for_the_verdict() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start();
    let mut deploy = Heard::start(machine.command(4));
    wrapper.log.wait(&says::started(2));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        deploy.signal(signal);
        deploy.wait("its verdict is waited for");
    }
    scene.release("gate", 1);
    machine.ends(deploy.end(), 1, 1, "releases/4 was refused");
    wrapper.stop();
}

#[test]
fn with_surge_the_old_release_is_deployed_once_more() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start_with(&["-n", "2", "--surge", "1"]);
    machine.ends(machine.deploy(5), 1, 1, "--surge");
    let generations = || -> Vec<u64> {
        let status = scene.status();
        let workers = status["workers"].as_array().unwrap().iter();
        let ready = workers.filter(|worker| worker["stage"] == "ready");
        ready.map(|worker| worker["generation"].as_u64().unwrap()).collect()
    };
    let mut mixed = generations();
    mixed.sort_unstable();
    assert_eq!(mixed, [1, 2], "one was replaced and stays");
    machine.ends(machine.deploy(1), 0, 1, "");
    assert_eq!(generations(), [3, 3]);
    wrapper.stop();
}

#[test]
fn the_script_of_the_page_of_ctl_does_the_same() {
    let scene = Scene::new();
    let machine = Machine { scene: &scene, name: "shop" };
    let wrapper = machine.start();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ctl.md")).unwrap();
    let mut blocks = page.split("```").filter(|block| block.contains("deploy.lock"));
    let script = blocks.next().expect("a script").strip_prefix("sh\n").expect("of the shell").to_owned();
    let deploy = |release: u32, script: &str| {
        let mut shell = scene.with_own_run("sh");
        shell.args(["-c", script, "deploy", &release.to_string()]).current_dir(machine.path(""));
        shell.env("PATH", path()).output().unwrap()
    };
    machine.ends(deploy(2, &script), 0, 2, "");
    machine.ends(deploy(3, &script), 1, 2, "cannot upgrade");
    machine.ends(deploy(9, &script), 1, 2, "cannot upgrade");
    machine.ends(deploy(6, &script.replace("2m", "3s")), 124, 6, "6 stays current");
    scene.release("gate", 1);
    wrapper.stop();
    machine.ends(deploy(1, &script), 3, 6, "nothing");
}

#[test]
fn a_rolling_deploy_stops_at_the_first_refusal() {
    let Some(ansible) = tool("ansible-playbook") else { return };
    let scene = Scene::new();
    let machines = ["one", "two"].map(|name| Machine { scene: &scene, name });
    let wrappers = machines.each_ref().map(Machine::start);
    let hosts: Vec<String> = machines
        .iter()
        .map(|it| {
            format!(
                "{} ansible_connection=local shop={} instance={}\n",
                it.name,
                it.path("").display(),
                it.name
            )
        })
        .collect();
    fs::write(scene.path("inventory.ini"), format!("[shop]\n{}", hosts.concat())).unwrap();
    let playbook = examples("ansible/deploy.yml");
    let run = |more: &[&str]| {
        let mut command = scene.mark(Command::new(&ansible));
        let home = scene.arg("home");
        command
            .args(["-i", &scene.arg("inventory.ini"), "-e", "as_root=false"])
            .args(more)
            .arg(&playbook)
            .stdin(Stdio::null());
        command
            .env("PATH", path())
            .env("HOME", &home)
            .env("ANSIBLE_LOCAL_TEMP", &home)
            .env("LC_ALL", "C.UTF-8");
        command.env("ANSIBLE_REMOTE_TEMP", &home).output().unwrap()
    };
    let checked = run(&["--syntax-check", "-e", "release=2"]);
    assert!(checked.status.success(), "{checked:?}");
    let done = run(&["-e", "release=2"]);
    assert!(done.status.success(), "{done:?}");
    let refused = run(&["-e", "release=3"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(machines.each_ref().map(Machine::current), ["releases/2", "releases/2"]);
    wrappers[0].log.wait(&says::failed(3));
    assert!(!wrappers[1].log.has("upgrade to generation 3"), "the second is never asked");
    for wrapper in wrappers {
        wrapper.stop();
    }
}

#[test]
fn the_inventory_is_one() {
    let Some(inventory) = tool("ansible-inventory") else { return };
    let scene = Scene::new();
    let mut command = scene.mark(Command::new(inventory));
    command.arg("-i").arg(examples("ansible/inventory.ini")).arg("--list").stdout(Stdio::piped());
    command
        .env("HOME", scene.arg("home"))
        .env("LC_ALL", "C.UTF-8")
        .env("ANSIBLE_LOCAL_TEMP", scene.arg("home"));
    let listed: Value = serde_json::from_slice(&command.output().unwrap().stdout).expect("JSON");
    assert_eq!(words(&listed["shop"]["hosts"]).len(), 3);
}
