"""How a model is made: an estimator or a function, in a form that needs neither to be imported. Fits nothing."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from everloop.errors import SpecError
from everloop.spec.conform import conform, exact, positive, shown
from everloop.spec.function import DECLARATION, Function
from everloop.spec.label import Value
from everloop.spec.plain import plain
from everloop.spec.taught import taught
from everloop.spec.torch import Torch

LATER = {"omitted": "default"}
"""A field that came after declarations were kept: written only where it is not its default, so that theirs keep their digest."""
KWARGS = ("lightgbm.", "xgboost.")
"""These take more parameters than they list."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """An estimator as its class's path and its parameters: enough to build it again.

    Parameters are None, booleans, numbers, texts, lists, tuples, dicts and Estimators. Two that have equal parameters
    are equal, whatever Python says of the live ones.
    """

    path: str
    """module.Class"""
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.path, *sorted(self.parameters)))

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def last(self) -> Estimator:
        """The one that predicts: the last step of a pipeline, the inner one of a wrapper, or itself."""
        steps = self.parameters.get("steps")
        inner = steps[-1][1] if steps else self.parameters.get("estimator") or self.parameters.get("regressor")
        return inner.last if isinstance(inner, Estimator) else self

    def taking(self, name: str) -> tuple[str, ...] | None:
        """None if it takes the parameter ``name`` (nested ones as ``step__parameter``), else those that it takes."""
        first, _, rest = name.partition("__")
        if not rest:
            return None if name in self.parameters else tuple(sorted(self.parameters))
        parts = dict(_named_parts(self))
        if first not in parts:
            return tuple(sorted(f"{each}__…" for each in parts))
        further = parts[first].taking(rest)
        return None if further is None else tuple(f"{first}__{each}" for each in further)

    @classmethod
    def of(cls, given: Any, where: str) -> Estimator:
        """From a live one with ``get_params``. Raises SpecError naming the parameter that has no plain form."""
        kind = type(given)
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__ or kind.__module__.startswith(DECLARATION):
            raise SpecError(
                f"{where} is a {kind.__name__}, whose class stands in a script, so that no other process can import it; "
                "install it as a module, or write a function (samples, params, context) that makes it."
            )
        # Not deep: nested estimators bring their own parameters.
        parameters = given.get_params(deep=False)
        if isinstance(parameters.get("class_weight"), Mapping):
            raise SpecError(
                f"{where}(class_weight) is {shown(parameters['class_weight'])}, but estimators see class numbers; "
                "write Train(…, weight={class: weight}) instead."
            )
        plain = {name: _plain(parameters[name], f"{where}({name})") for name in sorted(parameters)}
        return cls(path=f"{kind.__module__}.{kind.__qualname__}", parameters=plain)


def _named_parts(estimator: Estimator) -> Iterator[tuple[str, Estimator]]:
    for name, value in estimator.parameters.items():
        if isinstance(value, Estimator):
            yield name, value
        for part in value if isinstance(value, list | tuple) else ():
            match part:
                case [str(inner), Estimator() as found, *_]:
                    yield inner, found


def _plain(value: Any, where: str) -> Any:
    return plain(
        value, where, lambda each, place: Estimator.of(each, f"{place}: {type(each).__name__}"),
        remedy="use numbers, texts, lists, dicts or estimators, or train with a function.",
    )  # fmt: skip


@taught
@dataclass(frozen=True)
class Uniform:
    """Any number between ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)


@taught
@dataclass(frozen=True)
class LogUniform:
    """Any number between ``low`` and ``high``, each order of magnitude as likely as the next."""

    low: float
    high: float

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)
        if self.low <= 0:
            raise SpecError(f"LogUniform.low is {self.low:g}; write more than 0, which a logarithm needs.")


