"""What an experiment shows so far: every arm against the first, in figures and in words. Reads the lake, decides nothing.

May be asked as often as one likes: the intervals of one measure hold at every look together. Each measure has its own
alpha, divided among the arms that are held against the first; who tries many measures finds something in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from everloop.errors import ReleaseError
from everloop.loop.dividing import arm_of, known
from everloop.loop.installation import Installation
from everloop.measure import experiment as measured
from everloop.measure.experiment import Comparison, Units
from everloop.measure.truth import Class
from everloop.records import Experiment
from everloop.store import packages
from everloop.store.ledger import versions
from everloop.watch import experiment as watched
from everloop.watch.experiment import ERRORS, LATENCY, SCORE, Entered, Judging, Measure
from everloop.watch.labels import Truth

LOOKS = 40
"""Points of the plot over time."""
CHECKED = 10_000
"""The newest units whose arm is drawn again, to see that it is the one that answered."""
LEAST_IS_BEST = (SCORE, ERRORS, LATENCY)
A_MILLION = 1_000_000

Verdict = Literal["better", "worse", "equal", "waiting", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """One arm. ``value``: its metric, None while it has none; ``told``: units with a value."""

    name: str
    version: int
    share: float
    units: int
    rows: int
    told: int
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The comparison as it stood after so many units; bounds are None while they say nothing."""

    at: datetime
    units: int
    estimate: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """One arm against the first. ``words`` is the whole of it in a sentence."""

    arm: str
    verdict: Verdict
    words: str
    estimate: float | None
    lower: float | None
    upper: float | None
    relative: float | None
    """The estimate as a share of the first arm's metric."""
    more: int | None
    """About how many more units until a difference as large as this one, or as ``effect``, is shown."""
    gain: float | None
    """The share of the variance that the covariate took away."""
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureReport:
    name: str
    lower_is_better: bool
    arms: tuple[ArmFigures, ...]
    against: tuple[Against, ...]
    broken: str | None = None
    """Why these figures must not be read; None where assignment is as it was drawn."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentReport:
    loop: str
    name: str
    unit: str
    started: datetime
    stopped: datetime | None
    until: datetime
    """Rows with an event time up to then."""
    alpha: float
    measures: tuple[MeasureReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """How to read an experiment; all of it chosen before the first look."""

    measures: Sequence[Measure] = ()
    covariate: str | None = None
    lower_is_better: bool | None = None
    """None: what the log itself knows (score, errors, latency) is better when lower, outcomes when higher."""
    age: timedelta | None = None
    """How long after its event time a row counts; None: the label's delay."""
    effect: float | None = None
    """The smallest difference that matters, in the measure's units."""
    expected: float = measured.EXPECTED
    alpha: float = measured.ALPHA


def examine(installation: Installation, name: str, question: Question) -> ExperimentReport:
    """The report. Raises NotFound for a name that nothing is known under, ReleaseError while nothing can be said at all."""
    found = known(installation, name)
    now = installation.clock.now()
    judging = _judging(installation, found)
    age = installation.loop.label.delay if question.age is None else question.age
    until = now - age
    seen = watched.entered(installation.lake, found, until=until)
    if seen.rows.is_empty():
        raise ReleaseError(
            f"No row of the experiment {name} is in the lake and {_days(age)} old yet; `everloop up`, or a look, takes in "
            "what servers logged."
        )
    measures = tuple(question.measures) or (Measure(numerator=SCORE),)
    mismatch = _drawn_otherwise(found, seen)
    return ExperimentReport(
        loop=installation.name,
        name=name,
        unit=found.unit or "request",
        started=found.started,
        stopped=found.stopped,
        until=until,
        alpha=question.alpha,
        measures=tuple(
            _measure(installation, found, seen, each, judging, question, now, mismatch) for each in measures
        ),
    )


