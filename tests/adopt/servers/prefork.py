"""Listens, forks three, and each of them accepts: a pre-forking server. On TERM the
first one ends the others, with what they are at."""
import os
import signal
import socket
import sys
import time

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n"
ANSWER = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(4096)
                if not received:
                    break
                request += received
            else:
                time.sleep(0.03)
                connection.sendall(ANSWER)


def end(*_):
    for child in children:
        os.kill(child, signal.SIGTERM)
    sys.exit()


host, port = sys.argv[1].split(":")
listener = socket.create_server((host, int(port)), backlog=128)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        serve(listener)
    children.append(child)
signal.signal(signal.SIGTERM, end)
os.wait()
