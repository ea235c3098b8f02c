//! Python: WSGI and ASGI servers.

use crate::driver::{EACH_CLIENT_ONE, UPGRADES, upgrade_under_load};
use crate::server::server;

/// It says READY=1 before it imports the application: the soak covers that.
#[test]
fn gunicorn() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack notify --soak 1s -- gunicorn --no-control-socket --preload -w 2 wsgi",
    ));
}

#[test]
fn gunicorn_threads() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack notify --soak 1s -- gunicorn --no-control-socket --preload -w 2 -k gthread wsgi",
    ));
}

#[test]
fn gunicorn_asgi() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --ack notify --soak 1s -- gunicorn --no-control-socket --preload -w 2 -k asgi asgi:app",
    ));
}

/// uvicorn in gunicorn closes what it has accepted and not yet read.
#[test]
fn gunicorn_uvicorn() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --ack notify --soak 1s -- gunicorn --no-control-socket --preload -w 2 \
             -k uvicorn.workers.UvicornWorker asgi:app",
        )
        .may_lose(EACH_CLIENT_ONE),
    );
}

/// It acks nothing, so the default kind has to see that it accepts. It closes what
/// it has accepted and not yet read, as asyncio's servers do.
#[test]
fn uvicorn() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 -- uvicorn --fd 3 --no-access-log asgi:app").may_lose(EACH_CLIENT_ONE),
    );
}

#[test]
fn uvicorn_workers() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack accepting -- uvicorn --fd 3 --workers 2 --no-access-log asgi:app")
            .may_lose(EACH_CLIENT_ONE),
    );
}

/// The process that accepts is a child of the one that was started.
#[test]
fn hypercorn() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack accepting -- hypercorn -b fd://3 asgi:app")
            .may_lose(EACH_CLIENT_ONE),
    );
}

#[test]
fn aiohttp() {
    upgrade_under_load(
        &server("-b 127.0.0.1:8000 --ack accepting -- python aiohttp-server.py").may_lose(EACH_CLIENT_ONE),
    );
}

/// TERM alone would reload it in place. It loses a request in tens of upgrades.
#[test]
fn uwsgi() {
    upgrade_under_load(
        &server(
            "-b 127.0.0.1:8000 --ack notify -- uwsgi --plugin python3 --protocol http --master -p 2 \
             --wsgi-file wsgi.py --need-app --hook-master-start 'unix_signal:15 gracefully_kill_them_all'",
        )
        .may_lose(UPGRADES),
    );
}

/// It believes itself re-executed by an older gunicorn, whose place we take.
#[test]
fn gunicorn_by_its_own_variables() {
    upgrade_under_load(&server(
        "-b 127.0.0.1:8000 --export gunicorn --ack notify --soak 1s -- \
         gunicorn --no-control-socket --preload -w 2 wsgi",
    ));
}
