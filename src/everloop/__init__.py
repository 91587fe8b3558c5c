"""Declare how a model is made and what it must hold; everloop keeps it true, and can prove what it did.

The names a user types. Families live in ``el.metric``, ``el.check``, ``el.guard``, ``el.augment``, ``el.alert``, ``el.detector``, ``el.notify`` and ``el.testing``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop import testing
    from everloop.errors import EverloopError, SpecError
    from everloop.loop.backtest.python import backtest
    from everloop.loop.backtest.result import Prices
    from everloop.spec import alert, augment, detector, guard, metric, notify
    from everloop.spec import checks as check
    from everloop.spec.columns import Column, Columns, when
    from everloop.spec.decision import Threshold
    from everloop.spec.gate import Better, NotWorse
    from everloop.spec.label import Label, Outcomes
    from everloop.spec.loop import Loop
    from everloop.spec.policy import Policy
    from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows
    from everloop.spec.rollout import Canary, Direct
    from everloop.spec.serve import Cache, Meaning, Serve
    from everloop.spec.source import Csv, Fixed, JsonLines, Parquet
    from everloop.spec.torch import Cosine, EarlyStopping, LoRA, Plateau, Torch, pretrained
    from everloop.spec.trace import past
    from everloop.spec.train import Choice, Integers, LogUniform, Search, Train, Uniform
    from everloop.spec.window import Everything, Last

__version__ = "0.1.0"

__all__ = [
    "AllOf",
    "AnyOf",
    "Better",
    "Cache",
    "Canary",
    "Choice",
    "Column",
    "Columns",
    "Cosine",
    "Csv",
    "Degraded",
    "Direct",
    "Drift",
    "EarlyStopping",
    "EverloopError",
    "Every",
    "Everything",
    "Fixed",
    "Integers",
    "JsonLines",
    "Label",
    "Last",
    "LoRA",
    "LogUniform",
    "Loop",
    "Manual",
    "Meaning",
    "NotWorse",
    "Outcomes",
    "Parquet",
    "Plateau",
    "Policy",
    "Prices",
    "Rows",
    "Search",
    "Serve",
    "SpecError",
    "Threshold",
    "Torch",
    "Train",
    "Uniform",
    "alert",
    "augment",
    "backtest",
    "check",
    "detector",
    "guard",
    "metric",
    "notify",
    "past",
    "pretrained",
    "testing",
    "when",
]

_HOMES = {
    "everloop.errors": ("EverloopError", "SpecError"),
    "everloop.loop.backtest.python": ("backtest",),
    "everloop.loop.backtest.result": ("Prices",),
    "everloop.spec.columns": ("Column", "Columns", "when"),
    "everloop.spec.decision": ("Threshold",),
    "everloop.spec.gate": ("Better", "NotWorse"),
    "everloop.spec.label": ("Label", "Outcomes"),
    "everloop.spec.loop": ("Loop",),
    "everloop.spec.policy": ("Policy",),
    "everloop.spec.retrain": ("AllOf", "AnyOf", "Degraded", "Drift", "Every", "Manual", "Rows"),
    "everloop.spec.rollout": ("Canary", "Direct"),
    "everloop.spec.serve": ("Cache", "Meaning", "Serve"),
    "everloop.spec.source": ("Csv", "Fixed", "JsonLines", "Parquet"),
    "everloop.spec.torch": ("Cosine", "EarlyStopping", "LoRA", "Plateau", "Torch", "pretrained"),
    "everloop.spec.trace": ("past",),
    "everloop.spec.train": ("Choice", "Integers", "LogUniform", "Search", "Train", "Uniform"),
    "everloop.spec.window": ("Everything", "Last"),
}
"""Which module holds a name. Loaded when it is first asked for, so that a server, which needs none, starts at once."""
_PLACES = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = {
    "alert": "everloop.spec.alert",
    "augment": "everloop.spec.augment",
    "check": "everloop.spec.checks",
    "detector": "everloop.spec.detector",
    "guard": "everloop.spec.guard",
    "metric": "everloop.spec.metric",
    "notify": "everloop.spec.notify",
    "testing": "everloop.testing",
}


_LATER = {
    "Join": "joining other tables is not built yet; join them in your source, as they were known at the event",
    "Experiment": "an experiment is no part of a declaration; start one between versions with `everloop experiment start`",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = importlib.import_module(_MODULES[name])
    elif name in _PLACES:
        found = getattr(importlib.import_module(_PLACES[name]), name)
    else:
        raise _unknown(name)
    globals()[name] = found  # the next time it is simply there
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _unknown(name: str) -> Exception:
    if name in _LATER:
        from everloop.errors import SpecError

        return SpecError(f"el.{name}: {_LATER[name]}.")
    from difflib import get_close_matches  # only here: a server that starts needs none of it

    close = get_close_matches(name, __all__, n=1)
    remedy = f"did you mean el.{close[0]}?" if close else f"it has {', '.join(__all__)}."
    return AttributeError(f"everloop has no {name!r}; {remedy}")
