#!/bin/sh
# deploy.sh RELEASE: releases/RELEASE goes live, or is refused and the link leads to the old one again.
#
# SHOP is the directory (/srv/shop), NAME the --name of its graceful-run (shop), or SOCKET its control
# socket; TIMEOUT is how long the verdict is waited for (for ever). It runs
#   graceful-run --name shop -b :80 -- /srv/shop/current/server
# and its control socket is for its own user and root: run this as one of them.
#
# Exit status: that of `graceful-run ctl upgrade`. 0 it serves; 1 it was refused, and the old release
# still serves; 2 usage, no such release or no link; 3 nothing is running; 4 not permitted; 124 still
# under way after TIMEOUT: the link stays, as nobody knows yet what becomes of it.
#
# With --surge a refused release may have replaced some workers before another one failed. They
# stay: put the old release back and upgrade once more, `deploy.sh OLD`.
set -eu

say() {
    echo "deploy: $*" >&2
}

ctl() {
    if [ -n "${SOCKET:-}" ]; then
        exec graceful-run ctl --socket "$SOCKET" "$@"
    else
        exec graceful-run ctl --name "${NAME:-shop}" "$@"
    fi
}

# In one step: there is no moment without a release.
switch() {
    ln -sfn "$1" current.new
    mv -T current.new current
}

if [ $# -ne 1 ] || [ -z "$1" ]; then
    say "usage: deploy.sh RELEASE"
    exit 2
fi
cd "${SHOP:-/srv/shop}"
release=releases/$1
if [ ! -d "$release" ]; then
    say "there is no $PWD/$release"
    exit 2
fi

# One deploy at a time: the link that another one leaves is the one to go back to.
exec 9>>deploy.lock
if ! flock -n 9; then
    say "another deploy is under way, this one comes after it"
    flock 9
fi
if ! previous=$(readlink current); then
    say "there is no link $PWD/current yet. The first time, make it (ln -s $release current) and start graceful-run"
    exit 2
fi
# Nothing is touched where nobody could be asked.
status=0
(ctl --timeout "${TIMEOUT:-0}" status >/dev/null) || status=$?
if [ "$status" -ne 0 ]; then
    say "$release was not tried, $previous stays current"
    exit "$status"
fi

# What was asked for goes on whoever leaves: from here on a ^C waits for the verdict as well.
trap 'say "the upgrade goes on, and its verdict is waited for"' HUP INT TERM
switch "$release"
(trap '' HUP INT TERM && ctl --timeout "${TIMEOUT:-0}" upgrade) &
# Where a signal comes between two commands, dash with -e ends by the status that it found (143).
set +e
wait "$!"
status=$?
# A signal ends the wait, not what is waited for; that may have ended since, and its status is kept.
while [ "$status" -gt 128 ]; do
    wait "$!"
    status=$?
done
set -e
trap '' HUP INT TERM

case $status in
0) ;;
1)
    switch "$previous"
    say "$release was refused, $previous is current again (with --surge: deploy it once more, for the workers that were replaced)"
    ;;
2 | 3 | 4)
    switch "$previous"
    say "nothing was asked for, $previous is current again"
    ;;
124)
    say "still under way: $release stays current. See 'graceful-run ctl status'; if it is refused, deploy ${previous#releases/}"
    ;;
*)
    say "what became of $release is not known, it stays current. See 'graceful-run ctl status'; if it was refused, deploy ${previous#releases/}"
    ;;
esac
exit "$status"
