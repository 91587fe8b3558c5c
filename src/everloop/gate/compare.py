"""Is the challenger good enough to go on? Same rows, a margin, an error, and one sentence. Pure; knows no files.

Non-inferiority, not equality: promoted once the upper bound of its loss lies under the margin; "worse" only when shown;
otherwise unsure, with about how many more labels would settle it. Beside the champion stand anchors (champions of the
last year) with one and a half margins, so that small losses cannot add up; slices veto only when shown worse.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everloop.measure.metrics import score
from everloop.measure.paired import Difference, difference, rows_to_promote
from everloop.records import Evidence, Verdict
from everloop.spec.gate import Better, NotWorse
from everloop.spec.metric import Custom, Metric

LEAST_SLICE_ROWS = 50
ANCHORED = 1.5
"""Margins that a challenger may be behind an anchor: all that a year of small losses may come to. With two, a year of
challengers .3 points worse cost 1.2 points at a margin of one, with one and a half .9 (`bench.release.gate`)."""
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What every comparison shares."""

    metric: Metric
    truth: NDArray[Any]
    challenger: NDArray[Any]
    alpha: float
    days: NDArray[Any] | None
    keys: NDArray[Any] | None
    extra: Any
    positive: int

    def against(
        self, other: NDArray[Any], *, alpha: float | None = None, only: NDArray[Any] | None = None
    ) -> Difference:
        def cut(values: Any) -> Any:
            return values if only is None or values is None else np.asarray(values)[only]

        extra = self.extra
        if only is not None and extra is not None:
            extra = (
                {name: np.asarray(values)[only] for name, values in extra.items()}
                if isinstance(extra, Mapping)
                else extra[only]
            )
        return difference(
            self.metric,
            cut(self.truth),
            cut(self.challenger),
            cut(other),
            alpha=self.alpha if alpha is None else alpha,
            days=cut(self.days),
            keys=cut(self.keys),
            rows=extra,
            positive=self.positive,
        )


def compare(
    gate: NotWorse | Better | None,
    metric: Metric,
    *,
    truth: ArrayLike,
    champion: ArrayLike | None,
    challenger: ArrayLike,
    anchors: Mapping[str, ArrayLike] | None = None,
    rows: Mapping[str, ArrayLike] | None = None,
    days: ArrayLike | None = None,
    keys: ArrayLike | None = None,
    alpha: float | None = None,
    positive: int = 1,
    extra: Any = None,
    champion_name: str = "the champion",
) -> Verdict:
    """The verdict on rows that none of them was fitted on or chosen by.

    Shapes as in `everloop.measure.metrics`. ``anchors``: champions of before, by what they are called. ``rows``: a value per row for each declared slice column; ``days`` int64
    and ``keys`` the blocks whose rows err together; ``extra`` goes to a user's metric (``rows`` if not given).
    ``alpha`` replaces the gate's own, for a planned look (`paired.look_alpha`); asking again and again as labels
    arrive needs it.
    """
    if gate is None:
        return Verdict(outcome="ungated", promote=True, because="the declaration has no gate (gate=None)")
    y, ours = np.asarray(truth), np.asarray(challenger)
    shared = _Rows(
        metric=metric,
        truth=y,
        challenger=ours,
        alpha=gate.alpha if alpha is None else alpha,
        days=None if days is None else np.asarray(days),
        keys=None if keys is None else np.asarray(keys),
        extra=(rows if extra is None else extra) if isinstance(metric, Custom) else None,
        positive=positive,
    )
    if champion is None:
        own = score(metric, y, ours, rows=shared.extra, positive=positive)
        return Verdict(
            outcome="first",
            promote=True,
            because=f"the first version: {_words(metric)} {_figure(own)} on {len(y):,} rows",
            evidence=(Evidence(name=_words(metric), value=_plain(own), detail={"rows": len(y)}),),
        )
    theirs = np.asarray(champion)
    found = shared.against(theirs)
    verdict = (
        _better(gate, metric, found, shared.alpha, champion_name)
        if isinstance(gate, Better)
        else _not_worse(metric, found, gate.margin, shared.alpha, champion_name)
    )
    if isinstance(gate, NotWorse):
        for name, answers in (anchors or {}).items():
            beside = shared.against(np.asarray(answers))
            verdict = _both(verdict, _not_worse(metric, beside, ANCHORED * gate.margin, shared.alpha, name))
    if gate.slices and rows is not None:
        limit = _slice_margin(gate)
        verdict = _with_slices(verdict, shared, theirs, rows, gate.slices, limit, champion_name)
    return verdict


