"""What the servers here share: the listener, the word that they are ready, a request and its answer."""
import os
import socket

GENERATION = os.environ["GRACEFUL_RUN_GENERATION"]
SUPERVISOR = os.environ["GRACEFUL_RUN_PID"]


def listener(address):
    """The one that was handed over, or one of its own."""
    if "LISTEN_FDS" in os.environ:
        return socket.socket(fileno=3)
    host, port = address.split(":")
    own = socket.create_server((host, int(port)), backlog=128)
    own.setblocking(False)
    return own


def ready():
    if "READY_FD" in os.environ:
        os.write(int(os.environ["READY_FD"]), b"\n")


def say(what):
    """One line to the test, whose fifo is always open. A short write(2) is not mixed with others."""
    fifo = os.open("log", os.O_WRONLY)
    os.write(fifo, f"g{GENERATION} {what} pid={os.getpid()}\n".encode())
    os.close(fifo)


def request(connection):
    """Its path."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(4096)
        if not more:
            return None
        received += more
    return received.split(b" ")[1].decode()


def answer(connection):
    body = f"generation {GENERATION} supervisor {SUPERVISOR}\n"
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
