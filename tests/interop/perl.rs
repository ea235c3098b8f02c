//! Perl: servers on Server::Starter's dialect.

use crate::driver::{EACH_CLIENT_ONE, upgrade_under_load};
use crate::server::unlisted;

#[test]
fn starlet() {
    upgrade_under_load(&unlisted(
        "-b 127.0.0.1:8000 -E SERVER_STARTER_PORT=127.0.0.1:8000=3 --ack accepting -- plackup -E production -s Starlet --max-workers 2 -a app.psgi",
    ));
}

#[test]
fn starman() {
    upgrade_under_load(&unlisted(
        "-b 127.0.0.1:8000 -E SERVER_STARTER_PORT=127.0.0.1:8000=3 --ack accepting --stop-signal QUIT -- starman --workers 2 app.psgi",
    ).may_lose(EACH_CLIENT_ONE));
}
