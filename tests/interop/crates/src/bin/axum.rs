//! axum on the socket that listenfd finds: READY=1 once it serves, graceful
//! shutdown on TERM.
//!
//! The socket is made non-blocking by hand. It is shared and blocks as it comes,
//! and tokio would sleep in accept(2) without looking at anything else.

use axum::{Router, routing::get};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let listener = ListenFd::from_env().take_tcp_listener(0)?.expect("a listener is handed over");
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let router = Router::new().route("/", get(|| async { graceful_run_interop::answer() }));
    sd_notify::notify(&[NotifyState::Ready])?;
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            terminated.recv().await;
        })
        .await
}
