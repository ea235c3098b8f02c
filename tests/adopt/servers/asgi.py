"""What uvicorn serves, after 30 ms: its generation and its supervisor."""
import asyncio
import os

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n".encode()
HEADERS = [(b"content-length", str(len(BODY)).encode()), (b"content-type", b"text/plain")]


async def app(scope, receive, send):
    await asyncio.sleep(0.03)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
