"""What policies are compared by: the declared score, in a form that adds up over windows. Knows no costs.

A mean over rows and its root add up exactly. An area over all rows does not: policies are then compared by its influences,
which are as good, but the best possible schedule has to be looked for by what adds up. There, the windows' own scores are
averaged, weighted by rows, which asks how well each window was ranked and not whether answers of different weeks are on
one scale. A user's own metric has no influences: it is compared by the windows' own scores, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.result import BacktestResult, Cell, PolicyRun, WindowRun
from everloop.measure.bootstrap import Influences, of_windows
from everloop.spec.metric import Accuracy, RootMeanSquaredError

Floats = npt.NDArray[np.float64]
Kind = Literal["mean", "complement", "root", "windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """How windows become one number."""

    metric: str
    greater_is_better: bool
    kind: Kind

    @classmethod
    def of(cls, result: BacktestResult) -> Yardstick:
        kind: Kind = "windows"
        if result.metric == RootMeanSquaredError.name:
            kind = "root"
        elif result.metric == Accuracy.name:
            kind = "complement"
        elif result.metric == result.companion:
            kind = "mean"
        return cls(metric=result.metric, greater_is_better=result.greater_is_better, kind=kind)

    @property
    def adds_up(self) -> bool:
        """Losses of windows add up to the score over all rows; otherwise they are the windows' own scores."""
        return self.kind != "windows"

    @property
    def within(self) -> str:
        """What adds up, in words."""
        name = self.metric.replace("_", " ")
        return name if self.adds_up else f"{name} within windows (their mean, weighted by rows)"

    def words(self, found: Influences) -> str:
        """What policies are compared by."""
        return f"{self.metric.replace('_', ' ')} over all rows" if found.exact else self.within

    def loss(self, cell: Cell | WindowRun) -> float:
        """The mean loss of a window's rows, smaller is better; NaN where it is not defined."""
        if self.adds_up:
            return cell.loss if cell.rows else math.nan
        if cell.score is None:
            return math.nan
        return -cell.score if self.greater_is_better else cell.score

    def value(self, mean_loss: float) -> float:
        """The score with that mean loss."""
        match self.kind:
            case "mean":
                return mean_loss
            case "complement":
                return 1 - mean_loss
            case "root":
                return math.sqrt(max(mean_loss, 0.0))
            case "windows":
                return -mean_loss if self.greater_is_better else mean_loss

    def worse_by(self, score: float, than: float) -> float:
        """How much worse the first is; negative where it is better."""
        return than - score if self.greater_is_better else score - than

    def mean(self, run: PolicyRun, rows: Floats) -> float:
        """The score that adds up, over the windows in which it is defined; ``rows`` [windows]."""
        losses = np.array([self.loss(each) for each in run.windows], dtype=np.float64)
        told = np.isfinite(losses) & (rows > 0)
        return self.value(float(np.average(losses[told], weights=rows[told]))) if told.any() else math.nan

    def influences(self, runs: Sequence[PolicyRun], rows: Floats) -> Influences:
        """What each window does to each policy's score; ``rows`` [windows]."""
        if not self.adds_up and (found := self._kept(runs, rows)) is not None:
            return found
        losses = np.array([[self.loss(each) for each in run.windows] for run in runs], dtype=np.float64)
        found = of_windows(losses.reshape(len(runs), len(rows)), rows, greater_is_better=False)
        score = np.array([self.value(float(each)) for each in found.score])
        sums = found.sums
        if self.kind == "root":
            # The derivative of √mean: (e² − MSE)/(2·RMSE), as in measure.metrics.
            sums = sums / np.maximum(2 * score, 1e-300)[:, None]
        elif self.greater_is_better:
            sums = -sums
        return Influences(
            score=score, sums=sums, rows=found.rows, greater_is_better=self.greater_is_better, exact=self.adds_up
        )

    def _kept(self, runs: Sequence[PolicyRun], rows: Floats) -> Influences | None:
        """Those that were calculated with the rows at hand; None where they are of other rows than these, or missing."""
        counted = [window.rows for window in runs[0].windows]
        kept = [[each.influence for each in run.windows] for run in runs]
        scores = [run.score for run in runs]
        if None in scores or any(None in each for each in kept) or not np.array_equal(counted, rows):
            return None
        return Influences(
            score=np.array(scores, dtype=np.float64),
            sums=np.array(kept, dtype=np.float64),
            rows=rows,
            greater_is_better=self.greater_is_better,
            exact=True,
        )
