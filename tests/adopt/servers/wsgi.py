"""What gunicorn serves, after 30 ms: its generation and its supervisor."""
import os
import time

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n".encode()


def application(environ, start_response):
    time.sleep(0.03)
    start_response("200 OK", [("Content-Length", str(len(BODY))), ("Content-Type", "text/plain")])
    return [BODY]
