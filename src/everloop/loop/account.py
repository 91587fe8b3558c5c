"""What a replay tells of itself: figures by period, decisions, versions, time spent. Knows no screen and no page."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from everloop.measure.metrics import score as measure_score
from everloop.records import Decision, Version
from everloop.spec import metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """One stretch between two looks. ``score`` is None while too few rows of it have a known truth."""

    start: datetime
    end: datetime
    rows: int
    score: float | None
    champion: int | None
    challenger: int | None
    share: float
    drift: float
    """The largest PSI of a column in the period, 0 when none was judged."""


@dataclass(slots=True, kw_only=True)
class Account:
    loop: str
    metric: str
    greater_is_better: bool
    task: str
    started: datetime
    ended: datetime | None = None
    periods: list[Period] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    worth: dict[int, str] = field(default_factory=dict)
    """Version → what it gained on live rows beside what was predicted, in words."""
    unpaid: str | None = None
    """Said where retraining has not paid."""
    marks: list[tuple[datetime, str]] = field(default_factory=list)
    """What is known to have happened (a simulation's or an injection's truth), for the plots."""
    predictions: int = 0
    failed: int = 0
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    simulated: str | None = None
    """What is simulated, said aloud; None for real history."""

    def count(self, *actions: str) -> int:
        return sum(each.action in actions for each in self.decisions)

    def summary(self) -> dict[str, Any]:
        """For machines: what ``everloop replay --json`` prints."""
        wall = self.seconds.get("total", 0.0)
        traffic = self.seconds.get("traffic", 0.0)
        return {
            "loop": self.loop,
            "task": self.task,
            "metric": self.metric,
            "score": self.score,
            "scores": self.scores,
            "predictions": self.predictions,
            "failed": self.failed,
            "from": self.started.isoformat(),
            "to": self.ended.isoformat() if self.ended else None,
            "versions": len(self.versions),
            "retraining": self.unpaid,
            "actions": {name: self.count(name) for name in sorted({each.action for each in self.decisions})},
            "champion": self.periods[-1].champion if self.periods else None,
            "alarms": sum("drift" in each.because for each in self.decisions if each.action == "turn started"),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "predictions_per_second": {
                "over_http": round(self.predictions / traffic) if traffic else None,
                "end_to_end": round(self.predictions / wall) if wall else None,
            },
            "decisions": [
                {"at": each.at.isoformat(), "action": each.action, "version": each.version, "because": each.because}
                for each in self.decisions
            ],
        }


def overall(task: str, truth: Any, prediction: Any) -> dict[str, float]:
    """The usual metrics of the task over all rows, whatever the declared score is."""
    chosen: list[Any]
    if task == "regression":
        chosen = [metric.RootMeanSquaredError(), metric.MeanAbsoluteError()]
    elif task == "binary":
        chosen = [metric.Accuracy(), metric.RocAuc(), metric.AveragePrecision(), metric.LogLoss(), metric.Brier()]
    else:
        chosen = [metric.Accuracy(), metric.LogLoss()]
    return {each.name: float(measure_score(each, truth, prediction)) for each in chosen}
