"""A whole turn on a sample in three lines of a test. Knows nothing of what a turn does."""

from pathlib import Path

from everloop.loop.declared import file_of
from everloop.loop.trial import Tried
from everloop.loop.trial import turn as trial
from everloop.spec.loop import Loop


def turn(loop: Loop, *, rows: int = 2_000, declaration: Path | None = None) -> Tried:
    """One turn on the ``rows`` newest rows of the loop's source, in a home that is thrown away, released to nobody.

    ``declaration`` is the file that declares the loop; by default the file of the module that holds it. The answer
    has ``verdict``, ``version`` and ``package``, whose ``predict`` takes a row. Raises what a real turn would.
    """
    path = declaration or file_of(loop)
    return trial(loop, folder=path.parent.absolute(), source=path.read_bytes(), rows=rows)
