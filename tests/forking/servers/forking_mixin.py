"""socketserver's ForkingTCPServer. The child keeps the listener open while it answers, which takes
300 ms. On TERM the first process takes no more connections and leaves, without waiting for children.
"""
import os
import signal
import socketserver
import sys
import threading
import time

from shared import SUPERVISOR, answer, listener, ready, request, say


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        # A child has no loop that it could leave on TERM.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if request(self.request):
            time.sleep(0.3)
            if os.getppid() == int(SUPERVISOR):
                say("an orphan answers")
            answer(self.request)


server = socketserver.ForkingTCPServer(None, Handler, bind_and_activate=False)
server.socket.close()
server.socket = listener(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
ready()
server.serve_forever(poll_interval=0.05)
os._exit(0)
