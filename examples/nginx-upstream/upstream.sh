#!/bin/sh
# upstream.sh up|down SERVER: puts SERVER (an address, as nginx writes it) into the upstream of the
# nginx in front, or takes it out, and returns once nginx sends accordingly. Hooks of graceful-run
# call it, around a server that cannot run twice at a time:
#
#   graceful-run -b 127.0.0.1:5001 --stop-first \
#       --hook 'pre-stop=./upstream.sh down 127.0.0.1:5001' \
#       --hook 'post-ready=./upstream.sh up 127.0.0.1:5001' -- ./server
#
# TERM is not sent before pre-stop has ended. In the directory SHOP (/srv/shop) lie nginx.pid and
# nodes.conf, one line a node: `server 127.0.0.1:5001;`, or with `down` before the semicolon.
set -eu
do=$1 server=$2
cd "${SHOP:-/srv/shop}"
# Hooks of several nodes may run at the same time.
exec 9>>nodes.lock
flock 9

case $do in
up) sed "s/^server $server down;/server $server;/" nodes.conf >nodes.conf.new ;;
down)
    # With every node down nginx answers 502; a connection to the last one waits in its backlog
    # until the next generation takes it.
    if ! grep -v ' down;' nodes.conf | grep -qv "^server $server;"; then
        echo "upstream.sh: $server stays in, it is the last one" >&2
        exit 0
    fi
    sed "s/^server $server;/server $server down;/" nodes.conf >nodes.conf.new
    ;;
*)
    echo "usage: upstream.sh up|down SERVER" >&2
    exit 2
    ;;
esac
if cmp -s nodes.conf nodes.conf.new; then
    exit 0
fi
mv nodes.conf.new nodes.conf
[ -s nginx.pid ] || exit 0

# nginx has its old workers go on until there are new ones: done when each of the old ones has gone,
# or only finishes what it has.
master=$(cat nginx.pid)
before=$(pgrep -P "$master" || true)
kill -HUP "$master"
for worker in $before; do
    while ps -o args= -p "$worker" | grep -v 'shutting down' | grep -q 'worker process'; do
        sleep 0.05
    done
done
