//! Go: net/http on go-systemd's activation, and on facebookgo/grace.

use crate::driver::upgrade_under_load;
use crate::server::server;

#[test]
fn go_systemd() {
    upgrade_under_load(&server("-b 127.0.0.1:8000 --ack notify -- go-systemd"));
}

/// It says that it is ready by the TERM that it would send to an older self.
#[test]
fn grace() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 -b 127.0.0.1:8001 -b 127.0.0.1:8002 --ack parent-term -- \
         go-grace 127.0.0.1:8000 127.0.0.1:8001 127.0.0.1:8002",
    ));
}
