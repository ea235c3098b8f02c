"""A worker of tests/conventions that finds its sockets as some server does.

worker.py [--wrong GENERATION:KIND]... [--leave SIGNAL] READER [ARGUMENT]...

Each reader below is what one server does with its variables, as far as that
decides which sockets it gets; the einhorn ones ack as the client library of one
language does. It answers HTTP with its generation and its supervisor's pid,
says what happens to it in lines to the fifo `log` of its directory, and leaves
gracefully on the signal that the server takes for that, or on SIGNAL. KIND is
`exit` or `mute`.
"""

import json
import os
import selectors
import signal
import socket
import stat
import sys
import threading


def say(text):
    line = f"g{os.environ.get('GRACEFUL_RUN_GENERATION', '')} {text} pid={os.getpid()}\n"
    try:
        log = os.open("log", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    os.write(log, line.encode())
    os.close(log)


def refuse(why):
    sys.exit(f"worker.py: {why}")


def taken(fd):
    """The listening socket `fd`, whatever its family."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        refuse(f"descriptor {fd} is no socket")
    return socket.socket(fileno=fd)


def spelled(sock):
    """The address as servers write it: host:port, [host]:port or a path."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return name
    host, port = name[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def numbers(variable, separator):
    return [int(number) for number in os.environ[variable].split(separator)]


def nginx(*addresses):
    """Every number ends with `;` or `:`; a socket is found by its own address."""
    given, number = {}, ""
    for character in os.environ["NGINX"]:
        if character in ";:":
            sock = taken(int(number))
            given[spelled(sock)] = sock
            number = ""
        else:
            number += character
    if number:
        refuse("invalid socket number in NGINX, ignoring the rest")
    return [given[address] for address in addresses], signal.SIGQUIT


def unicorn(*addresses):
    """UNICORN_FD, and beside it LISTEN_FDS: both would be one socket twice."""
    fds = numbers("UNICORN_FD", ",")
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        fds += [3 + i for i in range(int(os.environ["LISTEN_FDS"]))]
    if len(set(fds)) != len(fds):
        refuse(f"inherited twice: {fds}")
    given = {spelled(sock): sock for sock in map(taken, fds)}
    return [given[address] for address in addresses], signal.SIGQUIT


def gunicorn(*_):
    """LISTEN_FDS comes first; else GUNICORN_FD, where GUNICORN_PID is a parent."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        say("activated by systemd")
        return [taken(3 + i) for i in range(int(os.environ["LISTEN_FDS"]))], signal.SIGTERM
    if int(os.environ["GUNICORN_PID"]) != os.getppid():
        refuse("the old master is somebody else")
    return [taken(fd) for fd in numbers("GUNICORN_FD", ",")], signal.SIGTERM


def php_fpm(*addresses):
    """`key=fd,key=fd`, a key being inet_ntop:port without brackets, or a path."""
    given = {}
    for pair in os.environ["FPM_SOCKETS"].split(","):
        key, _, fd = pair.partition("=")
        given[key] = int(fd)
    return [taken(given[address]) for address in addresses], signal.SIGQUIT


def puma(*urls):
    """PUMA_INHERIT_n is `fd:url`; the url is compared as it is written."""
    given = {}
    for variable, value in os.environ.items():
        if variable.startswith("PUMA_INHERIT_") and variable[13:].isdigit():
            fd, _, url = value.partition(":")
            given[url] = int(fd)
    return [taken(given[url]) for url in urls], signal.SIGTERM


def server_starter(*specs):
    """`spec=fd;spec=fd`: split at `;`, then at the first `=`."""
    given = {}
    for pair in os.environ["SERVER_STARTER_PORT"].split(";"):
        spec, _, fd = pair.partition("=")
        given[spec] = int(fd)
    say(f"starter's generation {os.environ['SERVER_STARTER_GENERATION']}")
    return [taken(given[spec]) for spec in specs], signal.SIGTERM


def stdin(*_):
    """Descriptor 0, as inetd's wait mode and FastCGI have it."""
    return [taken(0)], signal.SIGTERM


def einhorn(client, *_):
    """EINHORN_FD_i with its family, and an ack in the words of `client`."""
    if int(os.environ["EINHORN_MASTER_PID"]) != os.getppid():
        refuse(f"EINHORN_MASTER_PID is {os.environ['EINHORN_MASTER_PID']}, my parent is {os.getppid()}")
    sockets = []
    for i in range(int(os.environ["EINHORN_FD_COUNT"])):
        sock = taken(int(os.environ[f"EINHORN_FD_{i}"]))
        family = os.environ.get(f"EINHORN_FD_FAMILY_{i}", "AF_INET")
        if getattr(socket, family) != sock.family:
            refuse(f"socket {i} is {sock.family.name}, not {family}")
        sockets.append(sock)
    say(f"child index {os.environ['EINHORN_CHILD_INDEX']}")
    message = {"command": "worker:ack", "pid": os.getpid()}
    yaml = f"command: worker:ack\npid: {os.getpid()}\n"
    lines = {
        "go": json.dumps(message, separators=(",", ":")) + "\n\n",
        "python": json.dumps(message) + "\n",
        "ruby": f"---\n{yaml}".replace("\n", "%0A") + "\n",
        "old-ruby": f"--- \n{yaml}".replace("\n", "%0A") + "\n",
        "fd": json.dumps(message) + "\n",
    }
    return sockets, signal.SIGUSR2, lambda: einhorn_ack(client, lines[client])


def einhorn_ack(client, line):
    if client == "fd":
        control = taken(int(os.environ["EINHORN_SOCK_FD"]))
    else:
        control = socket.socket(socket.AF_UNIX)
        control.connect(os.environ["EINHORN_SOCK_PATH"])
    with control:
        control.sendall(line.encode())


READERS = {
    "einhorn": einhorn,
    "gunicorn": gunicorn,
    "nginx": nginx,
    "php-fpm": php_fpm,
    "puma": puma,
    "server-starter": server_starter,
    "stdin": stdin,
    "unicorn": unicorn,
}


def answer(client):
    """One reply to one request, then the end of both directions."""
    body = "generation {} supervisor {}\n".format(
        os.environ["GRACEFUL_RUN_GENERATION"], os.environ["GRACEFUL_RUN_PID"]
    )
    with client:
        client.settimeout(30)
        request = b""
        while b"\r\n\r\n" not in request:
            piece = client.recv(4096)
            if not piece:
                return
            request += piece
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        client.sendall((head + body).encode())
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass


def main():
    arguments = sys.argv[1:]
    misbehaves = ""
    while arguments[0] == "--wrong":
        generation, _, kind = arguments[1].partition(":")
        misbehaves = kind if generation == os.environ["GRACEFUL_RUN_GENERATION"] else misbehaves
        arguments = arguments[2:]
    wanted = None
    if arguments[0] == "--leave":
        wanted, arguments = signal.Signals[f"SIG{arguments[1]}"], arguments[2:]
    # An orphan of a failed test ends by itself.
    signal.alarm(180)
    if misbehaves == "exit":
        return
    found = READERS[arguments[0]](*arguments[1:])
    sockets, leave, ack = found if len(found) == 3 else (*found, lambda: None)
    leave = wanted or leave
    # A number in the pipe for every signal, so that poll sees them in order.
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(theirs)
    heard = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]
    for number in heard:
        signal.signal(number, lambda *_: None)
    ready = selectors.DefaultSelector()
    ready.register(ours, selectors.EVENT_READ)
    if misbehaves == "mute":
        say("mute")
    else:
        for sock in sockets:
            sock.setblocking(False)
            ready.register(sock, selectors.EVENT_READ)
        say("serves " + " ".join(str(spelled(sock)) for sock in sockets))
        ack()
        say("acks")
    threads = []
    while True:
        for key, _ in ready.select():
            if key.fileobj is ours:
                for number in os.read(ours, 64):
                    say(f"got {signal.Signals(number).name[3:]}")
                    if number == leave or misbehaves == "mute":
                        for sock in sockets:
                            sock.close()
                        for thread in threads:
                            thread.join()
                        return
                continue
            try:
                client, _ = key.fileobj.accept()
            except BlockingIOError:
                continue
            client.setblocking(True)
            thread = threading.Thread(target=answer, args=(client,))
            thread.start()
            threads = [one for one in threads if one.is_alive()] + [thread]


main()
