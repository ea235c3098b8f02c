//! Ruby: puma and unicorn.

use crate::driver::{UPGRADES, upgrade_under_load};
use crate::server::server;

/// In cluster mode, as without it puma's own TERM cuts what is in flight; one in
/// ten upgrades loses a request all the same.
#[test]
fn puma() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --ack notify -- puma --config - --bind-to-activated-sockets only \
             --workers 2 --threads 2:4 config.ru",
        )
        .may_lose(UPGRADES),
    );
}

#[test]
fn unicorn() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack accepting --stop-signal QUIT -- unicorn -c unicorn.rb -E none config.ru",
    ));
}

#[test]
fn unicorn_by_its_own_variable() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --export unicorn -- unicorn -c unicorn.rb -E none config.ru",
    ));
}

#[test]
fn puma_by_its_own_variables() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --export puma -- puma --config - --bind tcp://127.0.0.1:8000 \
             --workers 2 --threads 2:4 config.ru",
        )
        .may_lose(UPGRADES),
    );
}
