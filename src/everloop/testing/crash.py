"""The places at which a test can kill the product, by name. Knows nothing of what happens there.

``EVERLOOP_CRASH_AT=turn.fit.inside`` kills the process there; ``…:3`` at the third time. Each step of a run has three:
before its body, inside (its effect is there, the journal does not know it yet) and after it is in the journal.
"""

from collections.abc import Mapping

from everloop.durable.crash import VARIABLE, reached

__all__ = ["OTHERS", "POINTS", "STEPS", "VARIABLE", "of_steps", "reached"]

STEPS: Mapping[str, tuple[str, ...]] = {"turn": ("snapshot", "fit", "gate", "package", "release")}
"""The steps of each run that the product makes, in order."""
OTHERS = ("ingest.quarantine", "ingest.outcomes", "ingest.raw", "fold.outcomes", "fold.predictions")
"""Places outside runs, where a table has been written and the next one has not."""


def of_steps(run: str, steps: tuple[str, ...]) -> tuple[str, ...]:
    """The places of a run's steps.

    >>> of_steps("turn", ("fit",))
    ('turn.fit.before', 'turn.fit.inside', 'turn.fit.after')
    """
    return tuple(f"{run}.{step}.{place}" for step in steps for place in ("before", "inside", "after"))


POINTS = (*(point for run, steps in STEPS.items() for point in of_steps(run, steps)), *OTHERS)
