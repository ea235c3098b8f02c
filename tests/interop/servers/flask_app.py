"""What flask serves: its generation and its supervisor."""
import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def answer():
    return f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n"
