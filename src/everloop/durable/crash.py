"""Places in the product where a test can end the process as a power cut would. Knows nothing of what happens there.

Set ``EVERLOOP_CRASH_AT`` to the name of a place, or to ``name:3`` for the third time it is reached, and the process
gets SIGKILL there. Without the variable this does nothing. The names are listed in ``everloop.testing.crash``.
"""

import os
import signal

VARIABLE = "EVERLOOP_CRASH_AT"
_reached: dict[str, int] = {}


def reached(name: str) -> None:
    """The product has come to the place ``name``."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    place, _, time = wanted.partition(":")
    if place != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] == int(time or 1):
        os.kill(os.getpid(), signal.SIGKILL)
