"""The difference of two models' scores on the same rows, with its error. Knows nothing of margins' meaning or verdicts.

Every difference is turned so that positive means the challenger is worse, whatever the metric's direction. The error
comes from influence functions, over blocks of days or keys where there are at least seven of them: rows of one day err
together, and counting them as independent doubles the level.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, bdtri, ndtr, ndtri, owens_t, stdtrit

from everloop.measure.metrics import decisions, influence, row_loss, score
from everloop.spec.metric import F1, Accuracy, AveragePrecision, Custom, Metric, RocAuc

Floats = NDArray[np.float64]

LEAST_BLOCKS = 7
LEAST_ROWS = 30
LEAST_DISCORDANT = 30
LEAST_OF_A_CLASS = 50
DRAWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Challenger against another on the same rows; positive: the challenger is worse by that much."""

    value: float
    standard_error: float
    lower: float
    upper: float
    """One-sided bounds, each at the level asked for."""
    rows: int
    blocks: int
    unit: str
    """What was counted as independent: row, day or key."""
    ours: float
    theirs: float
    """The scores themselves: challenger and the other."""
    discordant: int | None = None
    """Accuracy and F1: rows on which the two differ (in correctness, in decision)."""
    short: str | None = None
    """Why the bounds cannot be trusted yet; None when they can."""
    rows_needed: int | None = None
    """About how many rows would mend ``short``."""
    exact: bool = False
    """Accuracy with few disagreements: the bounds are exact binomial ones and can be trusted all the same."""


def difference(
    metric: Metric,
    truth: ArrayLike,
    challenger: ArrayLike,
    other: ArrayLike,
    *,
    alpha: float = 0.05,
    days: ArrayLike | None = None,
    keys: ArrayLike | None = None,
    rows: Any = None,
    positive: int = 1,
    seed: int = 0,
) -> Difference:
    """Shapes as in `metrics`. ``days`` int64 [n] and ``keys`` [n] name the blocks; whichever gives the larger error counts.

    se² = G/(G−1)·Σ_g(Σ_{i in g} ψ_i)²/n² with Student's t(G−1). A `Custom` metric is bootstrapped (1,000 draws of rows
    or blocks, percentiles, ``seed``).
    """
    y, a, b = np.asarray(truth), np.asarray(challenger), np.asarray(other)
    sign = -1.0 if metric.greater_is_better else 1.0
    ours = score(metric, y, a, rows=rows, positive=positive)
    theirs = score(metric, y, b, rows=rows, positive=positive)
    value = sign * (ours - theirs)
    n = len(y)
    if n < 2 or math.isnan(value):
        reason = "fewer than two rows" if n < 2 else f"{metric.name} is not defined on these rows"
        return Difference(
            value=value,
            standard_error=math.inf,
            lower=-math.inf,
            upper=math.inf,
            rows=n,
            blocks=n,
            unit="row",
            ours=ours,
            theirs=theirs,
            short=reason,
            rows_needed=max(LEAST_ROWS, 2 * n),
        )
    if isinstance(metric, Custom):
        error, lower, upper, blocks, unit = _bootstrap(metric, y, a, b, sign, value, alpha, days, keys, rows, seed)
    else:
        psi = sign * (influence(metric, y, a, positive=positive) - influence(metric, y, b, positive=positive))
        error, blocks, unit = _error(psi, days, keys)
        radius = quantile(alpha, blocks) * error
        lower, upper = value - radius, value + radius
    discordant = _discordant(metric, y, a, b)
    short, needed = _short(metric, y, n, discordant, error, positive, same=bool(np.array_equal(a, b)))
    exact = short is not None and isinstance(metric, Accuracy) and n >= LEAST_ROWS
    if exact:
        # Too few disagreements for the normal curve: exact binomial bounds need none.
        lower, upper = _exact(y, a, b, alpha)
    return Difference(
        value=value,
        standard_error=error,
        lower=lower,
        upper=upper,
        rows=n,
        blocks=blocks,
        unit=unit,
        ours=ours,
        theirs=theirs,
        discordant=discordant,
        short=short,
        rows_needed=needed,
        exact=exact,
    )


def quantile(alpha: float, blocks: int) -> float:
    """Student's t(blocks − 1) at 1 − alpha, one-sided."""
    return float(stdtrit(max(blocks - 1, 1), 1 - alpha))


