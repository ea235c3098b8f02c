//! A server on ecdysis: its sockets and its ack go through the pipes of that
//! library, and TERM is its graceful stop.
//!
//! `ecdysis ADDRESS`: an address that its parent did not send is bound anew,
//! which fails where the parent holds it.

use ecdysis::Ecdysis;
use graceful_run_interop::{misbehave, say, serve};
use std::io;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> io::Result<()> {
    misbehave();
    let address = std::env::args().nth(1).expect("an address");
    let mut terminated = signal(SignalKind::terminate())?;
    let mut ecdysis = Ecdysis::new();
    say(&format!("is a child: {}", ecdysis.is_child()));
    let listener = ecdysis.listen_tcp(address.parse().expect("an address"))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    say("acks");
    ecdysis.ready()?;
    serve(listener, async {
        terminated.recv().await;
        say("got TERM");
    })
    .await
}
