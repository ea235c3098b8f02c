//! Servers that start their own successor (`--follow`), by a small one that does it in the
//! manner of each kind: the successor sends its predecessor away, at once (endless) or when it
//! accepts (grace), or both stay until one is asked to leave (nginx).

mod common;

use common::{Scene, Signal, Wrapper, pid_in, says, until, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Its directory tells it how to behave: `manner` for all, `next` for successors alone. A second
/// TERM or QUIT ends it by that signal.
const SERVER: &str = r"
import os, select, signal, socket, sys
place = sys.argv[1]
at = lambda name: os.path.join(place, name)
def read(name):
    try:
        with open(at(name)) as file: return file.read().strip()
    except OSError: return ''
def write(name, text):
    with open(at(name + '.new'), 'w') as file: file.write(text)
    os.rename(at(name + '.new'), at(name))
manner, heir = read('manner'), os.environ.get('SERVER_FD')
if not heir: print('the first of them', file=sys.stderr, flush=True)
following = read('next') if heir else ''
if following == 'exit': os._exit(3)
if heir and manner != 'anew':
    listener = socket.socket(fileno=int(heir))
else:
    # Once it is seen to hold the old one, it binds its own.
    while heir and not read('go'): select.select([], [], [], 0.005)
    if heir: os.close(int(heir))
    listener = socket.socket()
    if manner == 'anew': listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('127.0.0.1', int(read('port') or 0)))
    listener.listen(128)
    write('port', str(listener.getsockname()[1]))
    if manner == 'background':
        if os.fork(): os._exit(0)
        os.setsid()
# It loads.
if following == 'load': select.select([], [], [], 1.5)
if following == 'hang':
    write('hung', str(os.getpid()))
    signal.pause()
if manner == 'prefork' and os.fork(): signal.pause()
wake, wakes = os.pipe()
os.set_blocking(wakes, False)
signal.set_wakeup_fd(wakes)
leaving = False
def leave(number, frame):
    global leaving
    leaving = True
    signal.signal(number, signal.SIG_DFL)
def succeed(number, frame):
    if manner == 'ignore': return
    if manner in ('helper', 'leak', 'leak first') and not read('helper'):
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            if manner == 'helper': listener.close()
            else: listener.set_inheritable(True)
            write('helper', str(os.getpid()))
            os.execvp('sleep', ['sleep', '1000'])
        if manner == 'leak first':
            while not read('go'): select.select([], [], [], 0.005)
        else:
            os.wait()
            os._exit(0)
    listener.set_inheritable(True)
    if manner == 'once' and read('tried'): return
    start({})
    if manner == 'once': write('tried', '1')
    if manner == 'twins': start({'SECOND': '1'})
    if manner in ('leaves', 'blocking', 'forked'):
        global leaving
        leaving = True
def start(more):
    old = os.getpid()
    if os.fork() == 0:
        if read('next') == 'end': os.execv('/bin/sh', ['sh', '-c', 'echo no such option >&2; exit 1'])
        # The old one has left, and has been waited for.
        while manner == 'forked' and os.path.exists('/proc/%d' % old): select.select([], [], [], 0.005)
        given = {**os.environ, 'SERVER_FD': str(listener.fileno()), **more}
        os.execve(sys.executable, [sys.executable, *sys.argv], given)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGQUIT, leave)
signal.signal(signal.SIGUSR2, signal.SIG_DFL if manner == 'deaf' else succeed)
if heir and manner in ('endless', 'late'):
    old = os.getppid()
    os.kill(old, signal.SIGTERM)
    while manner == 'late' and os.getppid() == old: select.select([], [], [], 0.005)
while 'SECOND' in os.environ and not read('go'): select.select([], [], [], 0.005)
if manner == 'blocking':
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while not leaving:
        client, _ = listener.accept()
        select.select([], [], [], 0.003)
        client.sendall(b'pid=%d\n' % os.getpid())
        client.close()
    os._exit(0)
