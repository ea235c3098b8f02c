"""A server that a test directs: by its files `addresses` and `fate`, which it reads when
it starts, and by what it is asked for."""
import os
import socket
import sys
import threading
import time

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n"
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


def said(name):
    try:
        with open(name) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def listeners(word):
    """`host:port`, or `host:port*count` for so many sockets with SO_REUSEPORT."""
    address, _, count = word.partition("*")
    host, port = address.rsplit(":", 1)
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    for _ in range(int(count or 1)):
        address = (host.strip("[]"), int(port))
        yield socket.create_server(address, family=family, backlog=128, reuse_port=bool(count))


def serve(connection):
    received = b""
    while True:
        head, end, rest = received.partition(b"\r\n\r\n")
        if not end:
            try:
                more = connection.recv(4096)
            except ConnectionError:
                return
            if not more:
                return connection.close()
            received += more
            continue
        received = rest
        path = head.split(b" ")[1]
        if path == b"/drip":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.01)
        connection.sendall(ANSWER)
        if b"\r\nconnection: close" in head.lower():
            return connection.close()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=[connection], daemon=True).start()


words = said("addresses").split() or sys.argv[1:]
for listener in [listener for word in words for listener in listeners(word)]:
    threading.Thread(target=accept, args=[listener], daemon=True).start()
fate = said("fate")
if fate.startswith("die"):
    time.sleep(0.02 if fate.endswith("soon") else 0.1)
    os._exit(3)
threading.Event().wait()
