//! Perl: servers on Server::Starter's dialect, and Mojolicious.

use crate::driver::{EACH_CLIENT_ONE, UPGRADES, upgrade_under_load};
use crate::server::server;

#[test]
fn starlet() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --export server-starter -- \
         plackup -E production -s Starlet --max-workers 2 -a app.psgi",
    ));
}

/// Its first process ends workers that have just accepted.
#[test]
fn starman() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --export server-starter --stop-signal QUIT -- starman --workers 2 app.psgi",
        )
        .may_lose(EACH_CLIENT_ONE),
    );
}

/// It loses a request in tens of upgrades.
#[test]
fn mojo() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --ack accepting --stop-signal QUIT -- \
             perl mojo.pl prefork -l 'http://*?fd=3' -w 2 -G 10",
        )
        .may_lose(UPGRADES),
    );
}