def rows_to_promote(found: Difference, margin: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Rows in all with which an equal challenger passes with that chance: ⌈(z_alpha + z_power)²·τ̂²/margin²⌉."""
    spread = found.standard_error**2 * found.rows
    return math.ceil((float(ndtri(1 - alpha)) + float(ndtri(power))) ** 2 * spread / margin**2)


def look_alpha(alpha: float, fraction: float) -> float:
    """The level of each of two planned looks, the first after ``fraction`` of the rows, so that both keep ``alpha``.

    Pocock's constant c for the actual fraction: P(Z1 ≤ c, Z2 ≤ c) = 1 − alpha with correlation √fraction; with the
    bivariate normal by Owen's T. Asking again as labels arrive without this reaches .17 in ten looks.

    >>> round(float(-ndtri(look_alpha(0.05, 0.5))), 3)
    1.875
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The first look comes after a fraction of {fraction}; it must lie strictly between 0 and 1.")
    slope = math.sqrt((1 - math.sqrt(fraction)) / (1 + math.sqrt(fraction)))
    low, high = alpha / 2, alpha
    for _ in range(60):
        middle = (low + high) / 2
        c = -float(ndtri(middle))
        crossing = 1 - (float(ndtr(c)) - 2 * float(owens_t(c, slope)))
        low, high = (middle, high) if crossing < alpha else (low, middle)
    return low


def block_sums(psi: Floats, blocks: ArrayLike) -> Floats:
    """Σψ of each block, [G]."""
    _, group = np.unique(np.asarray(blocks), return_inverse=True)
    sums: Floats = np.bincount(group.reshape(-1), weights=psi).astype(np.float64)
    return sums


def _error(psi: Floats, days: ArrayLike | None, keys: ArrayLike | None) -> tuple[float, int, str]:
    """Standard error, blocks and their unit: the larger of day and key blocks, rows where neither has seven."""
    n = len(psi)
    psi = psi - psi.mean()
    found: list[tuple[float, int, str]] = []
    for unit, blocks in (("day", days), ("key", keys)):
        if blocks is not None:
            sums = block_sums(psi, blocks)
            if len(sums) >= LEAST_BLOCKS:
                found.append((_block_error(sums, n), len(sums), unit))
    return max(found, default=(_block_error(psi, n), n, "row"))


def _block_error(sums: Floats, n: int) -> float:
    count = len(sums)
    return math.sqrt(count / (count - 1) * float(np.sum(sums**2))) / n


def _discordant(metric: Metric, y: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> int | None:
    if isinstance(metric, Accuracy):
        return int(np.sum((decisions(a) == y) != (decisions(b) == y)))
    if isinstance(metric, F1):
        return int(np.sum(decisions(a) != decisions(b)))
    return None


def _short(
    metric: Metric, y: NDArray[Any], n: int, discordant: int | None, error: float, positive: int, *, same: bool
) -> tuple[str | None, int | None]:
    """What there is too little of for the bounds to hold their level, and the rows that would mend it."""
    if n < LEAST_ROWS:
        return f"{n} rows, at least {LEAST_ROWS} are needed", LEAST_ROWS
    if same:
        return None, None
    if discordant is not None and discordant < LEAST_DISCORDANT:
        needed = math.ceil(n * LEAST_DISCORDANT / max(discordant, 1))
        return f"{discordant} rows on which they differ, at least {LEAST_DISCORDANT} are needed", needed
    if isinstance(metric, RocAuc | AveragePrecision):
        classes = np.unique(y)
        looked_for = [positive] if len(classes) <= 2 and positive in classes else list(classes)
        fewest = min(min(int(np.sum(y == k)), int(np.sum(y != k))) for k in looked_for)
        if fewest < LEAST_OF_A_CLASS:
            needed = math.ceil(n * LEAST_OF_A_CLASS / max(fewest, 1))
            return f"{fewest} rows of the rarer kind, at least {LEAST_OF_A_CLASS} are needed", needed
    return None, None


def _exact(y: NDArray[Any], a: NDArray[Any], b: NDArray[Any], alpha: float) -> tuple[float, float]:
    """Bounds on the loss of accuracy from few discordant rows, conservative and exact for independent rows.

    Upper: the challenger alone is wrong in at most (Clopper and Pearson) of all rows. Lower: above 0 only when the
    sign test on the discordant rows says so.
    """
    n = len(y)
    ours, theirs = row_loss(Accuracy(), y, a), row_loss(Accuracy(), y, b)
    only_ours, only_theirs = int(np.sum(ours > theirs)), int(np.sum(theirs > ours))
    upper = float(bdtri(only_ours, n, alpha)) if only_ours < n else 1.0
    both = only_ours + only_theirs
    chance = float(bdtrc(only_ours - 1, both, 0.5)) if only_ours > 0 else 1.0
    shown = both > 0 and chance < alpha
    return (min((only_ours - only_theirs) / n, 1 / n) if shown else min(0.0, (only_ours - only_theirs) / n)), upper


def _bootstrap(
    metric: Custom,
    y: NDArray[Any],
    a: NDArray[Any],
    b: NDArray[Any],
    sign: float,
    value: float,
    alpha: float,
    days: ArrayLike | None,
    keys: ArrayLike | None,
    rows: Any,
    seed: int,
) -> tuple[float, float, float, int, str]:
    unit, members = "row", list[NDArray[np.intp]]()
    for name, blocks in (("day", days), ("key", keys)):
        if blocks is None:
            continue
        _, group = np.unique(np.asarray(blocks), return_inverse=True)
        group = group.reshape(-1)
        if LEAST_BLOCKS <= group.max() + 1 < len(y) and (unit == "row" or group.max() + 1 < len(members)):
            order = np.argsort(group, kind="stable")
            members = np.split(order, np.cumsum(np.bincount(group))[:-1])
            unit = name
    count = len(members) if unit != "row" else len(y)
    random = np.random.default_rng(seed)
    draws = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = random.integers(0, count, count)
        index = chosen if unit == "row" else np.concatenate([members[block] for block in chosen])
        taken = _take(rows, index)
        draws[draw] = sign * (
            score(metric, y[index], a[index], rows=taken) - score(metric, y[index], b[index], rows=taken)
        )
    draws = draws[np.isfinite(draws)]
    if len(draws) < DRAWS / 2:
        return math.inf, -math.inf, math.inf, count, unit
    # Few blocks: percentiles are too near by about the ratio of Student's t to the normal curve.
    widen = quantile(alpha, count) / float(ndtri(1 - alpha)) * math.sqrt(count / max(count - 1, 1))
    low, high = np.quantile(draws, [alpha, 1 - alpha])
    return (
        float(draws.std(ddof=1)),
        value + (float(low) - value) * widen,
        value + (float(high) - value) * widen,
        count,
        unit,
    )


def _take(rows: Any, index: NDArray[np.intp]) -> Any:
    if rows is None:
        return None
    if isinstance(rows, dict):
        return {name: np.asarray(values)[index] for name, values in rows.items()}
    return rows[index]