listener.setblocking(False)
epoll = select.epoll()
epoll.register(wake, select.EPOLLIN)
epoll.register(listener.fileno(), select.EPOLLIN)
if heir and manner == 'grace': os.kill(os.getppid(), signal.SIGTERM)
while not leaving:
    if following == 'die' and read('die'): os._exit(3)
    for fd, _ in epoll.poll(0.01 if following == 'die' else -1):
        if fd == wake:
            os.read(wake, 100)
            continue
        try: client, _ = listener.accept()
        except BlockingIOError: continue
        client.sendall(b'pid=%d\n' % os.getpid())
        client.close()
epoll.unregister(listener.fileno())
listener.close()
while read('hold') == str(os.getpid()): select.select([], [], [], 0.005)
";

/// A scene with a server of that manner, and a wrapper that follows it.
fn follow(manner: &str, args: &[&str]) -> (Scene, Wrapper) {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), SERVER).unwrap();
    fs::write(scene.path("manner"), manner).unwrap();
    let command = ["python3".to_owned(), scene.arg("server.py"), scene.arg("")];
    let wrapper =
        scene.start_command(&[&["--follow", "USR2", "--ack", "accepting"], args].concat(), &command);
    wrapper.log.wait(&says::ready(1));
    (scene, wrapper)
}

fn address(scene: &Scene) -> String {
    format!("127.0.0.1:{}", fs::read_to_string(scene.path("port")).unwrap())
}

fn serving(scene: &Scene) -> i32 {
    pid_in(&who(&address(scene)))
}

fn number_in(scene: &Scene, name: &str) -> i32 {
    until(name, || scene.path(name).exists());
    fs::read_to_string(scene.path(name)).unwrap().parse().unwrap()
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Two upgrades in a row, and a stop; the wrapper's pid and pid file stay.
fn upgrade_twice(manner: &str, args: &[&str]) {
    let (scene, wrapper) = follow(manner, args);
    let mut pids = vec![serving(&scene)];
    for generation in [2, 3] {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&format!("generation {generation}: serves after"));
        wrapper.log.wait(&says::exited(generation - 1, 0));
        pids.push(serving(&scene));
    }
    pids.dedup();
    assert_eq!(pids.len(), 3, "each was succeeded: {pids:?}");
    assert_eq!(scene.status()["crashes"], 0, "they left as they were told to");
    let left = wrapper.children();
    assert!(left.iter().all(|(pid, _)| Some(pid) == pids.last()), "{left:?} are not {pids:?}");
    let log = wrapper.log.clone();
    wrapper.stop();
    assert!(log.has(&says::exited(3, 0)));
    assert!(!log.has("was ended by signal"), "{:?}", log.all());
}

#[test]
fn one_that_sends_its_predecessor_away_when_it_accepts() {
    upgrade_twice("grace", &[]);
}

#[test]
fn one_that_sends_its_predecessor_away_at_once() {
    upgrade_twice("endless", &["--soak", "0"]);
}

#[test]
fn one_whose_predecessor_stays_until_it_is_asked() {
    upgrade_twice("nginx", &["--stop-signal", "QUIT"]);
}

#[test]
fn one_that_goes_into_the_background() {
    upgrade_twice("background", &["--stop-signal", "QUIT"]);
}

/// nginx executes what it was called, and does not look into PATH.
#[test]
fn one_that_is_found_by_path_is_called_by_its_whole_path() {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), SERVER).unwrap();
    let bin = scene.path("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/sh", bin.join("sh")).unwrap();
    let path = format!("PATH={}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script =
        format!("echo \"called $0\" >&2; exec python3 '{}' '{}'", scene.arg("server.py"), scene.arg(""));
    let args = ["--follow", "USR2", "--ack", "accepting", "--env", &path];
    let wrapper = scene.start_command(&args, &["sh", "-c", &script]);
    wrapper.log.wait(&format!("called {}", bin.join("sh").display()));
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}

