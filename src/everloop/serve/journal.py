"""Says on standard error what happens to the server: one JSON object a line. Knows nothing of what is said."""

import sys
import time
from typing import Any

import msgspec


def say(event: str, **facts: Any) -> None:
    line = msgspec.json.encode({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts})
    try:
        sys.stderr.write(line.decode() + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody listens any more; serving goes on
