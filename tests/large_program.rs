//! A program so large that to read it takes seconds.

mod common;

use common::{Scene, says};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The dialect overseer hands the hash of the program over: `ctl` is answered while that is computed.
#[test]
fn its_hash_is_computed_beside_the_loop() {
    let scene = Scene::new();
    let program = scene.path("large");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::OpenOptions::new().write(true).open(&program).unwrap().set_len(1 << 28).unwrap();
    let args = ["-b", "127.0.0.1:0", "--export", "overseer", "--ack", "timer:0s", "--stop-signal", "TERM"];
    let wrapper = scene.start_command(&args, &[scene.arg("large")]);
    wrapper.log.wait("listening on");
    assert_eq!(scene.status()["phase"], "starting");
    assert!(!wrapper.log.has("started pid"), "{:?}", wrapper.log.all());
    wrapper.log.wait(&says::ready(1));
    wrapper.stop();
}
