"""A whole turn on a sample in three lines of a test. Knows nothing of what a turn does."""

import sys
from pathlib import Path

from everloop.errors import SpecError
from everloop.loop.trial import Tried
from everloop.loop.trial import turn as trial
from everloop.spec.loop import Loop


def turn(loop: Loop, *, rows: int = 2_000, declaration: Path | None = None) -> Tried:
    """One turn on the ``rows`` newest rows of the loop's source, in a home that is thrown away, released to nobody.

    ``declaration`` is the file that declares the loop; by default the file of the module that holds it. The answer
    has ``verdict``, ``version`` and ``package``, whose ``predict`` takes a row. Raises what a real turn would.
    """
    path = declaration or _file_of(loop)
    return trial(loop, folder=path.parent.absolute(), source=path.read_bytes(), rows=rows)


def _file_of(loop: Loop) -> Path:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is not None and any(value is loop for value in list(vars(module).values())):
            return Path(file)
    raise SpecError(
        f"No module that is imported holds the loop {loop.name!r}, so its source's folder is not known; "
        "give the declaration's file: turn(loop, declaration=Path(…))."
    )
