"""A worker with helpers. It answers nobody, waits for the fifo `crash` and exits then with status 3.

helpers.py ADDRESS KIND... : what the first start of all starts beside itself, in this order. `session` is a
helper in a session of its own, `group` one in the worker's group; neither holds the listener, and
TERM ends them. `keeper` is like `session`, but holds the listener and never waits on it. `stubborn` is of the group and ignores TERM. `accepts` is of the group and waits on
the listener, `apart` waits there in a session of its own.
"""
import os
import signal
import sys

from shared import listener, ready, say


def heeds_term(kind):
    def end(*_):
        say(f"{kind} got TERM")
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "stubborn" else end)


def helper(kind, listening, done):
    if kind in ("session", "keeper", "apart"):
        os.setsid()
    heeds_term(kind)
    say(f"{kind} starts")
    os.close(done)
    if kind in ("accepts", "apart"):
        listening.accept()
    if kind != "keeper":
        listening.close()
    while True:
        signal.pause()


listening = listener(sys.argv[1])
if not os.path.exists("started"):
    open("started", "w").close()
    for kind in sys.argv[2:]:
        started, done = os.pipe()
        if os.fork() == 0:
            helper(kind, listening, done)
        os.close(done)
        os.read(started, 1)
        os.close(started)
ready()
with open("crash", "rb", buffering=0) as crash:
    crash.read(1)
os._exit(3)
