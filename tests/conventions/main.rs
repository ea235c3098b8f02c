//! Every convention by which servers are handed sockets and tell that they are ready, held
//! against workers that speak it as its library does (`workers/`).
//!
//! Contract: under `graceful-run --export X` the first start is ready by that convention's own
//! ack; ten upgrades under load lose no request; a replacement that fails is undone, and the one
//! that serves hears nothing of it; each worker gets its convention's stop signal, once; the
//! status is 0 and nothing is left. A worker that is not built is left out, and said so;
//! `GRACEFUL_RUN_REQUIRE_SERVERS=1` makes that a failure. `tests/all` builds them all.

#[allow(dead_code)] // unix sockets, keep-alive and ends in step are the torture's alone
#[path = "../common/load.rs"]
mod client;
#[path = "../common/mod.rs"]
mod common;
#[path = "../interop/load.rs"]
mod load;
mod parent_term;
#[allow(dead_code)] // the conventions here are all of servers of HTTP
#[path = "../interop/protocol.rs"]
mod protocol;
mod refused;
mod stage;
mod strangers;
mod traps;

use stage::{Convention, GO, PYTHON, keeps_its_word};

#[test]
fn grace() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["grace", "ADDRESS"],
        ack: "parent-term",
        // The library cannot be asked what it heard; a second TERM would have killed it.
        stop: "",
        ..Convention::of("listen-fds")
    });
}

#[test]
fn endless() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["endless", "ADDRESS"],
        ack: "parent-term",
        says: &["continues=true"],
        ..Convention::of("endless")
    });
}

#[test]
fn overseer() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["overseer"],
        says: &["is number GENERATION of binary true"],
        stop: "USR2",
        ..Convention::of("overseer")
    });
}

#[test]
fn goagain() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["goagain"],
        ack: "goagain",
        brings_its_ack: true,
        says: &["is called tcp:ADDRESS->"],
        stop: "QUIT",
        ..Convention::of("goagain")
    });
}

#[test]
fn tableflip() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["tableflip", "tcp", "ADDRESS"],
        ack: "tableflip",
        brings_its_ack: true,
        says: &["has a parent: true", "is alone"],
        ..Convention::of("tableflip")
    });
}

#[test]
fn listener_json() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["listener", "ADDRESS"],
        stop: "INT",
        ..Convention::of("listener-json")
    });
}

/// The samples that take a flag, and descriptor 3 unasked: any dialect that puts a socket there.
#[test]
fn flags() {
    for flag in ["-graceful", "-upgrade"] {
        keeps_its_word(&Convention {
            worker: GO,
            arguments: &["flag", flag],
            ..Convention::of("listen-fds")
        });
    }
}

#[test]
fn crank() {
    keeps_its_word(&Convention {
        worker: GO,
        arguments: &["crank"],
        ack: "crank",
        brings_its_ack: true,
        ..Convention::of("crank")
    });
}

#[test]
fn ecdysis() {
    keeps_its_word(&Convention {
        worker: "crates/release/ecdysis",
        arguments: &["ADDRESS"],
        ack: "ecdysis",
        brings_its_ack: true,
        says: &["is a child: true"],
        ..Convention::of("ecdysis")
    });
}

#[test]
fn shellflip() {
    keeps_its_word(&Convention {
        worker: "crates/release/shellflip",
        ack: "shellflip",
        brings_its_ack: true,
        ..Convention::of("shellflip")
    });
}

fn einhorn(client: &str) {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["einhorn", client],
        ack: "einhorn",
        says: &["child index 0"],
        stop: "USR2",
        ..Convention::of("einhorn")
    });
}

#[test]
fn einhorn_ruby() {
    einhorn("ruby");
}

#[test]
fn einhorn_old_ruby() {
    einhorn("old-ruby");
}

#[test]
fn einhorn_python() {
    einhorn("python");
}

#[test]
fn einhorn_go() {
    einhorn("go");
}

#[test]
fn einhorn_on_its_descriptor() {
    einhorn("fd");
}

#[test]
fn server_starter() {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["server-starter", "ADDRESS"],
        says: &["starter's generation GENERATION"],
        ..Convention::of("server-starter")
    });
}

#[test]
fn nginx() {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["nginx", "ADDRESS"],
        stop: "QUIT",
        ..Convention::of("nginx")
    });
}

#[test]
fn unicorn() {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["unicorn", "ADDRESS"],
        stop: "QUIT",
        ..Convention::of("unicorn")
    });
}

#[test]
fn gunicorn() {
    keeps_its_word(&Convention { worker: PYTHON, arguments: &["gunicorn"], ..Convention::of("gunicorn") });
}

#[test]
fn php_fpm() {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["php-fpm", "ADDRESS"],
        stop: "QUIT",
        ..Convention::of("php-fpm")
    });
}

#[test]
fn puma() {
    keeps_its_word(&Convention {
        worker: PYTHON,
        arguments: &["puma", "tcp://ADDRESS"],
        ..Convention::of("puma")
    });
}

#[test]
fn stdin() {
    keeps_its_word(&Convention { worker: PYTHON, arguments: &["stdin"], ..Convention::of("stdin") });
}
