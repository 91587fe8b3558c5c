"""What survives a kill: runs, steps, sleeps, signals, schedules. Knows nothing of models or releases.

Names are loaded when first used: `crash` and `schedules` are needed where there is no database.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.durable.engine import Engine
    from everloop.durable.run import Run

__all__ = ["Engine", "Run"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from everloop.durable.engine import Engine

        return Engine
    if name == "Run":
        from everloop.durable.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
