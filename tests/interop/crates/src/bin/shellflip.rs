//! A server on shellflip, which acks and hands state over, but passes no socket:
//! that comes from LISTEN_FDS. TERM is its graceful stop.
//!
//! `NOTIFY_SOCKET` is taken away first, so that no READY=1 speaks for the byte
//! on OXY_NOTIFY_SOCKET.

use graceful_run_interop::{misbehave, say, serve};
use listenfd::ListenFd;
use shellflip::{RestartConfig, lifecycle::receive_from_old_process};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    misbehave();
    // SAFETY: there is no other thread yet.
    unsafe { std::env::remove_var("NOTIFY_SOCKET") };
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let listener = ListenFd::from_env().take_tcp_listener(0)?.expect("a listener is handed over");
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    match receive_from_old_process() {
        Some(mut pipe) => {
            let mut state = Vec::new();
            pipe.read_to_end(&mut state).await?;
            say(&format!("was handed {} bytes", state.len()));
        }
        None => say("was handed nothing"),
    }
    // The first poll of this task is the ack.
    let restarts = RestartConfig::default().try_into_restart_task()?;
    tokio::spawn(async {
        say("acks");
        if let Err(error) = restarts.await {
            say(&format!("cannot ack: {error}"));
        }
    });
    let leave = async {
        terminated.recv().await;
        say("got TERM");
    };
    Ok(serve(listener, leave).await?)
}
