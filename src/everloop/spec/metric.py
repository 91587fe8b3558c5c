"""How good a model is, in one number (users see ``el.metric``). Computes nothing: that is ``measure.metrics``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from everloop.records import Task
from everloop.spec.conform import conform
from everloop.spec.function import Function
from everloop.spec.taught import taught

CLASSIFICATION: tuple[Task, ...] = ("binary", "multiclass")
REGRESSION: tuple[Task, ...] = ("regression",)


@taught
@dataclass(frozen=True)
class LogLoss:
    """Minus the mean log probability of what came true, in nats."""

    name: ClassVar[str] = "log_loss"
    greater_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> LogLoss:
        return self


@taught
@dataclass(frozen=True)
class Brier:
    """Mean squared distance of the probabilities from what came true, halved: (p − y)² for two classes."""

    name: ClassVar[str] = "brier"
    greater_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> Brier:
        return self


@taught
@dataclass(frozen=True)
class RocAuc:
    """Area under the receiver operating characteristic: how well the order of the scores fits."""

    name: ClassVar[str] = "roc_auc"
    greater_is_better: ClassVar[bool] = True
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> Brier:
        """A ranking has no mean over rows: where one is needed, Brier stands in."""
        return Brier()


@taught
@dataclass(frozen=True)
class AveragePrecision:
    """Mean precision at each positive row, scores descending."""

    name: ClassVar[str] = "average_precision"
    greater_is_better: ClassVar[bool] = True
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> Brier:
        return Brier()


@taught
@dataclass(frozen=True)
class Accuracy:
    """The share of right decisions."""

    name: ClassVar[str] = "accuracy"
    greater_is_better: ClassVar[bool] = True
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> Accuracy:
        return self


@taught
@dataclass(frozen=True)
class F1:
    """2·hits / (2·hits + false alarms + misses) of the positive class; the mean over several classes."""

    name: ClassVar[str] = "f1"
    greater_is_better: ClassVar[bool] = True
    tasks: ClassVar[tuple[Task, ...]] = CLASSIFICATION

    @property
    def companion(self) -> Accuracy:
        return Accuracy()


@taught
@dataclass(frozen=True)
class SquaredError:
    """Mean squared error, in the label's units squared."""

    name: ClassVar[str] = "squared_error"
    greater_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = REGRESSION

    @property
    def companion(self) -> SquaredError:
        return self


@taught
@dataclass(frozen=True)
class RootMeanSquaredError:
    """The root of the mean squared error, in the label's units."""

    name: ClassVar[str] = "root_mean_squared_error"
    greater_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = REGRESSION

    @property
    def companion(self) -> SquaredError:
        return SquaredError()


@taught
@dataclass(frozen=True)
class MeanAbsoluteError:
    """Mean absolute error, in the label's units."""

    name: ClassVar[str] = "mean_absolute_error"
    greater_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...]] = REGRESSION

    @property
    def companion(self) -> MeanAbsoluteError:
        return self


@taught
@dataclass(frozen=True, init=False)
class Custom:
    """Your own: ``f(truth, prediction, rows) -> number``, a function at the top level of the declaration.

    ``truth`` are class indices or numbers [n], ``prediction`` probabilities [n, classes] or numbers [n]. It has no
    mean over rows, so shadow judges by Brier or squared error.
    """

    function: Function
    greater_is_better: bool
    task: Task | None = field(default=None, compare=False, metadata={"encoded": False})
    """Filled in when the declaration meets its label; the companion depends on it."""

    def __init__(
        self,
        function: Callable[[Any, Any, Any], float] | Function,
        *,
        greater_is_better: bool = True,
        task: Task | None = None,
    ) -> None:
        object.__setattr__(self, "function", Function.of(function, "metric.Custom"))
        object.__setattr__(self, "greater_is_better", greater_is_better)
        object.__setattr__(self, "task", task)
        conform(self)

    tasks: ClassVar[tuple[Task, ...]] = (*CLASSIFICATION, *REGRESSION)

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def companion(self) -> Brier | SquaredError:
        return SquaredError() if self.task == "regression" else Brier()


Metric = (
    LogLoss
    | Brier
    | RocAuc
    | AveragePrecision
    | Accuracy
    | F1
    | SquaredError
    | RootMeanSquaredError
    | MeanAbsoluteError
    | Custom
)
METRICS = (
    LogLoss,
    Brier,
    RocAuc,
    AveragePrecision,
    Accuracy,
    F1,
    SquaredError,
    RootMeanSquaredError,
    MeanAbsoluteError,
    Custom,
)
