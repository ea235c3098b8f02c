#!/bin/sh
# A hook that has nginx send requests to the generation that serves, before the one before it is
# asked to stop. For a server that cannot take a socket and binds one of its own instead:
#
#   graceful-run --ack notify --hook post-ready=./upstream.sh --hook pre-stop=./upstream.sh -- \
#       sh -c 'exec ./server "$PWD/$GRACEFUL_RUN_GENERATION.sock"'
#
# in the directory SHOP (/srv/shop), where nginx.conf and nginx.pid lie as well. The server removes
# what a killed one has left at its path. TERM is not sent before pre-stop has ended, and when that
# begins the new generation has proved itself; after a failed upgrade there is nothing to do.
set -eu
cd "${SHOP:-/srv/shop}"
exec 9>>upstream.lock
flock 9

# nginx has its old workers go on until there are new ones: done when each of the old ones has gone,
# or only finishes what it has.
reload() {
    [ -s nginx.pid ] || return 0
    master=$(cat nginx.pid)
    before=$(pgrep -P "$master" || true)
    kill -HUP "$master"
    for worker in $before; do
        while ps -o args= -p "$worker" | grep -v 'shutting down' | grep -q 'worker process'; do
            sleep 0.05
        done
    done
}

serving=$(graceful-run ctl status --json | sed -n 's/.*"phase":"[a-z]*","generation":\([0-9]*\).*/\1/p')
if ! grep -qs "/$serving.sock;" upstream.conf; then
    printf 'upstream shop {\n    server unix:%s/%s.sock;\n}\n' "$PWD" "$serving" >upstream.conf.new
    mv upstream.conf.new upstream.conf
    reload
fi
