//! What every server here has in common: the one answer that it gives, and what
//! it tells a test of itself.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// open(2), on Linux.
const O_NONBLOCK: i32 = 0o4000;

/// The generation that answers and the supervisor that it was told of.
pub fn answer() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!(
        "generation {} supervisor {}\n",
        variable("GRACEFUL_RUN_GENERATION"),
        variable("GRACEFUL_RUN_PID")
    )
}

/// A line to the fifo `log` of this directory, where tests/conventions listens.
pub fn say(text: &str) {
    let generation = std::env::var("GRACEFUL_RUN_GENERATION").unwrap_or_default();
    let line = format!("g{generation} {text} pid={}\n", std::process::id());
    if let Ok(mut log) = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open("log") {
        // A test that has ended hears nothing more.
        let _ = log.write_all(line.as_bytes());
    }
}

/// Misbehaves, if the arguments say `--wrong GENERATION:KIND` and this is that generation:
/// `exit` is status 0 before any ack, `mute` no ack and no service.
pub fn misbehave() {
    let generation = std::env::var("GRACEFUL_RUN_GENERATION").unwrap_or_default();
    let arguments: Vec<String> = std::env::args().collect();
    let is = |kind: &str| arguments.windows(2).any(|two| two == ["--wrong", &format!("{generation}:{kind}")]);
    if is("exit") {
        std::process::exit(0);
    }
    if is("mute") {
        say("mute");
        loop {
            std::thread::park();
        }
    }
}

/// Answers on `listener` until `leave`, and then whoever was accepted: nothing is lost here, so
/// that what is lost in a test is not the server's doing.
pub async fn serve(listener: TcpListener, leave: impl Future<Output = ()>) -> io::Result<()> {
    let mut clients = JoinSet::new();
    tokio::pin!(leave);
    loop {
        tokio::select! {
            () = &mut leave => break,
            accepted = listener.accept() => drop(clients.spawn(reply(accepted?.0))),
            Some(_) = clients.join_next() => {}
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
    Ok(())
}

/// One answer to one request.
async fn reply(mut client: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let body = answer();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client.write_all((head + &body).as_bytes()).await?;
    client.shutdown().await?;
    client.read_to_end(&mut request).await.map(drop)
}
