//! actix-web on the socket that listenfd finds. It acks nothing, and stops
//! gracefully on TERM by itself.

use actix_web::{App, HttpServer, web};
use listenfd::ListenFd;
use std::io;

#[actix_web::main]
async fn main() -> io::Result<()> {
    let listener = ListenFd::from_env().take_tcp_listener(0)?.expect("a listener is handed over");
    let answer = || async { graceful_run_interop::answer() };
    HttpServer::new(move || App::new().route("/", web::get().to(answer)))
        .workers(2)
        .listen(listener)?
        .run()
        .await
}