#[test]
fn our_pid_file_stays() {
    let scene = Scene::new();
    let file = scene.run().join("pid");
    fs::write(scene.path("server.py"), SERVER).unwrap();
    fs::write(scene.path("manner"), "grace").unwrap();
    let command = ["python3".to_owned(), scene.arg("server.py"), scene.arg("")];
    let args = ["--follow", "USR2", "--ack", "accepting", "--pid-file", file.to_str().unwrap()];
    let wrapper = scene.start_command(&args, &command);
    wrapper.log.wait(&says::ready(1));
    let ours = format!("{}\n", wrapper.pid);
    assert_eq!(fs::read_to_string(&file).unwrap(), ours);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert_eq!(fs::read_to_string(&file).unwrap(), ours);
    wrapper.stop();
}

#[test]
fn a_worker_that_is_told_to_restart_by_somebody_else_is_followed() {
    let (scene, wrapper) = follow("grace", &[]);
    for generation in [2, 3] {
        let old = serving(&scene);
        send(old, Signal::SIGUSR2);
        let line = wrapper.log.wait(&format!("generation {generation}: pid * took over from pid {old}"));
        scene.wait_gone(old);
        assert!(line.contains(&format!("pid {} took over", serving(&scene))), "{line}");
    }
    assert!(!wrapper.log.has("starts again"));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 4: serves after");
    wrapper.stop();
}

#[test]
fn a_worker_that_leaves_by_itself_gets_no_signal() {
    let (scene, mut wrapper) = follow("grace", &[]);
    let old = serving(&scene);
    fs::write(scene.path("hold"), old.to_string()).unwrap();
    send(old, Signal::SIGUSR2);
    until("the successor serves alone", || {
        serving(&scene) != old
            && fs::read_dir(format!("/proc/{old}/fd")).is_ok_and(|fds| {
                !fds.flatten().any(|fd| {
                    fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
                })
            })
    });
    // The stop is for the successor; the old one would die of it.
    wrapper.signal(Signal::SIGTERM);
    wrapper.log.wait("generation 2: pid * took over from");
    wrapper.log.wait("generation 2: pid * ended (");
    assert!(lives(old));
    fs::remove_file(scene.path("hold")).unwrap();
    assert_eq!(wrapper.exit_status(), 0);
    assert!(wrapper.log.has(&says::exited(1, 0)), "{:?}", wrapper.log.all());
}

#[test]
fn no_successor_is_a_failed_upgrade() {
    let (scene, wrapper) = follow("ignore", &["--ack-timeout", "4s"]);
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("no successor") && line.contains("needs its full path"), "{line}");
    assert!(line.contains("generation 1 still serves"), "{line}");
    assert_eq!(serving(&scene), old);
    wrapper.stop();
}

#[test]
fn a_signal_that_ends_the_worker_is_a_crash() {
    let (scene, wrapper) = follow("grace", &["--on", "USR1=upgrade"]);
    let old = serving(&scene);
    send(old, Signal::SIGSTOP);
    wrapper.signal(Signal::SIGUSR1);
    wrapper.log.wait("is sent USR2");
    send(old, Signal::SIGKILL);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("left no successor; generation 1 is gone and is started again"), "{line}");
    wrapper.log.wait_nth(&says::started(1), 2);
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_ne!(serving(&scene), old);
    wrapper.stop();
}

/// The wrong signal, for a server that knows none.
#[test]
fn a_worker_that_our_signal_ends_is_told_so() {
    let (scene, wrapper) = follow("deaf", &[]);
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    let told = "generation 1 is gone and is started again (does it restart itself on USR2?)";
    assert!(line.ends_with(told), "{line}");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_ne!(serving(&scene), old);
    wrapper.stop();
}

/// It has left to its successor, of which the stop is the end.
#[test]
fn a_stop_before_the_verdict_promises_no_start() {
    let (scene, wrapper) = follow("endless", &["--soak", "60s"]);
    serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.log.wait("generation 2: ready after");
    let log = wrapper.log.clone();
    wrapper.stop();
    assert!(log.wait(&says::failed(2)).ends_with("generation 1 is not started again"), "{:?}", log.all());
}

#[test]
fn a_successor_that_exits_changes_nothing() {
    let (scene, wrapper) = follow("nginx", &["--ack-timeout", "4s"]);
    fs::write(scene.path("next"), "exit").unwrap();
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    assert_eq!(serving(&scene), old);
    fs::remove_file(scene.path("next")).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 3: serves after");
    wrapper.stop();
}