def _not_worse(metric: Metric, found: Difference, margin: float, alpha: float, name: str) -> Verdict:
    evidence = (_evidence(metric, found, margin, name),)
    figures = f"{_scores(metric, found, name)}: {_gap(found.value)}, worse by at most {_figure(found.upper)} (limit {_figure(margin)})"
    passes = found.upper < margin
    if passes and _trusted(found):
        if found.upper < 0:
            return Verdict(outcome="better", promote=True, because=f"{figures}: better", evidence=evidence)
        return Verdict(outcome="not_worse", promote=True, because=f"{figures}: not worse", evidence=evidence)
    if found.lower > 0 and found.value > 0 and _trusted(found):
        return Verdict(outcome="worse", promote=False, because=f"{figures}, shown worse", evidence=evidence)
    more, words = _more(found, margin, alpha)
    return Verdict(
        outcome="unsure",
        promote=False,
        because=f"{figures}, not shown worse: unsure, {words}",
        evidence=evidence,
        more_labels=more,
    )


def _better(gate: Better, metric: Metric, found: Difference, alpha: float, name: str) -> Verdict:
    evidence = (_evidence(metric, found, -gate.by, name),)
    figures = (
        f"{_scores(metric, found, name)}: {_gap(found.value)}, better by {_figure(-found.upper)} to "
        f"{_figure(-found.lower)} (wanted {_figure(gate.by)})"
    )
    if found.upper < -gate.by and _trusted(found):
        return Verdict(outcome="better", promote=True, because=f"{figures}: better", evidence=evidence)
    if found.lower > 0 and found.value > 0 and _trusted(found):
        return Verdict(outcome="worse", promote=False, because=f"{figures}: shown worse", evidence=evidence)
    if found.lower > -gate.by and _trusted(found):
        return Verdict(
            outcome="not_worse", promote=False, because=f"{figures}: shown not to be better by that", evidence=evidence
        )
    more, words = None, "more labels are unlikely to help"
    if found.value < -gate.by and math.isfinite(found.standard_error):
        # Not "if it were equal" but "if it is as good as it looks".
        needed = rows_to_promote(found, -gate.by - found.value, alpha=alpha, power=POWER)
        more = max(1, needed - found.rows)
        words = f"about {more:,} more labels if it is as good as it looks"
    return Verdict(
        outcome="unsure", promote=False, because=f"{figures}: unsure, {words}", evidence=evidence, more_labels=more
    )


def _trusted(found: Difference) -> bool:
    """Whether the bounds hold their level: enough rows of each kind, or exact bounds that need none."""
    return found.short is None or found.exact


def _more(found: Difference, margin: float, alpha: float) -> tuple[int | None, str]:
    if found.short is not None and found.rows_needed is not None and not found.exact:
        more = max(1, found.rows_needed - found.rows)
        return more, f"{found.short}: about {more:,} more labels"
    if found.value >= margin or not math.isfinite(found.standard_error):
        return None, "more labels are unlikely to help"
    needed = rows_to_promote(found, margin, alpha=alpha, power=POWER)
    if needed <= found.rows:  # Enough for an equal one: what is seen so far leaves less room than the margin.
        needed = rows_to_promote(found, margin - max(found.value, 0.0), alpha=alpha, power=POWER)
    more = max(1, needed - found.rows)
    return more, f"about {more:,} more labels if they are equal"


