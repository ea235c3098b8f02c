"""What this release does, good or bad: the second word of the file RELEASE.

The link to it may lead elsewhere by the time of a restart, so the directory is looked up
once. A bad release that serves writes each request that it begins to handle to the
ledger, and its own end: what its clients lose then is its own doing.
"""
import os
import signal
import threading
import time

DIRECTORY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
LEDGER = os.path.join(os.path.dirname(DIRECTORY), "ledger")

with open(os.path.join(DIRECTORY, "RELEASE")) as file:
    NAME, KIND = file.read().split()


def write(what):
    """In one write, as others write there as well."""
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(ledger, f"{NAME} {what}\n".encode())
    os.close(ledger)


def die():
    """Ends the master and its workers: one process group."""
    write(f"dies {os.getpgrp()} {time.time_ns() // 1_000_000}")
    os.killpg(0, signal.SIGKILL)


def boot():
    """What imports and caches take in an application that has grown."""
    time.sleep(4)
    if KIND == "exits":
        raise RuntimeError("the settings of this release are wrong")
    if KIND == "hangs":
        threading.Event().wait()
    if KIND == "dies":
        timer = threading.Timer(3, die)
        timer.daemon = True
        timer.start()


def begin(number):
    """Before anything else is done about a request."""
    if KIND in ("dies", "crashes"):
        write(f"begins {number}")
    if KIND == "crashes":
        die()
