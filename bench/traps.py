"""Ways to be fooled when retraining policies are compared, each measured on a real set.

Run: python -m bench.traps [--quick] [--json]. A full run keeps its figures in results/traps.json and docs/backtest.md.

The protocol is that of the published figures (../shared/data/README.md): windows of event time; a window is predicted
whole by the model in service and scored, then a policy may retrain on the last K windows or on all so far, and the new
model serves from the next window. Nothing of everloop's loop is used: these are the traps, not the way out. The published
figure stands beside ours where there is one. --quick leaves the mails out and takes the first third of elec2.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from bench.rows import Row, parser, show
from lightgbm import LGBMClassifier, LGBMRegressor
from scipy.stats import ks_2samp
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score, root_mean_squared_error
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

from everloop.measure.distance import psi

Array = npt.NDArray[Any]
Made = Callable[[], Any]
DATA = Path(__file__).parents[2] / "shared" / "data"
PAGE = Path(__file__).parents[1] / "docs" / "backtest.md"
BEGIN, END = "<!-- written by: python -m bench.traps -->", "<!-- end of what is written -->"
RESULTS = Path(__file__).parent / "results" / "traps.json"
LIBRARIES = ("everloop", "lightgbm", "scikit-learn", "scipy")
PUBLISHED = "published"


@dataclass
class Set:
    """A history in event order, cut into windows. Fits are made once, by their rows."""

    x: Any
    y: Array
    edges: Array
    """The first row of each window, and one past the last."""
    make: Made
    probability: bool = True
    numbers: Array | None = None
    """The columns that drift is looked for in, [rows, columns]."""
    _fits: dict[tuple[int, int], Any] = field(default_factory=dict)

    @property
    def windows(self) -> int:
        return len(self.edges) - 1

    def rows(self, first: int, last: int) -> slice:
        return slice(int(self.edges[first]), int(self.edges[last]))

    def fit(self, first: int, last: int) -> Any:
        if (first, last) not in self._fits:
            rows = self.rows(first, last)
            self._fits[first, last] = self.make().fit(self.x[rows], self.y[rows])
        return self._fits[first, last]

    def predict(self, fit: tuple[int, int], window: int) -> Array:
        rows = self.x[self.rows(window, window + 1)]
        model = self.fit(*fit)
        return np.asarray(model.predict_proba(rows)[:, 1] if self.probability else model.predict(rows))


@dataclass
class Outcome:
    truth: Array
    predicted: Array
    retrains: int
    by_window: list[float]

    @property
    def accuracy(self) -> float:
        return float(accuracy_score(self.truth, self.predicted > 0.5))

    @property
    def auc(self) -> float:
        return float(roc_auc_score(self.truth, self.predicted))

    @property
    def rmse(self) -> float:
        return float(root_mean_squared_error(self.truth, self.predicted))


Wants = Callable[[Set, int, tuple[int, int]], bool]
"""After this window, with a fit of these windows in service: retrain?"""


def run(data: Set, first: int, memory: int | None, wants: Wants) -> Outcome:
    """One policy. ``first``: windows of the first model; ``memory``: windows of each later one, None for all."""
    live, retrains = (0, first), 0
    parts: list[Array] = []
    for window in range(first, data.windows):
        parts.append(data.predict(live, window))
        if window + 1 < data.windows and wants(data, window, live):
            live, retrains = (0 if memory is None else max(0, window + 1 - memory), window + 1), retrains + 1
    truth = data.y[data.rows(first, data.windows)]
    errors = [
        float(np.mean(np.abs(data.y[data.rows(first + at, first + at + 1)] - each))) for at, each in enumerate(parts)
    ]
    return Outcome(truth, np.concatenate(parts), retrains, errors)


def never(data: Set, window: int, live: tuple[int, int]) -> bool:
    return False


def every(count: int, first: int) -> Wants:
    return lambda data, window, live: (window - first + 1) % count == 0


def drifted(distance: str, limit: float, share: float = 0.3) -> Wants:
    """The newest window against the training rows of whoever serves: enough columns beyond the limit."""

    def wants(data: Set, window: int, live: tuple[int, int]) -> bool:
        assert data.numbers is not None
        old, new = data.numbers[data.rows(*live)], data.numbers[data.rows(window, window + 1)]
        found = [(psi_of if distance == "psi" else ks_of)(old[:, at], new[:, at]) for at in range(old.shape[1])]
        return float(np.mean(np.array(found) > limit)) >= share

    return wants


def psi_of(old: Array, new: Array) -> float:
    edges = np.unique(np.quantile(old, np.linspace(0, 1, 11)[1:-1]))
    bins = [np.bincount(np.searchsorted(edges, each, side="right"), minlength=len(edges) + 1) for each in (old, new)]
    return psi(*bins)


def ks_of(old: Array, new: Array) -> float:
    return float(ks_2samp(old, new).statistic)


# The sets


def boosted() -> Any:
    return LGBMClassifier(random_state=0, n_jobs=1, verbose=-1)


def boosted_numbers() -> Any:
    return LGBMRegressor(random_state=0, n_jobs=1, verbose=-1)


def texts() -> Any:
    return make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(C=10.0, solver="liblinear"))


def elec2(rows: int | None = None, *, previous_label: bool = False) -> Set:
    frame = pl.read_parquet(DATA / "elec2.parquet").head(rows or 45_312)
    columns = ["day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"]
    x, y = frame.select(columns).to_numpy().astype(np.float64), frame["price_up"].to_numpy().astype(np.int64)
    if previous_label:
        x = np.column_stack([x, np.concatenate([[0], y[:-1]])])
    edges = np.append(np.arange(0, len(y), 336), len(y))
    return Set(x, y, np.unique(edges), boosted)


def hflights() -> Set:
    frame = pl.read_parquet(DATA / "hflights.parquet").filter(pl.col("dep_delayed_15").is_not_null())
    frame = frame.sort("sched_dep_ts").with_columns(
        minute=pl.col("sched_dep_ts").dt.hour().cast(pl.Int32) * 60 + pl.col("sched_dep_ts").dt.minute(),
        **{name: pl.col(name).rank("dense").cast(pl.Int32) for name in ("carrier", "origin", "dest")},
    )
    columns = ["day_of_week", "minute", "carrier", "origin", "dest", "distance_mi"]
    week = (
        (frame["sched_dep_ts"] - frame["sched_dep_ts"][0].replace(hour=0, minute=0)).dt.total_days() // 7
    ).to_numpy()
    edges = np.append(np.searchsorted(week, np.arange(week.max() + 1)), len(week))
    x = frame.select(columns).to_numpy().astype(np.float64)
    return Set(x, frame["dep_delayed_15"].to_numpy().astype(np.int64), edges, boosted, numbers=x)


def bike() -> Set:
    frame = pl.read_parquet(DATA / "bike_hourly.parquet").sort("ts")
    columns = [
        "season",
        "mnth",
        "hr",
        "holiday",
        "weekday",
        "workingday",
        "weathersit",
        "temp",
        "atemp",
        "hum",
        "windspeed",
    ]
    month = (frame["ts"].dt.year() * 12 + frame["ts"].dt.month()).to_numpy()
    edges = np.append(np.searchsorted(month, np.unique(month)), len(month))
    x = frame.select(columns).to_numpy().astype(np.float64)
    weather = frame.select("temp", "atemp", "hum", "windspeed").to_numpy().astype(np.float64)
    return Set(
        x, frame["cnt"].to_numpy().astype(np.float64), edges, boosted_numbers, probability=False, numbers=weather
    )


def mails() -> Set:
    frame = pl.read_parquet(DATA / "enron_spam.parquet").sort("seq_mailbox")
    words = frame.select(pl.concat_str(["subject", "body"], separator=" ", ignore_nulls=True))[:, 0].to_list()
    counted = HashingVectorizer(n_features=2**18, alternate_sign=False, norm=None).transform(words)
    edges = np.unique(np.append(np.arange(0, len(words), 1_000), len(words)))
    return Set(counted, frame["is_spam"].to_numpy().astype(np.int64), edges, texts)


# The traps


def labels_at_once(*, quick: bool) -> Iterable[Row]:
    """Row by row, each label known before the next row."""
    rows = 15_000 if quick else None
    data, first = elec2(rows), 8
    y, start = data.y, int(data.edges[first])
    yield _row("elec2: the previous label, row by row", float(np.mean(y[start:] == y[start - 1 : -1])), published=0.853)
    known = np.concatenate(
        [np.full(data.edges[w + 1] - data.edges[w], y[data.edges[w] - 1]) for w in range(first, data.windows)]
    )
    yield _row("elec2: the newest known label, whole weeks ahead", float(np.mean(y[start:] == known)))
    weekly = every(1, first)
    yield _row(
        "elec2: weekly model, previous label as a feature",
        run(elec2(rows, previous_label=True), first, 8, weekly).accuracy,
    )
    yield _row("elec2: weekly model, whole weeks ahead", run(data, first, 8, weekly).accuracy, published=0.7296)
    shuffled = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(data.x):
        shuffled.append(accuracy_score(y[test], boosted().fit(data.x[train], y[train]).predict(data.x[test])))
    yield _row("elec2: five folds of shuffled rows", float(np.mean(shuffled)))


def season(*, quick: bool) -> Iterable[Row]:
    """The weather of this month is not that of the training months."""
    data, first = bike(), 2
    assert data.numbers is not None
    months = range(first, data.windows - 1)
    temperature = data.numbers[:, 0]

    def alarms(
        reference: Callable[[int], slice], of: Callable[[Array, Array], float], limit: float, at: Sequence[int]
    ) -> float:
        return float(sum(of(temperature[reference(m)], temperature[data.rows(m, m + 1)]) > limit for m in at))

    before = lambda month: data.rows(max(0, month - 6), month)  # noqa: E731
    year_ago = lambda month: data.rows(month - 12, month - 11)  # noqa: E731
    second = [month for month in months if month >= 12]
    yield _count(
        "bike_hourly: months with PSI > .2 of temperature, six months before",
        alarms(before, psi_of, 0.2, months),
        len(months),
    )
    yield _count(
        "bike_hourly: months with KS > .1 of temperature, six months before",
        alarms(before, ks_of, 0.1, months),
        len(months),
    )
    yield _count(
        "bike_hourly: months with PSI > .2 of temperature, a year before",
        alarms(year_ago, psi_of, 0.2, second),
        len(second),
    )
    for name, wants, retrains, rmse in (
        ("PSI > .2 on 30 % of columns", drifted("psi", 0.2), 21, 61.2),
        ("every month", every(1, first), 21, 61.2),
        ("every fourth month", every(4, first), 5, 82.3),
    ):
        made = run(data, first, 6, wants)
        yield _row(f"bike_hourly: RMSE, {name}", made.rmse, unit="rentals", published=rmse)
        yield _count(f"bike_hourly: retrains, {name}", made.retrains, len(months), published=retrains)


def memory(*, quick: bool) -> Iterable[Row]:
    """Four windows remembered, or all."""
    if quick:
        return
    data, first = mails(), 2
    for name, wants, kept, published in (
        ("every 4 windows, the last 4", every(4, first), 4, 0.9484),
        ("every 4 windows, all so far", every(4, first), None, 0.9807),
        ("every window, the last 4", every(1, first), 4, 0.9699),
        ("never", never, 4, 0.9321),
    ):
        made = run(data, first, kept, wants)
        yield _row(f"enron_spam by mailbox: {name}", made.accuracy, published=published)


def blind(*, quick: bool) -> Iterable[Row]:
    """A score that sees nothing, and alarms that never ring."""
    data, first = hflights(), 4
    late = data.y[data.rows(first, data.windows)]
    yield _row("hflights: accuracy of saying on time of every flight", float(np.mean(late == 0)))
    for name, wants, accuracy, auc in (
        ("never", never, 0.7929, 0.6315),
        ("every week", every(1, first), 0.8094, 0.6608),
    ):
        made = run(data, first, 4, wants)
        yield _row(f"hflights: accuracy, {name}", made.accuracy, published=accuracy)
        yield _row(f"hflights: AUC, {name}", made.auc, unit="AUC", published=auc)
    weeks = data.windows - first - 1
    for name, wants in (("PSI > .2", drifted("psi", 0.2)), ("KS > .1", drifted("ks", 0.1))):
        yield _count(
            f"hflights: retrains, {name} on 30 % of columns", run(data, first, 4, wants).retrains, weeks, published=0
        )


def few_rows(*, quick: bool) -> Iterable[Row]:
    """The same limit, and rows in which nothing can have changed: shuffled."""
    data = bike()
    assert data.numbers is not None
    random = np.random.default_rng(0)
    numbers = random.permutation(data.numbers)
    for count in (24, 100, 700):
        windows = np.arange(8_000, len(numbers) - count, count)[:90]
        rings = [any(psi_of(numbers[:8_000, c], numbers[at : at + count, c]) > 0.2 for c in range(4)) for at in windows]
        yield _row(
            f"bike_hourly, shuffled: windows of {count} rows with PSI > .2 in a column",
            float(np.mean(rings)),
            unit="of windows",
        )


def _row(what: str, ours: float, *, unit: str = "accuracy", published: float | None = None) -> Row:
    return Row(what=what, ours=ours, unit=unit, peer=published, peer_name=PUBLISHED if published is not None else None)


def _count(what: str, ours: float, of: int, *, published: float | None = None) -> Row:
    # A published 0 has no ratio: it is kept out of the column that ratios are made from.
    return Row(
        what=what, ours=ours, unit=f"of {of}", peer=published or None, peer_name=PUBLISHED if published else None
    )


TRAPS = (labels_at_once, season, memory, blind, few_rows)


def written(rows: Iterable[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = ["| what | measured | published |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.what} | {_shown(row, row.ours)} | {'' if row.peer is None else _shown(row, row.peer)} |")
    return "\n".join(lines)


def _shown(row: Row, value: float) -> str:
    if row.unit.startswith("of ") and row.unit != "of windows":
        return f"{value:.0f} {row.unit}"
    if row.unit in ("accuracy", "of windows"):
        return f"{value:.1%}"
    return f"{value:.3f}" if row.unit == "AUC" else f"{value:.1f} {row.unit}"


def into(page: str, table: str) -> str:
    """The page with its figures replaced. Raises ValueError where it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has no {BEGIN!r} … {END!r}.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def machine() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser(__doc__ or "").parse_args(arguments)
    if not DATA.exists():
        print(f"The traps are those of real sets; {DATA} is not there.", file=sys.stderr)
        return 1
    rows: list[Row] = []
    for trap in TRAPS:
        rows += trap(quick=chosen.quick)
        print(f"{trap.__name__.replace('_', ' ')}: done", file=sys.stderr, flush=True)
    show(rows, as_json=chosen.json)
    if not chosen.quick:
        kept = {"machine": machine(), "rows": [row.to_json() for row in rows]}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        PAGE.write_text(into(PAGE.read_text("utf-8"), written(rows)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
