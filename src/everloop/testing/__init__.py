"""What users test their declarations with, and others their parts: conformance suites, simulated clock, crash points.

Everything is loaded when first used, for it reaches every room.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.clock import SimulatedClock
    from everloop.testing.detectors import check_detector
    from everloop.testing.executors import check_executor
    from everloop.testing.ledger import check_ledger
    from everloop.testing.turn import turn

__all__ = ["SimulatedClock", "check_detector", "check_executor", "check_ledger", "turn"]

_PLACES = {
    "SimulatedClock": "everloop.clock",
    "check_detector": "everloop.testing.detectors",
    "check_executor": "everloop.testing.executors",
    "check_ledger": "everloop.testing.ledger",
    "turn": "everloop.testing.turn",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"everloop.testing has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    # A submodule of the same name would otherwise take its place once it is imported.
    globals()[name] = value
    return value
