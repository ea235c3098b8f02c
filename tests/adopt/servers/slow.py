"""http.server with a handler that takes 30 ms."""
import http.server
import os
import sys
import time

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.03)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args):
        pass


host, port = sys.argv[1].split(":")
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