@taught
@dataclass(frozen=True)
class Integers:
    """Any whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)


@taught
@dataclass(frozen=True, init=False)
class Choice:
    """One of these values."""

    values: tuple[bool | int | float | str | None, ...]

    def __init__(self, *values: bool | int | float | str | None) -> None:
        object.__setattr__(self, "values", values)
        conform(self)
        if len(values) < 2:
            raise SpecError(f"Choice is given {shown(values)}, which leaves no choice; write at least two values.")
        if len({(type(each), each) for each in self.values}) < len(self.values):
            raise SpecError(f"Choice is given {shown(values)} with a value twice; leave one out.")


Space = Uniform | LogUniform | Integers | Choice


def _rising(space: Space, low: float, high: float) -> None:
    if not low < high:
        raise SpecError(f"{type(space).__name__} goes from {low:g} to {high:g}; write the lower one first.")


@taught
@dataclass(frozen=True, kw_only=True)
class Search:
    """Which parameters to try, each over its space, in ``trials`` fits judged on the newest part of the training rows."""

    space: Mapping[str, Space] = field(kw_only=False)
    trials: int = 20
    timeout: timedelta | None = None
    sampler: Literal["tpe", "random", "grid"] = field(default="tpe", metadata=LATER)
    pruner: Literal["median", "hyperband", "halving"] | None = field(default=None, metadata=LATER)
    """Gives up trials whose intermediate scores are hopeless; needs an estimator that can tell some."""
    workers: int | None = field(default=None, metadata=LATER)
    """Trials at once; None: as many as there are cores, at most 4."""

    def __post_init__(self) -> None:
        for name, each in self.space.items() if isinstance(self.space, Mapping) else ():
            if not isinstance(each, Uniform | LogUniform | Integers | Choice):
                raise SpecError(
                    f"Search.space[{name!r}] is {shown(each)}; write Uniform, LogUniform, Integers or Choice."
                )
        conform(self)
        if not self.space:
            raise SpecError('Search.space is empty; write for example {"learning_rate": LogUniform(0.01, 0.3)}.')
        if self.trials < 1:
            raise SpecError(f"Search.trials is {self.trials}; write at least 1.")
        positive(self.timeout, "Search.timeout", example="timedelta(minutes=10)")
        if self.workers is not None and not 1 <= self.workers <= 256:
            raise SpecError(f"Search.workers is {self.workers}; write a whole number from 1 to 256, or None.")
        if self.sampler == "grid":
            for name, space in self.space.items():
                if isinstance(space, Uniform | LogUniform):
                    raise SpecError(
                        f"Search.space[{name!r}] is {shown(space)}, which has no end of points for a grid; write Choice "
                        'or Integers, or sampler="random".'
                    )
            if self.grid is not None and self.grid > self.trials:
                raise SpecError(
                    f"Search's grid has {self.grid:,} points and trials is {self.trials}; write trials={self.grid}, "
                    'fewer values, or sampler="random".'
                )

    @property
    def grid(self) -> int | None:
        """How many combinations a grid has; None for other samplers."""
        if self.sampler != "grid":
            return None
        sizes = [
            len(space.values) if isinstance(space, Choice) else int(space.high - space.low + 1)
            for space in self.space.values()
        ]
        return math.prod(sizes)

    def __hash__(self) -> int:
        return hash((tuple(sorted(self.space)), self.trials, self.timeout))


@taught
@dataclass(frozen=True, kw_only=True)
class Train:
    """An estimator (scikit-learn, LightGBM, XGBoost, a pipeline), a `Torch`, or a function ``(samples, params, context) → model``."""

    estimator: Estimator | Torch | Function = field(kw_only=False)
    search: Search | None = None
    weight: str | Mapping[Value, float] | None = None
    """``balanced``, {class: weight}, or the name of a column of weights."""
    seed: int = 0
    timeout: timedelta | None = None

    if TYPE_CHECKING:  # the short forms that people write

        def __init__(
            self,
            estimator: Any,
            *,
            search: Search | None = None,
            weight: str | Mapping[Any, float] | None = None,
            seed: int = 0,
            timeout: timedelta | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimator", _made_by(self.estimator))
        conform(self)
        positive(self.timeout, "Train.timeout", example="timedelta(hours=2)")
        if isinstance(self.weight, str) and not self.weight:
            raise SpecError("Train.weight is ''; write \"balanced\", a dict of classes, or the name of a column.")
        if isinstance(self.weight, Mapping):
            object.__setattr__(self, "weight", {exact(key): each for key, each in self.weight.items()})
            for key, each in self.weight.items():
                if each <= 0:
                    raise SpecError(f"Train.weight[{key!r}] is {each:g}; write more than 0.")
        if isinstance(self.estimator, Estimator | Torch) and self.search is not None:
            for name in self.search.space:
                _known_parameter(self.estimator, name)

    def __hash__(self) -> int:
        return hash((self.estimator, self.search, self.seed, self.timeout))


def _known_parameter(estimator: Estimator | Torch, name: str) -> None:
    known = estimator.taking(name)
    if known is None:
        return
    close = get_close_matches(name, known, n=1, cutoff=0.8)
    if isinstance(estimator, Estimator) and estimator.last.path.startswith(KWARGS) and not close:
        return
    remedy = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}."
    raise SpecError(f"Search.space names {name!r}, which {estimator.name} does not take; {remedy}")


def _made_by(given: Any) -> Estimator | Torch | Function:
    if isinstance(given, Estimator | Torch | Function):
        return given
    if hasattr(given, "state_dict") or (inspect.isclass(given) and hasattr(given, "state_dict")):
        name = given.__name__ if inspect.isclass(given) else type(given).__name__
        raise SpecError(f"Train is given the network {name}; write el.Torch({name}, parameters={{…}}, epochs=…).")
    if inspect.isclass(given):
        raise SpecError(f"Train is given the class {given.__name__}; write {given.__name__}() with its parameters.")
    if hasattr(given, "get_params"):
        return Estimator.of(given, f"Train({type(given).__name__})")
    if callable(given):
        return Function.of(given, "Train")
    raise SpecError(f"Train is given {shown(given)}; write an estimator such as LGBMClassifier(), or a function.")