#[test]
fn a_successor_that_dies_while_it_soaks_changes_nothing() {
    let (scene, wrapper) = follow("nginx", &["--soak", "4s"]);
    fs::write(scene.path("next"), "die").unwrap();
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: ready after * (accepting)");
    fs::write(scene.path("die"), "1").unwrap();
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("soon after it was ready"), "{line}");
    assert_eq!(serving(&scene), old);
    wrapper.stop();
}

#[test]
fn a_successor_that_hangs_is_stopped() {
    let (scene, wrapper) = follow("nginx", &["--ack-timeout", "4s"]);
    fs::write(scene.path("next"), "hang").unwrap();
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    let hung = number_in(&scene, "hung");
    until("the successor is stopped", || !lives(hung));
    assert_eq!(serving(&scene), old);
    wrapper.stop();
}

#[test]
fn a_worker_that_ends_without_a_successor_is_started_again() {
    let (scene, wrapper) = follow("grace", &[]);
    send(serving(&scene), Signal::SIGKILL);
    wrapper.log.wait("starts again");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert!(serving(&scene) > 0);
    wrapper.stop();
}

#[test]
fn a_helper_in_the_background_is_no_successor() {
    // A TERM that comes before it has executed its program may go to the handler that it has inherited.
    let (scene, wrapper) = follow("helper", &["--stop-timeout", "3s"]);
    send(serving(&scene), Signal::SIGUSR2);
    wrapper.log.wait("starts again");
    let helper = number_in(&scene, "helper");
    until("what was left is stopped", || !lives(helper));
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert!(!wrapper.log.has("took over"));
    wrapper.stop();
}

/// A child of it that has inherited the listener and never accepts.
#[test]
fn a_helper_that_holds_the_listener_gives_way_to_the_successor() {
    let (scene, wrapper) = follow("leak first", &["--stop-timeout", "2s"]);
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    let helper = number_in(&scene, "helper");
    wrapper.log.wait(&format!("generation 2: pid {old} started pid {helper}, its successor"));
    fs::write(scene.path("go"), "1").unwrap();
    wrapper.log.wait(&format!("is the successor, in the place of pid {helper}"));
    wrapper.log.wait("generation 2: serves after");
    wrapper.log.wait(&says::exited(1, 0));
    assert_ne!(serving(&scene), old);
    // It has a session of its own.
    assert!(lives(helper), "it is stopped with us");
    wrapper.stop();
    until("the helper is stopped", || !lives(helper));
}

/// What it has bound says nothing of what the old worker still listens on.
#[test]
fn one_that_binds_anew_leaves_its_predecessor_to_us() {
    let (scene, wrapper) = follow("anew", &[]);
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("its successor");
    fs::write(scene.path("go"), "1").unwrap();
    wrapper.log.wait("generation 2: serves after");
    wrapper.log.wait(&says::exited(1, 0));
    assert_ne!(serving(&scene), old);
    wrapper.stop();
}

