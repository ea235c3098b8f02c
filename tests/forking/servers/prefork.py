"""Two children accept. TERM ends the first process at once, and it tells them nothing.

prefork.py ADDRESS WAY: they wait for a connection in `accept`, `poll`, `select` or `epoll`. TERM ends
a child that waits, and one that has a connection only after its answer, which takes 20 ms. A request
of /hold says so, is answered once the fifo `gate` has a byte for it, and would be cut by a TERM.
"""
import os
import select
import signal
import sys
import time

from shared import answer, listener, ready, request, say


def heed_term(heeded):
    signal.pthread_sigmask(signal.SIG_UNBLOCK if heeded else signal.SIG_BLOCK, [signal.SIGTERM])


def waiting(way, listening):
    """What waits until there may be a connection."""
    if way == "select":
        return lambda: select.select([listening], [], [])
    poll = select.poll() if way == "poll" else select.epoll()
    poll.register(listening, select.POLLIN)
    return poll.poll


def serve(listening, way):
    wait = None if way == "accept" else waiting(way, listening)
    say("accepts")
    while True:
        heed_term(True)
        if wait:
            wait()
            heed_term(False)
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            continue
        except OSError:
            # It was shut down.
            os._exit(0)
        heed_term(False)
        with connection:
            path = request(connection)
            if path == "/hold":
                heed_term(True)
                gate = os.open("gate", os.O_RDONLY)
                say("holds")
                os.read(gate, 1)
                heed_term(False)
                os.close(gate)
            if path:
                time.sleep(0.02)
                answer(connection)


listening = listener(sys.argv[1])
for _ in range(2):
    if os.fork() == 0:
        # After fork(2): a set of epoll(7) from before would be one for all.
        serve(listening, sys.argv[2])
ready()
os.wait()
