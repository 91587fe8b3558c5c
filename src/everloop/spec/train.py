"""How a model is made: an estimator or a function, in a form that needs neither to be imported. Fits nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from everloop.errors import SpecError
from everloop.spec.conform import conform, positive, shown
from everloop.spec.function import Function


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """An estimator as its class's path and its parameters; nested estimators are Estimators again."""

    path: str
    """module.Class"""
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.path, repr(sorted(self.parameters))))

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @classmethod
    def of(cls, given: Any, where: str) -> Estimator:
        """From a live one with ``get_params``. Raises SpecError naming the parameter that has no plain form."""
        kind = type(given)
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise SpecError(f"{where} is a {kind.__qualname__}, whose class stands in a script; import it from a module.")
        # Not deep: nested estimators bring their own parameters.
        parameters = given.get_params(deep=False)
        path = f"{kind.__module__}.{kind.__qualname__}"
        return cls(path=path, parameters={name: _plain(parameters[name], f"{where}({name})") for name in sorted(parameters)})


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "get_params") and not inspect.isclass(value):
        return Estimator.of(value, where)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    if isinstance(value, slice):
        raise SpecError(f"{where} is {value!r}; write the list of positions.")
    if isinstance(value, Mapping):
        return {str(name): _plain(each, where) for name, each in value.items()}
    raise SpecError(
        f"{where} is {shown(value)}, a {type(value).__name__}, which cannot be written down; use numbers, texts, lists, "
        "dicts or estimators, or train with a function."
    )


@dataclass(frozen=True)
class Uniform:
    """Any number between ``low`` and ``high``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """Any number between ``low`` and ``high``, each order of magnitude as likely as the next."""

    low: float
    high: float

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)
        if self.low <= 0:
            raise SpecError(f"LogUniform.low is {self.low:g}; a logarithm needs more than 0.")


@dataclass(frozen=True)
class Integers:
    """Any whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        conform(self)
        _rising(self, self.low, self.high)


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values."""

    values: tuple[bool | int | float | str | None, ...]

    def __init__(self, *values: bool | int | float | str | None) -> None:
        object.__setattr__(self, "values", values)
        conform(self)
        if len(values) < 2:
            raise SpecError(f"Choice{values} leaves no choice; write at least two values.")


Space = Uniform | LogUniform | Integers | Choice


def _rising(space: Space, low: float, high: float) -> None:
    if not low < high:
        raise SpecError(f"{type(space).__name__} goes from {low:g} to {high:g}; write the lower one first.")


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which parameters to try, each over its space, in ``trials`` fits judged on the newest part of the training rows."""

    space: Mapping[str, Space] = field(kw_only=False)
    trials: int = 20
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        conform(self)
        if not self.space:
            raise SpecError('Search.space is empty; write for example {"learning_rate": LogUniform(0.01, 0.3)}.')
        for name, each in self.space.items():
            if not isinstance(each, Uniform | LogUniform | Integers | Choice):
                raise SpecError(f"Search.space[{name!r}] is {shown(each)}; write Uniform, LogUniform, Integers or Choice.")
        if self.trials < 1:
            raise SpecError(f"Search.trials is {self.trials}; write at least 1.")
        positive(self.timeout, "Search.timeout", example="timedelta(minutes=10)")

    def __hash__(self) -> int:
        return hash((tuple(sorted(self.space)), self.trials, self.timeout))


@dataclass(frozen=True, kw_only=True)
class Train:
    """An estimator (scikit-learn, LightGBM, XGBoost, a pipeline), or a function ``(samples, params, context) → model``."""

    estimator: Estimator | Function = field(kw_only=False)
    search: Search | None = None
    weight: str | Mapping[Any, float] | None = None
    """"balanced", {class: weight}, or the name of a column of weights."""
    seed: int = 0
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimator", _made_by(self.estimator))
        conform(self)
        positive(self.timeout, "Train.timeout", example="timedelta(hours=2)")
        if isinstance(self.estimator, Estimator) and self.search is not None:
            known = set(self.estimator.parameters)
            for name in self.search.space:
                if "__" not in name and name not in known:
                    raise SpecError(
                        f"Search.space names {name!r}, which {self.estimator.name} does not take; "
                        f"it takes {', '.join(sorted(known))}."
                    )

    def __hash__(self) -> int:
        return hash((self.estimator, self.search, self.seed, self.timeout))


def _made_by(given: Any) -> Estimator | Function:
    if isinstance(given, Estimator | Function):
        return given
    if inspect.isclass(given):
        raise SpecError(f"Train is given the class {given.__name__}; write {given.__name__}() with its parameters.")
    if hasattr(given, "get_params"):
        return Estimator.of(given, f"Train({type(given).__name__})")
    if callable(given):
        return Function.of(given, "Train")
    raise SpecError(f"Train is given {shown(given)}; write an estimator such as LGBMClassifier(), or a function.")