#[test]
fn a_second_successor_is_told_and_left_alone() {
    let (scene, wrapper) = follow("twins", &["--soak", "3s"]);
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: ready after");
    fs::write(scene.path("go"), "1").unwrap();
    let line = wrapper.log.wait("generation 2: pid * listens as well");
    wrapper.log.wait(&says::exited(1, 0));
    let other: i32 = line.split("pid ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(other != old && lives(other), "{line}");
    wrapper.stop();
    assert!(!lives(other));
}

#[test]
fn what_only_holds_the_listener_of_a_worker_that_has_ended_is_stopped() {
    let failed = says::failed(2);
    for asked in [true, false] {
        let (scene, wrapper) = follow("leak", &["--stop-timeout", "3s"]);
        let old = serving(&scene);
        match asked {
            true => wrapper.signal(Signal::SIGHUP),
            false => send(old, Signal::SIGUSR2),
        }
        wrapper.log.wait(if asked { &failed } else { "starts again" });
        let helper = number_in(&scene, "helper");
        until("the helper is stopped", || !lives(helper));
        wrapper.log.wait_nth("generation 1: ready after", 2);
        assert_ne!(serving(&scene), old);
        assert!(!wrapper.log.has("took over") && !wrapper.log.has("(takeover)"), "{:?}", wrapper.log.all());
        wrapper.stop();
    }
}

#[test]
fn one_that_accepts_when_its_predecessor_has_gone_takes_over() {
    let (scene, wrapper) = follow("late", &[]);
    let old = serving(&scene);
    send(old, Signal::SIGUSR2);
    wrapper.log.wait(&format!("generation 2: pid * took over from pid {old}"));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 3: serves after");
    assert!(serving(&scene) != old && !wrapper.log.has("starts again"));
    wrapper.stop();
}

#[test]
fn forked_workers_of_a_server_that_crashed_are_no_successor() {
    let (scene, wrapper) = follow("prefork", &[]);
    let worker = serving(&scene);
    let line = wrapper.log.wait("generation 1: ready after * pid ");
    let master: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert_ne!(worker, master);
    send(master, Signal::SIGKILL);
    until("the worker is stopped", || !lives(worker));
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert!(!wrapper.log.has("took over"));
    wrapper.stop();
}

/// Clients that connect again and again while `act` runs: how many were answered, and how many
/// were not.
/// One request on a connection of its own.
fn is_answered(address: &str) -> bool {
    let Ok(mut client) = TcpStream::connect(address) else { return false };
    let mut answer = String::new();
    client.set_read_timeout(Some(common::WATCHDOG)).expect("a time limit");
    client.read_to_string(&mut answer).is_ok() && answer.starts_with("pid=")
}

fn under_load(address: &str, act: impl FnOnce()) -> (u32, u32) {
    let (finish, answered, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _end = common::End(&finish);
        for _ in 0..3 {
            scope.spawn(|| {
                while !finish.load(Ordering::SeqCst) {
                    let count = if is_answered(address) { &answered } else { &failed };
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        act();
    });
    (answered.into_inner(), failed.into_inner())
}

/// It leaves before its successor has proved itself, which ends: connections wait for the worker
/// that is started again.
#[test]
fn no_connection_is_refused_where_nobody_is_left() {
    let (scene, wrapper) = follow("leaves", &[]);
    fs::write(scene.path("next"), "exit").unwrap();
    let old = serving(&scene);
    let (answered, failed) = under_load(&address(&scene), || {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::failed(2));
        wrapper.log.wait("generation 1: its listeners are held: connections wait for the next worker");
        wrapper.log.wait_nth("generation 1: ready after", 2);
        assert_ne!(serving(&scene), old);
    });
    assert_eq!(failed, 0, "{answered} were answered");
    // What was held is free: the next worker binds it by itself.
    fs::remove_file(scene.path("next")).unwrap();
    send(serving(&scene), Signal::SIGKILL);
    wrapper.log.wait_nth("generation 1: ready after", 3);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 3: serves after");
    wrapper.stop();
}

/// The request may be what repairs it.
#[test]
fn a_request_does_not_wait_behind_a_successor_that_hangs() {
    for (manner, args) in [("leaves", &["--ack-timeout", "1h"][..]), ("nginx", &["--ack-timeout", "1h"])] {
        let (scene, wrapper) = follow(manner, args);
        fs::write(scene.path("next"), "hang").unwrap();
        let (answered, failed) = under_load(&address(&scene), || {
            wrapper.signal(Signal::SIGHUP);
            number_in(&scene, "hung");
            fs::remove_file(scene.path("next")).unwrap();
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait("upgrade to generation 2 undone: another was asked for in its stead");
            wrapper.log.wait("generation 3: serves after");
        });
        assert_eq!(failed, 0, "{manner}: {answered} were answered");
        wrapper.stop();
    }
}

/// It is a zombie of the worker, and may never have been seen alive.
#[test]
fn a_successor_that_ends_at_once_fails_at_once() {
    let (scene, wrapper) = follow("nginx", &["--ack-timeout", "1h", "--capture-stderr"]);
    fs::write(scene.path("next"), "end").unwrap();
    let old = serving(&scene);
    let output = scene.ctl(&["upgrade"]);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains(" exited with status 1 before it was ready"), "{line}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains(" exited with status 1 before it was ready"), "{told}");
    // What it wrote to the stderr of its predecessor, and not what that one wrote before.
    assert!(told.contains("the worker's stderr: no such option"), "{told}");
    assert!(!told.contains("the first of them"), "{told}");
    assert_eq!(serving(&scene), old);
    wrapper.stop();
}

/// As endless: it starts one successor in its life, whatever becomes of that one.
#[test]
fn one_that_starts_no_second_successor_is_stopped_first() {
    let (scene, wrapper) = follow("once", &["--ack-timeout", "3s", "--stop-signal", "QUIT"]);
    fs::write(scene.path("next"), "end").unwrap();
    let old = serving(&scene);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    fs::remove_file(scene.path("next")).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&format!("generation 1: pid {old}: it has started no successor since one of"));
    wrapper.log.wait(&says::failed(3));
    assert_eq!(serving(&scene), old);
    let (answered, failed) = under_load(&address(&scene), || {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::exited(1, 0));
        wrapper.log.wait("generation 4: serves after");
    });
    assert_eq!(failed, 0, "{answered} were answered");
    assert_ne!(serving(&scene), old);
    wrapper.stop();
}

/// For longer than a second, which is the time of a helper that only holds the listener.
#[test]
fn a_successor_that_loads_when_the_old_worker_has_left_is_waited_for() {
    for (asked, manner) in [(true, "leaves"), (false, "leaves"), (true, "forked"), (false, "forked")] {
        let (scene, wrapper) = follow(manner, &[]);
        fs::write(scene.path("next"), "load").unwrap();
        let old = serving(&scene);
        let (answered, failed) = under_load(&address(&scene), || {
            match asked {
                true => wrapper.signal(Signal::SIGHUP),
                false => send(old, Signal::SIGUSR2),
            }
            wrapper.log.wait(&says::exited(1, 0));
            wrapper.log.wait(if asked {
                "generation 2: serves after"
            } else {
                "generation 2: pid * took over"
            });
            assert_ne!(serving(&scene), old);
        });
        assert_eq!(failed, 0, "{answered} were answered");
        assert!(!wrapper.log.has("started again") && !wrapper.log.has("starts again"));
        wrapper.stop();
    }
}

/// One process that accepts, answers, and accepts again: it is never seen to wait.
#[test]
fn a_busy_successor_that_blocks_is_no_crash() {
    let (scene, wrapper) = follow("blocking", &["--stop-timeout", "5s"]);
    let old = serving(&scene);
    let (answered, failed) = under_load(&address(&scene), || {
        for generation in [2, 3] {
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&format!("generation {generation}: serves after"));
        }
    });
    assert_eq!(failed, 0, "{answered} were answered");
    assert_ne!(serving(&scene), old);
    assert!(!wrapper.log.has("started again") && !wrapper.log.has("starts again"));
    wrapper.stop();
}

/// The clients that come at once leave it no moment in which it is seen to wait.
#[test]
fn a_busy_worker_that_blocks_is_ready_when_it_is_started_again() {
    let (scene, wrapper) = follow("blocking", &["--stop-timeout", "5s"]);
    let old = serving(&scene);
    under_load(&address(&scene), || {
        send(old, Signal::SIGKILL);
        wrapper.log.wait_nth("generation 1: ready after", 2);
    });
    assert!(!wrapper.log.has("not ready after"), "{}", wrapper.log.all().join("\n"));
    wrapper.stop();
}

#[test]
fn no_request_fails() {
    for (manner, generation) in [("grace", 4), ("nginx", 4)] {
        let (scene, wrapper) = follow(manner, &["--soak", "0"]);
        let (answered, failed) = under_load(&address(&scene), || {
            for generation in 2..=generation {
                wrapper.signal(Signal::SIGHUP);
                wrapper.log.wait(&format!("generation {generation}: serves after"));
            }
        });
        assert_eq!(failed, 0, "{manner}");
        assert!(answered > 0, "{manner}");
        wrapper.stop();
    }
}
