//! A server on ecdysis: its sockets and its ack go through the pipes of that
//! library, and TERM is its graceful stop.
//!
//! `ecdysis ADDRESS` is TCP, or a unix socket where ADDRESS is a path. One that
//! its parent did not send is bound anew, which fails where the parent holds it.

use axum::{Router, routing::get};
use ecdysis::Ecdysis;
use graceful_run_interop::{answer, misbehave, say};
use std::io;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).expect("an address");
    misbehave();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut ecdysis = Ecdysis::new();
    say(&format!("is a child: {}", ecdysis.is_child()));
    let router = Router::new().route("/", get(|| async { answer() }));
    let leave = async move {
        terminated.recv().await;
        say("got TERM");
    };
    if address.starts_with('/') {
        let listener = ecdysis.listen_unix(&address)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        get_ready(&mut ecdysis)?;
        axum::serve(listener, router).with_graceful_shutdown(leave).await
    } else {
        let listener = ecdysis.listen_tcp(address.parse().expect("an address"))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        get_ready(&mut ecdysis)?;
        axum::serve(listener, router).with_graceful_shutdown(leave).await
    }
}

fn get_ready(ecdysis: &mut Ecdysis) -> io::Result<()> {
    say("acks");
    ecdysis.ready()
}
