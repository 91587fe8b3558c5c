"""Has the champion become worse somewhere among its newest labels? A declared detector on the losses of its rows.

The detector runs over the rows from a fixed beginning, so that what a look finds does not depend on when looks are; the
beginning moves on by a whole ``over`` at a time. Where losses have a daily cycle only whole days are taken, each
shuffled: a night would be a change otherwise.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from everloop.clock import instant
from everloop.measure import metrics
from everloop.measure.detectors import worsened
from everloop.spec.detector import Detector
from everloop.spec.metric import Accuracy, Metric
from everloop.watch.score import DAY_MICROSECONDS, Degradation, Judged

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_ROWS = 50_000
SLOTS = 8
"""Parts of a day that are held against one another to see a cycle."""
LEAST_DAYS, LEAST_IN_SLOT = 3, 10
CYCLE_Z = 4.0
"""A cycle is seen where the slots' means scatter by more than chance, by so many of its own standard deviations."""


def beginning(since: datetime, until: datetime, over: timedelta) -> datetime:
    """Where a detector begins: between one and two ``over`` before ``until``, never before ``since``."""
    return since + over * max(0, (until - since) // over - 1)


def degradation(metric: Metric, judged: Judged, detector: Detector, *, by: float) -> Degradation | None:
    """What the detector found in these rows, oldest first; None where nothing has become worse.

    ``by`` is the least rise of the mean loss that counts; where the score is no mean of losses any rise does.
    """
    loss = metric.companion
    judged = judged.newest(MOST_ROWS)
    if not len(judged):
        return None
    times, losses = steadied(judged.times, metrics.row_loss(loss, judged.truth, judged.prediction))
    found = worsened(detector, losses)
    if found is None:
        return None
    rise = found.after - found.before
    same = metric == loss or isinstance(loss, Accuracy)
    worse = rise >= by if same else True
    error = math.sqrt(
        float(losses[found.at :].var()) / (len(losses) - found.at) + float(losses[: found.at].var()) / found.at
    )
    name = type(detector).__name__
    # What rises is the loss: of accuracy that is the share of wrong answers.
    rose = "share of wrong answers" if isinstance(loss, Accuracy) else f"mean {loss.name}"
    since = instant(int(times[found.at]))
    return Degradation(
        score=found.after,
        reference=found.before,
        difference=rise,
        standard_error=error,
        noise=0.0,
        by=by,
        rows=len(losses) - found.at,
        since=since,
        until=instant(int(judged.times[-1])),
        worse=worse,
        because=(
            f"{name}: the {rose} rose from {found.before:.4g} to {found.after:.4g} at about "
            f"{since:%Y-%m-%d %H:%M}, {len(losses) - found.at:,} matured rows ago"
            + (f", limit {by:.3g}" if same else "")
        ),
    )


def steadied(times: Integers, losses: Floats) -> tuple[Integers, Floats]:
    """Times and losses as they are, or, where there is a daily cycle, of whole days, each in random order."""
    if not cyclic(times, losses):
        return times, losses
    days = times // DAY_MICROSECONDS
    whole = days < days[-1]
    days, times, losses = days[whole], times[whole], losses[whole]
    # Seeded by nothing but their number: the same rows are always in the same order.
    order = np.lexsort((np.random.default_rng(0).random(len(days)), days))
    return times, losses[order]


def cyclic(times: Integers, losses: Floats) -> bool:
    """Whether the mean loss differs by the hour, beyond chance, day for day: (Σ z² − k)/√2k over the slots of a day."""
    days = times // DAY_MICROSECONDS
    if not len(days) or days[-1] - days[0] < LEAST_DAYS:
        return False
    slots = (times % DAY_MICROSECONDS) * SLOTS // DAY_MICROSECONDS
    # Against its own day: a slow drift, or a change in the middle, is no cycle.
    _, day = np.unique(days, return_inverse=True)
    off = losses - (np.bincount(day, weights=losses) / np.bincount(day))[day]
    count = np.bincount(slots, minlength=SLOTS)
    told = count >= LEAST_IN_SLOT
    spread = float(off.var())
    if told.sum() < 2 or spread <= 0:
        return False
    z = np.bincount(slots, weights=off, minlength=SLOTS)[told] / np.sqrt(count[told] * spread)
    k = int(told.sum()) - 1
    return bool((float(np.sum(z**2)) - k) / math.sqrt(2 * k) > CYCLE_Z)
