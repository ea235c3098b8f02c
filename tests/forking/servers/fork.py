"""Forks for each connection. The child closes the listener and answers after 300 ms.

TERM ends the first process at once, but never between accept(2) and fork(2): no supervisor could
save what is lost there.
"""
import os
import select
import signal
import sys
import time

from shared import SUPERVISOR, answer, listener, ready, request, say


def serve(connection):
    if request(connection):
        time.sleep(0.3)
        if os.getppid() == int(SUPERVISOR):
            say("an orphan answers")
        answer(connection)
    connection.close()


listening = listener(sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ready()
while True:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    select.select([listening], [], [])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        continue
    if os.fork() == 0:
        listening.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        serve(connection)
        os._exit(0)
    connection.close()
