//! A server on shellflip, which acks and hands state over, but passes no socket:
//! that comes from LISTEN_FDS. TERM is its graceful stop.
//!
//! `NOTIFY_SOCKET` is taken away first, so that no READY=1 speaks for the byte
//! on OXY_NOTIFY_SOCKET.

use axum::{Router, routing::get};
use graceful_run_interop::{answer, misbehave, say};
use listenfd::ListenFd;
use shellflip::{RestartConfig, lifecycle::receive_from_old_process};
use std::io;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    misbehave();
    // SAFETY: there is no other thread yet.
    unsafe { std::env::remove_var("NOTIFY_SOCKET") };
    tokio::runtime::Runtime::new()?.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let listener = ListenFd::from_env().take_tcp_listener(0)?.expect("a listener is handed over");
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    match receive_from_old_process() {
        Some(mut pipe) => {
            let mut state = Vec::new();
            pipe.read_to_end(&mut state).await?;
            say(&format!("was handed {} bytes", state.len()));
        }
        None => say("was handed nothing"),
    }
    let router = Router::new().route("/", get(|| async { answer() }));
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async { drop(left.await) });
    let server = tokio::spawn(server.into_future());
    // The first poll of the task is the ack.
    let restarts = RestartConfig::default().try_into_restart_task()?;
    say("acks");
    tokio::select! {
        ended = restarts => return Err(ended.err().unwrap_or_else(|| io::Error::other("restarted").into())),
        _ = terminated.recv() => say("got TERM"),
    }
    drop(leave);
    Ok(server.await??)
}
