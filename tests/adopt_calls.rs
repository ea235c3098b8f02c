//! Calls of a worker that wait for our answer (`--adopt`) while we replace ourselves (`ctl reexec`).

mod common;

use common::{Scene, host, says, until};
use std::fs;

/// Threads that bind and listen without a pause, on TCP and UDP, until the file `enough` is there. The
/// file `calls` has the number of rounds so far. It says how many there were, and which calls failed.
const ALWAYS_BINDS: &str = r"
import os, socket, sys, threading
host = sys.argv[1]
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind((host, 8000))
one.listen(64)
failed, rounds = [], [0] * 4
def binds(number):
    kind = socket.SOCK_DGRAM if number == 3 else socket.SOCK_STREAM
    while not os.path.exists('enough'):
        try:
            with socket.socket(socket.AF_INET, kind) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind((host, 9000 + number))
                if kind == socket.SOCK_STREAM: other.listen(4)
        except OSError as error: failed.append(str(error))
        rounds[number] += 1
        if number == 0:
            with open('calls.new', 'w') as calls: calls.write(str(min(rounds)))
            os.rename('calls.new', 'calls')
threads = [threading.Thread(target=binds, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('all have ended, failed:', failed, file=sys.stderr, flush=True)
while True:
    client, _ = one.accept()
    client.close()
";

#[test]
fn calls_that_wait_while_we_replace_ourselves_are_answered() {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), ALWAYS_BINDS).unwrap();
    let command = ["python3", "server.py", &host()].map(str::to_owned);
    let wrapper = scene.start_command(&["--adopt"], &command);
    wrapper.log.wait(&says::ready(1));
    let rounds = || fs::read_to_string(scene.path("calls")).map_or(0, |text| text.parse().unwrap_or(0));
    for _ in 0..8 {
        let before: u64 = rounds();
        // Of each thread: none hangs.
        until("all threads go on", || rounds() > before + 2);
        let replaced = scene.ctl(&["reexec"]);
        assert!(replaced.status.success(), "{replaced:?}");
    }
    let before = rounds();
    until("all threads go on", || rounds() > before + 2);
    fs::write(scene.path("enough"), "").unwrap();
    let line = wrapper.log.wait("all have ended, failed: ");
    assert!(line.ends_with("failed: []"), "{line}");
    let started = wrapper.log.count(&says::started(1));
    assert_eq!(started, 1, "it is the same worker: {:?}", wrapper.log.all());
    wrapper.stop();
}
