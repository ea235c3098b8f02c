//! What the same clients see where nothing but time makes a release ready.
//!
//! Contract: a control that loses no service fails, as the other tests would prove nothing.

use crate::clients::CLIENTS;
use crate::lane::Lane;
use crate::server::Server;
use crate::servers::NODE;
use crate::site::Kind;

/// A release that hangs goes live, and nobody answers. It has to be one that hangs: by the
/// time that any other fails it has lived for as long as its predecessor took to accept, or it is
/// refused.
#[test]
fn time_alone_loses_the_service() {
    let line = "-b 127.0.0.1:8000 --ack timer:200ms --probation 0 -- node current/server.js";
    let server = Server { line, ..NODE };
    if !server.is_here() {
        return;
    }
    let mut lane = Lane::start(&server);
    // The first release was ready by the clock as well.
    let mut clients = lane.clients();
    lane.await_answers(&mut clients, lane.serving);
    let (_, live) = lane.upgrade(Kind::Hangs);
    assert!(live, "the verdict is that it serves");
    lane.await_status("every client waits", |status| status["listeners"][0]["queue"] == CLIENTS);
    clients.look();
    let answered = clients.seen.len();
    // What waits is served by the next one that serves.
    let (release, live) = lane.upgrade(Kind::Good);
    assert!(live, "{release} is good");
    lane.await_answers(&mut clients, release);
    for request in &clients.seen[answered..] {
        assert_eq!(request.outcome, Ok(release), "nobody else answers: {request:?}");
    }
    clients.finish();
    lane.stop();
}
