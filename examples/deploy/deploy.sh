#!/bin/sh
# deploy.sh RELEASE: releases/RELEASE goes live, or everything is as before.
#
# SHOP is the directory (/srv/shop), NAME the --name of its graceful-run (shop), which runs
#   graceful-run --name shop -b :80 -- /srv/shop/current/server
# The exit status is that of `graceful-run ctl upgrade`: 0 it serves, 1 it was refused.
set -eu
cd "${SHOP:-/srv/shop}"
release=releases/$1
previous=$(readlink current)

# In one step: there is no moment without a release.
switch() {
    ln -sfn "$1" current.new
    mv -T current.new current
}

test -d "$release"
switch "$release"
status=0
graceful-run ctl --name "${NAME:-shop}" upgrade || status=$?
if [ "$status" -ne 0 ]; then
    switch "$previous"
    echo "deploy: $release was refused, $previous is current again" >&2
fi
exit "$status"