def _both(first: Verdict, second: Verdict) -> Verdict:
    """Champion and anchors must all be matched; the worst finding speaks."""
    rank = {"worse": 0, "unsure": 1, "not_worse": 2, "better": 3}
    speaks = second if rank[second.outcome] < rank[first.outcome] and not second.promote else first
    because = (
        speaks.because
        if speaks is second
        else f"{first.because}; {second.because}"
        if second.promote
        else first.because
    )
    return Verdict(
        outcome=speaks.outcome,
        promote=first.promote and second.promote,
        because=because,
        evidence=(*first.evidence, *second.evidence),
        more_labels=None if speaks.outcome != "unsure" else _most(first.more_labels, second.more_labels),
    )


def _most(*counts: int | None) -> int | None:
    return max((each for each in counts if each is not None), default=None)


def _slice_margin(gate: NotWorse | Better) -> float:
    if gate.slice_margin is not None:
        return gate.slice_margin
    return 2 * gate.margin if isinstance(gate, NotWorse) else 0.0


def _with_slices(
    verdict: Verdict,
    shared: _Rows,
    champion: NDArray[Any],
    rows: Mapping[str, ArrayLike],
    columns: Sequence[str],
    limit: float,
    name: str,
) -> Verdict:
    """Veto by a slice that is shown worse at alpha / slices and by more than its margin; proof is not asked of any."""
    members: list[tuple[str, NDArray[np.bool_]]] = []
    small: list[str] = []
    for column in columns:
        values = np.asarray(rows[column])
        for value, count in zip(*np.unique(values.astype(np.str_), return_counts=True), strict=True):
            label = f"{column}={value}"
            if count >= LEAST_SLICE_ROWS:
                members.append((label, values.astype(np.str_) == value))
            else:
                small.append(label)
    worst: tuple[str, Difference] | None = None
    details: dict[str, Any] = {}
    for label, only in members:
        found = shared.against(champion, alpha=shared.alpha / len(members), only=only)
        judged = _trusted(found)
        details[label] = {"rows": found.rows, "worse_by": _plain(found.value), "at_least": _plain(found.lower)}
        if not judged:
            small.append(label)
            details[label]["judged"] = False
        elif found.lower > 0 and found.value > limit and (worst is None or found.value > worst[1].value):
            worst = label, found
    evidence = (
        *verdict.evidence,
        Evidence(name="slices", value=len(members), limit=limit, detail={"judged": details, "not_judged": small[:50]}),
    )
    if worst is not None:
        label, found = worst
        return Verdict(
            outcome="worse",
            promote=False,
            because=(
                f"{_words(shared.metric)} {_figure(found.ours)} against {_figure(found.theirs)} of {name} on {label} "
                f"({found.rows:,} rows): shown worse by {_figure(found.value)} (slice limit {_figure(limit)})"
            ),
            evidence=evidence,
        )
    return Verdict(
        outcome=verdict.outcome,
        promote=verdict.promote,
        because=verdict.because,
        evidence=evidence,
        more_labels=verdict.more_labels,
    )


def _evidence(metric: Metric, found: Difference, limit: float, name: str) -> Evidence:
    return Evidence(
        name=f"{_words(metric)} against {name}",
        value=_plain(found.value),
        limit=limit,
        detail={
            "challenger": _plain(found.ours),
            "other": _plain(found.theirs),
            "worse_by_at_most": _plain(found.upper),
            "worse_by_at_least": _plain(found.lower),
            "standard_error": _plain(found.standard_error),
            "rows": found.rows,
            "blocks": found.blocks,
            "unit": found.unit,
            "discordant": found.discordant,
            "short": found.short,
        },
    )


def _scores(metric: Metric, found: Difference, name: str) -> str:
    return f"{_words(metric)} {_figure(found.ours)} against {_figure(found.theirs)} of {name} on {found.rows:,} rows"


def _words(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def _gap(value: float) -> str:
    return "equal" if value == 0 else f"{_figure(abs(value))} {'worse' if value > 0 else 'better'}"


def _figure(value: float) -> str:
    """Three decimals, or three significant figures for what is small or large."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
