//! Other daemons: a resolver, a database, a port mapper.

use crate::driver::{EACH_CLIENT_ONE, upgrade_under_load};
use crate::place::tell;
use crate::protocol::Protocol;
use crate::server::server;

/// It answers on TCP alone here: a client of UDP asks again in any case.
#[test]
fn unbound() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack notify -- unbound -d -c unbound.conf")
            .speaks(Protocol::Dns)
            .launched_by("apart")
            .may_lose(EACH_CLIENT_ONE),
    );
}

/// Old and new cannot share the data, so clients wait while neither is there. What
/// it loses it has accepted and not yet greeted.
#[test]
fn mariadbd() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack notify --stop-first -- mariadbd --defaults-file=my.cnf")
            .speaks(Protocol::MySql)
            .with_directory("mariadb")
            .may_lose(EACH_CLIENT_ONE)
            .answers_from_files(),
    );
}

/// A second one leaves at once, so clients wait while neither is there.
#[test]
fn rpcbind() {
    if !nix::unistd::geteuid().is_root() {
        // It gives up root and is not content to have none.
        return tell("rpcbind: left out, it has to be started by root");
    }
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack notify --stop-first -- rpcbind -f")
            .speaks(Protocol::Rpc)
            .launched_by("apart")
            .may_lose(EACH_CLIENT_ONE),
    );
}