def _measure(
    installation: Installation,
    experiment: Experiment,
    seen: Entered,
    measure: Measure,
    judging: Judging,
    question: Question,
    now: datetime,
    mismatch: str | None,
) -> MeasureReport:
    lake = installation.lake
    units, told = watched.units(lake, seen, experiment, measure, judging, now=now)
    notes: list[str] = []
    if question.covariate is not None:
        values = watched.covariate(lake, seen, experiment, told, question.covariate, judging)
        units = Units(arm=units.arm, numerator=units.numerator, denominator=units.denominator, covariate=values)
    at = measured.limits(units)
    if at.cuts:
        units, many = measured.cut(units, at)
        notes.append(
            f"values beyond {at.high:.4g} count as {at.high:.4g} ({measured.KEPT:.0%} of the first arm's first "
            f"{measured.FROZEN_VALUES}): {many:,} units"
        )
    lower = question.lower_is_better
    if lower is None:
        lower = measure.numerator in LEAST_IS_BEST
    broken = mismatch or _sample_ratio(experiment, told, measure)
    figures = _figures(experiment, units, told)
    times = told["at"].to_list()
    against = tuple(
        _against(experiment, place, units, times, question, lower=lower, broken=broken, wait=not at.decided)
        for place in range(1, len(experiment.arms))
    )
    crossed = int((told["arms"] > 1).sum())
    if crossed:
        notes.append(f"{crossed:,} units were seen in more than one arm; each counts in its first")
    if units.covariate is not None:
        unknown = int(np.sum(~np.isfinite(units.covariate)))
        of = f"{unknown:,} of {len(units):,} units have no {question.covariate} and count with the mean"
        gains = ", ".join("–" if each.gain is None else f"{each.gain:.0%}" for each in against)
        notes.append(f"{question.covariate} as covariate takes away {gains} of the variance; {of}")
    if measure.denominator is None and len(told):
        share = float(told["told"].sum()) / float(told["rows"].sum())
        if share < 1:
            notes.append(f"{share:.0%} of the rows have a value; the others are left out")
    return MeasureReport(
        name=measure.name, lower_is_better=lower, arms=figures, against=against, broken=broken, notes=tuple(notes)
    )


def _against(
    experiment: Experiment,
    place: int,
    units: Units,
    times: Sequence[datetime],
    question: Question,
    *,
    lower: bool,
    broken: str | None,
    wait: bool,
) -> Against:
    alpha = question.alpha / (len(experiment.arms) - 1)
    counts = np.unique(np.linspace(min(2, len(units)), len(units), LOOKS).astype(int))
    found = [measured.compare(units.first(int(n)), place, alpha=alpha, expected=question.expected) for n in counts]
    last = found[-1]
    arm, base = experiment.arms[place].name, experiment.arms[0].name
    events = measured.is_share(units)
    wanted = max(abs(last.estimate), question.effect or 0.0) if math.isfinite(last.estimate) else 0.0
    more = measured.more(last, wanted, alpha=alpha)
    verdict, words = _verdict(
        last, arm, base, question.effect, more, lower=lower, broken=broken, wait=wait, points=events
    )
    return Against(
        arm=arm,
        verdict=verdict,
        words=words,
        estimate=_finite(last.estimate),
        lower=_finite(last.lower),
        upper=_finite(last.upper),
        relative=_finite(last.estimate / last.base) if last.base else None,
        more=None if wait else more,
        gain=last.gain,
        looks=tuple(
            Look(
                at=times[int(n) - 1],
                units=int(n),
                estimate=each.estimate,
                lower=_finite(each.lower),
                upper=_finite(each.upper),
            )
            for n, each in zip(counts, found, strict=True)
            if math.isfinite(each.estimate)
        ),
    )


def _verdict(
    found: Comparison,
    arm: str,
    base: str,
    effect: float | None,
    more: int | None,
    *,
    lower: bool,
    broken: str | None,
    wait: bool,
    points: bool,
) -> tuple[Verdict, str]:
    if broken is not None:
        return "broken", f"assignment is broken: do not read the result ({broken})"
    if wait:
        return "waiting", (
            f"waiting: extreme values are limited by the first {measured.FROZEN_VALUES} values of {base}, which are not there yet"
        )
    if not math.isfinite(found.lower):
        return "waiting", "waiting: each arm needs 100 units with something to compare before anything is said"
    if found.shown:
        better = (found.estimate > 0) != lower
        low, high = sorted((abs(found.lower), abs(found.upper)))
        word = "better" if better else "worse"
        said = f"{_amount(abs(found.estimate), points)} ({_plain(low, points)} to {_plain(high, points)})"
        return ("better" if better else "worse"), f"{arm} is {word} than {base} by {said}, valid at every look"
    span = f"{_signed(found.lower, points)} to {_signed(found.upper, points)}{' points' if points else ''}"
    if effect is not None and max(abs(found.lower), abs(found.upper)) < effect:
        return "equal", f"{arm} and {base} differ by less than {_amount(effect, points)}: {span}, valid at every look"
    if more is None:
        return "waiting", f"waiting: {arm} less {base} is {span}; the two look the same so far"
    count = f"about {more:,}" if more < A_MILLION else "more than a million"
    size = max(abs(found.estimate), effect or 0.0)
    return "waiting", f"waiting: {arm} less {base} is {span}; {count} more units to show {_amount(size, points)}"


