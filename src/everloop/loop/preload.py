"""Which modules a fit of a loop will need, so that a worker can stand by with them. Imports none of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everloop.spec.loop import Loop
from everloop.spec.torch import Imported, Torch
from everloop.spec.train import Estimator

JOB = "everloop.loop.fit_job"


def modules(loop: Loop) -> tuple[str, ...]:
    """The fit job, and what fits."""
    return (JOB, *libraries(loop))


def libraries(loop: Loop) -> tuple[str, ...]:
    """What fits: the libraries of every declared estimator, nested ones too."""
    trains = loop.train if isinstance(loop.train, tuple) else (loop.train,)
    found = [module for each in trains for module in _of(each.estimator)]
    return tuple(dict.fromkeys(("everloop.train.sklearn", *found)))


def _of(value: Any) -> Iterator[str]:
    if isinstance(value, Torch):
        yield "everloop.train.torch"
        yield "torch.onnx"
        yield from (value.model.path.rpartition(".")[0],) if isinstance(value.model, Imported) else ()
    elif isinstance(value, Estimator):
        module = value.path.rpartition(".")[0]
        yield module
        if module.partition(".")[0] in ("lightgbm", "xgboost"):
            yield f"everloop.train.{module.partition('.')[0]}"
        for each in value.parameters.values():
            yield from _of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _of(each)
