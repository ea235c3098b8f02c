"""aiohttp on the descriptor that it was handed."""
import os
import socket

from aiohttp import web

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n"


async def answer(request):
    return web.Response(text=BODY)


app = web.Application()
app.router.add_get("/", answer)
web.run_app(app, sock=socket.socket(fileno=3), shutdown_timeout=10)
