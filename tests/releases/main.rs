//! Bad releases of real servers that take seconds to start, under load.
//!
//! Contract: with every flag at its default but the ack timeout, a release that cannot
//! start, hangs, dies three seconds after it went live or crashes at its first request is
//! refused or rolled back. No request fails, but for those that a bad release had itself
//! taken in when it crashed: at most one of each client, and each is proved by what the
//! release wrote down before it died. Good releases in between serve. After the stop nothing is
//! left and the status is 0. A release is deployed as deploys do it: a new directory, then a
//! link that is switched, and the link is never switched back.
//!
//! `BAD_RELEASES` is another number of bad releases of each kind than 10, `RELEASES_SEED`
//! another order of them. A server that this machine does not have is left out, and said
//! so; `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure. `tests/all` installs them all.

#[allow(dead_code)] // a connection serves one request here, over TCP
#[path = "../common/load.rs"]
mod client;
mod clients;
mod control;
mod judge;
mod lane;
mod ledger;
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code)] // worlds need more chance than an order of releases
#[path = "../sim/rng.rs"]
mod rng;
mod server;
mod servers;
mod site;
#[allow(dead_code)] // descriptors are counted elsewhere
#[path = "../common/wrapper.rs"]
mod wrapper;
