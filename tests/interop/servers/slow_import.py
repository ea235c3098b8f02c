"""An application that takes as long to import as a test wants, or fails."""
import os
import time

generation = os.environ["GRACEFUL_RUN_GENERATION"]
if os.path.exists(f"broken.{generation}"):
    raise RuntimeError("it cannot be imported")
while os.path.exists(f"gate.{generation}"):
    time.sleep(0.02)

from wsgi import application  # noqa: E402, F401