def _sample_ratio(experiment: Experiment, told: pl.DataFrame, measure: Measure) -> str | None:
    """Whether units, or units with a value, fall to the arms as they were to."""
    asked = [("units", told)]
    if measure.denominator not in (watched.REQUESTS, watched.UNITS):
        # What a ratio counts as 0 may be missing more often in one arm for a good reason: it is the result.
        asked.append((f"units with {measure.denominator or measure.numerator}", told.filter(pl.col("told") > 0)))
    shares = [each.share for each in experiment.arms]
    for what, part in asked:
        counts = [int((part["arm"] == place).sum()) for place in range(len(shares))]
        if measured.sample_ratio(counts, shares) >= -math.log(measured.SAMPLE_RATIO_ALPHA):
            total = sum(counts)
            off = min(range(len(shares)), key=lambda place: counts[place] / shares[place])
            return (
                f"{experiment.arms[off].name} has {counts[off]:,} of {total:,} {what} where {total * shares[off]:,.0f} "
                "were expected"
            )
    return None


def _drawn_otherwise(experiment: Experiment, seen: Entered) -> str | None:
    """Whether the log holds rows in an arm that their unit does not have."""
    rows = seen.rows.tail(CHECKED)
    keys = rows["unit"].str.slice(2)
    if experiment.sticky == "hour":
        keys = keys.str.replace(r"@\d+$", "")
    wrong = sum(
        arm_of(experiment, key, at).name != variant
        for key, at, variant in zip(keys, rows["at"], rows["variant"], strict=True)
    )
    return (
        f"{wrong:,} of the newest {len(rows):,} rows were answered by another arm than their unit's" if wrong else None
    )


def _figures(experiment: Experiment, units: Units, told: pl.DataFrame) -> tuple[ArmFigures, ...]:
    figures = []
    for place, arm in enumerate(experiment.arms):
        part, mine = units.arm == place, told.filter(pl.col("arm") == place)
        below = float(units.denominator[part].sum())
        figures.append(
            ArmFigures(
                name=arm.name,
                version=arm.version,
                share=arm.share,
                units=len(mine),
                rows=int(mine["rows"].sum()),
                told=int((mine["told"] > 0).sum()),
                value=float(units.numerator[part].sum()) / below if below > 0 else None,
            )
        )
    return tuple(figures)


def _judging(installation: Installation, experiment: Experiment) -> Judging:
    resolved, loop = installation.resolved, installation.loop
    classes: dict[int, tuple[Class, ...]] = {}
    with installation.ledger.read() as connection:
        numbers = {each.number: each.package for each in versions.of(connection, installation.name)}
    keys = packages.trusted_keys(installation.home.keys)
    for arm in experiment.arms:
        opened = packages.open_package(installation.home.packages / numbers[arm.version], keys)
        classes[arm.version] = opened.manifest.signature.classes
    return Judging(
        truth=Truth(
            column=loop.label.column,
            delay=loop.label.delay,
            task=resolved.task,
            classes=resolved.classes,
            absent=loop.label.absent,
        ),
        metric=resolved.score,
        late=loop.source.after,
        positive=1 if resolved.positive is None else resolved.positive,
        classes=classes,
    )


def _amount(value: float, points: bool) -> str:
    return f"{_plain(value, points)} points" if points else _plain(value, points)


def _plain(value: float, points: bool) -> str:
    return f"{100 * value:.3g}" if points else f"{value:.4g}"


def _signed(value: float, points: bool) -> str:
    return f"{100 * value:+.3g}" if points else f"{value:+.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _days(age: timedelta) -> str:
    return "so" if not age else f"{age.total_seconds() / 86_400:g} days"
